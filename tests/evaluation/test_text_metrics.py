"""What counts as the same answer, and ROUGE-L for every script."""

from __future__ import annotations

import random

import numpy as np
import pytest

from smart.evaluation.text_metrics import exact_match, rouge_l

SAME = (
    ("Yes, it is.", "yes it is"),
    ("**A**", "A"),
    ("(B)", "b"),
    ("1,000", "1000"),
    ("[1, 5]", "1 5"),
    ("the answer is 5.", "The answer is 5"),
    ("1.5.", "1.5"),
    ("No. 5", "no 5"),
    ("covid-19", "covid19"),
    ("−5", "-5"),
    ("cafe\u0301", "caf\u00e9"),
    ("?", " ?\n"),
    ("", "  "),
)
OTHER = (
    ("-5", "5"),
    ("+5", "5"),
    ("1.5", "15"),
    (".5", "5"),
    ("-.5", ".5"),
    ("3/4", "34"),
    ("3 / 4", "3 * 4"),
    ("2 + 2", "2 - 2"),
    ("10-5", "105"),
    ("12:30", "1230"),
    ("1,5", "15"),
    ("50%", "50"),
    ("$5", "€5"),
    ("+", "-"),
    ("x < y", "x > y"),
    ("C++", "C"),
    ("C#", "C"),
    ("A-", "A"),
    ("O+", "O-"),
    ("कि", "क"),
    ("😀", "😂"),
    ("", "?"),
    ("", "+"),
    ("...", "?!"),
)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_case_and_punctuation_do_not_count(one, other):
    assert exact_match(one, other)
    assert exact_match(other, one)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_what_makes_another_answer_counts(one, other):
    assert not exact_match(one, other)
    assert not exact_match(other, one)
    assert exact_match(one, one)


def test_rouge_l_is_rouge_scores_own_on_ascii():
    from rouge_score.rouge_scorer import RougeScorer

    theirs, draw = RougeScorer(["rougeL"], use_stemmer=True), random.Random(0)
    pieces = [
        "running",
        "ran",
        "tests",
        "Tested",
        "a_b",
        "it's",
        "1,000",
        "3.5",
        "-",
        "…",
        "co-op",
        "\n",
        "x",
    ]
    for _ in range(200):
        one, other = (" ".join(draw.choices(pieces, k=draw.randrange(1, 12))) for _ in range(2))
        if one.strip() != other.strip():
            assert rouge_l(one, other) == theirs.score(other, one)["rougeL"].fmeasure


def lcs(a: list[str], b: list[str]) -> int:
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("the cat sat on a mat", "the cat lay on the mat"),
        ("мама мыла раму", "мама мыла окно вчера"),
        ("η γάτα κοιμάται", "η γάτα τρώει"),
    ],
)
def test_rouge_l_equals_its_definition_in_any_script(answer, reference):
    a, b = answer.split(), reference.split()
    assert rouge_l(answer, reference) == pytest.approx(2 * lcs(a, b) / (len(a) + len(b)))


def test_scripts_without_spaces_are_read_by_character():
    assert rouge_l("我喜欢猫", "我喜欢狗") == pytest.approx(3 / 4)
    assert rouge_l("แมว", "แมว") == 1.0


@pytest.mark.parametrize(
    "text", ["é", "日本語", "مرحبا", "שלום", "हिन्दी", "ไทย", "한국어", "+", "😀", "¿?", "\U00020000"]
)
def test_equal_texts_of_any_script_score_one_and_an_empty_answer_nothing(text):
    assert rouge_l(text, f" {text}\n") == 1.0
    assert rouge_l("", text) == 0.0
