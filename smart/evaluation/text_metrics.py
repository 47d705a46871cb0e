"""How far an answer is the reference: exact match and ROUGE-L, for texts of any script."""

from __future__ import annotations

import logging
import re
from functools import cache
from typing import TYPE_CHECKING
from unicodedata import category, normalize

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_COUNTS = re.compile(
    r"(?<=\d)[^\w\s,](?=\d)"  # 1.5, 3/4, 10-5, 12:30
    r"|(?<=\d )[*/-](?= \d)"  # 3 / 4
    r"|(?<![\w.])[-.](?=\d)|(?<!\w)-(?=\.\d)"  # -5, .5, -.5
    r"|(?<=\w)#|(?<=[^\W\d_])-(?![\w-])|(?<=\d)%"  # C#, A-, 50%
)
"""Punctuation that makes another answer."""
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff]"
)
"""Characters of scripts that put no space between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""


def exact_match(answer: str, reference: str) -> bool:
    """True for the same text, or the same normal form.

    A text whose normal form is empty, such as "+" or "", has no other match than itself.

    >>> exact_match("yes it is", "Yes, it is."), exact_match("-5", "5"), exact_match("", "?")
    (True, False, False)
    """
    form = normal_form(reference)
    return answer.strip() == reference.strip() or (form != "" and normal_form(answer) == form)


def normal_form(text: str) -> str:
    """A text without case, punctuation and the thousands' commas of numbers.

    Super-NaturalInstructions' rule, less what it takes for the same and is not: symbols count (C++, x < y), and so do
    signs, points and slashes of numbers.

    >>> [normal_form(text) for text in ("It's 1,000.", "-1.5", "[1,5]", "3/4", "C++", "C#")]
    ['its 1000', '-1.5', '1 5', '3/4', 'c++', 'c#']
    """
    text = normalize("NFC", text.replace("−", "-")).lower()
    text = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)
    text = re.sub(r"(?<=\d),(?=\d)", " ", text)
    counts = {match.start() for match in _COUNTS.finditer(text)}
    kept = (c for place, c in enumerate(text) if place in counts or not _is_punctuation(c))
    return " ".join("".join(kept).split())


def _is_punctuation(character: str) -> bool:
    return character == "`" or (category(character)[0] == "P" and character != "_")


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words; on ASCII texts that of the package rouge_score."""
    if answer.strip() == reference.strip():
        return 1.0
    return float(_scorer().score(reference, answer)["rougeL"].fmeasure)


class _Words:
    """Splits a text into words; those of ASCII as rouge_score does, which knows no others."""

    def __init__(self) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self._ascii = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        text = normalize("NFC", text).lower()
        text = "".join(c if category(c)[0] in "LMN" else " " for c in text)
        words = _UNSPACED.sub(r" \g<0> ", text).split()
        return [part for word in words for part in (self._ascii.tokenize(word) if word.isascii() else [word])]


@cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    logging.getLogger("absl").setLevel(logging.WARNING)  # it says which tokenizer it takes
    return RougeScorer(["rougeL"], tokenizer=_Words())
