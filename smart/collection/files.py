"""Collections in files: Parquet, Arrow, JSON and CSV."""

from __future__ import annotations

import fnmatch
import glob
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from smart.collection.check import Part
from smart.collection.loading import HeldOut, Reading, Source
from smart.collection.messages import from_messages
from smart.collection.readers import KNOWN, read_columns
from smart.config import ConfigError, Problems, UserError, nearest, option
from smart.config.types import Seed
from smart.reading import SUFFIXES, Fault, Rows, distinct, fault_where, file_identity, is_text, suffix_of

log = logging.getLogger(__name__)

Paths = str | int | float | Sequence[str] | None
"""Values of an option that names files. A number counts rows instead."""


@dataclass(frozen=True, kw_only=True)
class Files(Source):
    """Any set of files: .parquet, .arrow, .feather; .jsonl, .json, .csv, .tsv, also packed (.gz, .zst, .bz2, .xz).

    A file holds the schema's columns; or prompt and response; or messages, a list of {role, content}.
    Without a task_name column a file is one task, named by the file; without template_type its rows are
    zs_noopt. Columns that mean nothing here are ignored.
    """

    path: str | Sequence[str] | None = None
    """A file, a glob (with ** too), or a list of them."""
    columns: Mapping[str, str] | None = option(None, hint="such as {inputs: question}")
    """What the files call our columns, e.g. {inputs: question, targets: answer}."""
    exclude: Mapping[str, Sequence[str]] | None = option(None, hint="such as {task_name: [copa, wic_*]}")
    """Rows to leave out: a column of text of the files, and globs of its values, e.g. {task_name: ["wic_*"]}."""
    submixture: str = "files"
    """The submixture of files without such a column."""
    validation: str | int | float | Sequence[str] | None = None
    """A file, glob or list; or a number of rows or a share (2000, 2%) to take out of the pool at random."""
    seed: Seed = 23
    """Draws the rows taken out for validation. Not the run's seed: a sweep over seeds keeps one pool."""

    def validate(self, problems: Problems) -> None:
        super().validate(problems)
        for ours, theirs in (self.columns or {}).items():
            if ours not in KNOWN:
                problems.add(
                    f"collection.columns.{ours}", theirs, "is no column of ours", nearest(ours, KNOWN)
                )
        _check_paths("collection.path", self.path, problems)
        try:
            if self.validation is not None and HeldOut.of(self.validation, self.seed) is None:
                _check_paths("collection.validation", self.validation, problems)
        except ConfigError as error:
            problems.found.append(str(error))

    def read(self, cache: Path | None = None) -> Reading:
        held_out = HeldOut.of(self.validation, self.seed)
        paths = find(self.path)
        apart = [] if held_out else find(self.validation)
        known = {file_identity(path): path for path in paths}
        if both := [path for path in apart if file_identity(path) in known]:
            where = known[file_identity(both[0])]
            raise UserError(
                f"collection.validation={self.validation}: {both[0]} is in collection.path too"
                + (f", as {where}" if where != both[0] else "")
            )
        matched: set[tuple[str, str]] = set()
        records: list[dict[str, Any]] = []
        train, validation = (self._parts(files, matched, records) for files in (paths, apart))
        for column, globs in (self.exclude or {}).items():
            if idle := [one for one in globs if (column, one) not in matched]:
                raise UserError(
                    f"collection.exclude.{column}={idle[0]}: no row of any file has such a value; fix the glob, or"
                    " remove it"
                )
        return Reading(
            name=_stem(paths),
            train=train,
            origin={"kind": "files", "files": records},
            validation=validation or None,
            held_out=held_out,
        )

    def _parts(
        self, paths: Sequence[str], matched: set[tuple[str, str]], records: list[dict[str, Any]]
    ) -> list[Part]:
        """A part for each file with rows; the globs of `exclude` that match are added to `matched`, what was read to
        `records`."""
        parts = []
        for path, task in zip(paths, task_names(paths), strict=True):
            others = [name for name in self.exclude or {} if name not in KNOWN]
            rows = read_columns(path, self.columns or {}, others)
            records.append({"path": path, "bytes": os.path.getsize(path), "xxh3_128": rows.digest})
            if rows.count:
                parts.append(self._part(path, task, rows, matched))
            else:
                log.warning("%s holds no rows: skipped.", path)
        if paths and not parts:
            raise UserError(f"{paths[0]}{' and the rest' * (len(paths) > 1)}: no rows to use (0 rows read)")
        return parts

    def _part(self, path: str, task: str, rows: Rows, matched: set[tuple[str, str]]) -> Part:
        columns, faults = dict(rows.columns), [*rows.faults, *self._excluded(rows.columns, matched)]
        if "messages" in columns:
            columns["inputs"], columns["targets"], more = from_messages(columns["messages"])
            faults += more
        defaults = {"submixture": self.submixture, "task_name": task, "template_type": "zs_noopt"}
        return Part.of(path, {**defaults, **columns}, faults)

    def _excluded(
        self, columns: Mapping[str, pa.ChunkedArray], matched: set[tuple[str, str]]
    ) -> Iterator[Fault]:
        for name, globs in (self.exclude or {}).items():
            if name not in columns or not is_text(columns[name].type):
                continue
            values = columns[name].cast(pa.string())
            there = [value for value in pc.unique(values).to_pylist() if value is not None]
            for one in globs:
                if found := fnmatch.filter(there, one):
                    matched.add((name, one))
                    mask = pc.fill_null(pc.is_in(values, pa.array(found)), False).to_numpy()
                    yield from fault_where(name, f"excluded as {one}", mask, expected=True)


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
