"""The command as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from smart.cli import evaluate
from smart.runtime.manifest import write_manifest
from tests.commands import ROOT, python
from tests.evaluation.examples import TASKS, save_adapter


@pytest.fixture
def arguments(benchmarks, cache, tmp_path, monkeypatch):
    """What every command here shares; relative paths are of an empty folder."""
    monkeypatch.chdir(tmp_path)
    return [
        f"benchmark_data={benchmarks}",
        f"suite.tasks=[{','.join(TASKS)}]",
        "dtype=float32",
        "batch_size=4",
        "limit=4",
    ]


@pytest.fixture
def run(arguments, monkeypatch, capsys):
    """Run in this process: (exit code, what it printed)."""

    def call(*more: str) -> tuple[int, str]:
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)  # the frame sets it for itself
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments, "tracker=none", *more])
        code = 0
        try:
            evaluate.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def script(*arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [python(), *launcher, str(ROOT / "evaluate.py"), *arguments]
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def folder_of(said: str) -> Path:
    return Path(said.split("Scores: ")[1].splitlines()[0])


def samples(folder: Path) -> list[dict]:
    return pq.read_table(folder / "samples.parquet").to_pylist()


def test_scores_are_made_once_and_compared(run, model, adapter):
    code, said = run(f"adapter={adapter}")
    assert code == 0, said
    folder = folder_of(said)
    assert folder.parent == Path("outputs/scores")
    assert folder.name.startswith("trained-paper-")
    assert {file.name for file in folder.iterdir()} == {
        "results.json",
        "samples.parquet",
        "manifest.json",
        "evaluate.log",
    }
    assert "mmlu_anatomy" in said
    code, again = run(f"adapter={adapter}")
    assert code == 0
    assert "Scored before" in again
    code, base = run("model=auto", f"model.name={model}")
    assert code == 0, base
    code, said = run(f"compare=[{folder},{folder_of(base)}]")
    assert code == 0, said
    assert "Table and figure: outputs/tables/compare-" in said
    assert "is not significant" in said


def test_a_sweep_scores_each_adapter(run, adapter, model, tmp_path):
    other = save_adapter(tmp_path / "other", model, seed=2)
    code, said = run("-m", f"adapter={adapter},{other}")
    assert code == 0, said
    names = {file.name.split("-")[0] for file in Path("outputs/scores").iterdir() if file.is_dir()}
    assert names == {"trained", "other"}


def test_a_plan_writes_nothing_but_its_caches(run, adapter):
    code, said = run(f"adapter={adapter}", "plan=true")
    assert code == 0, said
    assert "12 of 3 tasks; 36 requests" in said
    assert not Path("outputs/scores").exists()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["suite=mmul"], "suite=mmul: no such suite. Did you mean mmlu?"),
        (
            ["model=tiny_llama", "dtype=half", "batch_size=0", "limit=0"],
            "3 values of the configuration are wrong",
        ),
        ([], "name one (model=mistral_7b), or an adapter=FOLDER"),
        (
            ["model=tiny_llama", "suite.tasks=mmlu_anatomy"],
            "must be a list of texts; such as suite.tasks=[mmlu,bbh_zeroshot]",
        ),
        (["model=auto"], "must be a hub name or a folder"),
        (["adapter=nothing"], "adapter=nothing: no such folder"),
        (["model=tiny_llama", "batch_size=auto"], "batch_size=auto: needs a GPU"),
        (["suite=heldout", "suite.tasks=[]", "model=tiny_llama"], "give suite.collection=FILE.parquet"),
        (["compare=[a,b]"], "a holds no scores"),
    ],
)
def test_mistakes_are_explained(run, more, expected):
    code, said = run(*more)
    assert code == 1
    assert expected in said
    assert "Traceback" not in said


def test_two_processes_with_a_4_bit_base_give_the_scores_of_one(run, arguments, adapter):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    more = [f"adapter={adapter}", "four_bit=true", "tracker=none"]
    job = script(*arguments, *more, "output_root=two", launcher=launcher)
    said, _ = job.communicate()
    assert job.returncode == 0, said
    code, alone = run(*more[:2])
    assert code == 0, alone
    assert samples(folder_of(said)) == samples(folder_of(alone))
    shares = [file.read_text().count("\n") for file in Path("two/cache/answers").rglob("*.jsonl")]
    assert len(shares) == 2
    assert min(shares) > 0
    assert said.count("Scores: ") == 1


TORN = """
import os
from smart.cli.evaluate import main
from smart.evaluation.cached_lm import AnswerStore
from smart.runtime.manifest import write_manifest
put, seen = AnswerStore.put, 0
def deadly(store, key, answers):
    global seen
    seen += 1
    put(store, key, answers)
    if seen == 4:
        os.truncate(store._file, store._file.stat().st_size - 5)
        os.kill(os.getpid(), 9)
AnswerStore.put = deadly
main()
"""


def test_kill_9_in_the_middle_of_writing_repeats_the_batch_in_flight(run, arguments, adapter):
    more = [f"adapter={adapter}", "batch_size=1", "tracker=none"]
    done = subprocess.run(
        [python(), "-c", TORN, *arguments, *more],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    (file,) = Path("outputs/cache/answers").rglob("*.jsonl")
    *kept, torn = [line.partition(" ")[2] for line in file.read_text().split("\n")]
    with pytest.raises(json.JSONDecodeError):
        json.loads(torn)
    code, said = run(*more[:2])
    assert code == 0, said
    result = json.loads((folder_of(said) / "results.json").read_text())
    assert result["requests"]["from_store"] == sum(len(json.loads(line)[1]) for line in kept) > 0
    code, whole = run(*more[:2], "output_root=whole")
    assert samples(folder_of(said)) == samples(folder_of(whole))


def test_the_run_is_tracked_with_the_stages_before_it(arguments, adapter, monkeypatch, tmp_path, capsys):
    from contextlib import contextmanager

    from smart.runtime import tracking

    seen: dict = {}

    class Recorder(tracking.TrackedRun):
        def summary(self, values):
            seen.setdefault("summary", {}).update(values)

    @contextmanager
    def track(tracker, **about):
        seen.update(about, group=tracker.group)
        yield Recorder()

    monkeypatch.setattr("smart.evaluation.run.track", track)
    manifest = {
        "kind": "adapter",
        "key": "a" * 32,
        "status": "finished",
        "mixture": {"name": "mix", "config": {"budget": "25k"}},
        "config": {"learning_rate": 0.1},
    }
    write_manifest(adapter, manifest)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments, f"adapter={adapter}"])
    try:
        evaluate.main()
        logged = dict(seen)
        seen.clear()
        evaluate.main()
        assert seen == {}, "what was logged is not logged again"
        monkeypatch.setattr("smart.evaluation.run.is_unlogged", lambda *_, **__: True)
        evaluate.main()
        assert seen == logged, "what was scored but not logged is logged by the same command"
    finally:
        (adapter / "manifest.json").unlink()
    assert seen["job_type"] == "evaluate"
    assert seen["group"] == "mix"
    assert seen["config"]["select.budget"] == "25k"
    assert seen["config"]["train.learning_rate"] == 0.1
    assert seen["config"]["evaluate.dtype"] == "float32"
    assert {"eval/mmlu_anatomy/acc", "eval/bbh_zeroshot_navigate/exact_match_flexible_extract"} <= set(
        seen["summary"]
    )
