"""The mixture as a plain-text table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smart.config import counted
from smart.mixture.budgets import TaskBudgets, submixture_totals
from smart.mixture.turns import Turns
from smart.runtime.escapes import printable

_TOP = 8
_WIDEST = 60


def render_summary(table: TaskBudgets, turns: Turns | None = None) -> str:
    """Totals, the first tasks in greedy order, the largest submixtures: at most 25 lines for any pool.

    Args:
        turns: of the chosen rows, where they have turns and are known.
    """
    rows, sizes = table.budgets.sum(axis=1), table.sizes.sum(axis=1)
    selected = table.selected
    tasks = [
        (
            "/".join(table.tasks[task]),
            "" if np.isnan(table.gains[task]) else f"{table.gains[task]:.4g}",
            f"{table.weights[task]:.2%}",
            f"{rows[task]:,}",
            f"{sizes[task]:,}",
        )
        for task in selected
    ]
    totals = submixture_totals(table)
    submixtures = [
        (total.name, f"{total.rows / max(rows.sum(), 1):.1%}", f"{total.rows:,}", f"{total.size:,}")
        for total in totals
    ]
    whole = (rows[selected] == sizes[selected]).sum()
    by_template = zip(table.templates, table.budgets.sum(axis=0), strict=True)
    return "\n".join(
        [
            f"{rows.sum():,} of {counted(sizes.sum(), 'row')}; {len(selected):,} of"
            f" {counted(len(rows), 'task')} selected, {(rows > 0).sum():,} with rows, {whole:,} taken whole",
            "  ".join(f"{name} {count:,}" for name, count in by_template)
            if turns is None
            else _of_turns(turns),
            "",
            *_aligned(("task", "gain", "weight", "rows", "of"), tasks),
            "",
            *_aligned(("submixture", "share", "rows", "of"), submixtures),
        ]
    )


def _of_turns(turns: Turns) -> str:
    return (
        f"{counted(turns.answers.sum(), 'turn')} of the assistant; {counted(turns.system, 'row')} with a system text,"
        f" {turns.tools:,} with tools; {counted(turns.calls, 'call')}"
    )


def _aligned(header: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> list[str]:
    """The header and the first lines: first column to the left and cut short, the others to the right."""
    shown = [header, *((_cut(first), *rest) for first, *rest in lines[:_TOP])]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    aligned = [
        "  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]) for first, *rest in shown
    ]
    more = len(lines) - _TOP
    return [*aligned, *([f"... and {more:,} more"] if more > 0 else [])]


def _cut(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
