"""Rows that hold a benchmark's questions: texts in, rows out.

Two signs, either of which is enough:

- a run of `n` words (13, as in GPT-3, arXiv 2005.14165, appendix C) that a question has too; questions that are
  shorter, but have at least SHORTEST words, must be there as a whole, and are no sign where several are the same
  (which of the following statements is not true);
- a near-duplicate: the sets of 5-word runs of row and question have a Jaccard similarity of at least `similarity`.
  MinHash with locality-sensitive hashing (datasketch) finds candidates, and their sets are then compared in full.
  Only for questions of at least `n` words.

Words are runs of letters and digits in lower case, so punctuation, case and white space do not matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from smart.conversation import from_json
from smart.reading import CONVERSATION, RowView, turns_of
from smart.runtime.progress import progress

if TYPE_CHECKING:
    from datasketch import MinHash

N = 13
SHORTEST = 8
SIMILARITY = 0.7
SHINGLE = 5
PERMUTATIONS = 128
BATCH = 2_000
SHOWN = 100
_WORD = re.compile(r"[^\W_]+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no position of a run is lost


@dataclass(frozen=True)
class Overlap:
    """A row that holds a question, or nearly."""

    row: int
    """Position among the texts."""
    benchmark: str
    """Part of the benchmark, such as bbh/disambiguation_qa."""
    item: int
    """Position of the question in its part."""
    sign: str
    """`13 words`, or `near-duplicate`."""
    shared: str
    """The words that both have; for a near-duplicate the beginning of the question."""


@dataclass(frozen=True)
class Report:
    """The overlaps of some rows with benchmarks."""

    rows: int
    overlaps: list[Overlap] = field(default_factory=list)
    """One for each row and part of a benchmark, in the order of the rows."""

    @property
    def mask(self) -> np.ndarray:
        """bool (rows,): which hold a question."""
        found = np.zeros(self.rows, bool)
        found[[overlap.row for overlap in self.overlaps]] = True
        return found

    def as_dict(self, numbers: Sequence[int] | np.ndarray, shown: int = 1_000) -> dict[str, Any]:
        """For a manifest.

        Args:
            numbers: what to call each row: (rows,).
            shown: how many of the overlaps are listed; all are counted.
        """
        rows: dict[str, set[int]] = {}
        for overlap in self.overlaps:
            rows.setdefault(overlap.benchmark, set()).add(overlap.row)
        return {
            "rows": self.rows,
            "overlapping": int(self.mask.sum()),
            "per_benchmark": {name: len(found) for name, found in sorted(rows.items())},
            "overlaps": [
                {**vars(overlap), "row": int(numbers[overlap.row])} for overlap in self.overlaps[:shown]
            ],
        }


def overlaps(
    texts: Iterable[str],
    benchmarks: Mapping[str, Sequence[str]],
    *,
    n: int = N,
    similarity: float = SIMILARITY,
) -> Report:
    """Find the texts that hold a question of a benchmark.

    Memory grows with the benchmarks, not with the texts, which are read in batches.

    Args:
        texts: prompt and response of each row.
        benchmarks: name of each part → its questions.
    """
    index = _Index(benchmarks, n, similarity)
    count, found = 0, []
    waiting = iter(texts)
    while batch := list(islice(waiting, BATCH)):
        for row, item, sign, shared in index.search(batch):
            found.append(Overlap(count + row, *index.names[item], sign, shared))
        count += len(batch)
    return Report(count, found)


def row_overlaps(rows: RowView, benchmarks: Mapping[str, Sequence[str]]) -> Report:
    """Find the rows of a collection, prompt and response together, that hold a question of a benchmark.

    Of a conversation all that is said is looked at, whatever is embedded.

    Args:
        rows: with the text columns inputs and targets, or conversation.
        benchmarks: name of each part → its questions.
    """
    with progress(total=len(rows), desc="Looking for benchmarks", unit=" rows") as bar:
        names = [CONVERSATION] if CONVERSATION in rows.column_names else ["inputs", "targets"]

        def texts() -> Iterator[str]:
            for batch in rows.batches(BATCH):
                for values in zip(*(batch[name].to_pylist() for name in names), strict=True):
                    yield "\n".join(turns_of(from_json(values[0])) if names == [CONVERSATION] else values)
                bar.update(len(batch))

        return overlaps(texts(), benchmarks)


class _Index:
    """The questions of all benchmarks, as hashes of their runs of words."""

    def __init__(self, benchmarks: Mapping[str, Sequence[str]], n: int, similarity: float) -> None:
        self.names = [(name, number) for name, asked in benchmarks.items() for number in range(len(asked))]
        self._parts = np.repeat(np.arange(len(benchmarks)), [len(asked) for asked in benchmarks.values()])
        self._similarity = similarity
        self._texts = [text for asked in benchmarks.values() for text in asked]
        words = [_words(text) for text in self._texts]
        vocabulary = sorted({word for asked in words for word in asked})
        codes = np.random.default_rng(0).integers(1, 2**63, len(vocabulary), dtype=np.uint64)
        self._codes = dict(zip(vocabulary, codes.tolist(), strict=True))
        asked = self._encode(words)
        self._runs = {n: _Runs.of(asked, n)}
        for length in range(SHORTEST, n):
            self._runs[length] = _Runs.of(asked, length).of_whole(asked.lengths == length)
        self._index_shingles(asked, asked.lengths >= n)

    def search(self, texts: Sequence[str]) -> list[tuple[int, int, str, str]]:
        """(row, question, sign, shared words), at most one for each row and part of a benchmark."""
        words = [_words(text) for text in texts]
        rows = self._encode(words)
        found: dict[tuple[int, int], tuple[int, int, str, str]] = {}
        for length, known in self._runs.items():
            hashes, starts = _hash_runs(rows, length)
            for place in np.flatnonzero(_is_in(hashes, known.hashes)).tolist():
                row = int(rows.owner[starts[place]])
                at = int(starts[place] - rows.starts[row])
                shared = " ".join(words[row][at : at + length])
                for item in known.items_with(hashes[place]):
                    found.setdefault((row, self._parts[item]), (row, item, f"{length} words", shared))
        for row, item in self._near_duplicates(rows):
            shown = " ".join(self._texts[item].split())[:SHOWN]
            found.setdefault((row, self._parts[item]), (row, item, "near-duplicate", shown))
        return [found[key] for key in sorted(found)]

    def _encode(self, words: Sequence[Sequence[str]]) -> _Words:
        get = self._codes.get
        lengths = np.array([len(row) for row in words], np.int64)
        codes = np.fromiter((get(word, 0) for row in words for word in row), np.uint64, lengths.sum())
        return _Words(codes, lengths)

    def _index_shingles(self, asked: _Words, wanted: np.ndarray) -> None:
        from datasketch import MinHashLSH

        hashes, starts = _hash_runs(asked, SHINGLE)
        self._shingles = np.unique(hashes)
        self._sets = _sets(hashes, asked.owner[starts], len(asked.lengths))
        self._near = MinHashLSH(threshold=self._similarity, num_perm=PERMUTATIONS)
        with self._near.insertion_session() as session:
            for item in np.flatnonzero(wanted).tolist():
                session.insert(item, _minhash(self._sets[item]))

    def _near_duplicates(self, rows: _Words) -> Iterator[tuple[int, int]]:
        hashes, starts = _hash_runs(rows, SHINGLE)
        known = _is_in(hashes, self._shingles)
        sets = _sets(hashes, rows.owner[starts], len(rows.lengths))
        shared = _sets(hashes[known], rows.owner[starts[known]], len(rows.lengths))
        for row, (own, part) in enumerate(zip(sets, shared, strict=True)):
            # Their union is at least the row's own set, so too few shared runs cannot be enough.
            if len(part) == 0 or len(part) < self._similarity * len(own):
                continue
            for item in sorted(self._near.query(_minhash(own))):
                both = len(np.intersect1d(own, self._sets[item], assume_unique=True))
                if both >= self._similarity * (len(own) + len(self._sets[item]) - both):
                    yield row, item


@dataclass(frozen=True)
class _Words:
    """Rows of words, one after the other."""

    codes: np.ndarray
    """uint64 (words,): 0 for words that no question has."""
    lengths: np.ndarray
    """int64 (rows,)"""

    @cached_property
    def owner(self) -> np.ndarray:
        """int64 (words,): the row of each."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 (rows,): where each row begins."""
        return np.cumsum(self.lengths) - self.lengths


