"""Sealed files: whole and of their key, or made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from smart.runtime import sealed
from smart.runtime.sealed import read_sealed, write_sealed

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
