"""Rows to learn from, out of files or a data set of the hub: prompts and responses, or conversations; checked."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa

from smart.config import UserError, counted
from smart.reading import (
    CONVERSATION,
    SPLITS,
    SUFFIXES,
    NoShapeError,
    Shaped,
    apart,
    as_text,
    fault_where,
    plain_conversations,
    read_shaped,
    refusal,
    shape_table,
    suffix_of,
)
from smart.reading.hub import columns_of, load_splits
from smart.runtime.files import hash_bytes

log = logging.getLogger(__name__)

BadRows = Literal["error", "drop"]
LABELS = ("submixture", "task_name")
COLUMNS = ("prompt", "response", *LABELS)
"""Of rows of two texts."""
TURNS = (CONVERSATION, *LABELS)
"""Columns of rows with turns. A data set with any of them has no others."""
AUTHORS = "kowndinya23/"
"""Owner of the published mixtures, flan2022-4096-TASKS-tasks-FN-ROWS-instances-FN."""
_NO_ROWS = {"dataset_info.json", "dataset_infos.json", "state.json", "config.json", "manifest.json"}
_NAMES = {"inputs": "prompt", "targets": "response"}
_TURNS_AS_OF = "turns 1"
"""In the keys of data with turns, by how they are read."""
_SINCE_TEXT_IS_EXACT = "text 2"
"""In the keys of data in JSON and CSV, whose values were guessed at before."""


@dataclass
class RowChecker:
    """Keeps the rows that can be used; what is wrong with the others comes in one message."""

    source: str
    """The data set as the user named it."""
    bad_rows: BadRows
    errors: list[str] = field(default_factory=list)

    def check(self, where: str, shaped: Shaped, labels: Mapping[str, pa.ChunkedArray]) -> pa.Table:
        """COLUMNS or TURNS as text; rows that cannot be used are left out, and said or noted as errors.

        Args:
            labels: LABELS, as far as the data has them.
        """
        given = {_NAMES.get(name, name): column for name, column in shaped.columns.items()}
        count = len(next(iter(given.values())))
        columns, found = {}, list(shaped.faults)
        for name in (*given, *LABELS):
            column = given.get(name, labels.get(name, pa.chunked_array([pa.repeat("all", count)])))
            columns[name], more = as_text(name, column)
            found += more
        for name, column in columns.items():
            found += fault_where(name, "null", column.is_null().to_numpy())
        keep, found = apart(found, count)
        for fault in found:
            if self.bad_rows == "error":
                self.errors.append(f"{where}: {fault}")
            else:
                log.warning(
                    "Left out %s of %s of %s: %s.",
                    f"{len(fault.rows):,}",
                    counted(count, "row"),
                    where,
                    fault.reason,
                )
        if shaped.cut:
            log.info("%s: cut behind the last answer in %s.", where, counted(shaped.cut, "conversation"))
        kinds = {name: pa.large_string() if name == CONVERSATION else pa.string() for name in columns}
        used = pa.table({name: column.cast(kinds[name]) for name, column in columns.items()})
        return used if keep.all() else used.filter(pa.array(keep))

    def check_table(self, where: str, table: pa.Table) -> pa.Table:
        """The rows of a table in whatever shape it has.

        Raises:
            UserError: where it has none.
        """
        columns = dict(zip(table.column_names, table.columns, strict=True))
        try:
            shaped = shape_table(where, columns)
        except NoShapeError as error:
            raise UserError(f"mixture={self.source}: {error}") from error
        return self.check(where, shaped, columns)

    def raise_if_any(self) -> None:
        if self.errors:
            way_out = "Fix them, or leave them out with bad_rows=drop."
            raise UserError(refusal(f"mixture={self.source}", self.errors, way_out))


def read_files(path: Path, bad_rows: BadRows) -> tuple[dict[str, pa.Table], str]:
    """Tables of the splits of a file or a folder of files, and a key of all that decides them."""
    # Read without datasets, whose cache could answer for a file that has changed since.
    splits = {"train": [path]} if path.is_file() else split_files(path)
    if not splits or not all(suffix_of(file) for files in splits.values() for file in files):
        raise UserError(f"mixture={path}: must be a file, or a folder of files: {', '.join(SUFFIXES)}")
    checker, key, tables = RowChecker(str(path), bad_rows), list[bytes](), dict[str, pa.Table]()
    for split, files in splits.items():
        parts = []
        for file in files:
            try:
                rows = read_shaped(str(file), more=LABELS)
            except NoShapeError as error:
                raise UserError(f"mixture={path}: {error}") from error
            key.append(rows.digest.encode())
            if rows.count:
                parts.append(checker.check(str(file), rows, rows.more))
            else:
                log.warning("%s holds no rows: skipped.", file)
        if parts:
            tables[split] = pa.concat_tables(one_shape(parts))
    tables = dict(zip(tables, one_shape(list(tables.values())), strict=True))
    checker.raise_if_any()
    if any(suffix_of(file) != ".parquet" for files in splits.values() for file in files):
        key.append(_SINCE_TEXT_IS_EXACT.encode())
    if any(CONVERSATION in table.column_names for table in tables.values()):
        key.append(_TURNS_AS_OF.encode())
    if set(splits) != {"train"}:
        key.append(json.dumps({split: len(files) for split, files in splits.items()}).encode())
    return tables, hash_bytes(key)


def one_shape(tables: list[pa.Table]) -> list[pa.Table]:
    """The same tables; where one has turns, rows of two texts become conversations too."""
    if not any(CONVERSATION in table.column_names for table in tables):
        return tables
    return [table if CONVERSATION in table.column_names else _with_turns(table) for table in tables]


def _with_turns(table: pa.Table) -> pa.Table:
    turns = plain_conversations(table["prompt"], table["response"])
    return pa.table({CONVERSATION: turns, **{name: table[name] for name in LABELS}})


def split_files(folder: Path) -> dict[str, list[Path]]:
    """The files of rows directly in a folder, or, where there are none, in the data/ of a cloned data set.

    Returns:
        train and validation → their files. What SPLITS does not know is for training; what is for tests is left out.
        Both are said.

    Raises:
        UserError: for a name that may mean one or the other.
    """
    for place in (folder, folder / "data"):
        files = sorted(file for file in place.glob("*") if suffix_of(file) and file.name not in _NO_ROWS)
        if files:
            break
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(_split_of(file), []).append(file)
    known: dict[str, list[Path]] = {
        split: splits[split] for split in ("train", "validation") if split in splits
    }
    said = {
        "training": known.get("train"),
        "validation": known.get("validation"),
        "left out": splits.get("test"),
    }
    for use, named in said.items():
        if named:
            log.info("mixture=%s, %s: %s", folder, use, ", ".join(file.name for file in named))
    if files and "train" not in known:
        raise UserError(
            f"mixture={folder}: has no file to train on, only {', '.join(file.name for file in files)}"
        )
    return known


def _split_of(file: Path) -> str:
    """Which split a file's name says: by the words of SPLITS, else train."""
    stem = re.sub(r"held[-_. ]?out", "heldout", file.name[: -len(suffix_of(file))].lower())
    words = set(re.findall(r"[a-z]+", stem)) - {"of"}
    named = [split for split, known in SPLITS.items() if words & known]
    if len(named) > 1 or (named == ["test"] and words - SPLITS["test"]):
        raise UserError(
            f"mixture={file.parent}: is {file.name} for training, for validation, or for tests (left out)? Rename it "
            "so that its name begins with train, validation or test and has none of the others' words: "
            + "; ".join(f"{split}: {', '.join(sorted(known))}" for split, known in SPLITS.items())
        )
    return named[0] if named else "train"


def read_hub(source: str, bad_rows: BadRows) -> tuple[dict[str, pa.Table], str]:
    """Tables of the splits of a data set of the hub, and its key."""
    name, _, revision = source.partition("@")
    if name.startswith("flan2022-4096-"):
        name = AUTHORS + name
    splits = load_splits(f"mixture={source}", name, revision=revision or None)
    checker, tables = RowChecker(source, bad_rows), {}
    for split in sorted({"train", "validation"} & set(splits)):
        tables[split] = checker.check_table(f"split {split}", pa.table(columns_of(splits[split])))
    tables = dict(zip(tables, one_shape(list(tables.values())), strict=True))
    checker.raise_if_any()
    if "train" not in tables:
        raise UserError(f"mixture={source}: has no split named train, only {', '.join(sorted(splits))}")
    key = [splits[split]._fingerprint.encode() for split in sorted(splits)]
    if CONVERSATION in tables["train"].column_names:
        key.append(_TURNS_AS_OF.encode())
    return tables, hash_bytes(key)


def no_rows(like: pa.Table) -> pa.Table:
    """A table of the same columns, without a row."""
    return like.slice(0, 0)