@dataclass(frozen=True)
class _Runs:
    """Runs of questions by their hash."""

    hashes: np.ndarray
    """uint64, sorted, with repetitions."""
    items: np.ndarray
    """int64: whose each is."""

    @classmethod
    def of(cls, asked: _Words, length: int) -> _Runs:
        hashes, starts = _hash_runs(asked, length)
        order = np.argsort(hashes, kind="stable")
        return cls(hashes[order], asked.owner[starts[order]])

    def of_whole(self, wanted: np.ndarray) -> _Runs:
        """Those of the wanted questions that no other question is equal to."""
        keep = wanted[self.items]
        hashes, items = self.hashes[keep], self.items[keep]
        different, first, count = np.unique(hashes, return_index=True, return_counts=True)
        return _Runs(different[count == 1], items[first[count == 1]])

    def items_with(self, value: np.uint64) -> list[int]:
        low, high = np.searchsorted(self.hashes, [value, value + np.uint64(1)])
        return sorted(set(self.items[low:high].tolist()))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _hash_runs(words: _Words, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (uint64) and beginnings (int64) of the runs of `length` known words inside one row."""
    count = max(0, len(words.codes) - length + 1)
    hashes = np.zeros(count, np.uint64)
    whole = words.owner[:count] == words.owner[length - 1 :][:count]
    for place in range(length):
        part = words.codes[place : place + count]
        hashes *= _MULTIPLIER
        hashes += part
        whole &= part != 0
    starts = np.flatnonzero(whole)
    return hashes[starts], starts


def _is_in(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """bool, for each value whether the sorted array has it."""
    if not len(ordered):
        return np.zeros(len(values), bool)
    return ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values


def _sets(hashes: np.ndarray, owner: np.ndarray, count: int) -> list[np.ndarray]:
    """The distinct hashes of each row, sorted; `owner` ascends."""
    return [np.unique(part) for part in np.split(hashes, np.searchsorted(owner, np.arange(1, count)))]


def _minhash(hashes: np.ndarray) -> MinHash:
    from datasketch import MinHash

    made = MinHash(num_perm=PERMUTATIONS, hashfunc=int)
    made.update_batch((hashes >> np.uint64(32)).tolist())
    return made
