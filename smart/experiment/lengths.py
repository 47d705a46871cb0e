"""How long rows are, for estimates: by the model's own tokenizer where it lies on this machine, else by characters."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from smart.benchmarks.heldout import texts_of
from smart.config import UserError
from smart.experiment.estimate import Texts
from smart.experiment.run_graph import Study
from smart.experiment.status import is_done
from smart.model import ModelOptions, encode, find_base, load_tokenizer
from smart.reading import read_shaped
from smart.selection import SelectConfig
from smart.selection.pool import Pool

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SAMPLE = 400
"""Rows whose tokens are counted."""
_CHARACTERS = 4
"""Characters of a token, where no tokenizer is here; ordinary for English."""


def mixture_texts(folder: Path, model: Mapping[str, Any]) -> Texts:
    """Rows that a finished selection left for training."""
    rows = read_shaped(str(folder / "train.parquet"))
    table = pa.table(rows.columns)
    tokens, _ = _tokens(*texts_of(table.take(pa.array(_places(len(table))))), model)
    return Texts([rows.count], float(tokens.mean()))


def heldout_texts(rows: pa.Table, model: Mapping[str, Any]) -> Texts:
    """Rows of unseen tasks, as `read_heldout` reads them."""
    asked, said = texts_of(rows)
    tokens, answers = _tokens(asked, said, model)
    rate = answers.sum() / max(1, sum(len(text) for text in _sampled(said)))  # tokens a character
    longest: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for task, text in zip(rows["task_name"].to_pylist(), said, strict=True):
        sizes[task] = sizes.get(task, 0) + 1
        longest[task] = max(longest.get(task, 0), len(text))
    found = [min(256.0, 1 + length * float(rate)) for length in longest.values()]
    return Texts(list(sizes.values()), float(tokens.mean()), found)


def _sampled(texts: Sequence[str]) -> list[str]:
    return [texts[place] for place in _places(len(texts))]


def _places(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(_SAMPLE, count)).astype(int))


def _tokens(
    prompts: Sequence[str], answers: Sequence[str], model: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each sampled row, and of its answer; float (rows,) each."""
    asked, said = _sampled(prompts), _sampled(answers)
    counted = _by_tokenizer(asked, said, model) if _is_here(model) else None
    if counted is None:
        of_answers = np.array([len(text) / _CHARACTERS + 1 for text in said])
        return of_answers + np.array([len(text) / _CHARACTERS for text in asked]), of_answers
    return counted


def _is_here(model: Mapping[str, Any]) -> bool:
    """Whether the tokenizer can be had without asking the hub."""
    name, package = str(model.get("name", "")), model.get("gguf_package")
    if name.startswith("tiny_") or Path(name).is_dir():
        return True
    return bool(package and importlib.util.find_spec(str(package)) and importlib.util.find_spec("gguf"))


def _by_tokenizer(
    prompts: Sequence[str], answers: Sequence[str], model: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        tokenizer = _tokenizer(model, (*prompts, *answers))
    except UserError:
        return None
    rows = [row for row in encode(tokenizer, prompts, answers) if row is not None]
    of_answers = np.array([len(row.response) for row in rows], float)
    return of_answers + np.array([len(row.prompt) for row in rows]), of_answers


def _tokenizer(model: Mapping[str, Any], texts: tuple[str, ...]) -> PreTrainedTokenizerBase:
    known = {name: model[name] for name in ("name", "eos_token", "gguf_package") if model.get(name)}
    return _load(tuple(known.items()), texts if model["name"].startswith("tiny_") else ())


@cache
def _load(model: tuple[tuple[str, Any], ...], texts: tuple[str, ...]) -> PreTrainedTokenizerBase:
    return load_tokenizer(find_base(ModelOptions(**dict(model))), lambda: list(texts))


def known_texts(
    study: Study, pools: Mapping[str, tuple[SelectConfig, Pool]], heldout: pa.Table | None
) -> dict[str, Texts]:
    """Id of each run → the rows that it reads, where they lie here or cost little to make.

    Args:
        pools: id of a selection → its options and pool.
        heldout: unseen tasks of the evaluations.
    """
    found: dict[str, Texts] = {}
    known: dict[str, Texts] = {}
    made: set[str | None] = {None}  # vectors and orderings; where there are none, nothing is to be made
    for run in study.runs:
        model = (
            study.config(run).get("model")
            or (study.config(run.source) if run.source else {}).get("model")
            or {}
        )
        if run.stage == "select" and run.id in pools:
            needed = {study.configs[run.id].vectors, study.configs[run.id].orderings}
            sizes = np.diff(pools[run.id][1].groups.offsets).tolist()
            found[run.id] = Texts(sizes, made=needed <= made)
            made |= needed
        elif run.stage == "train" and run.source and is_done(run.source):
            name = repr([run.source.id, model])
            known[name] = known.get(name) or mixture_texts(run.source.folder, model)
            found[run.id] = known[name]
        elif run.stage == "evaluate" and heldout is not None:
            known[repr(model)] = known.get(repr(model)) or heldout_texts(heldout, model)
            found[run.id] = known[repr(model)]
    return found
