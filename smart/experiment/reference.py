"""Published values beside our own: only from a file of the user's, with its source."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from smart.config import UserError, counted, nearest
from smart.evaluation.metrics import Metric
from smart.experiment.grid import Grid, Values, shown

COLUMNS = ("metric", "value", "source")


@dataclass(frozen=True)
class Published:
    where: dict[str, str]
    """Key → value, as in the grid; the keys that the file leaves out are not asked for."""
    metric: str
    value: str
    """A number, as the file writes it."""
    source: str

    def fits(self, values: Values, metric: Metric) -> bool:
        return metric.name == self.metric and all(
            key in values and shown(key, values[key]) == value for key, value in self.where.items()
        )


def read_reference(
    path: Path | None, grid: Grid, parts: Mapping[str, Sequence[str] | None] | None = None
) -> list[Published]:
    """Read a CSV with the columns metric (such as mmlu/acc), value, source, and any keys of the grid.

    Args:
        parts: part of a suite → its metrics, or None where they are known afterwards; None: no part is known yet.

    Raises:
        UserError: with every line that cannot be used: without a number or a source, said twice, of no row or part.
    """
    if path is None:
        return []
    head, *lines = _lines(path)
    if missing := set(COLUMNS) - set(head[1]):
        hint = "separate the columns by commas" if any(mark in head[1][0] for mark in ";\t|") else ""
        raise UserError(f"reference={path}: lacks the columns {', '.join(sorted(missing))}", hint)
    keys = [key for key in head[1] if key not in COLUMNS]
    if unknown := sorted(set(keys) - set(grid.axes)):
        raise UserError(
            f"reference={path}: {', '.join(unknown)} does not vary in this grid; it has {', '.join(grid.axes)}"
        )
    if repeated := [name for name in dict.fromkeys(head[1]) if head[1].count(name) > 1]:
        raise UserError(f"reference={path}: has the column {repeated[0]} twice")
    if not lines:
        raise UserError(f"reference={path}: has no values under its head")
    problems: list[str] = []
    found: dict[tuple[str, ...], int] = {}
    published = []
    for number, cells in lines:
        if len(cells) != len(head[1]):
            what = f"has {counted(len(cells), 'cell')}, and the head has {len(head[1])}"
            what += "; put quotes around text with commas"
            problems.append(f"line {number}: {what}")
            continue
        line = dict(zip(head[1], cells, strict=True))
        problems += [f"line {number}: {what}" for what in _wrong(line, keys, grid, parts)]
        place = (line["metric"], *(line[key] for key in keys))
        if place in found:
            problems.append(f"line {number}: gives {' '.join(place)} again, after line {found[place]}")
        found.setdefault(place, number)
        published.append(
            Published({key: line[key] for key in keys}, line["metric"], line["value"], line["source"])
        )
    if problems:
        listed = problems[0] if len(problems) == 1 else "".join(f"\n  - {problem}" for problem in problems)
        raise UserError(f"reference={path}{', ' if len(problems) == 1 else ':'}{listed}")
    return published


def _wrong(
    line: Mapping[str, str],
    keys: Sequence[str],
    grid: Grid,
    parts: Mapping[str, Sequence[str] | None] | None,
) -> Iterator[str]:
    """What is wrong with a line."""
    if not _is_number(line["value"]):
        yield f"value={line['value']}: is no number; give it as 45.1, and what else is known in source"
    if not line["source"]:
        yield f"has no source; say where {line['value']} was published"
    for key in keys:
        known = [shown(key, value) for value in grid.axes[key]]
        if line[key] not in known:
            yield f"{key}={line[key]}: no row has it. {nearest(line[key], known)}"
    part, _, metric = line["metric"].partition("/")
    if parts is not None and part not in parts:
        yield f"metric={line['metric']}: no suite of the grid has that part. {nearest(part, parts)}"
    elif parts is not None and (known_metrics := parts[part]) is not None and metric not in known_metrics:
        yield f"metric={line['metric']}: {part} has no such metric. {nearest(metric, known_metrics)}"
    elif not metric:
        yield f"metric={line['metric']}: needs a part and its metric, such as mmlu/acc"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Number and cells of each line that has any, the head first; white space around cells does not count.

    Raises:
        UserError: for a file that cannot be read as CSV, with the line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"reference={path}: cannot be read ({error.strerror})") from error
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"reference={path}, line {line}: byte 0x{data[error.start]:02x} is no {encoding}",
            "save the file as UTF-8",
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UserError(f"reference={path}, line {line}: has a NUL character", "save the file as UTF-8 text")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    found, before = [], 0
    try:
        for cells in reader:
            found.append((before + 1, [cell.strip() for cell in cells]))
            before = reader.line_num
    except csv.Error as error:
        raise UserError(f"reference={path}, line {before + 1}: {error}") from error
    found = [(number, cells) for number, cells in found if any(cells)]
    if not found:
        raise UserError(f"reference={path}: is empty")
    return found


def find_reference(published: Sequence[Published], values: Values, metric: Metric) -> Published | None:
    return next((one for one in published if one.fits(values, metric)), None)
