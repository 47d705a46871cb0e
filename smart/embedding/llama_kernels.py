"""Texts become sums of token vectors: the compiled part of the default encoder.

wordllama's tokenizer merges a whole text as if it were one word, and its mean pads texts to the longest of them. Both
cost far more than they need to:

- a text is cut into words before each run of spaces, which changes no token (`llama_tokens.py` says why, and for which
  tokenizers), and a table of words met before has the tokens of nearly all of them;
- texts come sorted, so that many begin as the one before, whose sum is taken up where the two part;
- a sum runs token by token in float32, as numpy's does over wordllama's padded arrays, so that every bit is the same.

A word is what lies between two cuts, less its first space: all have one, since the tokenizer puts a space before each
text. Memory is bounded: text is read where it lies, the table has a fixed size, and tokens are added up a few at a
time.

All kernels are in this one file, since numba forgets compiled code when the file of a function changes, but not when
the file of a function that it calls does. With NUMBA_DISABLE_JIT they run as Python: int() then keeps numpy's scalars,
which overflow, out of the hashes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from smart.runtime.compiled import compiled

LONGEST_WORD = 1 << 20
"""Bytes of a word that is still encoded: it is merged as a whole, in some 40 times its size of memory."""
TOKEN_BITS, RANK_BITS = 16, 31
"""Bits of a token and of a merge's rank: two tokens and a rank make one number."""
WORDS = 1 << 17
"""Words in a table, 64 bytes each."""

_SPACE = 0x20
_KEPT_BYTES, _KEPT_TOKENS = 21, 16  # of the words that a table holds
_SEVEN_BYTES = 1 << 56  # a part of a word's name from here on has 7 bytes
_PROBES = 4  # places where a word may lie
_MULTIPLIER, _MASK = 0x1E3779B97F4A7C15, (1 << 62) - 1
_TOGETHER = 48  # tokens that are added up at a time
_HEADS, _HEAD_BYTES = 64, 128  # sums over beginnings of a text: how many are kept, and how far apart


class Vocabulary(NamedTuple):
    """A tokenizer as the kernels need it."""

    characters: np.ndarray
    """int32: code point → token, or -1; a space has the token of ▁."""
    bytes: np.ndarray
    """int32 (256,): tokens for the bytes of characters that have none."""
    merges: np.ndarray
    """int64 (2 ** k,): hash table of left token, right token and rank of a merge; -1 where it is free."""
    merged: np.ndarray
    """int32: rank of a merge → token. Lower ranks come first."""
    added: np.ndarray
    """uint8: bytes of all added tokens, such as <s>, longer ones first."""
    added_sizes: np.ndarray
    """int64: bytes of each."""
    added_tokens: np.ndarray
    """int32: token of each."""
    begins_added: np.ndarray
    """bool (256,): bytes with which one begins."""


class Scratch(NamedTuple):
    """What a thread knows of texts that it has met."""

    words: np.ndarray
    """int64 (2 ** k, 8): hash table. Three numbers of 7 bytes that are the word itself, the first of them 0 where it is
    free; the count of its tokens; and those, as uint16."""
    tokens: np.ndarray
    """uint16 (2 ** k, 32): the same memory; a word's tokens begin at 16."""
    head_sums: np.ndarray
    """float32 (heads, d): sums over beginnings of the last text, shorter ones first."""
    head_ends: np.ndarray
    """int64 (heads,): bytes of each beginning, the space behind its last word included."""
    head_counts: np.ndarray
    """int64 (heads,): its tokens."""


def new_scratch(dimensions: int, words: int = WORDS) -> Scratch:
    """Empty, for `words`, a power of two."""
    table = np.zeros((words, 8), np.int64)
    sums = np.zeros((_HEADS, dimensions), np.float32)
    return Scratch(table, table.view(np.uint16), sums, np.zeros(_HEADS, np.int64), np.zeros(_HEADS, np.int64))


@compiled
def _mixed(x):  # type: ignore[no-untyped-def]
    """Hash of a number."""
    x = (x * _MULTIPLIER) & _MASK
    return x ^ (x >> 31)


@compiled
def enter_merges(left, right, merges):  # type: ignore[no-untyped-def]
    """Fill the hash table of a vocabulary with merges, given by rank: int32 tokens."""
    for rank in range(len(left)):
        pair = (int(left[rank]) << TOKEN_BITS) | int(right[rank])
        slot = _mixed(pair) & (len(merges) - 1)
        while merges[slot] >= 0:
            slot = (slot + 1) & (len(merges) - 1)
        merges[slot] = (pair << RANK_BITS) | rank


@compiled
def _rank(left, right, merges):  # type: ignore[no-untyped-def]
    """Rank of the merge of two tokens, or -1."""
    pair = (left << TOKEN_BITS) | right
    slot = _mixed(pair) & (len(merges) - 1)
    found = int(merges[slot])
    while found >= 0 and found >> RANK_BITS != pair:
        slot = (slot + 1) & (len(merges) - 1)
        found = int(merges[slot])
    return found & ((1 << RANK_BITS) - 1) if found >= 0 else -1


