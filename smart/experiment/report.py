"""One self-contained HTML page: opens from disk, needs no network."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template

import numpy as np

from smart.config import counted
from smart.config.command_line import shell_line
from smart.experiment.dry_run import describe
from smart.experiment.render import DIFFERENCES, SPENT, Table, baseline, bounds, differences
from smart.experiment.run_graph import COMMANDS, Cell, StageRun, Study
from smart.experiment.status import RunLog, Status, cell_status, manifest_of
from smart.experiment.table import Entry, TableRow
from smart.experiment.table_figures import Drawing, mixtures
from smart.mixture.budgets import read_tasks
from smart.runtime.names import joined
from smart.runtime.plot_style import COLOURS

_WIDTH, _HEIGHT, _EDGE = 1000, 560, 34


@dataclass(frozen=True)
class TaskMap:
    """Tasks of the pool in a plane."""

    names: list[str]
    """submixture/task"""
    places: np.ndarray
    """float (2, tasks)"""
    shares: np.ndarray
    """float (2,), share of the variance on each axis"""


def report(
    study: Study,
    run_log: RunLog,
    table: Table,
    drawings: Sequence[Drawing],
    task_map: TaskMap | None,
    command: str,
    flags: Sequence[str] = (),
) -> str:
    """The page as text.

    Args:
        command: makes all of it again.
        flags: of every command, such as --config-dir.
    """
    states = [cell_status(cell, run_log) for cell in study.cells]
    counts = ", ".join(f"{states.count(state)} {state}" for state in Status if state in states)
    cells, against = counted(len(study.cells), "cell"), differences(table)
    parts = [
        f'<p class="soft">{cells}: {counts}. Reproduce with:</p>{_code(command)}',
        f"<h2>Scores</h2>{_scores(table)}",
        f'<ul class="soft">{"".join(f"<li>{escape(line)}</li>" for line in table.legend())}</ul>',
        f"<h2>Against the baseline ({escape(baseline(table.grid))})</h2>{_plain(DIFFERENCES, against)}"
        if against
        else "",
        f"<h2>What it took</h2>{_plain(SPENT, table.spent)}" if table.spent else "",
        "<h2>Figures</h2>" + "".join(map(_figure, drawings)) if drawings else "",
        _map(study, task_map) if task_map else "",
        "<h2>Cells</h2>" + "".join(_cell(cell, study, run_log, flags) for cell in study.cells),
    ]
    page = Template(resources.files("smart.experiment").joinpath("report.html").read_text(encoding="utf-8"))
    return page.substitute(title=escape(table.title), body="\n".join(filter(None, parts)))


_COLUMNS = 10


def _scores(table: Table) -> str:
    return "".join(_score_table(table, columns) for columns in table.split(_COLUMNS))


def _score_table(table: Table, columns: Sequence[int]) -> str:
    first, heads = len(table.grid.axes) or 1, table.heads()
    head = [
        f"<th{' class=key' if column < first else ''}>{'<br>'.join(map(_breakable, heads[column]))}</th>"
        for column in columns
    ]
    lines, before = [], table.rows[0].block if table.rows else None
    for row in table.rows:
        cells = _cells(table, row, first)
        inner = "".join(cells[column] for column in columns)
        lines.append(f"<tr{' class=block' if row.block != before else ''}>{inner}</tr>")
        before = row.block
    return f"<table><tr>{''.join(head)}</tr>{''.join(lines)}</table>"


def _cells(table: Table, row: TableRow, first: int) -> list[str]:
    cells = []
    for place, text in enumerate(table.line(row)):
        column = place - first
        entry = row.entries[column] if 0 <= column < len(row.entries) else None
        classes = ["key"] if place < first else ["best"] if entry and entry.best else []
        classes += ["flag"] if text.endswith(" !") else []
        cells.append(
            f'<td class="{" ".join(classes)}">{_breakable(text)}{_interval(entry) if entry else ""}</td>'
        )
    return cells


def _interval(entry: Entry) -> str:
    mark = " †" if entry.near_best else ""
    return f'{mark}<span class="ci">{bounds(entry.interval)}</span>'


def _breakable(text: str) -> str:
    """Escaped, with places where a long name may go on in a further line."""
    return re.sub(r"([_/,])(?=\w)", r"\1<wbr>", escape(text))


def _plain(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        inner = (
            f"<{tag}{' class=key' if n < 2 else ''}>{_breakable(cell)}</{tag}>"
            for n, cell in enumerate(cells)
        )
        return f"<tr>{''.join(inner)}</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(line, 'td') for line in lines)}</table>"


def _figure(drawing: Drawing) -> str:
    data = base64.b64encode(drawing.svg.encode()).decode()
    caption = escape(drawing.caption)
    image = f'<img alt="{caption}" src="data:image/svg+xml;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _map(study: Study, task_map: TaskMap) -> str:
    """Circles that a script gives their sizes and words; without it, each still has its name as a title."""
    x, y = (
        _scaled(values, length) for values, length in zip(task_map.places, (_WIDTH, _HEIGHT), strict=True)
    )
    submixtures = [name.partition("/")[0] for name in task_map.names]
    colours = {
        name: COLOURS[place % len(COLOURS)] for place, name in enumerate(dict.fromkeys(sorted(submixtures)))
    }
    circles = "".join(
        f'<circle cx="{a:.1f}" cy="{_HEIGHT - b:.1f}" r="5" fill="{colours[group]}">'
        f"<title>{escape(name)}</title></circle>"
        for a, b, group, name in zip(x, y, submixtures, task_map.names, strict=True)
    )
    legend = "".join(
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in colours.items()
    )
    rows, sizes = {}, []
    for name, cell in mixtures(study).items():
        found = {
            joined(t["submixture"], t["task_name"]): t for t in read_tasks(cell.runs[0].folder / "tasks.csv")
        }
        if set(task_map.names) <= set(found):
            rows[name] = [int(found[task]["budget"]) for task in task_map.names]
            sizes = [int(found[task]["size"]) for task in task_map.names]
    content = json.dumps({"names": task_map.names, "sizes": sizes, "rows": rows}).replace("<", "\\u003c")
    first, second = task_map.shares
    return (
        '<h2>Map of the tasks</h2><p class="soft">Principal components of the tasks’ embeddings'
        f" ({first:.0%} and {second:.0%} of the variance). Area: rows in the mixture"
        ' <select id="mixture"></select>; colour: submixture.</p>'
        f'<div id="map"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Map of the tasks">{circles}</svg>'
        f'<div id="tip"></div></div><div class="legend">{legend}</div>'
        f'<script id="tasks" type="application/json">{content}</script>'
    )


def _scaled(values: np.ndarray, length: int) -> np.ndarray:
    spread = float(np.ptp(values)) or 1.0
    return _EDGE + (values - values.min()) / spread * (length - 2 * _EDGE)


def _cell(cell: Cell, study: Study, run_log: RunLog, flags: Sequence[str]) -> str:
    state = cell_status(cell, run_log)
    inner = "".join(_run(run, run_log, flags) for run in cell.runs)
    return (
        f'<details><summary><span class="state {state}">{state}</span> {escape(describe(cell, study))}</summary>'
        f"{inner}</details>"
    )


def _run(run: StageRun, run_log: RunLog, flags: Sequence[str]) -> str:
    state, manifest = run_log.status(run), manifest_of(run)
    key = f", manifest key <code>{escape(str(manifest['key']))}</code>" if "key" in manifest else ""
    failed = state in (Status.FAILED, Status.INFEASIBLE)
    tail = f"<p>Its log ends with:</p>{_code(run_log.tail(run))}" if failed else ""
    return (
        f'<p>{run.stage}: {state}{key}<br><span class="soft">{escape(str(run.folder))}</span></p>'
        f"{_code(shell_line(COMMANDS[run.stage], *flags, *run.arguments()))}{tail}"
    )


def _code(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"
