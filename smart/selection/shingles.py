"""Texts as sets of shingles, runs of words, and what is done with such sets: the compiled part of `near_duplicates`.

Words are runs of letters and digits, in lower case, so punctuation and white space do not matter. Scripts without
spaces between words, such as Chinese, have a word for each character. Texts are read where they lie, as bytes.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from smart.runtime.compiled import compiled

SHINGLE = 5
"""Words of a shingle, as usual for documents (Lee et al., 2022). A shorter text is one shingle of all its words."""

_LETTER, _WORD = 1, 2  # of a word, and one by itself; all others separate words
_POINTS = 0x20000  # code points in the tables: beyond are rare Chinese characters, and hardly anything else
_WITHOUT_SPACES = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF)),  # Thai and Lao, Burmese, Khmer
    *((0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF)),  # Japanese and Chinese
)


class Sets(NamedTuple):
    """A set of hashes for each of n rows."""

    values: np.ndarray
    """uint64: the hashes of all rows, those of a row ascending."""
    edges: np.ndarray
    """int64 (n + 1,): row i has values[edges[i]:edges[i + 1]]."""


def shingle_sets(texts: pa.LargeStringArray) -> Sets:
    """The shingles of each text; none of a text without words."""
    kinds, lower = _tables()
    data, edges = _bytes_of(texts)
    return Sets(*_shingle_sets(data, edges, kinds, lower))


def without(sets: Sets, common: Sets, owners: np.ndarray) -> Sets:
    """The sets without what is common; a set that has nothing else stays as it is.

    Args:
        common: sets of common hashes.
        owners: int64 (n,): which of them is meant for each row.
    """
    return Sets(*_without(*sets, *common, owners))


def hash_sets(sets: Sets) -> np.ndarray:
    """uint64 (n,): equal for equal sets; 0 for empty ones."""
    hashes: np.ndarray = _hash_sets(*sets)
    return hashes


def minhash_bands(sets: Sets, permutations: np.ndarray, bands: int) -> np.ndarray:
    """uint32 (bands, n): hashes of the bands of each row's MinHash signature.

    Args:
        permutations: uint32 (2, p): factors and summands; p is a multiple of `bands`.
    """
    hashes: np.ndarray = _minhash_bands(*sets, permutations[0], permutations[1], bands)
    return hashes


def jaccard(left: Sets, left_rows: np.ndarray, right: Sets, right_rows: np.ndarray) -> np.ndarray:
    """float64 (pairs,): shared elements over all elements of two sets, for pairs of rows; 0 for two empty ones."""
    found: np.ndarray = _jaccard(*left, left_rows, *right, right_rows)
    return found


def _bytes_of(texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
    _, offsets, data = texts.buffers()
    edges = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(data or b"", np.uint8), edges


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """For each code point what it is, and its lower case."""
    kinds, lower = np.zeros(_POINTS, np.uint8), np.arange(_POINTS, dtype=np.uint32)
    for point, character in enumerate(map(chr, range(_POINTS))):
        if character.isalnum():
            kinds[point] = _LETTER
            small = character.lower()
            if len(small) == 1:
                lower[point] = ord(small)
    for first, last in _WITHOUT_SPACES:
        kinds[first : last + 1] *= _WORD
    return kinds, lower


@compiled
def _mixed(value):  # type: ignore[no-untyped-def]
    """MurmurHash3's finaliser, a bijection of 64 bits."""
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@compiled
def _mixed_of_32(value):  # type: ignore[no-untyped-def]
    """The same of 32 bits, with which datasketch begins."""
    value ^= value >> np.uint32(16)
    value = np.uint32(value * np.uint32(0x85EBCA6B))
    value ^= value >> np.uint32(13)
    value = np.uint32(value * np.uint32(0xC2B2AE35))
    return np.uint32(value ^ (value >> np.uint32(16)))


@compiled
def _hash_words(data, start, stop, kinds, lower, words):  # type: ignore[no-untyped-def]
    """Hash the words of data[start:stop], which is UTF-8, into `words`; returns how many there are."""
    count, value, inside = 0, np.uint64(0), False
    place = start
    while place < stop:
        point = np.uint32(data[place])
        more = 0 if point < 0x80 else 1 if point < 0xE0 else 2 if point < 0xF0 else 3
        if more:
            point &= np.uint32(0x3F >> more)
        for _ in range(more):
            place += 1
            point = np.uint32((point << 6) | (data[place] & 0x3F))
        place += 1
        kind = kinds[point] if point < len(kinds) else _WORD
        if kind == _LETTER:
            value = (value ^ np.uint64(lower[point])) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)
            value ^= value >> np.uint64(29)
            inside = True
            continue
        if inside:
            words[count] = _mixed(value)
            count, value, inside = count + 1, np.uint64(0), False
        if kind == _WORD:
            words[count] = _mixed(np.uint64(point) + np.uint64(0x5851F42D4C957F2D))
            count += 1
    if inside:
        words[count] = _mixed(value)
        count += 1
    return count


