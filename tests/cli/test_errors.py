"""Every mistake: one clear message, an exit code that is not 0, no traceback, nothing half-written."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smart.runtime.locks import locked
from smart.selection import SelectConfig
from smart.selection.pool import Pool, read_pool
from tests.commands import Command


def nothing_half_written(root: Path) -> bool:
    """No mixture, and no part of one: caches may stay, they are whole or resumed."""
    return not [p for p in root.rglob("*") if p.name.endswith(".parquet") and "mixtures" in p.parts]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            "fn=grafcut",
            "fn=grafcut: no such fn. Did you mean graphcut? Known: facility_location, graphcut, logdet",
        ),
        ("instance_fn=logdt", "Did you mean logdet?"),
        ("strategy=smrt", "Did you mean smart?"),
        ("budget=0", "budget=0: must be at least 1"),
        ("budget=-5", "budget=-5: must be at least 1"),
        ("budget=2e12", "budget=2e+12: the pool holds 576 rows; ask for at most 576"),
        ("budget=0.05", "did you mean 5%?"),
        ("budget=25 k", "budget=25 k: is not a count; write a whole number, 25k"),
        ("budget=577", "the pool holds 576 rows; ask for at most 576"),
        ("num_tasks=0", "num_tasks=0: must be a whole number, at least 1"),
        ("num_tasks=13", "num_tasks=13: the pool has 12 tasks"),
        ("bugdet=5", "bugdet: no such key. Did you mean budget?"),
        ("fn.tradeof=1", "fn.tradeof: no such key in fn. Did you mean tradeoff?"),
        ("fn.tradeoff=-1", "fn.tradeoff=-1: must be a finite number, at least 0"),
        ("weighting=temperature weighting.temperature=0", "weighting.temperature=0"),
        ("encoder.dtype=int8", "encoder.dtype=int8"),
        ("encoder=precomputed", "encoder.path"),
        ("collection.path=nix.parquet", "nix.parquet"),
        ("tracker.mode=foo", "tracker.mode=foo: must be one of auto, online, offline, disabled"),
        ("memory_limit=12XB", "memory_limit=12XB: write bytes, or a size such as"),
        (
            "optimizer=lazzy",
            "optimizer=lazzy: must be one of exact, lazy, naive, partition; did you mean lazy?",
        ),
        ("validation_rows=5%", "validation_rows=5%"),
        ("tokenizer=nix/nowhere", "tokenizer=nix/nowhere is not in the cache"),
        ("budget=", "budget"),
        ("encoder=minilm encoder.max_length=abc", "encoder.max_length=abc: must be a whole number"),
        ("collection.seed=abc collection.validation=5%", "collection.seed=abc: must be a whole number"),
        (
            "collection.seed=-1 collection.validation=5%",
            "collection.seed=-1: must be a whole number, at least 0",
        ),
        (
            "collection.columns=5",
            "collection.columns=5: must be a mapping to texts or null; such as {inputs: question}",
        ),
        ("encoder=precomputed encoder.path=5", "encoder.path=5: must be text"),
        ("weighting=proportional weighting.cap=abc", "weighting.cap=abc: must be a whole number"),
        ("fn.tradeoff=abc", "fn.tradeoff=abc: must be a number"),
    ],
)
def test_a_mistake_is_named_with_the_way_out(select: Command, tmp_path: Path, wrong: str, said: str) -> None:
    wrongs = [wrong] if wrong.startswith("budget") else wrong.split()
    done = select(*wrongs)
    infeasible = "the pool holds" in said or "the pool has" in said
    assert done.code == (3 if infeasible else 1)
    assert said in done.err
    assert "Traceback" not in done.said
    assert nothing_half_written(tmp_path)


def test_a_folder_named_by_a_number_is_a_folder(select: Command, tmp_path: Path) -> None:
    done = select("output=5", "output_root=7", "strategy=equal")
    assert done.code == 0, done.said
    assert (tmp_path / "5/manifest.json").exists()


def test_a_budget_above_what_the_selected_tasks_hold(select: Command) -> None:
    done = select("num_tasks=2", "budget=500")
    assert done.code == 3
    assert "the 2 selected tasks can give" in done.err


def test_all_errors_of_a_configuration_together(select: Command) -> None:
    done = select("budget=0", "num_tasks=0", "seed=-1", "fn.tradeoff=-1", "tracker.mode=foo")
    assert done.code == 1
    assert "5 values of the configuration are wrong" in done.err
    for key in ("budget=0", "num_tasks=0", "seed=-1", "tradeoff=-1", "tracker.mode=foo"):
        assert key in done.err


def test_a_traceback_where_it_is_asked_for(
    select: Command, start: Callable[..., subprocess.Popen[str]]
) -> None:
    _, err = start("budget=0", HYDRA_FULL_ERROR="1").communicate(timeout=60)
    assert "Traceback" in err
    assert "ConfigError" in err
    infeasible = start("budget=577", HYDRA_FULL_ERROR="1")
    assert "Traceback" in infeasible.communicate(timeout=60)[1]
    assert infeasible.returncode == 3, "a grid tells such a cell by the code"


def test_bad_rows_stop_it_or_are_counted(select: Command, collection: Path, tmp_path: Path) -> None:
    rows = pq.read_table(collection).to_pylist()
    rows[3]["inputs"], rows[7]["targets"], rows[9]["template_type"] = "  ", None, "zero_shot"
    pq.write_table(pa.Table.from_pylist(rows), collection)
    refused = select()
    assert refused.code == 1
    assert "small.parquet" in refused.err
    assert "Traceback" not in refused.err
    done = select("bad_rows=drop")
    assert done.code == 0, done.said
    (manifest,) = tmp_path.glob("outputs/mixtures/*/manifest.json")
    assert '"pool_rows": 573' in manifest.read_text()


@pytest.mark.parametrize("key", ["output", "output_root"])
def test_a_folder_that_cannot_be_written(select: Command, tmp_path: Path, key: str) -> None:
    (tmp_path / "file").touch()
    done = select(f"{key}={tmp_path}/file/below/it")
    assert done.code == 1
    assert f"{key}={tmp_path}/file/below" in done.err
    assert "Traceback" not in done.said


@pytest.mark.parametrize("key", ["output", "output_root"])
def test_a_disk_that_is_mounted_read_only(select: Command, tmp_path: Path, key: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here (needs root)")
    try:
        done = select(f"{key}={disk}/mixture")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert done.code == 1
    assert f"{key}={disk}" in done.err
    assert "name another folder" in done.err
    assert "Traceback" not in done.said


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small tmpfs cannot be mounted here (needs root)")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(select: Command, small_disk: Path) -> None:
    done = select(f"output_root={small_disk}", "encoder.dtype=float32")
    assert done.code == 1
    assert "Traceback" not in done.said
    assert str(small_disk) in done.err
    assert nothing_half_written(small_disk)


def test_a_full_disk_while_the_mixture_is_written(select: Command, small_disk: Path, tmp_path: Path) -> None:
    done = select(f"output={small_disk}/mixture")
    assert done.code == 1, done.said
    assert "Traceback" not in done.said
    assert "space" in done.err
    assert not (small_disk / "mixture").exists()
    assert [p for p in small_disk.iterdir() if p.is_dir()] == []
    again = select(f"output={tmp_path}/mixture")
    assert again.code == 0, again.said


def test_ctrl_c(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    with locked(tmp_path / ".mine.lock"):  # so that the process cannot be done before the signal comes
        process = start("output=mine", PYTHONUNBUFFERED="1")
        assert process.stderr is not None
        while "Another process works on" not in (line := process.stderr.readline()):
            assert line, "it ended before it waited"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "select: interrupted" in err
    assert "Traceback" not in err
    assert nothing_half_written(tmp_path)


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, as Python starts; in a background job it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    after = signal.signal(signal.SIGINT, before)
    assert after is signal.default_int_handler, "a command left its own handler"


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("step", ["read_pool", "budget_tasks"])
def test_ctrl_c_in_the_middle_of_a_step(
    select: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: str
) -> None:
    monkeypatch.setattr(f"smart.selection.run.{step}", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    done = select()
    assert done.code == 130, done.said
    assert "select: interrupted" in done.err
    assert "Traceback" not in done.said
    assert nothing_half_written(tmp_path)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("more", [(), ("seed=1,2", "-m")])
def test_ctrl_c_that_a_library_swallows(
    select: Command, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    """As Python does when the signal comes while a destructor runs."""

    def read(config: SelectConfig) -> Pool:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return read_pool(config)

    monkeypatch.setattr("smart.selection.run.read_pool", read)
    done = select(*more)
    assert done.code == 130, done.said
    assert "select: interrupted" in done.err


def test_help_names_every_choice(run: Command) -> None:
    done = run("select", "--help")
    assert done.code == 0
    for word in (
        "facility_location",
        "reasoning_gym",
        "gte_large",
        "taylor_softmax",
        "budget: 25k",
        "num_tasks",
    ):
        assert word in done.out


def test_a_command_leaves_the_environment_as_it_was(select: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what runs after it, or what it starts, would print tracebacks that nobody asked for."""
    assert select("budget=0").code == 1
    assert "HYDRA_FULL_ERROR" not in os.environ
    seen = []
    monkeypatch.setattr(
        "smart.selection.run.read_pool", lambda config: seen.append(dict(os.environ)) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        select()
    assert "HYDRA_FULL_ERROR" not in seen[0]
