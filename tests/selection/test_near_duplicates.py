"""Near-duplicates against all pairs: words by a regular expression, sets of tuples, one row after the other."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pyarrow as pa

from smart.selection.near_duplicates import (
    COMMON,
    FEW,
    PERMUTATIONS,
    Read,
    bands_for,
    near_duplicates,
    permutations,
)
from smart.selection.shingles import SHINGLE, minhash_bands, shingle_sets

Shingles = set[tuple[str, ...]]


def shingles(text: str) -> Shingles:
    words = re.findall(r"[぀-ヿ㐀-鿿]|[^\W_぀-ヿ㐀-鿿]+", text.lower())
    length = min(len(words), SHINGLE)
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)} if words else set()


def jaccard(one: Shingles, two: Shingles) -> float:
    return len(one & two) / len(one | two) if one | two else 0.0


def similarities(texts: list[str], tasks: np.ndarray) -> np.ndarray:
    """For each pair the lower of both similarities: of the whole texts, and of what is particular to the rows."""
    sets = list(map(shingles, texts))
    own = []
    for found, task in zip(sets, tasks, strict=True):
        rows = [other for other, its in zip(sets, tasks, strict=True) if its == task]
        counts = Counter(shingle for other in rows for shingle in other)
        common = {shingle for shingle, count in counts.items() if count > max(FEW, COMMON * len(rows))}
        own.append(found - common or found)
    similar = np.zeros((len(texts), len(texts)))
    for row in range(len(texts)):
        for other in range(row):
            if particular := jaccard(own[row], own[other]):
                similar[row, other] = min(particular, jaccard(sets[row], sets[other]))
    return similar


def one_after_the_other(similar: np.ndarray, threshold: float) -> list[int]:
    kept: list[int] = []
    for row in range(len(similar)):
        if not (similar[row, kept] >= threshold).any():
            kept.append(row)
    return sorted(set(range(len(similar))) - set(kept))


def reader(texts: list[str]) -> Read:
    column = pa.array(["", *texts], pa.large_string())[1:]  # an array with an offset
    return lambda rows: column.take(pa.array(rows))


def found(
    texts: list[str], tasks: np.ndarray | None = None, threshold: float = 0.8, threads: int = 1
) -> list[int]:
    tasks = np.zeros(len(texts), np.int64) if tasks is None else tasks
    return np.flatnonzero(near_duplicates(reader(texts), tasks, threshold, threads)).tolist()


def pool(seed: int, rows: int) -> tuple[list[str], np.ndarray]:
    """Rows of tasks with a long definition and short questions, some of them repeated with a word changed or two."""
    generator = np.random.default_rng(seed)
    vocabulary = [f"w{number}" for number in range(3_000)] + [
        "Ärger",
        "naïve",
        "Ωμέγα",
        "中文",
        "don't",
        "e_mail",
    ]

    def some(count: int) -> list[str]:
        return generator.choice(vocabulary, count).tolist()

    definitions = [some(120) for _ in range(3)]
    texts: list[str] = []
    questions: list[list[str]] = []
    tasks = generator.integers(0, 3, rows)
    for task in tasks:
        if questions and generator.random() < 0.4:
            question = list(questions[generator.integers(len(questions))])
            for place in generator.integers(0, len(question), generator.integers(0, 3)):
                question[place] = "changed"
        else:
            question = some(generator.integers(1, 80))
        questions.append(question)
        texts.append(
            " ".join(definitions[task]) + generator.choice([":\n", " - ", "?"]) + " ".join(question).title()
        )
    return texts, tasks


def test_rows_are_those_of_all_pairs_one_after_the_other() -> None:
    texts, tasks = pool(0, 240)
    similar = similarities(texts, tasks)
    for threshold in (0.6, 0.8, 1.0):
        wanted = one_after_the_other(similar, threshold)
        assert len(wanted) > 8
        for threads in (1, 4):
            assert found(texts, tasks, threshold, threads) == wanted


def test_what_a_tasks_rows_share_makes_no_near_duplicates() -> None:
    definition = " ".join(f"d{number}" for number in range(200))
    texts = [f"{definition} Input: {number} and {7 * number}" for number in range(40)]
    assert jaccard(shingles(texts[0]), shingles(texts[1])) > 0.9
    assert found(texts) == []
    assert found([*texts, texts[3] + "!", texts[5].upper()]) == [40, 41]
    assert found(texts[: FEW - 1]) == list(range(1, FEW - 1)), (
        "of so few rows nothing is known to be the task's"
    )


def test_a_row_is_dropped_for_an_earlier_one_that_stays_alone() -> None:
    words = [f"w{number}" for number in range(60)]
    texts = [" ".join(words[first : first + 40]) for first in (0, 3, 6)]
    near = [[jaccard(shingles(one), shingles(two)) >= 0.8 for two in texts] for one in texts]
    assert near == [[True, True, False], [True, True, True], [False, True, True]]
    assert found(texts) == [1], "the third is near the second, which is not there any more"


def test_short_and_blank_texts() -> None:
    texts = [
        "",
        " \n",
        "",
        "yes",
        "no",
        "Yes!",
        "yes no",
        "one two three four",
        "one two three",
        "one, two; three FOUR",
    ]
    assert found(texts) == [5, 9]
    assert found([""]) == []
    assert found(
        ["中文字写成一句话没有空格", "中文字写成一句话，没有空格。", "完全不同的另一个句子在这里"]
    ) == [1]


def test_equal_rows_of_another_task_are_near_too() -> None:
    text = " ".join(f"w{number}" for number in range(30))
    assert found([text, text, text + "."], np.array([0, 1, 1])) == [1, 2]


def test_signatures_are_datasketchs() -> None:
    from datasketch import MinHash

    texts, _ = pool(1, 20)
    sets = shingle_sets(pa.array([*texts, ""], pa.large_string()))
    moves = permutations()
    for row in range(21):
        made = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int)
        assert (made.permutations == moves).all()
        made.update_batch((sets.values[sets.edges[row] : sets.edges[row + 1]] >> np.uint64(32)).tolist())
        theirs = [_band(made.hashvalues[start : start + 7]) for start in range(0, 126, 7)]
        assert minhash_bands(sets, moves[:, :126], 18)[:, row].tolist() == theirs


def _band(values: np.ndarray) -> int:
    mask, state = (1 << 64) - 1, 0
    for value in values.tolist():
        state = (state + value + 1) & mask
        for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53), (33, 1)):
            state = ((state ^ (state >> shift)) * factor) & mask
    return state >> 32


def test_most_pairs_at_the_threshold_are_found() -> None:
    """200 pairs with a similarity of exactly 0.8: 40 of 50 shingles."""
    pairs = [[f"p{pair}w{number}" for number in range(49)] for pair in range(200)]
    texts = [" ".join(words) for words in pairs]
    later = [" ".join([*words[:44], *(f"{word}x" for word in words[44:])]) for words in pairs]
    assert jaccard(shingles(texts[0]), shingles(later[0])) == 0.8
    assert len(found([*texts, *later])) >= 185
    assert bands_for(0.8) == 18
