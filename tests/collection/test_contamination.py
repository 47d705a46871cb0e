"""Rows that hold a benchmark's questions are found, and no others."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smart.collection import contamination
from smart.collection.contamination import overlaps, row_overlaps
from smart.reading import RowView

WORDS = [f"w{number}" for number in range(400)]


def sentence(seed: int, length: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, length))


QUESTION = sentence(0, 20)
BENCHMARKS = {"bbh/one": [sentence(1, 30), QUESTION], "mmlu/two": [sentence(2, 9), sentence(3, 5)]}


def found(*texts: str, **options: object) -> list[tuple[int, str, int, str]]:
    report = overlaps(texts, BENCHMARKS, **options)  # type: ignore[arg-type]
    assert report.mask.tolist() == [row in {o.row for o in report.overlaps} for row in range(len(texts))]
    return [(o.row, o.benchmark, o.item, o.sign) for o in report.overlaps]


def run(words: int, start: int = 3) -> str:
    return " ".join(QUESTION.split()[start : start + words])


def test_thirteen_words_in_a_row_are_a_sign_and_twelve_are_not():
    inside = f"{sentence(10, 30)} {run(13)} {sentence(11, 30)}"
    assert found(sentence(12, 50), inside) == [(1, "bbh/one", 1, "13 words")]
    assert found(f"{sentence(10, 30)} {run(12)} {sentence(11, 30)}") == []
    assert found(f"{sentence(10, 30)} {run(12)} {sentence(11, 30)}", n=12) == [(0, "bbh/one", 1, "12 words")]


def test_the_shared_words_are_named():
    (overlap,) = overlaps([sentence(12, 50), f"a b {run(13)} c"], BENCHMARKS).overlaps
    assert overlap.shared == run(13)


def test_case_punctuation_and_white_space_do_not_matter():
    text = ",\n".join(word.upper() for word in run(13).split())
    assert found(f"He said: {text}!") == [(0, "bbh/one", 1, "13 words")]


def test_a_run_does_not_go_over_the_border_of_two_rows():
    assert found(f"x {run(7)}", f"{run(6, start=10)} x") == []


def test_a_short_question_must_be_there_as_a_whole():
    short = BENCHMARKS["mmlu/two"][0]
    assert found(f"x {short} y") == [(0, "mmlu/two", 0, "9 words")]
    assert found("x " + " ".join(short.split()[:8])) == []
    assert found(BENCHMARKS["mmlu/two"][1]) == [], "five words are no sign"


def test_short_questions_that_several_items_share_are_no_sign():
    general = sentence(5, 9)
    assert not overlaps([f"x {general} y"], {"a": [general], "b": [general]}).overlaps


def test_a_near_duplicate_without_a_long_run_is_found():
    benchmarks = {"a": [" ".join(sentence(seed, 11) for seed in range(20, 28))]}
    text = benchmarks["a"][0].split()
    text[12::13] = ["changed"] * len(text[12::13])
    report = overlaps([" ".join(text)], benchmarks, n=13, similarity=0.3)
    assert [o.sign for o in report.overlaps] == ["near-duplicate"]
    assert not overlaps([" ".join(text)], benchmarks, n=13, similarity=0.7).overlaps


@pytest.mark.parametrize("batch", [1, 2, 1000])
def test_rows_are_numbered_over_all_batches(monkeypatch, batch):
    monkeypatch.setattr(contamination, "BATCH", batch)
    texts = [sentence(40, 30), run(14), sentence(41, 30), f"x {run(13)}", ""]
    assert found(*texts) == [(1, "bbh/one", 1, "13 words"), (3, "bbh/one", 1, "13 words")]


def test_the_report_counts_rows_per_benchmark_and_calls_them_by_their_numbers():
    both = f"{run(13)} x {BENCHMARKS['mmlu/two'][0]}"
    report = overlaps([both, sentence(40, 30), run(13)], BENCHMARKS).as_dict([70, 80, 90])
    assert report["rows"] == 3
    assert report["overlapping"] == 2
    assert report["per_benchmark"] == {"bbh/one": 2, "mmlu/two": 1}
    assert [overlap["row"] for overlap in report["overlaps"]] == [70, 70, 90]


def test_prompt_and_response_of_a_table_are_looked_at_together():
    table = pa.table(
        {"inputs": [sentence(40, 30), run(13), run(7)], "targets": [f"x {run(14)}", "y", run(6, start=10)]}
    )
    assert row_overlaps(RowView.of(table), BENCHMARKS).mask.tolist() == [True, True, True]
    assert row_overlaps(RowView.of(table.slice(0, 0)), BENCHMARKS).rows == 0


def test_no_rows_and_no_questions():
    assert overlaps([], BENCHMARKS).rows == 0
    assert not overlaps([QUESTION], {}).overlaps


ROLES = ("baker", "lawyer", "nurse", "driver", "clerk", "painter", "farmer", "guard")
ASKED = (
    "In the following sentences, explain the antecedent of the pronoun, or state that it is ambiguous.\n"
    "Sentence: The {0} asked the {1} to wait at the gate because {2} needed more time to find the keys.\n"
    "Options:\n(A) The {0} needed more time\n(B) The {1} needed more time\n(C) Ambiguous"
)
GIVEN = (
    "Which gender has the {1}?\n\nInput: Sentence: The {0} asked the {1} to wait at the gate because {2} needed "
    "more time to find the keys.\nProfession: {1}\nOutput:"
)


def test_rows_that_share_a_sentence_with_a_question_are_found_in_other_words_around_it():
    """As below: two tasks made from one set of sentences, 8 of whose 56 are asked by the benchmark."""
    pairs = [(a, b) for a in ROLES for b in ROLES if a != b]
    known = set(range(3, 56, 7))
    asked = [ASKED.format(*pairs[number], "they") for number in sorted(known)]
    given = [GIVEN.format(*pair, "they" if number in known else "she") for number, pair in enumerate(pairs)]
    report = overlaps(given, {"bbh/disambiguation_qa": asked})
    assert np.flatnonzero(report.mask).tolist() == sorted(known)
    assert {overlap.sign for overlap in report.overlaps} == {"13 words"}
    assert [overlap.item for overlap in report.overlaps] == list(range(8))


def test_the_eight_known_rows_are_found(shared):
    rows = pq.read_table(shared / "data/sni-large.parquet", columns=["inputs", "source_dataset"])
    winomt = rows.filter([value == "winomt" for value in rows["source_dataset"].to_pylist()])
    asked = pq.read_table(shared / "data/bbh.parquet", filters=[("task", "=", "disambiguation_qa")])
    report = overlaps(winomt["inputs"].to_pylist(), {"bbh/disambiguation_qa": asked["input"].to_pylist()})
    assert int(report.mask.sum()) == 8
