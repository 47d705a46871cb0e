"""A table as Markdown, LaTeX and CSV."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from smart.evaluation.metrics import Metric
from smart.evaluation.statistics import FEWEST_SEEDS, LEVEL, Interval
from smart.experiment.grid import Grid, heading, shown
from smart.experiment.reference import Published, find_reference
from smart.experiment.table import SPREAD, Entry, TableRow
from smart.runtime import escapes

SIZES = ("rows", "tokens", "supervised tokens", "steps")
SPENT = ("stage", "runs", "hours, one after the other", "most memory")


@dataclass(frozen=True)
class Table:
    title: str
    grid: Grid
    metrics: Sequence[Metric]
    rows: Sequence[TableRow]
    notes: Sequence[str]
    published: Sequence[Published] = ()
    spent: Sequence[Sequence[str]] = ()
    """What it took: a line for each stage, under SPENT."""

    def head(self) -> list[str]:
        return [" ".join(lines) for lines in self.heads()]

    def heads(self) -> list[list[str]]:
        """The head of each column in lines."""
        keys = [heading(key) for key in self.grid.axes] or ["row"]
        after = [*(["reference"] if self.published else []), *SIZES]
        return [*([key] for key in keys), *(metric.lines for metric in self.metrics), *([x] for x in after)]

    def split(self, most: int) -> list[list[int]]:
        """Places of the columns, in as many tables as it takes for each to have `most`, or 3 beside its keys."""
        keys, columns = list(range(len(self.grid.axes) or 1)), len(self.heads())
        tables = -(-(columns - len(keys)) // max(3, most - len(keys)))
        return [[*keys, *map(int, part)] for part in np.array_split(np.arange(len(keys), columns), tables)]

    def line(self, row: TableRow) -> list[str]:
        """A row's cells as text, without marks."""
        scores = [_score(entry) if entry else "" for entry in row.entries] or [""] * len(self.metrics)
        if row.state != "done" and scores:
            scores[0] = f"{scores[0]} ({row.state})".strip()
        return [*self.labels(row), *scores, *self.references(row), *self.sizes(row)]

    def labels(self, row: TableRow) -> list[str]:
        named = [shown(key, row.values[key]) if key in row.values else "" for key in self.grid.axes]
        if row.block is None:
            place = next((at for at, text in enumerate(named) if not text), len(named) - 1)
            named[place : place + 1] = [f"{named[place]} untuned".strip()] if named else []
        return named or ["untuned" if row.block is None else self.grid.name]

    def references(self, row: TableRow) -> list[str]:
        if not self.published:
            return []
        found = [(metric, find_reference(self.published, row.values, metric)) for metric in self.metrics]
        return ["; ".join(f"{metric.name} {one.value} [{one.source}]" for metric, one in found if one)]

    def sizes(self, row: TableRow) -> list[str]:
        return [
            f"{row.sizes[key]:,.0f}{' !' if key in row.flagged else ''}" if key in row.sizes else ""
            for key in SIZES
        ]

    def legend(self) -> list[str]:
        """What the marks mean, and how much the numbers say."""
        counts = {
            len(entry.runs) for row in self.rows if row.block is not None for entry in row.entries if entry
        }
        lines = (
            [f"Mean ± standard deviation over {_range(counts)} seeds."] if max(counts, default=1) > 1 else []
        )
        lines += ["One seed: how much seeds matter is not known."] if min(counts, default=1) == 1 else []
        if any(entry.best for row in self.rows for entry in row.entries if entry):
            lines.append(
                "Bold: the best of its block, and what equals it; †: not distinguishable from it"
                f" (p ≥ {LEVEL} after Holm over the table)."
            )
        if any(1 < count < FEWEST_SEEDS for count in counts) or len(counts) > 1:
            lines.append(
                "No test where a row has 2 seeds, or one row has several and the other one:"
                f" {FEWEST_SEEDS} seeds of each are needed, since fewer hardly tell how much seeds vary."
            )
        lines += self._samples()
        if any(row.flagged for row in self.rows):
            lines.append(f"!: spread over more than {SPREAD:.0%} between the rows that are compared.")
        return [*lines, *self.notes]

    def _samples(self) -> list[str]:
        """What intervals and p-values take for a sample, and where they are doubtful."""
        drawn: dict[str, list[str]] = {}
        skewed: dict[str, None] = {}
        for row in self.rows:
            for metric, entry in zip(self.metrics, row.entries, strict=False):
                if entry:
                    metrics = drawn.setdefault(entry.drawn, [])
                    metrics += [] if metric.label in metrics else [metric.label]
                    skewed |= {metric.label: None} if entry.interval.skewed else {}
        lines = [
            f"95 % intervals and p-values draw {what}: {', '.join(names)}." for what, names in drawn.items()
        ]
        if skewed:
            lines.append(
                f"Few and skewed scores, whose intervals hold the truth in some 90 % only: {', '.join(skewed)}."
            )
        return lines


def _range(counts: set[int]) -> str:
    return " to ".join(map(str, sorted({min(counts), max(counts)})))


def _score(entry: Entry) -> str:
    return f"{entry.mean:.4f}" + ("" if entry.deviation is None else f" ± {entry.deviation:.4f}")


def bounds(interval: Interval, form: str = ".4f") -> str:
    """An interval in words."""
    return f"{interval.low:{form}} to {interval.high:{form}}" if interval.known else "not known"


DIFFERENCES = ("row", "metric", "difference", "95 % interval", "draws", "test", "p", "p after Holm", "")


