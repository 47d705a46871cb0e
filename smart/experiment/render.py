"""A table as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from smart.evaluation.metrics import FEWEST_TASKS, UNSEEN, Metric
from smart.experiment.grid import Grid, heading, shown
from smart.experiment.reference import Published, find_reference
from smart.experiment.table import SPREAD, Entry, TableRow

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
        keys = [heading(key) for key in self.grid.axes] or ["row"]
        return [
            *keys,
            *(metric.title for metric in self.metrics),
            *(["reference"] if self.published else []),
            *SIZES,
        ]

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
        seeds = len(self.grid.seeds)
        lines = [
            f"Mean ± standard deviation over {seeds} seeds."
            if seeds > 1
            else "One seed: how much seeds matter is not known.",
            "Bold: the best of its block; †: not distinguishable from it (p ≥ 0.05 after Holm over the table).",
        ]
        if any(metric.part.startswith(UNSEEN) for metric in self.metrics):
            lines.append(
                f"Unseen tasks are a sample of tasks: from {FEWEST_TASKS} on, intervals and p-values count them too."
            )
        if any(row.flagged for row in self.rows):
            lines.append(f"!: spread over more than {SPREAD:.0%} between the rows that are compared.")
        return [*lines, *self.notes]


def _score(entry: Entry) -> str:
    return f"{entry.mean:.4f}" + ("" if entry.deviation is None else f" ± {entry.deviation:.4f}")


def differences(table: Table) -> list[list[str]]:
    """Each row against its baseline, under each metric, as text."""
    lines = []
    for row in table.rows:
        for metric, entry in zip(table.metrics, row.entries, strict=True):
            if entry and entry.against and entry.adjusted is not None:
                what, at = entry.against, entry.against.interval
                sizes = f"{at.value:+.4f}", f"{at.low:+.4f} to {at.high:+.4f}"
                verdict = "inside the noise" if entry.adjusted >= 0.05 else "a difference"
                evidence = what.test, f"{what.p:.3g}", f"{entry.adjusted:.3g}", verdict
                lines.append([" ".join(filter(None, table.labels(row))), metric.title, *sizes, *evidence])
    return lines


DIFFERENCES = ("row", "metric", "difference", "95 % interval", "test", "p", "p after Holm", "")


def markdown(table: Table) -> str:
    """The table and its comparisons."""
    first = len(table.grid.axes) or 1

    def marked(row: TableRow) -> list[str]:
        line = table.line(row)
        for place, entry in enumerate(row.entries):
            if entry and entry.best:
                line[first + place] = f"**{line[first + place]}**"
            elif entry and entry.near_best:
                line[first + place] += " †"
        return line

    parts = [f"# {table.title}", _pipes(table.head(), [marked(row) for row in table.rows])]
    parts += ["\n".join(f"- {line}" for line in table.legend())]
    if lines := differences(table):
        parts += [f"## Against the baseline ({_baseline(table.grid)})", _pipes(DIFFERENCES, lines)]
    if table.spent:
        parts += ["## What it took", _pipes(SPENT, table.spent)]
    return "\n\n".join(parts) + "\n"


def _baseline(grid: Grid) -> str:
    return ", ".join(f"{heading(key)}={shown(key, value)}" for key, value in grid.baseline.items())


def _pipes(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in rows)


_TEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "±": r"$\pm$",
        "≥": r"$\geq$",
        "†": r"$\dagger$",
        "−": "$-$",
        "→": r"$\to$",
        "…": r"\dots{}",
        "×": r"$\times$",
    }
)


def latex(table: Table) -> str:
    """A booktabs table; needs \\usepackage{booktabs}."""
    first, columns = len(table.grid.axes) or 1, len(table.head())

    def marked(row: TableRow) -> str:
        line = [cell.translate(_TEX) for cell in table.line(row)]
        for place, entry in enumerate(row.entries):
            if entry and entry.best:
                line[first + place] = rf"\textbf{{{line[first + place]}}}"
            elif entry and entry.near_best:
                line[first + place] += r"$^\dagger$"
        return " & ".join(line) + r" \\"

    body: list[str] = []
    before: tuple[object, ...] | None = None
    for row in table.rows:
        body += [r"\midrule"] if before is not None and row.block != before[0] else []
        body.append(marked(row))
        before = (row.block,)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{table.title.translate(_TEX)}. {' '.join(line.translate(_TEX) for line in table.legend())}}}",
            rf"\label{{tab:{table.grid.name}}}",
            rf"\begin{{tabular}}{{{'l' * first}{'r' * (columns - first)}}}",
            r"\toprule",
            " & ".join(cell.translate(_TEX) for cell in table.head()) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def as_csv(table: Table) -> str:
    """A line for each row and metric, with everything that is known of it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    score = "part,metric,filter,mean,deviation,low,high,seeds,best,near_best,difference,difference_low,difference_high"
    sizes = [key.replace(" ", "_") for key in SIZES]
    head = [*table.grid.axes, "tuned", "state", *score.split(","), "test", "p", "p_holm", *sizes, "flagged"]
    writer.writerow([*head, "reference", "source"] if table.published else head)
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
            writer.writerow(line)
    return text.getvalue()


def _numbers(entry: Entry | None) -> list[object]:
    if entry is None:
        return [""] * 14
    at, what = entry.interval, entry.against
    shift = [what.interval.value, what.interval.low, what.interval.high] if what else [""] * 3
    test = [what.test, what.p, entry.adjusted] if what else [""] * 3
    spread = "" if entry.deviation is None else entry.deviation
    return [at.value, spread, at.low, at.high, len(entry.runs), entry.best, entry.near_best, *shift, *test]
