"""Data sets of the hub, and folders laid out like them, as columns of Arrow that stay on disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from smart.config import UserError
from smart.reading.converted import ArrowFile, map_arrow
from smart.reading.values import class_names
from smart.runtime.content import ContentHashes
from smart.runtime.hub import refused

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_COMMIT = re.compile(r"[0-9a-f]{40}")


def load_splits(key: str, name: str, config: str | None = None, revision: str | None = None) -> DatasetDict:
    """Load a data set, which is downloaded if it is not on this machine.

    Args:
        key: how the user named it, for errors: `collection.dataset=ORG/NAME`.
        name: on the hub, or a folder.
        revision: a branch, tag or commit.

    Raises:
        UserError: where it cannot be had; NotHere while the hub is not asked.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        splits = load_dataset(name, config, revision=revision)
    except (OSError, ValueError) as error:  # what datasets and huggingface_hub raise derives from one of them
        if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
            raise  # a full disk, say
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        found = "no such folder or file, and the hub gave no data set of that name"
        if Path(name).is_dir():
            found = "this folder could not be loaded"
        elif isinstance(error, DatasetNotFoundError) and said.startswith("Revision"):
            found = f"the data set has no revision {revision}"
        elif isinstance(error, ValueError):
            found = "the data set could not be loaded"
        raise refused(f"{key}: {found} ({said})", error) from error
    commit = commit_of(splits)
    if revision and _COMMIT.fullmatch(revision) and commit != revision:  # offline, datasets takes any commit
        raise UserError(
            f"{key}: the hub cannot be reached and only commit {commit} is on this machine; download yours with"
            " fetch_only=true where there is a network"
        )
    return splits


def commit_of(splits: DatasetDict) -> str | None:
    """The commit that was read: datasets names the folder of prepared files by it."""
    files = next(iter(splits.values())).cache_files
    folder = Path(files[0]["filename"]).parent.name if files else ""
    return folder if _COMMIT.fullmatch(folder) else None


def content_of(splits: DatasetDict, hashes: ContentHashes) -> list[str] | None:
    """Names the rows of all splits by the files that hold them; None where they lie in none, or not in their order."""
    parts = []
    for name in sorted(splits):
        files = _files_of(splits[name])
        if files is None:
            return None
        parts += [name, *(hashes(file) for file in files)]
    return parts


def arrow_files(rows: Dataset, columns: Mapping[str, str], hashes: ContentHashes) -> list[ArrowFile]:
    """The files in which the texts of a split lie; none where they do not lie there as they are.

    Args:
        columns: our columns of text → the split's.
    """
    return [ArrowFile(file, columns, hashes(file)) for file in _files_of(rows) or ()]


def _files_of(rows: Dataset) -> list[Path] | None:
    files = [Path(file["filename"]) for file in rows.cache_files]
    if rows._indices is not None or sum(map(_rows_of, files)) != len(rows):
        return None
    return files


def _rows_of(file: Path) -> int:
    return map_arrow(file).num_rows


def columns_of(rows: Dataset) -> dict[str, pa.ChunkedArray]:
    """The columns of a split, mapped into memory; classes are their names."""
    table = rows.data.table
    columns = dict(zip(table.column_names, table.columns, strict=True))
    for name, feature in rows.features.items():
        if names := getattr(feature, "names", None):
            columns[name] = class_names(columns[name], names)
    return columns
