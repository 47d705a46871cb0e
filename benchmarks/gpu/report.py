"""docs/performance.md's section on GPUs, from the lines that the measurements left."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.options import PARTS
from benchmarks.gpu.results import OK, read_lines
from smart.config import UserError, counted
from smart.runtime.files import write_atomic

BEGIN = "<!-- GPU results: made by python -m benchmarks.gpu report -->"
END = "<!-- end of GPU results -->"
NOT_RUN = "Not run: no machine with a GPU was at hand."
TITLES = {
    "correct": "Correctness",
    "train": "Fine-tuning of 7B models",
    "smollm": "Losses of SmolLM2-135M beside TRL's",
    "evaluate": "Evaluation",
    "encode": "Encoding",
}

Line = dict[str, Any]
Groups = dict[tuple[str, str], list[Line]]
"""Case and contender → what was measured of them."""


def write(results: Path, page: Path) -> str:
    """Put what the results say between the page's marks; returns what was done.

    Raises:
        UserError: for a page without the marks.
    """
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (begun and ended):
        raise UserError(f"{page}: has no lines {BEGIN!r} and {END!r}, between which the results go")
    section = render(read_lines(results))
    write_atomic(page, f"{before}{BEGIN}\n{section}\n{END}{after}")
    return f"{page}: {counted(section.count(chr(10)) + 1, 'line')}"


def render(lines: Iterable[Line]) -> str:
    """The section as Markdown; lines of tiny models prove the kit alone, and are left out."""
    real = [line for line in lines if not line["tiny"]]
    if not real:
        return NOT_RUN
    parts = []
    for gpu in dict.fromkeys(str(line["machine"]["gpu"]) for line in real):
        mine = [line for line in real if str(line["machine"]["gpu"]) == gpu]
        parts += [f"### {gpu}", _versions(mine)]
        for part in PARTS:
            chosen = [line for line in mine if line["part"] == part]
            missing = f"**{TITLES[part]}**: not run."
            parts.append(_table(part, chosen) if chosen else missing)
    return "\n\n".join(parts)


def _versions(lines: Sequence[Line]) -> str:
    said = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in sorted(line["machine"]["versions"].items()))
        for line in lines
    )
    return "With " + "; then with ".join(said) + "."


def _table(part: str, lines: Sequence[Line]) -> str:
    """A row for each case and contender: medians of what was repeated."""
    groups: Groups = {}
    for line in lines:
        groups.setdefault((line["case"], line["contender"]), []).append(line)
    groups = {key: _settled(found) for key, found in groups.items()}
    columns = list(
        dict.fromkeys(
            name
            for found in groups.values()
            for line in found
            if line["status"] == OK
            for name in flat(line["result"])
        )
    )
    head = ["case", "contender", *(name.replace("_", " ") for name in columns), "runs", "commit", "date"]
    rows = [head, ["---"] * len(head)]
    rows += [_row(*key, found, columns) for key, found in groups.items()]
    body = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
    told = "\n".join(_SUMMARIES[part](groups)) if part in _SUMMARIES else ""
    title = f"**{TITLES[part]}** (`python -m benchmarks.gpu {part}`)"
    return "\n\n".join(filter(None, [title, body, told]))


def _best_of_each(groups: Groups) -> Iterator[str]:
    """For each model and method, the best of our variants beside the best of TRL's."""
    for case in dict.fromkeys(case for case, _ in groups):
        best: dict[str, tuple[float, str]] = {}
        for (of, contender), lines in groups.items():
            if of == case and lines[0]["status"] == OK:
                rate = statistics.median(line["result"]["tokens_per_second"] for line in lines)
                library = contender.partition(",")[0]
                best[library] = max(best.get(library, (0.0, "")), (rate, contender))
        if {"smart", "trl"} <= set(best):
            ours, theirs = best["smart"], best["trl"]
            yield f"- {case}: {ours[0] / theirs[0]:.2f} times TRL's best ({ours[1]} beside {theirs[1]})"


def _losses_apart(groups: Groups) -> Iterator[str]:
    """How far the losses of a step lie apart."""
    curves = [
        groups[key][0]["result"].get("losses")
        for key in (("losses", "smart"), ("losses", "trl"))
        if key in groups
    ]
    if len(curves) == 2 and all(curves):
        apart = max(abs(one - other) / other for one, other in zip(*curves, strict=True))
        yield f"- Losses of the same step lie at most {apart:.2g} of their size apart, over {len(curves[0])} steps."


_SUMMARIES: dict[str, Callable[[Groups], Iterator[str]]] = {
    "train": _best_of_each,
    "smollm": _losses_apart,
}


def _settled(lines: list[Line]) -> list[Line]:
    """The runs that gave numbers; where none did, the last one, which says why."""
    latest = {line["repeat"]: line for line in lines}
    return [line for line in latest.values() if line["status"] == OK] or lines[-1:]


def _row(case: str, contender: str, lines: Sequence[Line], columns: Sequence[str]) -> list[str]:
    last = max(lines, key=lambda line: str(line["date"]))
    commits = ", ".join(dict.fromkeys(str(line["machine"]["commit"]) for line in lines))
    ends = ["1" if len(lines) == 1 else str(len(lines)), commits, str(last["date"])[:10]]
    if last["status"] != OK:
        reason = str(next(iter(last["result"].values()), "")).splitlines()
        told = f"{last['status']}: {reason[0][:160] if reason else ''}"
        return [case, contender, told, *[""] * (len(columns) - 1), *ends]
    results = [flat(line["result"]) for line in lines]
    cells = [_shown([found[name] for found in results if name in found], name) for name in columns]
    return [case, contender, *cells, *ends]


def flat(result: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Results inside results by their whole names; what is long, such as a curve, is left out.

    >>> flat({"a": {"b": 1}, "losses": [1.0] * 50})
    {'a: b': 1}
    """
    found: dict[str, Any] = {}
    for name, value in result.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}: ")
        elif not (isinstance(value, list) and len(value) > 8):
            found[f"{prefix}{name}"] = value
    return found


def _shown(values: Sequence[Any], name: str) -> str:
    """The median of numbers; anything else as the last run had it."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if not values or (len(numbers) < len(values) and not isinstance(values[-1], str | bool | list)):
        return ""
    if len(numbers) < len(values):
        last = values[-1]
        return ", ".join(map(str, last)) if isinstance(last, list) else str(last)
    middle = statistics.median(numbers)
    form: Callable[[float], str] = _UNITS.get(name.rpartition(": ")[2], _number)
    return form(middle)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _bytes(value: float) -> str:
    return f"{value / 1e9:.1f} GB"


_UNITS: dict[str, Callable[[float], str]] = {
    "peak": _bytes,
    "planned": _bytes,
    "mfu": lambda value: f"{value:.1%}",
}
