"""The default encoder on long texts: the same bits as wordllama's own, in bounded memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smart.embedding import long_texts


@pytest.fixture(scope="module")
def model() -> Any:
    import wordllama

    package = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=package, dim=256, disable_download=True)


ODD = (
    " ",
    "  ",
    "   ",
    "▁",
    " ▁",
    "▁ ",
    "<s>",
    "</s>",
    " <s> ",
    "<s> a",
    "a <s>",
    "\n",
    "\t",
    " \n ",
    "é",
    "日本",
    "😀",
    "\0",
)
WORDS = ("the", "cat", "x", "Output:", "12,345", "don't", "antidisestablishmentarianism")


def odd_texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    parts = np.array([*ODD, *WORDS, *[word + " " for word in WORDS], *[" " + word for word in WORDS]], object)
    return ["".join(rng.choice(parts, int(rng.integers(1, 60)))) or "a" for _ in range(count)]


@pytest.mark.parametrize("long", [1, 7, 40])
def test_pieces_have_the_tokens_of_the_text(model: Any, monkeypatch: pytest.MonkeyPatch, long: int) -> None:
    monkeypatch.setattr(long_texts, "LONG", long)
    added, cut = ["<s>", "</s>", "<unk>"], 0
    for text in odd_texts(400):
        parts = list(long_texts.pieces(text, added))
        whole = model.tokenizer.encode(text, add_special_tokens=False).ids
        assert [
            i for part in parts for i in model.tokenizer.encode(part, add_special_tokens=False).ids
        ] == whole, text
        cut += len(parts) > 1
    assert cut > 200


@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_are_those_of_wordllama_to_the_bit(
    model: Any, monkeypatch: pytest.MonkeyPatch, normalize: bool
) -> None:
    texts = [*odd_texts(60, seed=1), *("one more word " * n for n in (1, 30, 400))]
    wanted = np.concatenate([model.embed([text], norm=normalize) for text in texts])
    np.testing.assert_array_equal(model.embed(texts, norm=normalize), wanted)
    for long, padded in ((1 << 16, 1 << 18), (20, 200), (3, 1)):
        monkeypatch.setattr(long_texts, "LONG", long)
        monkeypatch.setattr(long_texts, "_PADDED", padded)
        np.testing.assert_array_equal(long_texts.embed(model, texts, normalize), wanted)


def test_memory_is_bounded_whatever_the_lengths(model: Any) -> None:
    texts = ["word " * 200_000, "x" * 100_000, *["short"] * 70]
    tracemalloc.start()
    try:
        vectors = long_texts.embed(model, texts, True)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 400e6, most
    assert np.isfinite(vectors).all()


def test_batches_keep_order_and_bounds() -> None:
    texts = ["a" * n for n in (5, 70_000, 3, 60_000, 60_000, 1, 1)] + ["b"] * 130
    parts = list(long_texts.batches(texts))
    assert [text for part in parts for text in part] == texts
    assert [len(part) for part in parts[:4]] == [1, 1, 4, 64]


def test_a_word_without_end_is_cut(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_texts, "LONG", 10)
    monkeypatch.setattr(long_texts, "LONGEST_WORD", 30)
    assert [len(part) for part in long_texts.pieces("x" * 65, [])] == [30, 30, 5]