@compiled
def _push(heap, size, entry):  # type: ignore[no-untyped-def]
    """Put an entry into a heap; returns its size."""
    place = size
    while place > 0:
        above = (place - 1) >> 1
        if heap[above] <= entry:
            break
        heap[place] = heap[above]
        place = above
    heap[place] = entry
    return size + 1


@compiled
def _drop_first(heap, size):  # type: ignore[no-untyped-def]
    """Take the least entry out of a heap; returns its size."""
    size -= 1
    entry = heap[size]
    place, below = 0, 1
    while below < size:
        if below + 1 < size and heap[below + 1] < heap[below]:
            below += 1
        if heap[below] >= entry:
            break
        heap[place] = heap[below]
        place, below = below, 2 * below + 1
    heap[place] = entry
    return size


@compiled
def _unmerged(text, start, stop, characters, byte_tokens):  # type: ignore[no-untyped-def]
    """A space's token, then those of a word's characters, or else of their bytes: int32, and how many."""
    tokens = np.empty(stop - start + 1, np.int32)
    tokens[0] = characters[_SPACE]
    n, place = 1, start
    while place < stop:
        lead = int(text[place])
        size = 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        code = lead if size == 1 else lead & (0x7F >> size)
        for k in range(place + 1, place + size):
            code = (code << 6) | (int(text[k]) & 0x3F)
        token = int(characters[code]) if code < len(characters) else -1
        if token >= 0:
            tokens[n] = token
            n += 1
        else:
            for k in range(place, place + size):
                tokens[n] = byte_tokens[text[k]]
                n += 1
        place += size
    return tokens, n


@compiled
def _tokenised(text, start, stop, vocabulary):  # type: ignore[no-untyped-def]
    """Tokens of a word (int32), and how many.

    While tokens can be merged, those are whose merge has the lowest rank, the leftmost first.
    """
    merges = vocabulary.merges
    tokens, n = _unmerged(text, start, stop, vocabulary.characters, vocabulary.bytes)
    before, after = np.arange(-1, n - 1), np.arange(1, n + 1)
    ranks = np.full(n, -1)  # of the merge with the token behind
    heap, size = np.empty(3 * n, np.int64), 0  # rank << 32 | place; some are out of date
    for place in range(n - 1):
        rank = _rank(int(tokens[place]), int(tokens[place + 1]), merges)
        ranks[place] = rank
        if rank >= 0:
            size = _push(heap, size, (rank << 32) | place)
    while size > 0:
        rank, place = int(heap[0]) >> 32, int(heap[0]) & 0xFFFFFFFF
        size = _drop_first(heap, size)
        if ranks[place] != rank:
            continue
        gone = int(after[place])
        left, right = int(before[place]), int(after[gone])
        token = int(vocabulary.merged[rank])
        tokens[place], tokens[gone] = token, -1
        ranks[place], ranks[gone] = -1, -1
        after[place] = right
        if right < n:
            before[right] = place
            rank = _rank(token, int(tokens[right]), merges)
            ranks[place] = rank
            if rank >= 0:
                size = _push(heap, size, (rank << 32) | place)
        if left >= 0:
            rank = _rank(int(tokens[left]), token, merges)
            ranks[left] = rank
            if rank >= 0:
                size = _push(heap, size, (rank << 32) | left)
    count = 0
    for place in range(n):
        if tokens[place] >= 0:
            tokens[count] = tokens[place]
            count += 1
    return tokens, count


@compiled
def _added_at(text, place, stop, added, sizes):  # type: ignore[no-untyped-def]
    """Number of the added token that stands at a place of the text, or -1."""
    first = 0
    for number in range(len(sizes)):
        size = int(sizes[number])
        if place + size <= stop:
            k = 0
            while k < size and text[place + k] == added[first + k]:
                k += 1
            if k == size:
                return number
        first += size
    return -1


@compiled
def _is_mark(text, start, last):  # type: ignore[no-untyped-def]
    """True if a ▁, which the tokenizer cannot tell from a space, ends at a place of the text."""
    return last - start >= 2 and text[last] == 0x81 and text[last - 1] == 0x96 and text[last - 2] == 0xE2


@compiled
def _word(text, start, stop, begins_added, added, added_sizes):  # type: ignore[no-untyped-def]
    """Where the word from `start` ends, and its last 21 bytes in three numbers, the last bytes first."""
    a, b, c = 1, 0, 0
    place, after_space = start, True
    while place < stop:
        byte = int(text[place])
        if byte == _SPACE:
            if not after_space:
                break
        elif begins_added[byte] and _added_at(text, place, stop, added, added_sizes) >= 0:
            break
        else:
            after_space = _is_mark(text, start, place)
        if a >= _SEVEN_BYTES:
            a, b, c = 1, a, b
        a = (a << 8) | byte
        place += 1
    return place, a, b, c


