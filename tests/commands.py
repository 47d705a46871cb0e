"""Fixtures of every room: a small collection in a file, and commands run in this process or in their own."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smart.templates import TEMPLATES

ROOT = Path(__file__).resolve().parents[1]
FORKS = ROOT / "tests" / "forks.py"
FAULTS = ROOT / "tests" / "faults" / "faults.c"
COMPILER = shutil.which("gcc") or shutil.which("cc")
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMBA")}


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


@functools.cache
def python() -> str:
    """In the place of sys.executable, where a test needs a process but not a new interpreter: see tests/forks.py."""
    if not sys.platform.startswith("linux"):  # elsewhere, libraries do not survive a fork
        return sys.executable
    return start_forks(Path(_scratch.enter_context(tempfile.TemporaryDirectory(prefix="forks-"))))


def start_forks(folder: Path) -> str:
    """Start a server of forks; returns the program in `folder` that is used as Python is."""
    program, server = folder / "python", folder / "server"
    words = [sys.executable, "-I", "-S", str(FORKS), str(server)]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    program.chmod(0o700)
    environment = {**os.environ, **ONE_THREAD, "CUDA_VISIBLE_DEVICES": ""}
    if COMPILER:  # tests/faults can disturb what it forks
        library = str(folder / "faults.so")
        subprocess.run([COMPILER, "-O1", "-shared", "-fPIC", "-o", library, FAULTS, "-ldl"], check=True)
        environment["LD_PRELOAD"] = library
    process = subprocess.Popen(  # it ends when its standard input does
        [sys.executable, str(FORKS), "serve", str(server), str(program)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    _scratch.callback(_stop, process)
    assert process.stdout is not None
    while (line := process.stdout.readline()) != "ready\n":
        assert line, "the server of forks has not started"
    return str(program)


def _stop(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


_scratch = contextlib.ExitStack()
atexit.register(_scratch.close)
Command = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """run("select", "budget=100"): in this process, in an empty folder."""

    def command(name: str, *arguments: str) -> Done:
        import importlib

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        monkeypatch.setattr("smart.runtime.plot_style.DPI", 20)  # figures take half of a small run
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
            [python(), str(ROOT / "select.py"), *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a background job
        )

    return command
