"""Published values beside our own: only from a file of the user's, with its source."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smart.config import UserError
from smart.evaluation.metrics import Metric
from smart.experiment.grid import Grid, Values, shown


@dataclass(frozen=True)
class Published:
    where: dict[str, str]
    """Key → value, as in the grid; the keys that the file leaves out are not asked for."""
    metric: str
    value: str
    source: str

    def fits(self, values: Values, metric: Metric) -> bool:
        return metric.name == self.metric and all(
            key in values and shown(key, values[key]) == value for key, value in self.where.items()
        )


def read_reference(path: Path | None, grid: Grid) -> list[Published]:
    """Read a CSV with the columns metric (such as mmlu/acc), value, source, and any keys of the grid.

    Raises:
        UserError: for a file that lacks a column, has keys that do not vary here, or a value without its source.
    """
    if path is None:
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"reference={path}: cannot be read ({error.strerror})") from error
    head = set(lines[0]) if lines else set()
    if missing := {"metric", "value", "source"} - head:
        raise UserError(f"reference={path}: lacks the columns {', '.join(sorted(missing))}")
    keys = head - {"metric", "value", "source"}
    if unknown := keys - set(grid.axes):
        raise UserError(
            f"reference={path}: {', '.join(sorted(unknown))} does not vary in this grid; it has {', '.join(grid.axes)}"
        )
    for number, line in enumerate(lines, 2):
        if not (line["source"] or "").strip():
            raise UserError(
                f"reference={path}, line {number}: has no source; say where {line['value']} was published"
            )
    return [
        Published({key: line[key] for key in keys}, line["metric"], line["value"], line["source"])
        for line in lines
    ]


def find_reference(published: Sequence[Published], values: Values, metric: Metric) -> Published | None:
    return next((one for one in published if one.fits(values, metric)), None)
