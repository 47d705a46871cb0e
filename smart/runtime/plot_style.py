"""The look of every figure, and files that are the same each time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cycler import cycler

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
COMPRESSION = 3
"""Of PNGs, from 0 to 9: a tenth larger than at matplotlib's 6, in a third of the time."""
# Okabe and Ito's palette, readable without full colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw inside this: no display needed, white ground, light grid, legible type."""
    import matplotlib

    settings: Any = {
        "figure.figsize": (9, 5),
        "figure.constrained_layout.use": True,
        "font.size": 10,
        # Text is names of others: a dollar or a backslash in it is no formula.
        "text.parse_math": False,
        "text.usetex": False,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e6e6e6",
        "axes.prop_cycle": cycler(color=COLOURS),
        "legend.frameon": False,
    }
    with matplotlib.rc_context(settings):
        yield


def log_scale(axes: Axes, axis: Literal["x", "y"]) -> None:
    """A logarithmic axis whose numbers are plain text, since matplotlib's own are formulas."""
    from matplotlib.ticker import LogFormatter

    (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
    one = axes.xaxis if axis == "x" else axes.yaxis
    one.set_major_formatter(LogFormatter())
    one.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))


def new_figure(width: float | None = None, height: float | None = None) -> Figure:
    """An empty figure, in inches; without pyplot, which takes long to import and keeps every figure."""
    from matplotlib.figure import Figure

    return Figure() if width is None or height is None else Figure((width, height))


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"compress_level": COMPRESSION}
    figure.savefig(path, dpi=DPI, metadata={"Software": None}, pil_kwargs=options)
