"""The embedded default: puzzles of reasoning-gym, rendered like a FLAN collection; nothing is downloaded."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smart.collection.check import Part
from smart.collection.loading import Reading, Source
from smart.collection.render import closed_set, draw_shots, draw_templates, few_shot, task_rng
from smart.collection.schema import LABELS, TEXTS
from smart.config import Problems, UserError, nearest, option
from smart.config.types import Positive, Seed
from smart.runtime.manifest import make_key
from smart.runtime.progress import progress
from smart.runtime.sealed import read_sealed, write_sealed

# Raised when the rows of one configuration change.
VERSION = 1

# Generators that are not used.
_LEFT_OUT = {
    "composite": "is made of other generators",
    "boxnet": "has no reference answer",
    "rush_hour": "has no reference answer",
    "futoshiki": "takes seconds for single instances",
    "number_sequence": "takes seconds for single instances",
    **dict.fromkeys(
        [
            "codeio",
            "intermediate_integration",
            "isomorphic_strings",
            "knight_swap",
            "list_functions",
            "polynomial_multiplication",
            "ransom_note",
            "word_ladder",
        ],
        "gives other data in another process, for the same seed",
    ),
}

# Rows at most, where an instance takes 3 to 60 ms.
_SLOW = {
    "sokoban": 24,
    "zebra_puzzles": 24,
    "puzzle24": 30,
    "quantum_lock": 60,
    "sudoku": 40,
    "countdown": 40,
    "polynomial_equations": 40,
    "rubiks_cube": 40,
    "game_of_life": 60,
    "rearc": 120,
    "advanced_geometry": 200,
    "game_of_life_halting": 120,
    "jugs": 200,
    "simple_integration": 120,
}
_VALIDATION_SHARE = 10  # one instance in ten
_LONGEST_SHOT = 1200  # characters; tasks whose median question is longer are rendered zero-shot

_Instance = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class ReasoningGym(Source):
    """Generated reasoning tasks: 93 generators in 12 categories, each a task of its own size."""

    seed: Seed = 23
    """Draws instances, sizes and templates. Not the run's seed: a sweep over seeds keeps one pool."""
    min_rows: Positive = 30
    """Size of the smallest task; the others grow geometrically, in an order drawn by the seed."""
    max_rows: Positive = 2000
    """Size of the largest. Tasks with a slow generator, or with few different questions, stay smaller."""
    tasks: Sequence[str] | None = None
    """Generators to use; null = all."""
    parameters: Mapping[str, Mapping[str, Any]] | None = option(
        None, added=True, hint="such as {needle_haystack: {max_num_statements: 5}}"
    )
    """Generator → how hard its instances are, by reasoning-gym's own names; what isn't named keeps its default."""

    def validate(self, problems: Problems) -> None:
        super().validate(problems)
        if self.max_rows < self.min_rows:
            problems.add(
                "collection.max_rows", self.max_rows, f"is below collection.min_rows={self.min_rows}"
            )

    def read(self, cache: Path | None = None) -> Reading:
        generators = _generators()
        names = sorted(generators) if self.tasks is None else sorted(set(self.tasks))
        for name in names:
            if name in _LEFT_OUT:
                raise UserError(f"collection.tasks: {name} is not used: it {_LEFT_OUT[name]}")
            if name not in generators:
                raise UserError(f"collection.tasks: no generator {name}. {nearest(name, generators)}")
        parameters = {name: dict(given) for name, given in sorted((self.parameters or {}).items())}
        _check_parameters(parameters, names)
        origin = {
            "kind": "reasoning_gym",
            "version": metadata.version("reasoning-gym"),
            "render_version": VERSION,
            "seed": self.seed,
            "rows": [self.min_rows, self.max_rows],
            "tasks": names,
        }
        if parameters:
            origin["parameters"] = parameters
        key = make_key(origin, [], VERSION)
        path = cache / f"reasoning_gym-{key[:16]}.sealed" if cache else None
        content = read_sealed(path, key) if path else None
        if content is not None:
            table = pq.read_table(pa.BufferReader(content))
        else:
            table = self._generate({name: generators[name] for name in names})
            if path:
                write_sealed(path, key, _as_parquet(table))
        train, validation = (
            Part.of(f"{split} rows of reasoning-gym", _columns(table.filter(pc.equal(table["split"], split))))
            for split in ("train", "validation")
        )
        return Reading("reasoning-gym", [train], origin, validation=[validation])

    def _generate(self, generators: Mapping[str, str]) -> pa.Table:
        sizes = np.geomspace(self.min_rows, self.max_rows, len(generators)).round().astype(int)
        sizes = np.random.default_rng(self.seed).permutation(sizes)
        rows: list[tuple[str, ...]] = []
        with progress(total=len(generators), desc="Generating tasks", unit="task") as bar:
            for (name, category), size in zip(generators.items(), sizes.tolist(), strict=True):
                rows += [(category, name, *row) for row in self._task(name, min(size, _SLOW.get(name, size)))]
                bar.update()
        return pa.table(
            list(zip(*rows, strict=True)), names=["submixture", "task_name", "split", "template_type", *TEXTS]
        )

    def _task(self, name: str, size: int) -> Iterator[tuple[str, str, str, str]]:
        """Rows (split, template_type, inputs, targets); shots come from the training instances alone."""
        rng = task_rng(self.seed, name)
        # reasoning-gym seeds instance i with seed + i, so neighbouring seeds would share nearly all instances.
        seed = int(rng.integers(2**31))
        parameters = (self.parameters or {}).get(name, {})
        instances = _instances(name, size + max(1, size // _VALIDATION_SHARE), seed, parameters)
        training = instances[: -max(1, len(instances) // (_VALIDATION_SHARE + 1))]
        options = closed_set([answer for _, answer in instances])
        length = np.median([len(question) for question, _ in instances])
        shots_fit = len(training) > 1 and bool(length <= _LONGEST_SHOT)
        templates = draw_templates(len(instances), bool(options), shots_fit, rng)
        for index, ((question, answer), template) in enumerate(zip(instances, templates, strict=True)):
            shots = draw_shots(training, index, rng) if template.startswith("fs") else []
            listed = [] if template.endswith("noopt") else options
            split = "train" if index < len(training) else "validation"
            yield split, template, few_shot(question, shots, listed), answer


def _generators() -> dict[str, str]:
    """Name and category of every generator used, sorted by name."""
    with _quiet():
        try:
            from reasoning_gym.factory import DATASETS
        except ImportError as error:
            raise UserError(
                "collection=reasoning_gym needs a package that is not installed: "
                "pip install 'smart-instruct[reasoning-gym]' (it compiles pycosat, so a C compiler must be "
                "there). Or read rows of your own: collection=files collection.path=FILE"
            ) from error
    return {
        name: dataset.__module__.split(".")[1]
        for name, (dataset, _) in sorted(DATASETS.items())
        if name not in _LEFT_OUT
    }


def _check_parameters(parameters: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> None:
    """Make sure that generators and parameters exist; what values they take is theirs to say.

    Raises:
        UserError: for the first that does not.
    """
    from reasoning_gym.factory import DATASETS

    for name, given in parameters.items():
        where = f"collection.parameters.{name}"
        if name not in names:
            raise UserError(f"{where}: is no generator in use. {nearest(name, names)}")
        known = {field.name for field in fields(DATASETS[name][1])} - {"seed", "size"}
        for unknown in sorted(set(given) - known):
            raise UserError(f"{where}.{unknown}: no such parameter. {nearest(unknown, sorted(known))}")


def _instances(name: str, count: int, seed: int, parameters: Mapping[str, Any]) -> list[_Instance]:
    """Questions and reference answers; fewer than `count` where questions come twice.

    Raises:
        UserError: for values that the generator refuses.
    """
    from reasoning_gym.factory import create_dataset

    found: dict[str, str] = {}
    try:
        with _quiet():
            data = create_dataset(name, size=count, seed=seed, **parameters)
            for index in range(count):
                item = data[index]
                question, answer = item["question"].strip(), _answer(item).strip()
                if question and answer:
                    found.setdefault(question, answer)
    except Exception as error:  # a generator checks its parameters as it likes, some of them while it draws
        if not parameters:
            raise
        raise UserError(f"collection.parameters.{name}={dict(parameters)}: refused ({error})") from error
    return list(found.items())


def _answer(item: Mapping[str, Any]) -> str:
    # Puzzles with many solutions keep one of them beside the question.
    facts = item["metadata"]
    for answer in (item["answer"], facts.get("example_answer"), facts.get("example_correct_answer")):
        if answer is not None:
            return str(answer)
    return json.dumps(facts["possible_answer"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Some generators print, and some modules warn when compiled."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _as_parquet(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    return bytes(buffer.getvalue().to_pybytes())


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {name: table[name] for name in (*LABELS, *TEXTS)}
