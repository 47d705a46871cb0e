"""Super-NaturalInstructions: a folder in the layout of allenai/natural-instructions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from smart.collection.check import Part
from smart.collection.loading import HeldOut, Reading, Source
from smart.collection.render import closed_set, draw_templates, task_rng
from smart.collection.schema import TEXTS
from smart.config import ConfigError, Problems, UserError, counted, option
from smart.config.types import Positive, Seed
from smart.reading import TEXT, Fault, decode_json, from_values
from smart.runtime.content import ContentHashes
from smart.runtime.files import hash_bytes
from smart.runtime.progress import progress

TEST = "test"
_SHOTS = 2


@dataclass(frozen=True, kw_only=True)
class NaturalInstructions(Source):
    """FOLDER/tasks/*.json and FOLDER/splits/NAME/{train,test}_tasks.txt (Wang et al. 2022), submixture niv2.

    A row is an instance in one template type, drawn by the seed: the definition and the input, after up to two
    positive examples of the task or none, with the possible outputs listed or not where they are a small closed
    set. The first output of an instance is its target.
    """

    path: str | None = None
    """The folder."""
    split: str = "default"
    """Which of FOLDER/splits to follow; its train tasks are the pool."""
    max_per_task: Positive | None = option(1000, hint="null takes all")
    """Instances of each task at most, drawn by the seed; null = all."""
    validation: str | int | float | None = None
    """"test": the split's test tasks, which the pool does not have; or a number of rows or a share (2000, 2%) to
    take out of the pool at random; null = none."""
    seed: Seed = 23
    """Draws instances, templates and validation. Not the run's seed: a sweep over seeds keeps one pool."""

    def validate(self, problems: Problems) -> None:
        super().validate(problems)
        if self.path is None:
            problems.add("collection.path", None, "no folder given", "set collection.path=FOLDER")
        else:
            for needed in (self._root / "tasks", self._list("train")):
                if not needed.exists():
                    problems.add("collection.path", self.path, f"there is no {needed}")
        try:
            if self.validation not in (None, TEST) and HeldOut.of(self.validation, self.seed) is None:
                hint = "use test, a number of rows such as 2000, or a share such as 2%"
                problems.add("collection.validation", self.validation, "is unknown", hint)
        except ConfigError as error:
            problems.found.append(str(error))

    @property
    def _root(self) -> Path:
        assert self.path is not None
        return Path(self.path).expanduser()

    def _list(self, tasks: str) -> Path:
        return self._root / "splits" / self.split / f"{tasks}_tasks.txt"

    def content(self, hashes: ContentHashes) -> list[str]:
        return [hashes(self._root / "tasks"), hashes(self._root / "splits" / self.split)]

    def read(self, cache: Path | None = None) -> Reading:
        train, hashes = self._parts("train")
        test, more = self._parts(TEST) if self.validation == TEST else (None, [])
        return Reading(
            name="niv2",
            train=train,
            validation=test,
            held_out=HeldOut.of(self.validation, self.seed),
            origin={
                "kind": "natural_instructions",
                "path": str(self.path),
                "split": self.split,
                "max_per_task": self.max_per_task,
                "seed": self.seed,
                "task_files": len(hashes + more),
                "xxh3_128": hash_bytes([digest.encode() for digest in hashes + more]),
            },
        )

    def _parts(self, tasks: str) -> tuple[list[Part], list[str]]:
        names = sorted(self._list(tasks).read_text(encoding="utf-8", errors="replace").split())
        if not names:
            raise UserError(f"{self._list(tasks)}: names no task")
        parts, hashes = [], []
        for name in progress(names, desc=f"Reading {tasks} tasks", unit="task"):
            path = self._root / "tasks" / f"{name}.json"
            try:
                content = path.read_bytes()
                task = decode_json(path, content)
                rows = list(self._rows(name, task))
            except FileNotFoundError as error:
                raise UserError(f"{path}: no such file, but {self._list(tasks)} names it") from error
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{path}: not a task file: {type(error).__name__}: {error}") from error
            hashes.append(hash_bytes([content]))
            drawn, count = len(rows), len(task["Instances"])
            said = (
                ""
                if drawn == count
                else f" ({counted(drawn, 'instance')} drawn of {count}, counted by themselves)"
            )
            parts.append(_part(f"{path}{said}", name, rows))
        return parts, hashes

    def _rows(self, name: str, task: dict[str, Any]) -> Iterator[tuple[str, object, object]]:
        """(template_type, inputs, targets) of the instances taken, in the file's order.

        What should be text and is not stands there as it is.
        """
        rng = task_rng(self.seed, name)
        instances = _some(task["Instances"], self.max_per_task, rng)
        answers = [_first(instance["output"]) for instance in instances]
        outputs = closed_set([answer if isinstance(answer, str) else "" for answer in answers])
        shots = [(_text(shot["input"]), _text(shot["output"])) for shot in task["Positive Examples"][:_SHOTS]]
        definition = _text(_first(task["Definition"]) or "")
        templates = draw_templates(len(instances), bool(outputs), bool(shots), rng)
        for instance, answer, template in zip(instances, answers, templates, strict=True):
            listed = [] if template.endswith("noopt") else outputs
            solved = shots if template.startswith("fs") else []
            asked = instance["input"]
            known = isinstance(asked, str)
            yield template, render(definition, solved, asked, listed) if known else asked, answer


def render(definition: str, solved: Sequence[tuple[str, str]], asked: str, options: Sequence[str]) -> str:
    """The definition, the options if any, solved examples if any, and the input that waits for its output."""
    listed = ["\n- ".join(["Options:", *options])] if options else []
    examples = [f"Input: {given}\nOutput: {output}" for given, output in solved]
    return "\n\n".join([definition, *listed, *examples, f"Input: {asked}\nOutput:"])


def _some(instances: list[Any], most: int | None, rng: np.random.Generator) -> list[Any]:
    """At most so many, drawn at random, in their order."""
    if most is None or len(instances) <= most:
        return instances
    return [instances[index] for index in np.sort(rng.permutation(len(instances))[:most]).tolist()]


def _first(value: Any) -> object:
    """Definitions and outputs are lists in the current layout, and strings in older files."""
    if not isinstance(value, list):
        return value
    return value[0] if value else None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} stands where text is due")
    return value


def _part(where: str, name: str, rows: Sequence[tuple[str, object, object]]) -> Part:
    values = zip(*rows, strict=True) if rows else ([], [], [])
    columns, faults = {}, list[Fault]()
    for column, items in zip(("template_type", *TEXTS), values, strict=True):
        array, more = from_values(column, items, TEXT)
        columns[column] = pa.chunked_array([array])
        faults += more
    return Part.of(where, {"submixture": "niv2", "task_name": name, **columns}, faults)
