"""Tokenizers of every architecture, trained on made-up rows."""

from __future__ import annotations

import random

import pytest

from smart.model.tiny import ARCHITECTURES, train_tokenizer

WORDS = [
    "the",
    "of",
    "movie",
    "review",
    "answer",
    "question",
    "is",
    "not",
    "yes",
    "no",
    "12",
    "345",
    "2026",
    "don't",
    "it's",
    "naïve",
    "Zürich",
    "日本",
    "🙂",
    "x_1",
    "(a)",
    "[b]",
    "...",
    "A.",
    "B.",
    "C.",
    "D.",
    "premise:",
    "hypothesis,",
    "sentiment;",
    "positive",
    "negative\tend",
]


def make_rows(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Prompts and responses of odd characters, spaces and line ends, the same for the same seed."""
    rng = random.Random(seed)

    def text(words: int) -> str:
        return "".join(
            rng.choice(WORDS) + rng.choice([" ", " ", " ", "  ", "\n", "\n\n", ""]) for _ in range(words)
        )

    return [
        (
            f"Q: {text(rng.randrange(1, 40)).strip()}{rng.choice(['', ' ', '?', chr(10), ' A:'])}",
            text(4).strip() or "no",
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="session", params=ARCHITECTURES)
def tokenizer(request):
    rows = make_rows(300)
    return train_tokenizer(request.param, [text for row in rows for text in row])
