"""What a model with a limit sees of a text, found without tokenising the rest of it.

A model of 512 tokens sees some 2 KB of a prompt, but a tokenizer reads all of it before it cuts: a prompt of 300 KB
costs 150 times what is used. So a text is cut by characters first, where its tokens cannot change:

- The cut is before a single space that stands between two letters or digits. The tokenizers of `cuts_at_spaces` split a
  text there before they look for tokens, so no token reaches across, and the tokens of the piece are those which the
  text has there. All other tokenizers read the whole text.
- The piece must have more tokens than the model sees. Then everything that it sees lies in the piece, and the text is
  known to be truncated. A piece with fewer is made longer, in the end the whole text.
"""

from __future__ import annotations

import copy
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CHARACTERS = 8
"""Characters of a first piece for each token that is seen; English text has 4 to 5, code and Chinese fewer."""
GROWTH = 4
"""How much longer a piece is made that has too few tokens."""
FAR = 1_000
"""Characters in which a place to cut is looked for; a text without one is read whole."""
NO_LIMIT = 1_000_000
"""Tokens from which a limit is none: tokenizers say 1e30 where they know of none."""

_NORMALIZERS = {
    *("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Replace", "Strip"),
    "StripAccents",
}
"""They change each character, or those within a word, by itself; Replace and Strip are looked at more closely."""
_SPACES = {("String", " "), ("Regex", " {2,}"), ("Regex", r"\s+"), ("Regex", r"\s{2,}")}
"""What `Replace` may replace: spaces, in place."""
_DROP_SPACES = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_PATTERNS = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    *(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        for digits in ("", "{1,3}")
    ),
}
"""Of byte-level tokenizers: GPT-2's, Qwen2's and Llama 3's. Each ends a word at a space."""


@dataclass(frozen=True, eq=False)
class Seen:
    """Texts, and what a model sees of them."""

    texts: list[str]
    """Each text, or the part of it that is enough."""
    tokens: np.ndarray
    """int64 (texts,): tokens that the model computes, special ones included; 1 where it has no limit to count by."""
    truncated: int
    """How many of the texts have more tokens than are seen."""


class Window:
    """The first or last tokens of a text that a model sees. One thread at a time may use it."""

    def __init__(self, tokenizer: Any, prefix: str, side: str) -> None:
        """
        Args:
            tokenizer: the model's, of transformers, with the model's limit.
            prefix: what is put before each text.
            side: the end at which longer texts are cut, left or right.
        """
        self.limit: int = tokenizer.model_max_length
        self._tokenizer = copy.deepcopy(tokenizer)  # two threads cannot share one
        self._tokenizer.model_max_length = int(1e30)  # no warning of long prompts
        self._prefix, self._side = prefix, side
        self._cuts = self.limit < NO_LIMIT and cuts_at_spaces(tokenizer)

    def look(self, texts: Sequence[str]) -> Seen:
        """What is seen of each of the texts."""
        pieces, counts = list(texts), np.zeros(len(texts), np.int64)
        waiting, room = list(range(len(texts))), CHARACTERS * self.limit
        while waiting:
            for row in waiting:
                pieces[row] = self._piece(texts[row], room)
            whole = [row for row in waiting if len(pieces[row]) == len(texts[row])]
            parts = [row for row in waiting if len(pieces[row]) < len(texts[row])]
            counts[whole] = self._count([self._prefix + texts[row] for row in whole], special=True)
            counts[parts] = self._count([pieces[row] for row in parts], special=False)
            waiting, room = [row for row in parts if counts[row] <= self.limit], GROWTH * room
        return Seen(pieces, np.minimum(counts, self.limit), int((counts > self.limit).sum()))

    def _piece(self, text: str, room: int) -> str:
        if not self._cuts or len(text) <= room:
            return text
        if self._side == "left":
            place = _border(text, range(len(text) - room, max(0, len(text) - room - FAR), -1))
            return text[place:] if place else text
        place = _border(text, range(room, min(len(text), room + FAR)))
        return text[:place] if place else text

    def _count(self, texts: list[str], special: bool) -> list[int]:
        if not texts:
            return []
        ids = self._tokenizer(texts, add_special_tokens=special, return_attention_mask=False)["input_ids"]
        return list(map(len, ids))


def cuts_at_spaces(tokenizer: Any) -> bool:
    """True where a tokenizer is known to split every text before a space between two letters or digits.

    It is so where words are split off before tokens are looked for (by white space, by Metaspace, or by the pattern of
    a byte-level tokenizer), where what comes before works on characters or words alone, and where no added token, which
    is found first of all, has a space inside. Also, a piece that begins with the space must be read as if something
    stood before it: nothing is put in front, and the space stays where it belongs to the token.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # written in Python, or none of transformers
        return False
    if any(_has_space_inside(str(token)) for token in tokenizer.get_added_vocab()):
        return False
    normalizers, splits = _parts(backend.normalizer), _parts(backend.pre_tokenizer)
    if not all(_keeps_words_apart(part) for part in normalizers):
        return False
    strips = any(part["type"] == "Strip" for part in normalizers)
    return any(_splits_words(part, strips) for part in splits)


def _has_space_inside(token: str) -> bool:
    """False too for a run of spaces, which a token may be: it is not found where there is one space."""
    return any(map(str.isspace, token)) and not (len(token) > 1 and token.isspace())


def _keeps_words_apart(normalizer: dict[str, Any]) -> bool:
    if normalizer["type"] == "Replace":
        return normalizer["content"] == " " and next(iter(normalizer["pattern"].items())) in _SPACES
    return normalizer["type"] in _NORMALIZERS


def _splits_words(split: dict[str, Any], strips: bool) -> bool:
    kind = split["type"]
    if kind == "Metaspace":  # puts its ▁ before a piece that has lost its space
        return bool(split.get("split", True)) and split.get("prepend_scheme", "always") != "never"
    if kind == "ByteLevel":
        return bool(split.get("use_regex", True)) and not strips
    if kind == "Split":
        isolated = split["behavior"] == "Isolated" and not split["invert"] and not strips
        return isolated and split["pattern"].get("Regex") in _PATTERNS
    return kind in _DROP_SPACES


def _parts(component: Any) -> list[dict[str, Any]]:
    """A normalizer or pre-tokenizer as the list of its steps."""
    if component is None:
        return []
    steps, flat = [json.loads(component.__getstate__())], []
    while steps:
        step = steps.pop(0)
        inner = step.get("normalizers") or step.get("pretokenizers")
        if inner:
            steps = [*inner, *steps]
        else:
            flat.append(step)
    return flat


def _border(text: str, places: range) -> int | None:
    """The first of the places where a space stands between two letters or digits."""
    for place in places:
        if (
            text[place] == " "
            and place + 1 < len(text)
            and text[place - 1].isalnum()
            and _is_plain(text[place + 1])
        ):
            return place
    return None


def _is_plain(character: str) -> bool:
    """A letter or digit that no normalisation turns into something else, as NFKC does a free iota subscript."""
    return character.isalnum() and unicodedata.normalize("NFKD", character)[0].isalnum()
