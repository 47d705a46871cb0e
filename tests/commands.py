"""Fixtures of every room: a small collection in a file, and commands run in this process or in their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smart.templates import TEMPLATES

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """12 tasks of two submixtures, one name in both; 14 to 80 rows each; 576 rows."""
    generator = np.random.default_rng(0)
    words = np.array([f"{a}{b}" for a in "bcdfghklmnprst" for b in ("an", "el", "ir", "ot", "ub")])
    rows = []
    for task in range(12):
        topic = generator.choice(words, 12)
        for number in range(14 + 6 * task + (task % 3)):
            text = " ".join(generator.choice(topic, 6)) + f" {number}"
            rows.append(
                {
                    "submixture": "ab"[task % 2],
                    "task_name": f"task{max(task // 2, 1)}" if task < 2 else f"task{task}",
                    "template_type": TEMPLATES[number % 4],
                    "inputs": f"Task {task}: {text}",
                    "targets": str(topic[number % 3]),
                }
            )
    path = tmp_path / "small.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


Command = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """run("select", "budget=100"): in this process, in an empty folder."""

    def command(name: str, *arguments: str) -> Done:
        import importlib

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        capfd.readouterr()
        code = 0
        try:
            importlib.import_module(f"smart.cli.{name}").main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capfd.readouterr()
        return Done(code, captured.out, captured.err)

    return command


@pytest.fixture
def select(run: Command, collection: Path) -> Command:
    """select("budget=100"): on the small collection, without tracking."""
    return lambda *more: run(
        "select", "collection=files", f"collection.path={collection}", "tracker=none", "budget=100", *more
    )


@pytest.fixture
def start(tmp_path: Path, collection: Path) -> Callable[..., subprocess.Popen[str]]:
    """start("budget=100"): select.py in a process of its own, on the small collection."""

    def command(*more: str, **environment: str) -> subprocess.Popen[str]:
        arguments = ["collection=files", f"collection.path={collection}", "tracker=none", "budget=100", *more]
        return subprocess.Popen(
            [sys.executable, str(ROOT / "select.py"), *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a background job
        )

    return command
