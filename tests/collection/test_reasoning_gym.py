"""The embedded default: the same rows in any process, four template types, uneven tasks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smart.collection import Collection, Groups, ReasoningGym, check_source, load
from smart.collection.reasoning_gym import _LEFT_OUT
from smart.config import ConfigError, UserError
from tests.collection.examples import content

pytest.importorskip("reasoning_gym", reason="needs the extra reasoning-gym")

TASKS = ("course_schedule", "gcd", "graph_color", "knights_knaves", "propositional_logic", "syllogism")
SMALL = ReasoningGym(tasks=TASKS, min_rows=20, max_rows=200)


def test_it_keeps_the_contract_of_a_source() -> None:
    check_source(ReasoningGym(tasks=["gcd", "syllogism"], min_rows=8, max_rows=20))


def fingerprints_elsewhere(options: str) -> set[str]:
    """Of the same collection in two processes at once."""
    program = (
        f"from smart.collection import ReasoningGym, load; print(load(ReasoningGym({options})).fingerprint)"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
        )
        for hash_seed in ("1", "2")
    ]
    found = {process.communicate(timeout=300)[0].decode().strip() for process in running}
    assert all(re.fullmatch("[0-9a-f]{32}", fingerprint) for fingerprint in found)
    return found


def test_every_task_is_the_same_in_processes_with_other_hash_seeds() -> None:
    assert len(fingerprints_elsewhere("min_rows=10, max_rows=12")) == 1


@pytest.mark.full
def test_the_whole_default_is_the_same_in_processes_with_other_hash_seeds() -> None:
    assert len(fingerprints_elsewhere("")) == 1


@pytest.mark.full
def test_the_default_is_a_collection_to_select_from() -> None:
    collection = load(ReasoningGym())
    assert collection.validation is not None
    groups = Groups.of(collection.train)
    totals = groups.sizes.sum(1)
    assert len(collection.train) >= 30_000
    assert len(collection.validation) >= 2_000
    assert len(groups.tasks) == 93
    assert Groups.of(collection.validation).tasks == groups.tasks
    assert totals.min() >= 20
    assert totals.max() == 2000
    assert (groups.sizes.sum(0) >= 1000).all()
    assert len({submixture for submixture, _ in groups.tasks}) == 12
    assert collection.source["splits"]["train"]["exact_duplicates"] == 0


def test_splits_share_no_prompt_and_another_seed_gives_other_rows() -> None:
    collection = load(SMALL)
    assert collection.validation is not None
    train, validation = (table["inputs"].to_pylist() for table in (collection.train, collection.validation))
    assert not set(train) & set(validation)
    assert len(set(train)) == len(train)
    other = load(replace(SMALL, seed=SMALL.seed + 1))
    assert len(set(train) & set(other.train["inputs"].to_pylist())) < len(train) / 100


def test_sizes_are_spread_between_the_bounds() -> None:
    sizes = Groups.of(load(SMALL).train).sizes.sum(1)
    assert sizes.max() == 200
    assert 15 <= sizes.min() <= 20  # repeated questions are left out
    assert np.unique(sizes).size == len(TASKS)


def test_template_types() -> None:
    table = load(SMALL).train
    groups = Groups.of(table)
    has_options = groups.sizes[:, [0, 2]].sum(1) > 0
    closed = {task for (_, task), some in zip(groups.tasks, has_options.tolist(), strict=True) if some}
    assert closed == {"course_schedule", "syllogism"}
    assert (groups.sizes[:, [1, 3]] > 0).all()

    for row in content(table):
        assert ("\n\nOptions:\n- " in row["inputs"]) == row["template_type"].endswith("_opt")
        solved = re.findall(r"\n\nAnswer: .", row["inputs"])
        if row["template_type"].startswith("fs"):
            assert 1 <= len(solved) <= 3
            assert row["inputs"].endswith("\n\nAnswer:")
        else:
            assert not solved
        if row["template_type"].endswith("_opt"):
            assert f"\n- {row['targets']}" in row["inputs"]


def test_shots_are_other_questions_with_their_answers() -> None:
    """gcd's answers can be computed, so that wrong pairs of question and answer would be seen."""
    shots = 0
    for inputs, target in zip(
        *(load(SMALL).train[name].to_pylist() for name in ("inputs", "targets")), strict=True
    ):
        asked = re.findall(r"Divisor \(GCD\) of these numbers: ([\d, ]+)\.", inputs)
        given = re.findall(r"Answer: (\d+)", inputs)
        if asked:
            assert len(set(asked)) == len(asked)
            for numbers, answer in zip(asked, [*given, target], strict=True):
                assert np.gcd.reduce([int(number) for number in numbers.split(",")]) == int(answer)
                shots += 1
    assert shots > 100


