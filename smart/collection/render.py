"""From bare questions and answers to the four template types."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smart.templates import TEMPLATES

_MOST_OPTIONS = 10
_ROWS_PER_OPTION = 4
_SHOTS = 3
_SHOTS_CHARACTERS = 1500


def closed_set(answers: Sequence[str]) -> list[str]:
    """The distinct answers of a task, sorted, if they are few and come often; else an empty list.

    >>> closed_set(["yes", "no", "no", "yes", "yes", "no", "no", "no"])
    ['no', 'yes']
    """
    distinct = sorted(set(answers))
    few = 2 <= len(distinct) <= min(_MOST_OPTIONS, len(answers) // _ROWS_PER_OPTION)
    return distinct if few and all(distinct) else []


def few_shot(question: str, shots: Sequence[tuple[str, str]], options: Sequence[str] = ()) -> str:
    """Solved questions before the one that is asked, as many as are short enough; options below each.

    Without shots it is the bare question, and its options.
    """
    listed = "\n- ".join(["\n\nOptions:", *options]) if options else ""
    solved: list[str] = []
    for other, answer in shots:
        solved.append(f"{other}{listed}\n\nAnswer: {answer}")
        if solved[1:] and sum(map(len, solved)) > _SHOTS_CHARACTERS:
            solved.pop()
    asked = question + listed
    return "\n\n\n".join([*solved, f"{asked}\n\nAnswer:"]) if solved else asked


def draw_shots(
    pool: Sequence[tuple[str, str]], asked: int, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Up to three solved questions out of `pool`, other than number `asked`."""
    drawn = rng.choice(len(pool), size=min(_SHOTS + 1, len(pool)), replace=False).tolist()
    return [pool[index] for index in drawn if index != asked][:_SHOTS]


def draw_templates(count: int, options: bool, shots: bool, rng: np.random.Generator) -> list[str]:
    """A template type for each of `count` rows, drawn evenly from those that the task can be rendered in."""
    possible = [
        name for name in TEMPLATES if (options or name.endswith("noopt")) and (shots or name.startswith("zs"))
    ]
    return [possible[index] for index in rng.integers(len(possible), size=count).tolist()]


def task_rng(seed: int, *names: str) -> np.random.Generator:
    """Random numbers of one task: the same whatever other tasks there are."""
    return np.random.default_rng([seed, *"\0".join(names).encode()])
