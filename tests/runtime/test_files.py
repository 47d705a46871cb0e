import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from smart.runtime.files import (
    PARTIAL,
    atomic_file,
    atomic_folder,
    hash_bytes,
    hash_file,
    write_atomic,
)


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "first")

    def fail_half_way() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writers_draft_goes_and_a_living_ones_stays(tmp_path: Path) -> None:
    path = tmp_path / "note"
    (tmp_path / f".note{PARTIAL}killed").touch()
    (tmp_path / f".note.more{PARTIAL}other").touch()
    with atomic_file(path) as one:
        write_atomic(path, "another's")
        one.write_text("mine")
    assert path.read_text() == "mine"
    assert {file.name for file in tmp_path.iterdir()} == {"note", f".note.more{PARTIAL}other"}


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for name in ("one", "two"):
        with atomic_folder(path) as draft:
            (draft / name).write_text(name)
    assert [file.name for file in path.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with atomic_folder(path) as draft:
        (draft / "one").touch()

    def fail_half_way() -> None:
        with atomic_folder(path) as draft:
            (draft / "two").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert [file.name for file in path.iterdir()] == ["one"]
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from smart.runtime.files import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as draft:\n"
        "    (draft / 'half').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "folder"
    killed = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_folder(path) as draft:
        (draft / "whole").touch()
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


def test_files_are_readable_as_the_umask_says(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write_atomic(tmp_path / "a", "x")
        with atomic_folder(tmp_path / "b") as draft:
            (draft / "c").touch()
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o755


def test_hashes_tell_parts_apart(tmp_path: Path) -> None:
    assert hash_bytes([b"ab", b"c"]) != hash_bytes([b"a", b"bc"])
    (tmp_path / "a").write_bytes(b"abc")
    before = hash_file(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"abd")
    assert before != hash_file(tmp_path / "a")
