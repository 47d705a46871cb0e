"""Collections in files: Parquet, Arrow, JSON and CSV."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from smart.collection.check import Part
from smart.collection.kept import Kept
from smart.collection.loading import HeldOut, Reading
from smart.collection.readers import read_columns
from smart.collection.row_source import Rows, RowSource
from smart.config import ConfigError, Problems, UserError
from smart.reading import SUFFIXES, TEXT, distinct, file_identity, scan, suffix_of
from smart.runtime.content import ContentHashes

log = logging.getLogger(__name__)

Paths = str | int | float | Sequence[str] | None
"""Values of an option that names files. A number counts rows instead."""


@dataclass(frozen=True, kw_only=True)
class Files(RowSource):
    """Any set of files: .parquet, .arrow, .feather; .jsonl, .json, .csv, .tsv, also packed (.gz, .zst, .bz2, .xz).

    Shapes and tasks are those of RowSource; without a column of tasks a file is one task, named by the file.
    """

    path: str | Sequence[str] | None = None
    """A file, a glob (with ** too), or a list of them."""
    submixture: str = "files"
    """The submixture of files without such a column."""
    validation: str | int | float | Sequence[str] | None = None
    """A file, glob or list; or a number of rows or a share (2000, 2%) to take out of the pool at random."""

    def validate(self, problems: Problems) -> None:
        super().validate(problems)
        _check_paths("collection.path", self.path, problems)
        try:
            if self.validation is not None and HeldOut.of(self.validation, self.seed) is None:
                _check_paths("collection.validation", self.validation, problems)
        except ConfigError as error:
            problems.found.append(str(error))

    def content(self, hashes: ContentHashes) -> list[str]:
        return [part for paths in self._paths() for path in paths for part in (path, hashes(Path(path)))]

    def _paths(self) -> tuple[list[str], list[str]]:
        """Files of the pool, and of validation."""
        return find(self.path), [] if HeldOut.of(self.validation, self.seed) else find(self.validation)

    def read(self, cache: Path | None = None) -> Reading:
        paths, apart = self._paths()
        known = {file_identity(path): path for path in paths}
        if both := [path for path in apart if file_identity(path) in known]:
            where = known[file_identity(both[0])]
            raise UserError(
                f"collection.validation={self.validation}: {both[0]} is in collection.path too"
                + (f", as {where}" if where != both[0] else "")
            )
        rows, records, kept = Rows(self), list[dict[str, Any]](), Kept.of(cache) if cache else None
        train, validation = (self._parts(files, rows, records, kept) for files in (paths, apart))
        rows.say(train, lambda: _first_rows(paths))
        return Reading(
            name=_stem(paths),
            train=train,
            origin={"kind": "files", "files": records},
            validation=validation or None,
            held_out=HeldOut.of(self.validation, self.seed),
        )

    def _parts(
        self, paths: Sequence[str], rows: Rows, records: list[dict[str, Any]], kept: Kept | None
    ) -> list[Part]:
        """A part for each file with rows; what was read is added to `records`."""
        parts = []
        for path, task in zip(paths, task_names(paths), strict=True):
            columns = read_columns(path, self.names, kept)
            records.append({"path": path, "bytes": os.path.getsize(path), "xxh3_128": columns.digest})
            if len(columns):
                parts.append(rows.part(path, self.submixture, task, columns))
            else:
                log.warning("%s holds no rows: skipped.", path)
        if paths and not parts:
            raise UserError(f"{paths[0]}{' and the rest' * (len(paths) > 1)}: no rows to use (0 rows read)")
        return parts


def _first_rows(paths: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """The columns of text of the first file with rows, as far as its first rows go."""
    for path in paths:
        names = next((batch.names for batch in scan(path, {}) if batch.count), ())
        kinds = {name: TEXT for name in names if names.count(name) == 1}
        for batch in scan(path, kinds):
            if batch.count:
                wrong = {fault.column for fault in batch.faults}
                return {name: column for name, column in batch.columns.items() if name not in wrong}
    return {}


def find(paths: Paths) -> list[str]:
    """The files that a path, a glob or a list of them name, each once, sorted by absolute path."""
    return distinct(path for pattern in _patterns(paths) for path in _expand(pattern))


def _patterns(paths: Paths) -> list[str]:
    if paths is None:
        return []
    return [str(path) for path in paths] if isinstance(paths, list | tuple) else [str(paths)]


def _expand(pattern: str) -> list[str]:
    pattern = os.path.expanduser(pattern)
    return [pattern] if os.path.exists(pattern) else glob.glob(pattern, recursive=True)


def _check_paths(key: str, paths: Paths, problems: Problems) -> None:
    if not paths:
        problems.add(key, paths, "no file given", f"set {key}=FILE, a glob in quotes, or a list of them")
    for pattern in _patterns(paths or None):
        found = _expand(pattern)
        if not found:
            problems.add(key, pattern, "no such file")
        for path in found:
            if os.path.isdir(path):
                problems.add(key, path, "is a folder", f"set '{key}={path.rstrip('/')}/*.parquet'")
            elif not suffix_of(path):
                problems.add(key, path, "unknown file type", f"known: {', '.join(SUFFIXES)}")


def task_names(paths: Sequence[str]) -> list[str]:
    """Names for files that are a task each: their stems; or where some are equal their paths, at last with suffixes."""
    whole = [os.path.abspath(path) for path in paths]
    bare = [path[: len(path) - len(suffix_of(path))] for path in whole]
    stems = [os.path.basename(path) for path in bare]
    if len(set(stems)) == len(stems):
        return stems
    common = os.path.commonpath([os.path.dirname(path) for path in whole])
    return [os.path.relpath(path, common) for path in (bare if len(set(bare)) == len(bare) else whole)]


def _stem(paths: Sequence[str]) -> str:
    """The name of one file, or of the folder that holds several."""
    if len(paths) == 1:
        return task_names(paths)[0]
    return Path(os.path.commonpath([os.path.abspath(path) for path in paths])).name or "files"
