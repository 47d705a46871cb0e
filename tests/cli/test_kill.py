"""kill -9 at any moment: the same command ends with the same bytes."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_select import content

# Not the default, so that the vectors take more than one write.
ARGUMENTS = ("output=mine", "encoder.dtype=float32")
POINTS = [*range(2), *(pytest.param(point, marks=pytest.mark.full) for point in range(2, 10))]


@pytest.fixture
def made(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> Callable[[], dict[str, bytes]]:
    def run() -> dict[str, bytes]:
        process = start(*ARGUMENTS)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return content(tmp_path / "mine")

    return run


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_random_moment(
    start: Callable[..., subprocess.Popen[str]],
    made: Callable[[], dict[str, bytes]],
    tmp_path: Path,
    point: int,
) -> None:
    undisturbed = made()
    assert set(undisturbed) == {"train.parquet", "tasks.csv"}
    shutil.rmtree(tmp_path / "mine")
    shutil.rmtree(tmp_path / "outputs")
    process = start(*ARGUMENTS)
    assert process.stderr is not None
    process.stderr.readline()  # the collection is read: the work that writes begins
    time.sleep(random.Random(point).uniform(0, 1.5))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if (tmp_path / "mine").exists():
        assert content(tmp_path / "mine") == undisturbed
    assert made() == undisturbed
    assert [p.name for p in tmp_path.iterdir() if ".partial-" in p.name] == []