def differences(table: Table) -> list[list[str]]:
    """Each row against its baseline, under each metric, as text."""
    lines = []
    for row in table.rows:
        for metric, entry in zip(table.metrics, row.entries, strict=True):
            if entry and entry.against:
                what, at = entry.against, entry.against.interval
                said = [" ".join(filter(None, table.labels(row))), metric.title, f"{at.value:+.4f}"]
                said += [bounds(at, "+.4f"), entry.drawn, what.test]
                if what.p is None or entry.adjusted is None:
                    lines.append([*said, "", "", "no test"])
                else:
                    verdict = "significant" if entry.adjusted < LEVEL else "not significant"
                    lines.append([*said, f"{what.p:.3g}", f"{entry.adjusted:.3g}", verdict])
    return lines


def markdown(table: Table) -> str:
    """The table and its comparisons."""
    first = len(table.grid.axes) or 1

    def marked(row: TableRow) -> list[str]:
        line = _escaped(table.line(row))
        for place, entry in enumerate(row.entries):
            if entry and entry.best:
                line[first + place] = f"**{line[first + place]}**"
            elif entry and entry.near_best:
                line[first + place] += " †"
        return line

    parts = [f"# {escapes.markdown(table.title)}"]
    parts += [_pipes(_escaped(table.head()), [marked(row) for row in table.rows])]
    parts += ["\n".join(f"- {escapes.markdown(line)}" for line in table.legend())]
    if lines := differences(table):
        parts += [f"## Against the baseline ({escapes.markdown(baseline(table.grid))})"]
        parts += [_pipes(DIFFERENCES, map(_escaped, lines))]
    if table.spent:
        parts += ["## What it took", _pipes(SPENT, map(_escaped, table.spent))]
    return "\n\n".join(parts) + "\n"


def baseline(grid: Grid) -> str:
    return ", ".join(f"{heading(key)}={shown(key, value)}" for key, value in grid.baseline.items())


def _escaped(cells: Iterable[str]) -> list[str]:
    return [escapes.markdown(cell) for cell in cells]


def _pipes(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def latex(table: Table) -> str:
    """A booktabs table, no wider than the text; needs \\usepackage{booktabs,graphicx}."""
    caption = f"{escapes.latex(table.title)}. {' '.join(map(escapes.latex, table.legend()))}"
    tabulars = [_tabular(table, columns) for columns in table.split(_TEX_COLUMNS)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{re.sub(r'[^A-Za-z0-9_-]', '-', table.grid.name)}}}",
            *(line for tabular in tabulars for line in (r"\par\medskip", *tabular)),
            r"\end{table}",
            "",
        ]
    )


_TEX_COLUMNS = 9


def _tabular(table: Table, columns: Sequence[int]) -> list[str]:
    first = len(table.grid.axes) or 1

    def marked(row: TableRow) -> str:
        line = [escapes.latex(cell) for cell in table.line(row)]
        for place, entry in enumerate(row.entries):
            if entry and entry.best:
                line[first + place] = rf"\textbf{{{line[first + place]}}}"
            elif entry and entry.near_best:
                line[first + place] += r"$^\dagger$"
        return " & ".join(line[column] for column in columns) + r" \\"

    body: list[str] = []
    before: tuple[object, ...] | None = None
    for row in table.rows:
        body += [r"\midrule"] if before is not None and row.block != before[0] else []
        body.append(marked(row))
        before = (row.block,)
    heads = table.heads()
    sides = ["l" if column < first else "r" for column in columns]
    return [
        r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{''.join(sides)}}}",
        r"\toprule",
        " & ".join(_stacked(heads[column], side) for column, side in zip(columns, sides, strict=True))
        + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
    ]


def _stacked(lines: Sequence[str], side: str) -> str:
    """Lines above each other in one cell."""
    escaped = [escapes.latex(line) for line in lines]
    if len(escaped) == 1:
        return escaped[0]
    return rf"\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}" + r" \\ ".join(escaped) + r"\end{tabular}"


def as_csv(table: Table) -> str:
    """A line for each row and metric, with everything that is known of it."""
    score = "part,metric,filter,mean,deviation,low,high,skewed,seeds,drawn,best,near_best"
    score += ",difference,difference_low,difference_high"
    sizes = [key.replace(" ", "_") for key in SIZES]
    head = [*table.grid.axes, "tuned", "state", *score.split(","), "test", "p", "p_holm", *sizes, "flagged"]
    lines: list[Sequence[object]] = [[*head, "reference", "source"] if table.published else head]
    for row in table.rows:
        keys = [shown(key, row.values[key]) if key in row.values else "" for key in table.grid.axes]
        after = [*(row.sizes.get(key, "") for key in SIZES), " ".join(row.flagged)]
        for metric, entry in zip(table.metrics, row.entries, strict=True):
            line = [
                *keys,
                row.block is not None,
                row.state,
                metric.part,
                metric.metric,
                metric.filter,
                *_numbers(entry),
                *after,
            ]
            if table.published:
                one = find_reference(table.published, row.values, metric)
                line += [one.value, one.source] if one else ["", ""]
            lines.append(line)
    return escapes.csv_lines(lines)


def _numbers(entry: Entry | None) -> list[object]:
    if entry is None:
        return [""] * 16
    at, what = entry.interval, entry.against
    shift = [what.interval.value, *_bounds(what.interval)] if what else [""] * 3
    test = [what.test, _known(what.p), _known(entry.adjusted)] if what else [""] * 3
    score = [at.value, _known(entry.deviation), *_bounds(at), at.skewed, len(entry.runs), entry.drawn]
    return [*score, entry.best, entry.near_best, *shift, *test]


def _bounds(interval: Interval) -> list[object]:
    return [interval.low, interval.high] if interval.known else ["", ""]


def _known(number: float | None) -> object:
    return "" if number is None else number