@compiled
def _shingle_sets(data, text_edges, kinds, lower):  # type: ignore[no-untyped-def]
    rows = len(text_edges) - 1
    # A word has a byte and a separator, or three bytes; a text has no more shingles than words.
    values = np.empty((text_edges[rows] - text_edges[0] + rows) // 2 + rows, np.uint64)
    edges = np.zeros(rows + 1, np.int64)
    words = np.empty(1, np.uint64)
    used = 0
    for row in range(rows):
        start, stop = text_edges[row], text_edges[row + 1]
        if len(words) < stop - start:
            words = np.empty(stop - start, np.uint64)
        count = _hash_words(data, start, stop, kinds, lower, words)
        length = min(count, SHINGLE)
        shingles = np.empty(count - length + 1 if count else 0, np.uint64)
        for first in range(len(shingles)):
            value = np.uint64(length)
            for place in range(first, first + length):
                value = value * np.uint64(0x9E3779B97F4A7C15) + words[place]
            shingles[first] = _mixed(value)
        shingles.sort()
        for place in range(len(shingles)):
            if place == 0 or shingles[place] != shingles[place - 1]:
                values[used] = shingles[place]
                used += 1
        edges[row + 1] = used
    return values[:used].copy(), edges


@compiled
def _without(values, edges, common, common_edges, owners):  # type: ignore[no-untyped-def]
    rows = len(edges) - 1
    left, left_edges = np.empty(len(values), np.uint64), np.zeros(rows + 1, np.int64)
    used = 0
    for row in range(rows):
        first = used
        place, stop = common_edges[owners[row]], common_edges[owners[row] + 1]
        for own in range(edges[row], edges[row + 1]):
            while place < stop and common[place] < values[own]:
                place += 1
            if place == stop or common[place] != values[own]:
                left[used] = values[own]
                used += 1
        if used == first:
            used += edges[row + 1] - edges[row]
            left[first:used] = values[edges[row] : edges[row + 1]]
        left_edges[row + 1] = used
    return left[:used].copy(), left_edges


@compiled
def _hash_sets(values, edges):  # type: ignore[no-untyped-def]
    hashes = np.zeros(len(edges) - 1, np.uint64)
    for row in range(len(hashes)):
        for place in range(edges[row], edges[row + 1]):
            hashes[row] = _mixed(hashes[row] * np.uint64(0x9E3779B97F4A7C15) + values[place])
    return hashes


@compiled
def _minhash_bands(values, edges, factors, summands, bands):  # type: ignore[no-untyped-def]
    rows, length = len(edges) - 1, len(factors) // bands
    hashes = np.empty((bands, rows), np.uint32)
    signature = np.empty(len(factors), np.uint32)
    for row in range(rows):
        signature[:] = np.uint32(0xFFFFFFFF)
        for place in range(edges[row], edges[row + 1]):
            value = _mixed_of_32(np.uint32(values[place] >> np.uint64(32)))
            for number in range(len(factors)):
                permuted = np.uint32(factors[number] * value + summands[number])
                signature[number] = min(signature[number], permuted)
        for band in range(bands):
            value = np.uint64(0)
            for number in range(band * length, (band + 1) * length):
                value = _mixed(value + np.uint64(signature[number]) + np.uint64(1))
            hashes[band, row] = np.uint32(value >> np.uint64(32))
    return hashes


@compiled
def _jaccard(left, left_edges, left_rows, right, right_edges, right_rows):  # type: ignore[no-untyped-def]
    found = np.zeros(len(left_rows), np.float64)
    for pair in range(len(left_rows)):
        one, one_stop = left_edges[left_rows[pair]], left_edges[left_rows[pair] + 1]
        two, two_stop = right_edges[right_rows[pair]], right_edges[right_rows[pair] + 1]
        union, shared = (one_stop - one) + (two_stop - two), 0
        while one < one_stop and two < two_stop:
            if left[one] == right[two]:
                shared += 1
                one += 1
                two += 1
            elif left[one] < right[two]:
                one += 1
            else:
                two += 1
        if union:
            found[pair] = shared / (union - shared)
    return found


@compiled
def chain(order, hashes):  # type: ignore[no-untyped-def]
    """int32 (n,): for each row the row before it with the same hash, or -1.

    Args:
        order: int64 (m,): rows by hash, and ascending where hashes are equal; those that are left out have none before.
        hashes: uint32 (n,).
    """
    before = np.full(len(hashes), -1, np.int32)
    for place in range(1, len(order)):
        if hashes[order[place]] == hashes[order[place - 1]]:
            before[order[place]] = order[place - 1]
    return before


@compiled
def candidates(before, dropped, told, start, later, earlier):  # type: ignore[no-untyped-def]
    """Pairs of rows that share a band: row `start` and those after it, each with all earlier ones that are not dropped.

    Args:
        before: int32 (bands, n) from `chain`; dropped rows are taken out of the chains on the way.
        dropped: bool (n,).
        told: int32 (n,): scratch, -1 in the beginning.
        later, earlier: where the pairs are written, the pairs of a row together.

    Returns:
        The first row whose pairs do not fit any more (n: all did), and how many pairs there are.
    """
    count = 0
    for row in range(start, before.shape[1]):
        first = count
        for band in range(before.shape[0]):
            here, other = row, before[band, row]
            while other >= 0:
                if dropped[other]:
                    other = before[band, other]
                    before[band, here] = other
                    continue
                if told[other] != row:
                    if count == len(later):
                        for pair in range(first, count):
                            told[earlier[pair]] = -1
                        return row, first
                    told[other] = row
                    later[count], earlier[count] = row, other
                    count += 1
                here, other = other, before[band, other]
    return before.shape[1], count


@compiled
def drop_later(later, earlier, dropped):  # type: ignore[no-untyped-def]
    """Drop each row that is near an earlier one which is not dropped; `later` ascends."""
    for pair in range(len(later)):
        if not dropped[earlier[pair]]:
            dropped[later[pair]] = True