def test_puzzles_with_many_solutions_have_one_as_target() -> None:
    rows = content(load(SMALL).train)
    targets = {name: [row["targets"] for row in rows if row["task_name"] == name] for name in TASKS}
    assert all(target.startswith('{"0": ') for target in targets["graph_color"])
    assert all("None" not in target for target in targets["propositional_logic"])


def test_rows_are_kept_for_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(SMALL, cache=tmp_path)
    monkeypatch.setattr("smart.collection.reasoning_gym._instances", None)  # generating again would fail
    assert load(SMALL, cache=tmp_path).fingerprint == first.fingerprint
    monkeypatch.undo()
    (kept,) = tmp_path.iterdir()
    content_ = bytearray(kept.read_bytes())
    content_[len(content_) // 2] ^= 1
    kept.write_bytes(content_)
    assert load(SMALL, cache=tmp_path).fingerprint == first.fingerprint
    assert kept.read_bytes() != content_
    load(ReasoningGym(tasks=["gcd"], max_rows=30), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match="2 values"):
        load(ReasoningGym(min_rows=0, max_rows=-1))
    with pytest.raises(UserError, match=r"no generator gdc\. Did you mean gcd\?"):
        load(ReasoningGym(tasks=["gdc"]))
    with pytest.raises(UserError, match=re.escape(_LEFT_OUT["ransom_note"])):
        load(ReasoningGym(tasks=["ransom_note"]))


def test_parameters_of_a_generator(tmp_path: Path) -> None:
    def read(**parameters: int) -> Collection:
        source = ReasoningGym(
            tasks=["needle_haystack"],
            max_rows=30,
            parameters={"needle_haystack": parameters} if parameters else None,
        )
        return load(source, cache=tmp_path)

    few = read(min_num_statements=2, max_num_statements=4)
    statements = [text.count(".") - 1 for text in few.train["inputs"].to_pylist() if text.count("Who") == 1]
    assert statements
    assert set(statements) <= {2, 3, 4}
    assert few.fingerprint != read().fingerprint


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (
            {"gcd": {"max_numbers": 3}, "gdc": {}},
            r"parameters\.gdc: is no generator in use. Did you mean gcd",
        ),
        ({"gcd": {"max_number": 3}}, r"parameters\.gcd\.max_number: no such parameter. Did you mean max_num"),
        ({"gcd": {"seed": 3}}, r"parameters\.gcd\.seed: no such parameter"),
        ({"gcd": {"min_numbers": 9}}, r"parameters\.gcd=\{'min_numbers': 9\}: refused \(max_numbers must"),
        ({"gcd": {"min_numbers": "a"}}, r"parameters\.gcd=\{'min_numbers': 'a'\}: refused"),
        ({"gcd": {"max_value": 99.5}}, r"parameters\.gcd=\{'max_value': 99\.5\}: refused"),  # while it draws
    ],
)
def test_wrong_parameters(parameters: dict[str, dict[str, object]], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(ReasoningGym(tasks=["gcd"], parameters=parameters))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(UserError, match=r"pip install 'smart-instruct\[reasoning-gym\]'.*C compiler"):
        load(ReasoningGym())
