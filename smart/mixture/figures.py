"""The figures of a mixture: its budgets beside the baselines', the gains, and a map of the tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smart.config import counted
from smart.mixture.allocation import allocate
from smart.mixture.budgets import TaskBudgets
from smart.mixture.turns import Turns
from smart.runtime.plot_style import COLOURS, log_scale, new_figure, save_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour and marker together tell 40 submixtures apart.
_MARKERS = ("o", "s", "^", "D", "v")
_TOLD_APART = len(COLOURS) * len(_MARKERS)
_REST = "#9e9e9e"
_BARS = 15
_MOST_TURNS = 20


def draw_figures(
    folder: Path, tasks: TaskBudgets, task_embeddings: np.ndarray | None, turns: Turns | None = None
) -> list[str]:
    """Write the figures that there are numbers for, and return their file names.

    Args:
        folder: where they go.
        tasks: what every task of the pool gives.
        task_embeddings: float (tasks, d); None for no map.
        turns: of the chosen rows; None where they are two texts.
    """
    with style():
        figures = {"budgets.png": _budgets(tasks)}
        if np.isfinite(tasks.gains).any():
            figures["gains.png"] = _gains(tasks)
        if task_embeddings is not None and len(tasks.tasks) > 1:
            figures["tasks.png"] = _task_map(tasks, task_embeddings)
        if turns is not None and len(turns.answers):
            figures["turns.png"] = _turns(turns)
        for name, figure in figures.items():
            save_figure(figure, folder / name)
    return list(figures)


def project(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of the L2-normalised rows: the plane in which tasks differ most.

    Signs are fixed: on each axis the coordinate that is largest in size is positive.

    Args:
        X: float (n, d), n >= 2.

    Returns:
        float64 (2, n), coordinates; float64 (2,), share of the variance on each axis.
    """
    X = np.asarray(X, np.float64)
    X = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)
    X -= X.mean(axis=0)
    # By the smaller of the two Gram matrices: the singular values of X itself take twenty times as long.
    wide = X.shape[1] > len(X)
    variance, axes = np.linalg.eigh(X @ X.T if wide else X.T @ X)
    variance = np.maximum(np.pad(variance[::-1], (0, 2)), 0)  # one-dimensional vectors have no second axis
    axes = np.pad(axes[:, ::-1], ((0, 0), (0, 2)))[:, :2]
    plane = axes * np.sqrt(variance[:2]) if wide else X @ axes
    furthest = plane[np.abs(plane).argmax(axis=0), [0, 1]]
    return (plane * np.where(furthest < 0, -1, 1)).T, variance[:2] / max(variance.sum(), 1e-300)


def _budgets(tasks: TaskBudgets) -> Figure:
    sizes, rows = tasks.sizes.sum(axis=1), tasks.budgets.sum(axis=1)
    total = int(rows.sum())
    strategies = {
        "this mixture": rows,
        "proportional": allocate(sizes / sizes.sum(), sizes, total),
        "equal": allocate(np.full(len(sizes), 1 / len(sizes)), sizes, total),
    }
    figure = new_figure(13, 5.2)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _rows_of_each_task(left, strategies)
    _share_of_each_submixture(right, strategies, tasks.submixtures)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, markerscale=3)
    figure.suptitle(
        f"Budget of {counted(total, 'row')} over a pool of {counted(len(rows), 'task')} ({counted(sizes.sum(), 'row')})"
    )
    return figure


