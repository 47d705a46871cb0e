"""Extensions from a folder outside the repository: right once each through select.py, and wrong in three ways."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from smart.collection import check_source
from smart.embedding import check_encoder
from smart.mixture import check_weighting
from smart.submodular import check_set_function
from tests.cli.test_select import folder_of, read_tasks
from tests.commands import Command
from tests.mixture.outside import import_from, replaced

MODULE = '''
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from smart.collection import Part, Reading, Source
from smart.embedding import Encoded, Encoder, Session
from smart.mixture import Weighting
from smart.submodular import GreedyState, SetFunction


class Coverage(SetFunction):
    """f(A) = sum over dimensions of the largest value that A has there, above 0."""

    def __init__(self, X, power: float = 1.0):
        self.X, self.n = np.maximum(X, 0).astype(np.float64) ** power, len(X)

    def begin(self):
        return CoverageState(self.X)


class CoverageState(GreedyState):
    def __init__(self, X):
        self.X, self.covered = X, np.zeros(X.shape[1])

    def gains(self):
        return np.maximum(self.X - self.covered, 0).sum(axis=1)

    def add(self, i):
        self.covered = np.maximum(self.covered, self.X[i])


@dataclass(frozen=True)
class Letters(Encoder):
    """How often each of 26 letters stands in a prompt."""

    dtype: str = "float32"

    def identity(self):
        return {"encoder": "letters", "version": 1}

    def width(self):
        return 26

    def open(self):
        def encode(texts):
            letters = [chr(97 + place) for place in range(26)]
            counts = [[text.lower().count(letter) + 0.01 * len(text) for letter in letters] for text in texts]
            return Encoded(np.array(counts, np.float32), truncated=0)

        return nullcontext(Session(encode, block=64))


@dataclass(frozen=True, kw_only=True)
class Sums(Source):
    """Sums of two numbers: 12 tasks of 30 rows."""

    largest: int = 30

    def read(self, cache):
        rows = [(f"plus{a}", f"What is {a} and {b}?", str(a + b)) for a in range(12) for b in range(self.largest)]
        tasks, asked, answers = (pa.chunked_array([list(column)]) for column in zip(*rows))
        columns = {"submixture": "sums", "task_name": tasks, "template_type": "zs_noopt"}
        part = Part.of("sums", {**columns, "inputs": asked, "targets": answers})
        return Reading(name="sums", train=[part], origin={"kind": "sums", "largest": self.largest})


@dataclass(frozen=True)
class ByPlace(Weighting):
    """The first task weighs most."""

    base: float = 2.0

    def __call__(self, tasks):
        weights = self.base ** -np.arange(len(tasks.names), dtype=float)
        return weights / weights.sum()
'''
MIXED = ("collection=mine", "encoder=mine", "fn=mine", "instance_fn=mine", "weighting=mine", "budget=60")


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    return write_choices(tmp_path)


def write_choices(tmp_path: Path) -> list[str]:
    """--config-dir of a folder with a choice named mine in each group."""
    for group, target in {
        "collection": "Sums",
        "encoder": "Letters",
        "weighting": "ByPlace",
        "fn": "Coverage",
        "instance_fn": "Coverage",
    }.items():
        (tmp_path / "conf" / group).mkdir(parents=True)
        lines = [f"_target_: extension_{tmp_path.name.replace('-', '_')}.{target}"]
        lines += ["_partial_: true", "power: 1.0"] if "fn" in group else []
        lines += ["bad_rows: error", "drop_duplicates: false"] if group == "collection" else []
        (tmp_path / f"conf/{group}/mine.yaml").write_text("\n".join(lines) + "\n")
    return [f"--config-dir={tmp_path / 'conf'}", "tracker=none"]


def test_all_four_at_once(
    run: Command, own: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_from(tmp_path, MODULE, monkeypatch)
    check_set_function(module.Coverage)
    check_encoder(module.Letters())
    check_source(module.Sums())
    check_weighting(module.ByPlace())
    folders = {}
    for optimizer in ("exact", "lazy", "naive", "partition"):
        done = run("select", *own, *MIXED, f"optimizer={optimizer}")
        assert done.code == 0, done.said
        folders[optimizer] = tmp_path / folder_of(done.out)
    tasks = read_tasks(folders["exact"])
    assert [task["submixture"] for task in tasks] == ["sums"] * 12
    assert int(tasks[0]["budget"]) == 30
    rows = {
        name: pq.read_table(folder / "train.parquet")["row"].to_pylist() for name, folder in folders.items()
    }
    assert rows["exact"] == rows["lazy"] == rows["naive"] == rows["partition"]
    manifest = json.loads((folders["lazy"] / "manifest.json").read_text())
    assert (manifest["format"], manifest["config"]["optimizer"]) == (2, "lazy")


WRONG = [
    ("return np.maximum(self.X - self.covered, 0).sum(axis=1)", "return np.zeros(3)", "fn=mine: ValueError"),
    (
        "return np.maximum(self.X - self.covered, 0).sum(axis=1)",
        "return np.full(len(self.X), np.nan)",
        "fn=mine: ValueError",
    ),
    ("    def add(self, i):", "    def append(self, i):", "fn=mine: TypeError"),
]


@pytest.mark.parametrize(("right", "wrong", "said"), WRONG)
def test_a_wrong_function_is_one_line_with_what_tells_more(
    *,
    run: Command,
    own: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    right: str,
    wrong: str,
    said: str,
) -> None:
    module = import_from(tmp_path, replaced(MODULE, right, wrong), monkeypatch)
    with pytest.raises((AssertionError, TypeError)):
        check_set_function(module.Coverage)
    done = run("select", *own, *MIXED)
    assert done.code == 1
    assert said in done.err
    assert "check_set_function" in done.err
    assert "Traceback" not in done.said


def test_options_of_a_function_are_checked_from_its_signature(
    run: Command, own: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_from(tmp_path, MODULE, monkeypatch)
    done = run("select", *own, *MIXED, "fn.power=high", "+instance_fn.pover=2")
    assert done.code == 1
    assert "fn.power=high: must be a number" in done.err
    assert "instance_fn.pover=2: no such option. Did you mean power?" in done.err


def test_a_class_that_is_not_there_is_one_line(run: Command, tmp_path: Path, own: list[str]) -> None:
    done = run("select", *own, *MIXED)
    assert done.code == 1
    assert "Traceback" not in done.said
    assert np.all([f"extension_{tmp_path.name.replace('-', '_')}" in done.err])
