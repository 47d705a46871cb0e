"""Hashes of what files hold, and files that change while they are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smart.config import UserError
from smart.runtime import content
from smart.runtime.content import ContentHashes, check_unchanged, state_of, unchanged


def same_size_and_time(file: Path, text: str, replace: bool) -> None:
    """Write other content with the size and the time of the old one, as rsync -t or a restored backup may."""
    before = file.stat()
    if replace:
        other = file.with_name("other")
        other.write_text(text)
        other.replace(file)
    else:
        file.write_text(text)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("replace", [False, True])
def test_a_hash_is_remembered_while_nothing_touches_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: bool
) -> None:
    file, read = tmp_path / "rows.parquet", []
    file.write_text("one")
    monkeypatch.setattr(content, "hash_file", lambda path: read.append(path) or path.read_text())
    monkeypatch.setattr(ContentHashes, "_SETTLED", 0)
    assert ContentHashes(tmp_path / "memory")(file) == ContentHashes(tmp_path / "memory")(file) == "one"
    assert len(read) == 1
    same_size_and_time(file, "two", replace)
    assert ContentHashes(tmp_path / "memory")(file) == "two"
    assert len(read) == 2
    hashes = ContentHashes()
    assert hashes(file) == hashes(file) == "two"
    assert len(read) == 3


def test_a_file_that_was_just_written_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second write within one tick of the file system's clock would leave no trace."""
    file = tmp_path / "rows.parquet"
    file.write_text("one")
    state = state_of(file)
    monkeypatch.setattr(content, "state_of", lambda path: state)
    hashes = ContentHashes(tmp_path / "memory")
    first = hashes(file)
    file.write_text("two")
    assert hashes(file) != first
    assert not (tmp_path / "memory").exists()


def test_a_damaged_note_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ContentHashes, "_SETTLED", 0)
    file = tmp_path / "rows.parquet"
    file.write_text("one")
    known = ContentHashes(tmp_path / "memory")(file)
    (note,) = (tmp_path / "memory").iterdir()
    whole = note.read_bytes()
    note.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert ContentHashes(tmp_path / "memory")(file) == known
    assert note.read_bytes() == whole


@pytest.mark.parametrize("replace", [False, True])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, replace: bool) -> None:
    file = tmp_path / "rows.parquet"
    file.write_text("one")
    with unchanged(file):
        file.read_text()
    with pytest.raises(UserError, match=r"rows.parquet: has changed while it was read"), unchanged(file):
        same_size_and_time(file, "two", replace)
    before = {file: state_of(file)}
    check_unchanged(before)
    file.unlink()
    with pytest.raises(UserError, match="has changed"):
        check_unchanged(before)


def test_a_folders_hash_is_that_of_names_and_contents(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner/rows").write_text("one")
    first, second = (ContentHashes()(tmp_path / name) for name in ("a", "b"))
    assert first == second
    (tmp_path / "b/inner/rows").rename(tmp_path / "b/inner/lines")
    assert ContentHashes()(tmp_path / "b") != first
