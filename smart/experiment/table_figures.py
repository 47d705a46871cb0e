"""Figures of a table: score against budget and number of tasks, a heat map of functions, budgets, gains."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smart.config import ConfigError, parse_count
from smart.evaluation.metrics import Metric
from smart.experiment.grid import Grid, Values, shown
from smart.experiment.render import Table
from smart.experiment.run_graph import Cell, Study
from smart.experiment.status import is_done
from smart.experiment.table import TableRow
from smart.mixture.budgets import read_tasks
from smart.runtime.names import joined
from smart.runtime.plot_style import COLOURS, log_scale, new_figure, save_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = 6
"""Mixtures drawn in one figure of budgets."""
_STYLES = ("o-", "s--", "^:", "D-.")
UNTUNED = "#777777"
_TITLE = 44
"""Characters above one of two panels."""
_HEAT = ("select.fn", "select.instance_fn")


@dataclass(frozen=True)
class Drawing:
    name: str
    caption: str
    svg: str


def draw_figures(folder: Path, study: Study, table: Table) -> list[Drawing]:
    """Draw what the grid has numbers for; each is written as PNG and SVG, and returned for the report."""
    makers: dict[str, tuple[str, Callable[[], Figure | None]]] = {
        "scores": ("Scores of each row, with 95 % intervals; hollow: the baseline", lambda: _scores(table)),
        "budget": (
            "Score against budget, with 95 % intervals",
            lambda: _against(table, "select.budget", "rows"),
        ),
        "tasks": ("Score against number of tasks", lambda: _against(table, "select.num_tasks", "tasks")),
        "functions": ("Score by function for tasks and for instances", lambda: _heat(table)),
        "budgets": ("Rows of each task", lambda: _budgets(study)),
        "gains": ("Marginal gain of each task, in greedy order", lambda: _gains(study)),
    }
    drawings = []
    with style():
        for name, (caption, make) in makers.items():
            figure = make()
            if figure is not None:
                drawings.append(Drawing(name, caption, _svg(figure, name)))
                (folder / f"{name}.svg").parent.mkdir(parents=True, exist_ok=True)
                (folder / f"{name}.svg").write_text(drawings[-1].svg, encoding="utf-8")
                save_figure(figure, folder / f"{name}.png")
    return drawings


def _svg(figure: Figure, name: str) -> str:
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def palette(grid: Grid) -> dict[str, str]:
    """Contender → its colour, the same throughout a report."""
    names = dict.fromkeys(grid.contender(row) for row in grid.rows())
    return dict(zip(names, COLOURS * (1 + len(names) // len(COLOURS)), strict=False))


def _panels(
    metrics: Sequence[Metric], height: float = 3.6, same_rows: bool = False
) -> tuple[Figure, list[Axes]]:
    columns = min(2, len(metrics))
    lines = -(-len(metrics) // columns)
    figure = new_figure(5.2 * columns, height * lines)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=same_rows)
    flat = list(axes.ravel())
    for unused in flat[len(metrics) :]:
        unused.set_visible(False)
    return figure, flat


def _title(metric: Metric) -> str:
    lines = textwrap.wrap(metric.title, _TITLE, break_long_words=True)
    return "\n".join([*lines, *(["(less is better)"] if metric.sign < 0 else [])])


def _draw_chance(metric: Metric, line: Callable[..., object]) -> None:
    if metric.chance is not None:
        line(metric.chance, color="#999999", linestyle=":", linewidth=1.2, zorder=0)


def _scores(table: Table) -> Figure | None:
    rows = [row for row in table.rows if any(row.entries)]
    if not rows or len(rows) > 30:
        return None
    colours = palette(table.grid)
    figure, panels = _panels(table.metrics, 0.9 + 0.42 * len(rows), same_rows=True)
    for column, (axes, metric) in enumerate(zip(panels, table.metrics, strict=False)):
        for place, row in enumerate(rows):
            entry = row.entries[column]
            if entry is None:
                continue
            colour = UNTUNED if row.block is None else colours[table.grid.contender(row.values)]
            if entry.interval.known:
                axes.plot(
                    [entry.interval.low, entry.interval.high], [place, place], color=colour, linewidth=2
                )
            axes.plot(entry.runs, [place] * len(entry.runs), "|", color=colour, markersize=9, alpha=0.6)
            face = "white" if row.baseline else colour
            axes.plot(entry.mean, place, "o", color=colour, markerfacecolor=face, markersize=6)
        _draw_chance(metric, axes.axvline)
        axes.set_yticks(range(len(rows)), [", ".join(filter(None, table.labels(row))) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_title(_title(metric))
    return figure


def _against(table: Table, key: str, unit: str) -> Figure | None:
    """Scores as lines along one axis of the grid, a line for each combination of the others."""
    if key not in table.grid.axes or not table.metrics:
        return None
    lines: dict[str, list[TableRow]] = {}
    for row in table.rows:
        if row.block is not None and _number(key, row.values[key]) is not None and any(row.entries):
            rest = [shown(other, row.values[other]) for other in table.grid.axes if other != key]
            lines.setdefault(", ".join(rest) or table.grid.name, []).append(row)
    if not any(len(rows) > 1 for rows in lines.values()):
        return None
    colours = palette(table.grid)
    figure, panels = _panels(table.metrics)
    for column, (axes, metric) in enumerate(zip(panels, table.metrics, strict=False)):
        for (name, rows), mark in zip(lines.items(), _marks(table.grid, lines), strict=True):
            scored = [(_number(key, row.values[key]), row.entries[column]) for row in rows]
            points = [(x, entry) for x, entry in scored if x is not None and entry is not None]
            points.sort(key=lambda point: point[0])
            x = [number for number, _ in points]
            entries = [entry for _, entry in points]
            colour = colours[table.grid.contender(rows[0].values)]
            bounds = [e.interval if e.interval.known else None for e in entries]
            axes.fill_between(
                x,
                [at.low if at else np.nan for at in bounds],
                [at.high if at else np.nan for at in bounds],
                color=colour,
                alpha=0.13,
                linewidth=0,
            )
            axes.plot(x, [e.mean for e in entries], mark, color=colour, label=name, markersize=4)
        _draw_chance(metric, axes.axhline)
        log_scale(axes, "x")
        ticks = sorted({_number(key, row.values[key]) or 0.0 for rows in lines.values() for row in rows})
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks], rotation=30)
        axes.minorticks_off()
        axes.set(title=_title(metric), xlabel=unit)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(4, len(lines))
    )
    return figure


def _marks(grid: Grid, lines: Mapping[str, Sequence[TableRow]]) -> list[str]:
    """A style for each line; lines of one colour differ in theirs."""
    seen: dict[str, int] = {}
    marks = []
    for rows in lines.values():
        name = grid.contender(rows[0].values)
        seen[name] = seen.get(name, -1) + 1
        marks.append(_STYLES[seen[name] % len(_STYLES)])
    return marks


def _number(key: str, value: Any) -> float | None:
    """A budget or number of tasks as a number; shares of a pool by their percentage, `all` not at all."""
    if value is None:
        return None
    try:
        count = parse_count(value, key)
    except ConfigError:
        return None
    return float(count.number) if count.number is not None else float(count.share or 0) * 100


def _heat(table: Table) -> Figure | None:
    """Mean over the other axes, for each pair of functions."""
    if not all(key in table.grid.axes for key in _HEAT) or not table.metrics:
        return None
    names = [[str(value) for value in table.grid.axes[key]] for key in _HEAT]
    figure, panels = _panels(table.metrics, 3.4)
    for column, (axes, metric) in enumerate(zip(panels, table.metrics, strict=False)):
        grid = np.full((len(names[0]), len(names[1])), np.nan)
        for i, f1 in enumerate(names[0]):
            for j, f2 in enumerate(names[1]):
                found = [
                    row.entries[column]
                    for row in table.rows
                    if row.block is not None and _pair(row.values) == (f1, f2)
                ]
                means = [entry.mean for entry in found if entry]
                grid[i, j] = np.mean(means) if means else np.nan
        image = axes.imshow(metric.sign * grid, cmap="viridis")
        middle = np.nanmean(image.get_clim())
        for (i, j), value in np.ndenumerate(grid):
            dark = np.isfinite(value) and metric.sign * value <= middle
            axes.text(
                j,
                i,
                f"{value:.4f}" if np.isfinite(value) else "–",
                ha="center",
                va="center",
                color="white" if dark else "black",
            )
        axes.set_xticks(range(len(names[1])), names[1], rotation=20)
        axes.set_yticks(range(len(names[0])), names[0])
        axes.grid(visible=False)
        axes.set(title=_title(metric), xlabel="instances (instance_fn)", ylabel="tasks (fn)")
    return figure


def _pair(values: Values) -> tuple[str, str]:
    return str(values[_HEAT[0]]), str(values[_HEAT[1]])


def mixtures(study: Study, apart: Sequence[str] = ()) -> dict[str, Cell]:
    """Cells whose selection is done, by what makes their mixtures differ, the first seed of each.

    Args:
        apart: keys by which they need not be told apart.
    """
    found: dict[str, Cell] = {}
    for cell in study.cells:
        run = cell.runs[0]
        if run.stage == "select" and is_done(run):
            keys = [key for key in cell.values if key.startswith("select.") and key not in apart]
            found.setdefault(", ".join(shown(key, cell.values[key]) for key in keys) or run.name, cell)
    return found


def _budgets(study: Study) -> Figure | None:
    cells = dict(list(mixtures(study, ["select.instance_fn"]).items())[:_LINES])
    found = {name: read_tasks(cell.runs[0].folder / "tasks.csv") for name, cell in cells.items()}
    if not found:
        return None
    sizes = {joined(t["submixture"], t["task_name"]): int(t["size"]) for t in next(iter(found.values()))}
    tasks = sorted(sizes, key=lambda task: -sizes[task])
    figure = new_figure(10.4, 4.4)
    axes = figure.subplots()
    place = np.arange(1, len(tasks) + 1)
    axes.step(place, [sizes[task] for task in tasks], where="mid", color="#bbbbbb", label="rows in the pool")
    colours, used = palette(study.grid), dict[str, int]()
    for name, lines in found.items():
        given = {joined(t["submixture"], t["task_name"]): int(t["budget"]) for t in lines}
        contender = study.grid.contender(cells[name].values)
        used[contender] = used.get(contender, -1) + 1
        marker = ".x+1"[used[contender] % 4]  # budgets of one contender
        axes.plot(
            place,
            [given.get(task, 0) for task in tasks],
            marker,
            color=colours[contender],
            label=name,
            alpha=0.8,
        )
    axes.set_yscale("symlog", linthresh=1, linscale=0.4)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(bottom=-0.1)
    axes.set(xlabel="tasks, by falling size", ylabel="rows (log scale)")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _gains(study: Study) -> Figure | None:
    found: dict[tuple[float, ...], tuple[str, str]] = {}
    colours = palette(study.grid)
    for name, cell in mixtures(study, ["select.instance_fn", "select.budget"]).items():
        picks = sorted(
            (int(t["order"]), float(t["gain"]))
            for t in read_tasks(cell.runs[0].folder / "tasks.csv")
            if t["gain"]
        )
        if picks:  # some are alike, as with weightings of one function
            colour = colours[study.grid.contender(cell.values)]
            found.setdefault(tuple(gain for _, gain in picks), (name, colour))
    if not found:
        return None
    figure = new_figure(10.4, 4)
    axes = figure.subplots()
    for gains, (name, colour) in found.items():
        axes.plot(range(1, len(gains) + 1), gains, ".-", color=colour, label=name)
    axes.set(xlabel="pick", ylabel="marginal gain")
    axes.legend()
    return figure
