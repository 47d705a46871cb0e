"""Several processes on one folder: each shard, each group and each mixture is made once, whoever dies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_select import folder_of
from tests.commands import ROOT, python
from tests.selection.test_extensions import MIXED, MODULE, write_choices

COUNTING = """
import os, signal
from collections import Counter
from pathlib import Path
from zlib import crc32
from smart.embedding import store
from smart.selection import orderings

# Of a small collection several shards and several packs.
for function in (store.embed, store.plan_embedding):
    function.__defaults__ = (40, *function.__defaults__[1:])
orderings.TOGETHER = 30

DRIVER_DIES = os.environ.get("DRIVER_DIES", "")
saves = Counter()


def dying(what, save):
    def saving(*arguments):
        saves[what] += 1
        if DRIVER_DIES == f"{what} {saves[what]}":
            os.kill(os.getpid(), signal.SIGKILL)
        return save(*arguments)

    return saving


if DRIVER_DIES:
    orderings.SAVE_EVERY = 0.0
    store.write_sealed = dying("embedded", store.write_sealed)
    orderings.save_shard = dying("ordered", orderings.save_shard)

NOTES, DIE = Path(os.environ["NOTES"]), os.environ.get("DIE", "")
done = 0


def note(what, of):
    global done
    with NOTES.open("a") as file:
        file.write(f"{what} {of}\\n")
    done += DIE.startswith(what)
    if DIE == f"{what} {done}":
        os.kill(os.getpid(), signal.SIGKILL)


class CountedLetters(Letters):
    def open(self):
        session = super().open().__enter__()

        def encode(texts):
            note("embedded", min(texts).replace(" ", "_"))
            vectors = session.encode(texts).vectors
            vectors[:, 0] += [crc32(text.encode()) / 2**32 for text in texts]  # no two groups are equal
            return Encoded(vectors, truncated=0)

        return nullcontext(Session(encode, block=64))


class CountedCoverage(Coverage):
    def begin(self):
        if self.n == 30:  # a group, not the tasks
            note("ordered", float(self.X.sum()))
        return super().begin()
"""


@pytest.fixture
def begin(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """begin("budget=60", DIE="ordered 2"): select.py in a process of its own, which counts, and may kill itself."""
    own = write_choices(tmp_path)
    (tmp_path / f"extension_{tmp_path.name.replace('-', '_')}.py").write_text(MODULE + COUNTING)
    for group, name in {"encoder": "Letters", "instance_fn": "Coverage"}.items():
        path = tmp_path / f"conf/{group}/mine.yaml"
        path.write_text(path.read_text().replace(f".{name}", f".Counted{name}"))

    def start(*more: str, **environment: str) -> subprocess.Popen[str]:
        place = {"PYTHONPATH": str(tmp_path), "NOTES": str(tmp_path / "notes")}
        interpreter = sys.executable if "-m" in more else python()  # launchers start what a fork can't be
        return subprocess.Popen(
            [interpreter, str(ROOT / "select.py"), *own, *MIXED, "threads=1", *more],
            cwd=tmp_path, env={**os.environ, **place, **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    return start


def counted(tmp_path: Path, what: str) -> Counter[str]:
    return Counter(line for line in (tmp_path / "notes").read_text().splitlines() if line.startswith(what))


@pytest.mark.parametrize("die", ["", pytest.param("embedded 2", marks=pytest.mark.full), "ordered 3"])
def test_the_same_command_started_three_times_makes_one_mixture(
    begin: Callable[..., subprocess.Popen[str]], tmp_path: Path, die: str
) -> None:
    alone = begin("output_root=alone", NOTES=str(tmp_path / "others"))
    said = alone.communicate()[0]
    expected = (tmp_path / folder_of(said) / "train.parquet").read_bytes()
    processes = [begin(DIE=die), begin(), begin()]
    ends = [(process.communicate()[0], process.returncode) for process in processes]
    mixtures = {folder_of(said) for said, code in ends if code == 0}
    assert [code for _, code in ends][1:] == [0, 0], ends
    assert len(mixtures) == 1
    assert (tmp_path / mixtures.pop() / "train.parquet").read_bytes() == expected
    notes = (tmp_path / "notes").read_text().splitlines()
    assert set(notes) == set((tmp_path / "others").read_text().splitlines())
    again = [note for note, times in Counter(notes).items() if times > 1]
    unsaved = {"": 0, "embedded 2": 1, "ordered 3": 3}  # orders are saved every ten seconds
    assert len(again) <= unsaved[die], "only what the killed one had not saved"
    assert list((tmp_path / "outputs").rglob(".*.partial-*")) == []


def test_jobs_with_other_budgets_order_each_group_once(
    begin: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    processes = [begin(f"budget={budget}", "weighting=uniform") for budget in (60, 100, 140)]
    for process in processes:
        said = process.communicate()[0]
        assert process.returncode == 0, said
    assert set(counted(tmp_path, "embedded").values()) == {1}
    assert set(counted(tmp_path, "ordered").values()) == {1}
    assert len(list((tmp_path / "outputs/mixtures").iterdir())) >= 3


@pytest.mark.full
@pytest.mark.parametrize("die", ["embedded 3", "ordered 4"])
def test_rays_driver_killed_and_started_again_makes_what_is_missing(
    begin: Callable[..., subprocess.Popen[str]], tmp_path: Path, die: str
) -> None:
    """The driver dies as it is about to save what a worker has sent."""
    pytest.importorskip("ray")
    alone = begin("output_root=alone", NOTES=str(tmp_path / "others"))
    expected = (tmp_path / folder_of(alone.communicate()[0]) / "train.parquet").read_bytes()
    ray = ["executor=ray", "threads=2"]
    killed = begin(*ray, DRIVER_DIES=die)
    assert killed.wait() != 0
    saved = len(list((tmp_path / "outputs/cache/embeddings").glob("*/[0-9]*.sealed")))
    before = counted(tmp_path, "embedded")
    again = begin(*ray)
    said = again.communicate()[0]
    assert again.returncode == 0, said
    assert (tmp_path / folder_of(said) / "train.parquet").read_bytes() == expected
    made = (counted(tmp_path, "embedded") - before).total()
    assert made == 9 - saved, "360 rows in shards of 40"
    notes = (tmp_path / "others").read_text().splitlines()
    assert set(counted(tmp_path, "ordered")) == {note for note in notes if note.startswith("ordered")}


@pytest.mark.full
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_sweep_pays_once_with_every_launcher(
    begin: Callable[..., subprocess.Popen[str]], tmp_path: Path, launcher: str
) -> None:
    more = {"joblib": ["hydra.launcher.n_jobs=2"], "submitit_local": ["hydra.launcher.timeout_min=5"]}
    sweep = begin(
        *("-m", "budget=60,100,140", "weighting=uniform", f"hydra/launcher={launcher}"),
        *more.get(launcher, []),
    )
    said = sweep.communicate()[0]
    assert sweep.returncode == 0, said
    assert "3 done, 0 failed." in said
    assert set(counted(tmp_path, "embedded").values()) == {1}
    assert set(counted(tmp_path, "ordered").values()) == {1}
