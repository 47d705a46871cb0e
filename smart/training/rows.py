"""Rows to learn from, out of files or a data set of the hub: prompt and response, checked."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa

from smart.config import UserError, counted
from smart.reading import (
    SUFFIXES,
    TEXT,
    Fault,
    apart,
    as_text,
    class_names,
    fault_where,
    read,
    refusal,
    suffix_of,
)
from smart.runtime.files import hash_bytes
from smart.runtime.hub import refused

log = logging.getLogger(__name__)

BadRows = Literal["error", "drop"]
COLUMNS = ("prompt", "response", "submixture", "task_name")
AUTHORS = "kowndinya23/"
"""Owner of the published mixtures, flan2022-4096-TASKS-tasks-FN-ROWS-instances-FN."""
SPLITS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "val", "dev", "eval", "evaluation", "heldout"},
    "test": {"test", "testing"},
}
"""Words in the names of a folder's files that say what they are for. Rows for tests are left out."""
_NO_ROWS = {"dataset_info.json", "dataset_infos.json", "state.json", "config.json", "manifest.json"}
_SINCE_TEXT_IS_EXACT = "text 2"
"""In the keys of data in JSON and CSV, whose values were guessed at before."""


@dataclass
class RowChecker:
    """Keeps the rows that can be used; what is wrong with the others comes in one message."""

    source: str
    """The data set as the user named it."""
    bad_rows: BadRows
    errors: list[str] = field(default_factory=list)

    def check(
        self, where: str, table: Mapping[str, pa.ChunkedArray], faults: Iterable[Fault] = ()
    ) -> pa.Table:
        """The four columns as text; rows that cannot be used are left out, and said or noted as errors.

        Raises:
            UserError: where prompt or response is missing.
        """
        if missing := [name for name in COLUMNS[:2] if name not in table]:
            raise UserError(
                f"mixture={self.source}: {where} has no column {' and '.join(missing)}, only {', '.join(table)}"
            )
        columns, found, count = {}, list(faults), len(table["prompt"])
        for name in COLUMNS:
            column = table.get(name, pa.chunked_array([pa.repeat("all", count)]))
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
        used = pa.table({name: column.cast(pa.string()) for name, column in columns.items()})
        return used if keep.all() else used.filter(pa.array(keep))

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
            rows = read(str(file), dict.fromkeys(COLUMNS, TEXT))
            key.append(rows.digest.encode())
            if rows.count:
                present = {name: rows.columns.get(name) for name in rows.names}
                parts.append(checker.check(str(file), present, rows.faults))
            else:
                log.warning("%s holds no rows: skipped.", file)
        if parts:
            tables[split] = pa.concat_tables(parts)
    checker.raise_if_any()
    if any(suffix_of(file) != ".parquet" for files in splits.values() for file in files):
        key.append(_SINCE_TEXT_IS_EXACT.encode())
    if set(splits) != {"train"}:
        key.append(json.dumps({split: len(files) for split, files in splits.items()}).encode())
    return tables, hash_bytes(key)


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
    from datasets import load_dataset

    name, _, revision = source.partition("@")
    if name.startswith("flan2022-4096-"):
        name = AUTHORS + name
    try:
        splits = load_dataset(name, revision=revision or None)
    except (OSError, ValueError) as error:
        raise refused(
            f"mixture={source}: no such folder or file, and the hub gave no data set of that name"
            f" ({str(error).splitlines()[0]})",
            error,
        ) from error
    checker, tables = RowChecker(source, bad_rows), {}
    for split in sorted({"train", "validation"} & set(splits)):
        table = splits[split].with_format("arrow")[:]
        columns = {name: table[name] for name in table.column_names}
        for name, feature in splits[split].features.items():
            if names := getattr(feature, "names", None):
                columns[name] = class_names(columns[name], names)
        tables[split] = checker.check(f"split {split}", columns)
    checker.raise_if_any()
    if "train" not in tables:
        raise UserError(f"mixture={source}: has no split named train, only {', '.join(sorted(splits))}")
    return tables, hash_bytes(splits[split]._fingerprint.encode() for split in sorted(splits))


def no_rows() -> pa.Table:
    return pa.table({name: pa.array([], pa.string()) for name in COLUMNS})