def _rows_of_each_task(axes: Axes, strategies: dict[str, np.ndarray]) -> None:
    from matplotlib.ticker import MaxNLocator

    rows = strategies["this mixture"]
    falling = np.argsort(-rows, kind="stable")
    place = np.arange(1, len(rows) + 1)
    dot = max(2.0, 6 - len(rows) / 400)
    for (name, given), colour in zip(strategies.items(), COLOURS, strict=False):
        if name == "this mixture":
            axes.fill_between(place, given[falling], step="mid", color=colour, alpha=0.25, linewidth=0)
            axes.step(place, given[falling], where="mid", color=colour, label=name, zorder=3)
        else:
            axes.plot(place, given[falling], ".", color=colour, markersize=dot, label=name)
    axes.set_yscale("symlog", linthresh=1, linscale=0.4)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(bottom=0)
    axes.set_xlim(0.5, len(rows) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(
        title="Rows of each task",
        xlabel="tasks, by falling budget in this mixture",
        ylabel="rows (log scale)",
    )


def _share_of_each_submixture(axes: Axes, strategies: dict[str, np.ndarray], submixtures: np.ndarray) -> None:
    names, of_task = np.unique(submixtures, return_inverse=True)
    shares = {name: np.bincount(of_task, given) / given.sum() * 100 for name, given in strategies.items()}
    largest = np.argsort(-sum(shares.values()), kind="stable")[:_BARS]
    places, height = np.arange(len(largest)), 0.8 / len(shares)
    for number, (colour, (name, share)) in enumerate(zip(COLOURS, shares.items(), strict=False)):
        axes.barh(places + (number - 1) * height, share[largest], height, color=colour, label=name)
    axes.set_yticks(places, [_short(str(name)) for name in names[largest]])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    which = f" ({len(largest)} largest of {len(names)})" if len(names) > len(largest) else ""
    axes.set(title=f"Share of each submixture{which}", xlabel="share of the rows (%)")


def _gains(tasks: TaskBudgets) -> Figure:
    from matplotlib.ticker import MaxNLocator

    gains = tasks.gains[tasks.selected]
    picks = np.arange(1, len(gains) + 1)
    figure = new_figure()
    axes = figure.subplots()
    axes.plot(picks, gains, marker="." if len(gains) <= 100 else "", color=COLOURS[0])
    if gains.min() > 0 and gains.max() > 20 * gains.min():
        log_scale(axes, "y")
    elif gains.min() < 0:
        axes.axhline(0, color="black", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(
        title=f"Marginal gain of each task, in greedy order ({len(gains):,} of {counted(len(tasks.tasks), 'task')})",
        xlabel="pick",
        ylabel="marginal gain (units of the set function)",
    )
    return figure


def _turns(turns: Turns) -> Figure:
    from matplotlib.ticker import MaxNLocator

    counts = np.bincount(np.minimum(turns.answers, _MOST_TURNS))[1:]
    figure = new_figure()
    axes = figure.subplots()
    axes.bar(np.arange(1, len(counts) + 1), counts, color=COLOURS[0])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set(
        title=f"Turns of each row ({counted(turns.answers.sum(), 'turn')} in {counted(len(turns.answers), 'row')})",
        xlabel="turns of the assistant"
        + (f" ({_MOST_TURNS}: or more)" if len(counts) == _MOST_TURNS else ""),
        ylabel="rows",
    )
    return figure


def _task_map(tasks: TaskBudgets, task_embeddings: np.ndarray) -> Figure:
    (x, y), share = project(task_embeddings)
    rows, submixtures = tasks.budgets.sum(axis=1), tasks.submixtures
    full_area = 450 / max(1, len(rows) / 100) ** 0.5
    area = full_area * rows / max(rows.max(), 1) + 12
    figure = new_figure(11, 7)
    axes = figure.subplots()
    empty = rows == 0
    axes.scatter(x[empty], y[empty], s=6, c="#cccccc", linewidths=0)
    looks = _looks(submixtures[~empty], rows[~empty])
    for name, look in looks.items():
        members = (submixtures == name) & ~empty
        axes.scatter(
            x[members], y[members], s=area[members], alpha=0.65, edgecolors="#555555", linewidths=0.4, **look
        )
    entries = [(counted(rows.max(), "row"), "o", "white", full_area**0.5), ("no rows", ".", "#cccccc", 6)]
    entries += [
        (_short(name), look["marker"], look["c"], 7) for name, look in looks.items() if look["c"] != _REST
    ]
    if len(looks) > _TOLD_APART:
        entries.append((f"other ({len(looks) - _TOLD_APART})", "o", _REST, 7))
    _legend(figure, entries)
    axes.set(
        title="Map of the tasks by the principal components of their embeddings\n"
        "area = rows in the mixture; colour and marker = submixture",
        xlabel=f"first component ({share[0]:.0%} of the variance)",
        ylabel=f"second component ({share[1]:.0%} of the variance)",
    )
    return figure


def _looks(submixtures: np.ndarray, rows: np.ndarray) -> dict[str, dict[str, Any]]:
    """Marker and colour of each submixture, largest budget first; grey beyond what can be told apart."""
    names, of_task = np.unique(submixtures, return_inverse=True)
    falling = names[np.argsort(-np.bincount(of_task, rows), kind="stable")]
    pairs = [{"marker": marker, "c": colour} for marker in _MARKERS for colour in COLOURS]
    return {
        str(name): pairs[place] if place < _TOLD_APART else {"marker": "o", "c": _REST}
        for place, name in enumerate(falling)
    }


def _legend(figure: Figure, entries: list[tuple[str, str, str, float]]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", label=label, marker=marker, color=colour, markersize=size,
               markeredgecolor="#555555", markeredgewidth=0.4)
        for label, marker, colour, size in entries
    ]  # fmt: skip
    figure.legend(
        handles=handles,
        loc="outside right upper",
        fontsize=8,
        labelspacing=0.8,
        borderpad=1.2,
        ncols=1 + len(handles) // 30,
    )


def _short(text: str, length: int = 24) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
