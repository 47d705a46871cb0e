"""Compiled code is kept between processes for as long as no file of the room changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from smart.submodular._kernels.compilation import compiled

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import numpy as np
from smart.submodular.graph_cut import _greedy_matrix
order, _ = _greedy_matrix(np.eye(2), np.array([1.0, 1.25]), 0.0, 2)
print(*order, sum(_greedy_matrix.stats.cache_hits.values()))
"""


@pytest.mark.parametrize("beside", [True, False], ids=["beside the sources", "in a folder of its own"])
def test_a_change_in_a_file_that_others_call_is_compiled_into_them(tmp_path: Path, beside: bool) -> None:
    shutil.copytree(ROOT / "smart", tmp_path / "smart", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment |= {} if beside else {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def order_and_hits() -> list[str]:
        command = [sys.executable, "-c", SCRIPT]
        return subprocess.check_output(command, env=environment, cwd=tmp_path, text=True).split()

    assert order_and_hits() == ["1", "0", "0"]
    assert order_and_hits() == ["1", "0", "1"]
    source = tmp_path / "smart/submodular/arithmetic.py"
    text = source.read_text()
    assert "TIE = 1e-10" in text
    source.write_text(text.replace("TIE = 1e-10", "TIE = 0.5"))
    assert order_and_hits() == ["0", "1", "0"]
    assert order_and_hits() == ["0", "1", "1"]


def test_where_nothing_can_be_written_it_compiles_at_every_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A read-only installation without a home folder: containers that run as another user."""
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])

    def doubled(number: int) -> int:
        return 2 * number

    for _ in range(2):
        assert compiled(doubled)(21) == 42
    assert caplog.text.count("NUMBA_CACHE_DIR") == 1
