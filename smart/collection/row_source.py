"""What sources of rows in files and of the hub have in common: columns, tasks, rows to leave out."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from smart.collection.check import Part
from smart.collection.conversations import Embed
from smart.collection.loading import Source
from smart.collection.readers import KNOWN, Columns, Names, could_be_tasks
from smart.config import Problems, UserError, nearest, option
from smart.config.types import Seed
from smart.reading import Fault, fault_where, filled, is_text
from smart.templates import CHAT

log = logging.getLogger(__name__)

_NAMES_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class RowSource(Source):
    """Rows in any of the shapes of `smart.reading.shapes`, told by their columns.

    A task is what task_name says; or the first of source, dataset, source_dataset, category, task and domain that is
    there and text; or else the file or split. Without template_type, rows of two texts are zs_noopt. Columns that
    mean nothing here are ignored.
    """

    columns: Mapping[str, str] | None = option(None, hint="such as {inputs: question}")
    """What the data calls our columns, e.g. {inputs: question, targets: answer}."""
    task: str | None = option(None, added=True, hint="such as source")
    """The column that says each row's task; null: as above."""
    embed: Embed = option("user_turns", added=True)
    """What is embedded of rows with turns: all that the user says, the first of it, or the whole conversation."""
    exclude: Mapping[str, Sequence[str]] | None = option(None, hint="such as {task_name: [copa, wic_*]}")
    """Rows to leave out: a column of text of the data, and globs of its values, e.g. {task_name: ["wic_*"]}."""
    seed: Seed = 23
    """Draws the rows taken out for validation. Not the run's seed: a sweep over seeds keeps one pool."""

    def validate(self, problems: Problems) -> None:
        super().validate(problems)
        for ours, theirs in (self.columns or {}).items():
            if ours not in KNOWN:
                problems.add(
                    f"collection.columns.{ours}", theirs, "is no column of ours", nearest(ours, KNOWN)
                )
        if self.task is not None and "task_name" in (self.columns or {}):
            problems.add(
                "collection.task", self.task, "columns.task_name says the same", "leave one of them out"
            )

    @property
    def names(self) -> Names:
        """What to read."""
        more = [name for name in self.exclude or {} if name not in KNOWN]
        return Names(self.columns or {}, self.task, more)


@dataclass
class Rows:
    """Parts of a source in the making, and what is said of all of them together."""

    source: RowSource
    matched: set[tuple[str, str]] = field(default_factory=set)
    """(column, glob) of `exclude` that some row has."""
    tasks: set[str] = field(default_factory=set)
    """Columns from which tasks were taken."""

    def part(self, where: str, submixture: str, task: str, rows: Columns) -> Part:
        """The rows of one file or split.

        Args:
            submixture: of rows that don't say theirs.
            task: of rows that don't say theirs.
        """
        columns, faults = dict(rows.columns), [*rows.faults, *self._excluded(rows.columns)]
        if rows.task:
            self.tasks.add(rows.task)
            columns["task_name"] = filled(columns["task_name"], task)
        template = CHAT if rows.has_turns else "zs_noopt"
        defaults = {"submixture": submixture, "task_name": task, "template_type": template}
        return Part.of(where, {**defaults, **columns}, faults, rows.cut, rows.files)

    def _excluded(self, columns: Mapping[str, pa.ChunkedArray]) -> Iterator[Fault]:
        for name, globs in (self.source.exclude or {}).items():
            if name not in columns or not is_text(columns[name].type):
                continue
            values = columns[name].cast(pa.string())
            there = [value for value in pc.unique(values).to_pylist() if value is not None]
            for one in globs:
                if found := fnmatch.filter(there, one):
                    self.matched.add((name, one))
                    mask = pc.fill_null(pc.is_in(values, pa.array(found)), False).to_numpy()
                    yield from fault_where(name, f"excluded as {one}", mask, expected=True)

    def say(self, train: Sequence[Part], columns: Callable[[], Mapping[str, pa.ChunkedArray]]) -> None:
        """Say where tasks come from, and whether there is anything to choose between.

        Args:
            columns: gives all columns of some of the rows, which may be better tasks.

        Raises:
            UserError: for a glob of `exclude` that no row has.
        """
        for column, globs in (self.source.exclude or {}).items():
            if idle := [one for one in globs if (column, one) not in self.matched]:
                raise UserError(
                    f"collection.exclude.{column}={idle[0]}: no row has such a value; fix the glob, or remove it"
                )
        if self.tasks:
            log.info("Tasks are the values of the column %s.", " or ".join(sorted(self.tasks)))
        if one_task(train):
            names = [name for name in could_be_tasks(columns()) if name != self.source.task]
            listed = ", ".join(names[:_NAMES_SHOWN])
            log.warning(
                "All rows are of one task, so that there is nothing to choose between in stage 1: take the tasks from a"
                " column with collection.task=COLUMN%s.",
                f" (few values have: {listed})" if names else "",
            )


def one_task(parts: Sequence[Part]) -> bool:
    """Whether all rows are of one task."""
    found: set[tuple[object, ...]] = set()
    for part in parts:
        pairs = part.table.select(["submixture", "task_name"]).unify_dictionaries()
        values = [pc.unique(column).to_pylist() for column in pairs.columns]
        if any(len(known) != 1 for known in values):
            return False
        found.add(tuple(known[0] for known in values))
    return len(found) == 1
