"""Every call that changes a file is disturbed: the same command, run again, ends with the same bytes and no leftovers.

In `make test` a few calls of each command, in `make test-full` each call once, and 200 draws more, of which some hit a
stage while reproduce.py waits for it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from tests import commands
from tests.faults.commands import over_an_older_one, small_commands
from tests.faults.harness import Fault, Trial, draw
from tests.faults.order import order_problems

pytestmark = pytest.mark.skipif(commands.COMPILER is None, reason="needs a C compiler")
NEW = ("select", "train", "evaluate", "reproduce")
OVER = tuple(f"{name} over another" for name in NEW[:3])
NAMES = [*NEW, *OVER]
FEW = {"reproduce": 1}
"""Calls of a command that every run of the tests disturbs; 3 of the others."""
PARTS = 4
DRAWS = 200

Trials = Callable[[str], Trial]


@pytest.fixture(scope="session")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    """trial("train"): the command with the calls that it makes undisturbed."""
    scratch = tmp_path_factory.mktemp("faults")
    small = small_commands(scratch)

    @cache
    def make(name: str) -> Trial:
        if name in NEW:
            return Trial(small[name], scratch / name)
        stage = name.split()[0]
        return Trial(over_an_older_one(small[stage], scratch), scratch / name, besides=make(stage))

    return make


def problems(trial: Trial, faults: list[Fault]) -> str:
    return "\n".join(problem for fault in faults for problem in trial.problems(fault))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_would_survive_a_power_cut(trial: Trials, name: str) -> None:
    calls = trial(name).calls
    assert "\n".join(problem for process in calls for problem in order_problems(calls[process])) == ""


@pytest.mark.parametrize("name", NAMES)
def test_after_a_fault_at_a_few_calls_the_same_command_ends_the_same(trial: Trials, name: str) -> None:
    faults = random.Random(name).sample(trial(name).faults(), FEW.get(name, 3))
    assert problems(trial(name), faults) == ""


@pytest.mark.full
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", NAMES)
def test_after_a_fault_at_any_call_the_same_command_ends_the_same(
    trial: Trials, name: str, part: int
) -> None:
    assert problems(trial(name), trial(name).faults()[part::PARTS]) == ""


@pytest.mark.full
@pytest.mark.parametrize("part", range(PARTS))
def test_after_any_fault_at_any_call_the_same_command_ends_the_same(trial: Trials, part: int) -> None:
    rng = random.Random(part)
    found = ""
    for _ in range(DRAWS // PARTS):
        drawn = trial(rng.choice(NAMES))
        found += problems(drawn, [draw(*rng.choice(drawn.sites()), rng)])
    assert found == ""


BARE = """
import contextlib, smart.mixture.write
@contextlib.contextmanager
def bare(path):
    path.mkdir()
    yield path
smart.mixture.write.atomic_folder = bare
"""
FORGETFUL = """
import os
os.fsync = lambda descriptor: None
"""


@pytest.fixture(scope="module")
def mutant(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    """mutant(CODE): select.py with something taken out of it."""

    def make(code: str) -> Trial:
        scratch = tmp_path_factory.mktemp("mutant")
        command = small_commands(scratch)["select"]
        return Trial(replace(command, prelude=code), scratch / "select")

    return make


def test_a_folder_written_in_its_place_is_found(mutant: Trials) -> None:
    trial = mutant(BARE)
    (torn, *_) = [call for call in trial.calls["select"] if call.what == "write mine/train.parquet"]
    (problem,) = trial.problems(Fault("select", torn.number, "torn"))
    assert "the rerun ended with 1" in problem


def test_files_that_are_not_synced_are_found(mutant: Trials) -> None:
    found = order_problems(mutant(FORGETFUL).calls["select"])
    assert any("bytes of .mine.partial-*/train.parquet may be lost" in problem for problem in found)
