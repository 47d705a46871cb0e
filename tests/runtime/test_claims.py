"""Units of work that processes share: each is done once, whoever dies."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from smart.runtime import claims
from smart.runtime.claims import Claims
from smart.runtime.files import recover, write_atomic
from smart.runtime.locks import owned
from smart.runtime.manifest import write_manifest
from tests.commands import python


def claims_on(folder: Path) -> Claims[int]:
    """Units are numbers; a file of its name says that one is done."""
    return Claims(folder, str, lambda unit: (folder / str(unit)).exists())


def work(folder: Path, units: range, seconds: float = 0.005) -> list[int]:
    """Do what nobody has done; returns the units in order."""
    done = []
    with claims_on(folder) as ours:
        for left in ours.rounds(units):
            for unit in ours.free(left):
                time.sleep(seconds)
                write_atomic(folder / str(unit), "")
                done.append(unit)
                ours.give_back(unit)
    return done


def test_several_share_the_units_and_each_is_done_once(tmp_path: Path) -> None:
    """A lock belongs to an open file, so that threads stand for processes."""
    folder, units = tmp_path / "key", range(40)
    done: list[list[int]] = []
    threads = [threading.Thread(target=lambda: done.append(work(folder, units))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(unit for one in done for unit in one) == list(units)
    assert sum(map(bool, done)) == 4
    assert {path.name for path in folder.iterdir()} == set(map(str, units)), "no claim is left"


def test_alone_units_are_done_in_their_order(tmp_path: Path) -> None:
    assert work(tmp_path / "key", range(7), 0) == list(range(7))
    assert work(tmp_path / "key", range(9), 0) == [7, 8]


def test_claims_are_made_as_units_are_asked_for(tmp_path: Path) -> None:
    with claims_on(tmp_path / "key") as ours, claims_on(tmp_path / "key") as theirs:
        first = ours.free(range(5))
        assert [next(first), next(first)] == [0, 1]
        assert list(theirs.free(range(5))) == [2, 3, 4]
        assert list(first) == []


def test_who_waits_says_for_whom_and_goes_on_when_there_is_something_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(claims, "POLL", (0.01, 0.01))
    folder = tmp_path / "key"
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.extend(work(folder, range(3))))
    with claims_on(folder) as ours:
        assert list(ours.free([0, 1])) == [0, 1]
        thread.start()
        deadline = time.monotonic() + 10
        while not caplog.messages and time.monotonic() < deadline:
            time.sleep(0.01)
        assert done == []
        assert caplog.messages[0].startswith("Waiting for 2 parts on which others work: process ")
        write_atomic(folder / "0", "")
        ours.give_back(0)
    thread.join(10)
    assert done == [2, 1], "1 was given back undone"
    assert len(caplog.messages) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from smart.runtime.claims import Claims
claims = Claims(Path(sys.argv[1]), str, lambda unit: False).__enter__()
assert list(claims.free([0, 1, 2])) == [0, 1, 2]
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_held_is_done_by_others(tmp_path: Path) -> None:
    folder = tmp_path / "key"
    killed = subprocess.run([python(), "-c", KILLED, str(folder)])
    assert killed.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    assert len(list(folder.iterdir())) == 3
    assert work(folder, range(2), 0) == [0, 1]
    with owned(folder):
        assert {path.name for path in folder.iterdir()} == {"0", "1"}, "nor the claim that nobody wanted"


def test_a_failure_gives_back_what_was_held(tmp_path: Path) -> None:
    def fail() -> None:
        with claims_on(tmp_path / "key") as ours:
            next(ours.free(range(3)))
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert work(tmp_path / "key", range(3), 0) == [0, 1, 2]


def test_without_locks_all_is_done_by_everyone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(handle: int, how: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with claims_on(tmp_path / "key") as ours, claims_on(tmp_path / "key") as theirs:
        assert list(ours.free(range(3))) == list(theirs.free(range(3))) == [0, 1, 2]
    assert list(tmp_path.rglob(".*")) == []


def test_the_owner_of_a_folder_leaves_claims_that_are_held(tmp_path: Path) -> None:
    with claims_on(tmp_path) as ours, claims_on(tmp_path) as theirs:
        assert list(ours.free([0, 1])) == [0, 1]
        with owned(tmp_path):
            assert list(theirs.free([0, 1])) == []
            write_manifest(tmp_path, {"kind": "example", "key": "key"})
            assert json.loads((tmp_path / "manifest.json").read_text())["files"] == {}


def test_whoever_tidies_a_folder_leaves_the_drafts_of_living_writers(tmp_path: Path) -> None:
    """Shards are written by processes that don't hold the folder's lock."""
    (tmp_path / ".dead.partial-x").write_text("left by a killed process")
    (tmp_path / ".tmpabcdef").write_text("left by safetensors")
    written = threading.Event()
    rest = threading.Event()

    def write_bytes(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:1])
            written.set()
            assert rest.wait(10)
            return 1 + file.write(content[1:])

    thread = threading.Thread(target=write_atomic, args=(tmp_path / "shard", "whole"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "write_bytes", write_bytes)
        thread.start()
        assert written.wait(10)
        recover(tmp_path)
        rest.set()
        thread.join(10)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"shard": "whole"}
