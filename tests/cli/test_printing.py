"""What commands print: on every terminal, and so that it can be pasted."""

from __future__ import annotations

import io
import shlex
import sys
from pathlib import Path

import pytest

from smart.config import compose
from smart.config.command_line import literal
from tests.commands import Command


def test_the_next_command_can_be_pasted_whatever_the_folder_is_called(
    select: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "it's [ü], a=b $HOME ${x}"
    done = select(f"output={literal(folder)}", "strategy=equal")
    assert done.code == 0, done.said
    words = shlex.split(done.out.rpartition("Next:")[2])
    assert words[:3] == ["accelerate", "launch", "train.py"]
    assert compose("train", words[3:]).values["mixture"] == str(folder)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_no_terminal_ends_a_run_by_its_encoding(
    select: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert select("strategy=equal", "output='€ ü'").code == 0
    for stream in (out, err):
        stream.flush()
    assert rb"Mixture: \u20ac" in out.buffer.getvalue()  # type: ignore[attr-defined]
    assert (tmp_path / "€ ü/manifest.json").is_file()


def test_bytes_that_are_no_text_are_refused_before_any_work(select: Command, tmp_path: Path) -> None:
    done = select("output=a\udcffb")
    assert done.code == 1
    assert r"output=a\udcffb: holds bytes that are no text in utf-8" in done.err
    assert not (tmp_path / "outputs").exists()


def test_a_number_of_thousands_of_digits_is_one_line(select: Command) -> None:
    done = select("seed=" + "9" * 5000)
    assert done.code == 1
    assert done.err == "select: a whole number on the command line has over 4,300 digits\n"
