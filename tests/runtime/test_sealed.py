"""Sealed files and folders: whole and of their key, or made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from smart.runtime import sealed
from smart.runtime.sealed import make_sealed_folder, read_sealed, write_sealed

CONTENT = b"\x00two\nlines\n"


def test_every_damage_of_a_byte_or_a_length_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.sealed"
    write_sealed(path, "key", CONTENT)
    whole = path.read_bytes()
    assert read_sealed(path, "key") == CONTENT
    for place in range(len(whole)):
        for bit in (1, 32, 128):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            assert read_sealed(path, "key") is None, (place, bit)
        path.write_bytes(whole[:place])
        assert read_sealed(path, "key") is None, place
    path.write_bytes(whole + b"x")
    assert read_sealed(path, "key") is None


def test_another_key_or_format_is_not_taken_and_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.sealed"
    assert read_sealed(path, "key") is None
    assert caplog.messages == []
    write_sealed(path, "key", CONTENT)
    for _ in range(2):
        assert read_sealed(path, "other") is None
    assert caplog.messages == [f"{path} is damaged: made again."]
    monkeypatch.setattr(sealed, "FORMAT", 2)
    assert read_sealed(path, "key") is None
    write_sealed(path, "key", b"")
    assert read_sealed(path, "key") == b""


def test_a_folder_is_made_once_and_again_where_anything_in_it_has_changed(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(draft: Path) -> None:
        made.append(draft)
        (draft / "inner").mkdir()
        (draft / "inner/a").write_bytes(b"a")
        (draft / "b").write_bytes(b"b")

    folder = tmp_path / "kept"
    for _ in range(2):
        make_sealed_folder(folder, "key", make)
    assert len(made) == 1
    (folder / "a lock of a library").touch()
    make_sealed_folder(folder, "key", make)
    assert len(made) == 1
    for count, name in enumerate(("inner/a", "b", sealed.SEAL)):
        for harm in (lambda path: path.write_bytes(b"c"), Path.unlink, lambda path: path.write_bytes(b"")):
            harm(folder / name)
            make_sealed_folder(folder, "key", make)
            assert ((folder / "inner/a").read_bytes(), (folder / "b").read_bytes()) == (b"a", b"b")
        assert len(made) == 1 + 3 * (count + 1)
    make_sealed_folder(folder, "other", make)
    assert len(made) == 11
