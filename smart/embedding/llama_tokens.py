"""The tokenizer of the default encoder as its kernels need it, if it is one whose texts may be cut into words.

LLaMA-2's tokenizer puts a space before a text, writes spaces as ▁ and merges the whole text as one word. But no token
that a merge makes has a ▁ behind another character. So nothing is ever merged across the first space of a run of them,
and what stands before it and what stands from it on have the same tokens as if they were apart. A ▁ in the text itself
counts as a space. An added token, such as <s>, is looked for before all that, and parts a text into two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from smart.embedding.llama_kernels import RANK_BITS, TOKEN_BITS, Vocabulary, enter_merges

MARK = "▁"
_NORMALIZER = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": MARK},
        {"type": "Replace", "pattern": {"String": " "}, "content": MARK},
    ],
}
_MODEL = {
    "type": "BPE",
    "dropout": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "byte_fallback": True,
    "ignore_merges": False,
}
_ADDED = ("single_word", "lstrip", "rstrip", "normalized")
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


class TokenizerError(ValueError):
    """A tokenizer of which it isn't known that cutting texts into words leaves their tokens as they are."""


def read_vocabulary(tokenizer: Mapping[str, Any], tokens: int) -> Vocabulary:
    """What the kernels need.

    Args:
        tokenizer: the content of a tokenizer.json.
        tokens: how many have a vector.

    Raises:
        TokenizerError: says what the tokenizer has that the kernels do not.
    """
    model, added = tokenizer["model"], tokenizer["added_tokens"]
    _require(tokenizer["normalizer"] == _NORMALIZER, "another normalizer")
    _require(tokenizer["pre_tokenizer"] is None, "a pre-tokenizer")
    for name, value in _MODEL.items():
        _require(model.get(name) == value, f"{name}={model.get(name)}")
    vocabulary: dict[str, int] = model["vocab"]
    merges = [
        tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]
    ]
    _check_tokens(vocabulary, added, tokens)
    _check_merges(vocabulary, merges)
    left, right = (np.array([vocabulary[merge[side]] for merge in merges], np.int32) for side in (0, 1))
    table = np.full(1 << (2 * len(merges)).bit_length(), -1, np.int64)
    enter_merges(left, right, table)
    spelled = sorted(
        ((token["content"].encode(), token["id"]) for token in added), key=lambda pair: -len(pair[0])
    )
    begins = np.zeros(256, bool)
    begins[[content[0] for content, _ in spelled]] = True
    return Vocabulary(
        _characters(vocabulary),
        np.array([vocabulary[name] for name in _BYTES], np.int32),
        table,
        np.array([vocabulary[a + b] for a, b in merges], np.int32),
        np.frombuffer(b"".join(content for content, _ in spelled), np.uint8),
        np.array([len(content) for content, _ in spelled], np.int64),
        np.array([token for _, token in spelled], np.int32),
        begins,
    )


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise TokenizerError(otherwise)


def _check_tokens(vocabulary: dict[str, int], added: list[dict[str, Any]], tokens: int) -> None:
    ids = [*vocabulary.values(), *(token["id"] for token in added)]
    _require(min(ids) >= 0 and max(ids) < tokens, "tokens without a vector")  # wordllama takes the last one's
    _require(max(ids) < 1 << TOKEN_BITS, "too many tokens")
    _require(len(set(vocabulary.values())) == len(vocabulary), "two tokens of one number")
    _require(MARK in vocabulary and vocabulary.keys() >= set(_BYTES), "no token for some bytes")
    for token in added:
        plain = token["content"] and not any(token[name] for name in _ADDED)
        _require(bool(plain), f"an added token {token['content']} that takes in what stands beside it")
        _require(not {" ", MARK} & set(token["content"]), "an added token with a space")


def _check_merges(vocabulary: dict[str, int], merges: list[tuple[str, ...]]) -> None:
    _require(all(len(merge) == 2 for merge in merges), "a merge that is not of two tokens")
    _require(len(merges) < 1 << RANK_BITS and len(set(merges)) == len(merges), "a merge that comes twice")
    merged = {left + right for left, right in merges}
    used = merged.union(*merges)
    _require(used <= vocabulary.keys(), "a merge of what is no token")
    _require(used.isdisjoint(_BYTES), "a merge of bytes")
    _require(not any(MARK in token.lstrip(MARK) for token in merged), "a token with a space inside")


def _characters(vocabulary: dict[str, int]) -> np.ndarray:
    single = {ord(name): token for name, token in vocabulary.items() if len(name) == 1}
    characters = np.full(max(single) + 1, -1, np.int32)
    characters[list(single)] = list(single.values())
    characters[ord(" ")] = vocabulary[MARK]
    return characters