@compiled
def _slot(words, a, b, c):  # type: ignore[no-untyped-def]
    """Where a word lies in the table, and True; or where to put it, perhaps in another's place, and False."""
    first = _mixed((a ^ (b * 31) ^ (c * 1023)) & _MASK)
    slot = 0
    for probe in range(_PROBES):
        slot = (first + probe) & (len(words) - 1)
        if words[slot, 0] == a and words[slot, 1] == b and words[slot, 2] == c:
            return slot, True
        if words[slot, 0] == 0:
            break
    return slot, False


@compiled
def _add(table, tokens, n, total):  # type: ignore[no-untyped-def]
    """Add rows of the table to a sum, one after the other; four are read at once, since most are far from the core."""
    k = 0
    while k + 4 <= n:
        p, q, r, s = int(tokens[k]), int(tokens[k + 1]), int(tokens[k + 2]), int(tokens[k + 3])
        for j in range(len(total)):
            total[j] = (((total[j] + table[p, j]) + table[q, j]) + table[r, j]) + table[s, j]
        k += 4
    while k < n:
        p = int(tokens[k])
        for j in range(len(total)):
            total[j] += table[p, j]
        k += 1


@compiled
def _shared(text, start, stop, other_start, other_stop):  # type: ignore[no-untyped-def]
    """How many bytes two texts have in common at their beginnings."""
    most = min(stop - start, other_stop - other_start)
    n = 0
    while n < most and text[start + n] == text[other_start + n]:
        n += 1
    return n


@compiled
def sum_tokens(text, offsets, order, vocabulary, table, scratch, sums, counts, refused):  # type: ignore[no-untyped-def]
    """Sum the vectors of each text's tokens.

    Args:
        text: uint8, UTF-8; text i is text[offsets[i] : offsets[i + 1]].
        order: int64 (n,): the texts as they are worked on, best sorted.
        vocabulary: a Vocabulary.
        table: float32 (tokens, d).
        scratch: a Scratch that no other thread uses.
        sums: float32 (n, d) of zeros; the sums are written here.
        counts: int64 (n,) of zeros; how many tokens each text has is written here.
        refused: bool (n,) of False; True is written where a word is longer than LONGEST_WORD.
    """
    words, kept = scratch.words, scratch.tokens
    begins_added, added, added_sizes = vocabulary.begins_added, vocabulary.added, vocabulary.added_sizes
    waiting = np.empty(_TOGETHER + _KEPT_TOKENS, np.int32)
    heads = 0
    for number in range(len(order)):
        i = int(order[number])
        first, stop, total = int(offsets[i]), int(offsets[i + 1]), sums[i]
        if number > 0:
            other = int(order[number - 1])
            shared = _shared(text, first, stop, int(offsets[other]), int(offsets[other + 1]))
            while heads > 0 and scratch.head_ends[heads - 1] > shared:
                heads -= 1
        # The word that comes next begins at `start`; `spaced`: behind a space, which is its own.
        start, count, spaced = first, 0, False
        if heads > 0:
            start, count, spaced = (
                first + int(scratch.head_ends[heads - 1]),
                int(scratch.head_counts[heads - 1]),
                True,
            )
            total[:] = scratch.head_sums[heads - 1]
        n = 0
        while start < stop or spaced:
            if n >= _TOGETHER:
                _add(table, waiting, n, total)
                count, n = count + n, 0
            if not spaced and begins_added[text[start]]:
                found = _added_at(text, start, stop, added, added_sizes)
                if found >= 0:
                    waiting[n] = vocabulary.added_tokens[found]
                    n += 1
                    start += int(added_sizes[found])
                    continue
            end, a, b, c = _word(text, start, stop, begins_added, added, added_sizes)
            slot, known = _slot(words, a, b, c)
            short = end - start <= _KEPT_BYTES
            if short and known:
                for k in range(16, 16 + int(words[slot, 3])):
                    waiting[n] = kept[slot, k]
                    n += 1
            elif end - start > LONGEST_WORD:
                refused[i] = True
                break
            else:
                tokens, m = _tokenised(text, start, end, vocabulary)
                _add(table, waiting, n, total)
                _add(table, tokens, m, total)
                count, n = count + n + m, 0
                if short and m <= _KEPT_TOKENS:
                    words[slot, 0], words[slot, 1], words[slot, 2], words[slot, 3] = a, b, c, m
                    for k in range(m):
                        kept[slot, 16 + k] = tokens[k]
            spaced = end < stop and text[end] == _SPACE
            start = end + 1 if spaced else end
            if spaced and heads < _HEADS and start - first >= (heads + 1) * _HEAD_BYTES:
                _add(table, waiting, n, total)
                count, n = count + n, 0
                scratch.head_sums[heads] = total
                scratch.head_ends[heads], scratch.head_counts[heads] = start - first, count
                heads += 1
        _add(table, waiting, n, total)
        counts[i] = count + n
