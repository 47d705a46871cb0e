"""The default encoder's mean of token vectors in bounded memory, to the bit what the package wordllama computes.

wordllama pads 64 texts to the longest of them: a prompt of 300 KB takes gigabytes. Its sum over a text runs token by
token and padding adds zeros, so a text's vector does not depend on the texts beside it, nor on where a sum pauses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from wordllama.inference import WordLlamaInference

LONG = 1 << 16
"""Characters; longer texts are encoded in pieces."""
LONGEST_WORD = 1 << 18
"""Characters without a space at which a word is cut all the same, for the tokenizer's memory."""
_PADDED = 1 << 18  # bytes that a batch may have after padding: as many tokens at the very most, 2 KB each
_MOST_TEXTS = 64


def embed(model: WordLlamaInference, texts: Sequence[str], normalize: bool) -> np.ndarray:
    """float32 (n, d): the mean of each text's token vectors, at unit length if asked."""
    parts = [
        _embed_long(model, batch[0], normalize)
        if len(batch[0]) > LONG
        else model.embed(batch, norm=normalize)
        for batch in batches(texts)
    ]
    return np.concatenate(parts)


def batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in order, few at a time where they are long; a text over LONG comes alone."""
    batch: list[str] = []
    longest = 0
    for text in texts:
        size = len(text.encode())
        longest = max(longest, size)
        alone = len(text) > LONG
        if batch and (alone or len(batch) == _MOST_TEXTS or longest * (len(batch) + 1) > _PADDED):
            yield batch
            batch, longest = [], size
        batch.append(text)
        if alone:
            yield batch
            batch, longest = [], 0
    if batch:
        yield batch


def _embed_long(model: WordLlamaInference, text: str, normalize: bool) -> np.ndarray:
    table = model.embedding
    total: np.ndarray = np.zeros((1, table.shape[1]), np.float32)
    count = 0
    for piece in pieces(
        text, [token.content for token in model.tokenizer.get_added_tokens_decoder().values()]
    ):
        ids = np.array(model.tokenizer.encode(piece, add_special_tokens=False).ids, np.int32)
        for start in range(0, len(ids), LONG):
            rows = table[np.clip(ids[start : start + LONG], 0, len(table) - 1)]
            total = np.add.reduce(np.concatenate([total, rows]), axis=0, keepdims=True)
        count += len(ids)
    mean: np.ndarray = total / np.float32(max(count, 1))
    return mean / np.linalg.norm(mean, axis=1, keepdims=True) if normalize else mean


def pieces(text: str, added: Sequence[str]) -> Iterator[str]:
    """A text in pieces whose tokens, one after the other, are those of the text.

    The tokenizer writes a space as ▁, puts one before each text and merges all of it as one word; but no token has
    a ▁ behind another character, so nothing merges across the first space of a run. A cut there leaves that space
    out, since the piece gets it back. Beside an added token such as <s>, where the tokenizer itself cuts, it does not.
    """
    start = 0
    while len(text) - start > LONG:
        border = _border(text, start, added)
        yield text[start:border]
        start = border + (text[border : border + 1] == " " and _is_border(text, border, added))
    yield text[start:]


def _border(text: str, start: int, added: Sequence[str]) -> int:
    """Where the piece from `start` ends: the last good space within LONG, else the next one, else anywhere."""
    place = text.rfind(" ", start + 1, start + LONG)
    while place > start and not _is_border(text, place, added):
        place = text.rfind(" ", start + 1, place)
    if place > start:
        return place
    place = text.find(" ", start + LONG, start + LONGEST_WORD)
    while place > start and not _is_border(text, place, added):
        place = text.find(" ", place + 1, start + LONGEST_WORD)
    return place if place > start else min(start + LONGEST_WORD, len(text))


def _is_border(text: str, place: int, added: Sequence[str]) -> bool:
    return (
        place + 1 < len(text)
        and text[place - 1] not in " ▁"
        and not any(text.endswith(token, 0, place) or text.startswith(token, place + 1) for token in added)
    )
