"""Rows of a mixture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smart.config import UserError
from smart.runtime.content import check_unchanged, state_of
from smart.runtime.manifest import open_artifact
from smart.training.rows import BadRows, RowChecker, no_rows, read_files, read_hub


@dataclass(frozen=True)
class Mixture:
    """Rows to learn from: tables of prompt and response, or of conversation, beside submixture and task_name.

    A conversation is JSON (see `smart.conversation`). Both tables have the same columns.
    """

    name: str
    key: str
    train: pa.Table
    validation: pa.Table
    manifest: dict[str, Any]
    """Manifest of the folder that the select command wrote; empty for any other data set."""


def read_mixture(source: str, bad_rows: BadRows = "error") -> Mixture:
    """Read a mixture folder, a data set file or folder, or a data set of the hub.

    Args:
        source: a path, a hub name (with @REVISION if need be), or the name of a mixture that the authors
        published.
        bad_rows: "error" or "drop", for rows without text in one of the columns.

    Raises:
        UserError: if there is nothing of the name, its columns have no known shape, or it has rows that can't be used.
        DamagedError: for a mixture that is not what was written.
    """
    path = Path(source)
    before = {file: state_of(file) for file in path.glob("*.parquet")} if path.is_dir() else {}
    manifest = open_artifact(path) or {}
    if manifest.get("kind") == "mixture":
        # The manifest's key stands for the rows, in names and on resume, so only files that it names are read.
        checker, tables = RowChecker(source, bad_rows), {}
        for split in ("train", "validation"):
            if split == "train" or f"{split}.parquet" in manifest["files"]:
                table = pq.read_table(path / f"{split}.parquet")
                tables[split] = checker.check_table(f"{split}.parquet", table)
        checker.raise_if_any()
        check_unchanged(before)
        return Mixture(
            path.name,
            manifest["key"],
            tables["train"],
            tables.get("validation", no_rows(tables["train"])),
            manifest,
        )
    tables, key = read_files(path, bad_rows) if path.exists() else read_hub(source, bad_rows)
    if "train" not in tables:
        raise UserError(f"mixture={source}: holds no rows to train on")
    return Mixture(path.stem, key, tables["train"], tables.get("validation", no_rows(tables["train"])), {})
