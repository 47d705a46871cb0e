"""check_source: whether a source keeps the contract of `Source`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np

from smart.collection.check import Part
from smart.collection.loading import Reading, Source, load
from smart.collection.schema import CHAT_SCHEMA, LABELS, SCHEMA, TEXTS, Collection
from smart.config import UserError
from smart.reading import CONVERSATION
from smart.runtime.contracts import (
    ContractError,
    require,
    require_json,
    require_members,
    require_valid,
    run_checks,
)


def check_source(source: Source) -> None:
    """Run the checks of the `Source` contract, and stop at the first that fails.

    It calls `fetch` twice, which may download, and reads all rows five times: give it a small collection.

    Args:
        source: an instance with valid options, whose rows can all be used unless bad_rows is "drop".

    Raises:
        ContractError: names the check, what was expected, what came, and a hint.
    """
    run_checks("check_source", source, CHECKS, _Trial(source))


@dataclass
class _Trial:
    """A source under test, and what earlier checks got from it."""

    source: Source
    reading: Reading = field(init=False)
    collection: Collection = field(init=False)


def _members(trial: _Trial) -> None:
    options = ("name", "bad_rows", "drop_duplicates")
    require_members(trial.source, Source, options, ("validate", "fetch", "read"))


def _validate(trial: _Trial) -> None:
    require_valid(trial.source)


def _fetch(trial: _Trial) -> None:
    trial.source.fetch()
    trial.source.fetch()


def _read(trial: _Trial) -> None:
    reading = trial.source.read(None)
    require(isinstance(reading, Reading), "a Reading from read()", type(reading).__name__)
    hint = "return Reading(validation=…) for a split of the source's own, or held_out=… to take rows out"
    both = reading.validation is not None and reading.held_out is not None
    require(not both, "validation or held_out", "both", hint)
    trial.reading = reading


def _name(trial: _Trial) -> None:
    name = trial.source.name or trial.reading.name
    hint = "it becomes a part of folders' names; use letters, digits and hyphens"
    good = isinstance(name, str) and name.strip() and name not in (".", "..") and "\0" not in name
    require(bool(good) and PurePath(name).name == name, "a name of one path component", repr(name), hint)


def _origin(trial: _Trial) -> None:
    origin = trial.reading.origin
    require(isinstance(origin, dict), "origin as a dictionary", type(origin).__name__)
    require_json(origin, "an origin")
    hint = "name it otherwise: load() puts the counts of rows there"
    require("splits" not in origin, "no key 'splits' in origin", origin.get("splits"), hint)


def _parts(trial: _Trial) -> None:
    for split in ("train", "validation"):
        parts = getattr(trial.reading, split)
        if split == "train" or parts is not None:
            _require_parts(split, parts)


def _require_parts(split: str, parts: Sequence[Part]) -> None:
    hint = "make each with Part.of(where, {column: values}), which brings columns to the types of SCHEMA"
    listed = isinstance(parts, list) and parts and all(isinstance(part, Part) for part in parts)
    require(bool(listed), f"{split} as a list of at least one Part", repr(parts)[:80], hint)
    for part in parts:
        where = f"{split}, {part.where}"
        names = part.table.column_names
        wanted = [*LABELS, *([CONVERSATION] if part.has_turns else TEXTS)]
        require(names == wanted, f"{where}: the columns {', '.join(wanted)}", ", ".join(names), hint)
        for name in wanted:
            kind = part.table.schema.field(name).type
            require(
                kind == CHAT_SCHEMA.field(name).type,
                f"{where}: {name} as {CHAT_SCHEMA.field(name).type}",
                kind,
                hint,
            )
        for fault in part.faults:
            rows = np.asarray(fault.rows)
            inside = rows.ndim == 1 and ((rows >= 0) & (rows < len(part.table))).all()
            require(
                bool(inside and (np.diff(rows) > 0).all()),
                f"{where}: fault {fault.reason!r} to name rows 0 to {len(part.table) - 1}, ascending",
                rows.tolist()[:8],
                "count rows from 0 in each part",
            )


def _load(trial: _Trial) -> None:
    try:
        trial.collection = load(trial.source)
    except UserError as error:
        hint = "check a collection whose rows can all be used, or set bad_rows='drop'"
        raise ContractError("rows that load() accepts", str(error), hint) from error


def _rows(trial: _Trial) -> None:
    for split in ("train", "validation"):
        table = getattr(trial.collection, split)
        if table is None:
            continue
        schemas = table.schema.equals(SCHEMA) or table.schema.equals(CHAT_SCHEMA)
        require(schemas, f"{split} rows in SCHEMA or CHAT_SCHEMA", table.schema)
        nulls = [name for name in table.column_names if table[name].null_count]
        require(not nulls, f"no nulls in {split}", f"some in {', '.join(nulls)}")
        rows = table["row"].to_numpy()
        ascending = rows[0] >= 0 and (np.diff(rows) > 0).all()
        require(bool(ascending), f"{split} rows numbered from 0, ascending", rows[:8].tolist())


def _same_rows(trial: _Trial) -> None:
    hint = "sort what you list, seed what you draw, and don't depend on the hash of strings"
    _require_same(trial, None, "the same rows when read again", hint)


def _cache(trial: _Trial) -> None:
    hint = "name what you keep in the cache by all options, and give its rows as they were first made"
    with tempfile.TemporaryDirectory() as folder:
        _require_same(trial, Path(folder, "new"), "the same rows with an empty cache folder", hint)
        _require_same(trial, Path(folder, "new"), "the same rows from the cache", hint)


def _require_same(trial: _Trial, cache: Path | None, expected: str, hint: str) -> None:
    again = load(trial.source, cache=cache)
    first = trial.collection
    require(
        again.fingerprint == first.fingerprint,
        f"{expected}: {len(first.train):,} with fingerprint {first.fingerprint}",
        f"{len(again.train):,} with {again.fingerprint}",
        hint,
    )


CHECKS = (_members, _validate, _fetch, _read, _name, _origin, _parts, _load, _rows, _same_rows, _cache)
