"""Rows that cannot be used, and why."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from smart.config import counted

_SHOWN_ROWS = 3
_SHOWN_FAULTS = 8
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True)
class Fault:
    """Rows of a file, or of another part of a data set, that cannot be used, for one reason."""

    column: str
    what: str
    """The reason, without the column: "empty"."""
    rows: np.ndarray
    """int64: positions in the part, ascending, counted from 0."""
    values: Mapping[int, object] = field(default_factory=dict)
    """The values of the first few."""
    expected: bool = False
    """True: dropped and counted whatever `bad_rows` says."""

    @property
    def reason(self) -> str:
        return f"{self.column}: {self.what}"

    def __str__(self) -> str:
        rows = self.rows[:_SHOWN_ROWS].tolist()
        listed = ", ".join(
            f"{row} ({_short(self.values[row])})" if row in self.values else str(row) for row in rows
        )
        count = len(self.rows)
        more = ", …" if count > len(rows) else ""
        return f"{self.reason} in {counted(count, 'row')}: {listed}{more}"

    def as_plain(self) -> dict[str, Any]:
        """What JSON can hold of it; `of_plain` makes a fault of it that says the same."""
        values = {str(row): _short(value) for row, value in self.values.items()}
        return {**vars(self), "rows": self.rows.tolist(), "values": values}

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> Fault:
        values = {int(row): Shown(text) for row, text in plain["values"].items()}
        return cls(**{**plain, "rows": np.array(plain["rows"], np.int64), "values": values})

    def shifted(self, rows: int) -> Fault:
        """The same fault where so many rows come before."""
        values = {row + rows: value for row, value in self.values.items()}
        return replace(self, rows=self.rows + rows, values=values)


class Shown(str):
    """A value as a message shows it."""


def _short(value: object) -> str:
    if isinstance(value, Shown):
        return str(value)
    text = repr(value[:_SHOWN_CHARACTERS] if isinstance(value, str | bytes) else value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def fault_where(
    column: str,
    what: str,
    mask: np.ndarray,
    values: pa.ChunkedArray | None = None,
    expected: bool = False,
) -> Iterator[Fault]:
    """A Fault if `mask` (bool, (n,)) holds anywhere, with the first values there."""
    rows = np.flatnonzero(mask)
    if len(rows):
        first = rows[:_SHOWN_ROWS].tolist()
        shown: dict[int, object] = {}
        if values is not None:
            with contextlib.suppress(UnicodeDecodeError):  # of texts inside lists and structs
                shown = {row: values[row].as_py() for row in first}
        yield Fault(column, what, rows, shown, expected)


def faults_of(wrong: Mapping[tuple[str, str], Sequence[tuple[int, object]]]) -> list[Fault]:
    """Faults from (column, what) → rows, each with its value."""
    return [
        Fault(column, what, np.array([row for row, _ in found], np.int64), dict(found[:_SHOWN_ROWS]))
        for (column, what), found in wrong.items()
    ]


def one_each(faults: Iterable[Fault]) -> list[Fault]:
    """One fault for each column and reason; faults of a kind come in the order of their rows."""
    together: dict[tuple[str, str, bool], list[Fault]] = {}
    for fault in faults:
        together.setdefault((fault.column, fault.what, fault.expected), []).append(fault)
    return [
        replace(first, rows=np.concatenate([fault.rows for fault in found]), values=_first_values(found))
        for found in together.values()
        for first in found[:1]
    ]


def apart(faults: Iterable[Fault], count: int) -> tuple[np.ndarray, list[Fault]]:
    """Which rows (bool, (count,)) have no fault; and the faults, each row under its first reason alone."""
    keep, left = np.ones(count, bool), []
    for fault in faults:
        rows = fault.rows[keep[fault.rows]]
        if len(rows):
            left.append(replace(fault, rows=rows))
        keep[rows] = False
    return keep, left


def _first_values(faults: Sequence[Fault]) -> dict[int, object]:
    values = [item for fault in faults for item in fault.values.items()]
    return dict(values[:_SHOWN_ROWS])


def refusal(what: str, errors: Sequence[str], way_out: str) -> str:
    """One message for many faults: what has them, the first few, and a hint."""
    listed = "\n".join(f"  - {error}" for error in errors[:_SHOWN_FAULTS])
    more = f"\n  and {len(errors) - _SHOWN_FAULTS} more" if len(errors) > _SHOWN_FAULTS else ""
    return f"{what} has rows that cannot be used (counted from 0 in each file):\n{listed}{more}\n{way_out}"
