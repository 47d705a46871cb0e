"""select.py and evaluate.py hide no module from anybody: each form of starting Python, in its own process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHECK = "import select, subprocess, asyncio; assert select.select and select.__name__ == 'select'; "

MULTIPROCESSING = """
import multiprocessing, sys

def job(_):
    import select, subprocess
    return select.select is not None

if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        assert pool.map(job, range(4)) == [True] * 4
"""

EXECUTORS = """
from concurrent.futures import ProcessPoolExecutor
from joblib import Parallel, delayed

def job(_):
    import select, subprocess
    return select.select is not None

if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        assert all(pool.map(job, range(4)))
    assert all(Parallel(2, backend="loky")(delayed(job)(i) for i in range(4)))
"""

THREADS = """
import sys, threading
assert "select" not in sys.modules
failed, barrier = [], threading.Barrier(8)

def job():
    barrier.wait()
    import select
    try:
        select.select
    except AttributeError as error:
        failed.append(error)

threads = [threading.Thread(target=job) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
assert not failed, failed
"""

DATA_LOADER = """
import torch

class Squares(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, i):
        import select, subprocess
        return i * int(select.select is not None)

if __name__ == "__main__":
    assert torch.cat(list(torch.utils.data.DataLoader(Squares(), 2, num_workers=2))).tolist() == list(range(8))
"""

RANK = """
import os, select, subprocess, evaluate
assert select.select and evaluate.load
print("rank", os.environ.get("RANK", "0"), "fine")
"""


def run(*command: str, **environment: str) -> str:
    """Start Python at the root of the clone, where the files lie that must hide nothing."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run(
        command, cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def script(folder: Path, text: str) -> str:
    file = folder / "program.py"
    file.write_text(text)
    return str(file)


def interpreters() -> list[str]:
    """Builds differ: select is a loadable extension in some, part of the interpreter in others (Debian)."""
    found = [sys.executable, shutil.which("python3"), "/usr/bin/python3"]
    return sorted({path for path in found if path and Path(path).exists()})


@pytest.mark.parametrize("python", interpreters())
@pytest.mark.parametrize("flags", [["-c"], ["-Ic"], ["-Pc"]])
def test_standard_library(python: str, flags: list[str]) -> None:
    safe_path = (
        subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]).returncode == 0
    )
    if flags == ["-Pc"] and not safe_path:
        pytest.skip("-P came with Python 3.11")
    run(python, *flags, CHECK)


@pytest.mark.parametrize(
    "flags", ["-c", *(pytest.param(flag, marks=pytest.mark.full) for flag in ("-Pc", "-Ic"))]
)
def test_hugging_face_evaluate(flags: str) -> None:
    run(
        sys.executable,
        flags,
        "import evaluate, evaluate.utils; assert evaluate.load; import lm_eval.api.metrics",
    )


def test_two_clones_on_the_path(tmp_path: Path) -> None:
    for name in ("select.py", "evaluate.py", "smart/_shadow.py", "smart/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", f"{CHECK} print('fine')"], env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "fine\n", done.stderr[-2000:]


def test_a_thread_that_waited_sees_the_real_module() -> None:
    run(sys.executable, "-c", THREADS)


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_multiprocessing(method: str, tmp_path: Path) -> None:
    run(sys.executable, script(tmp_path, MULTIPROCESSING), method, PYTHONPATH=str(ROOT))


@pytest.mark.parametrize("program", [EXECUTORS, DATA_LOADER], ids=["executors", "data_loader"])
def test_workers(program: str, tmp_path: Path) -> None:
    run(sys.executable, script(tmp_path, program), PYTHONPATH=str(ROOT))


@pytest.mark.parametrize(
    ("program", "flags"),
    [
        *((f"{stage}.py", []) for stage in ("select", "train", "evaluate", "reproduce")),
        *((f"{stage}.py", [flag]) for stage in ("select", "evaluate") for flag in ("-P", "-I")),
    ],
)
def test_scripts_start(program: str, flags: list[str]) -> None:
    command = [sys.executable, *flags, program, "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if flags and "No module named 'smart'" in done.stderr:
        pytest.skip("the package is not installed here, which -P and -I need")
    else:
        assert (done.returncode, done.stderr) == (0, "")


def test_torchrun(tmp_path: Path) -> None:
    said = run(
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0"),
        script(tmp_path, RANK),
        PYTHONPATH=str(ROOT),
    )
    assert "rank 0 fine" in said
    assert "rank 1 fine" in said


def test_accelerate_launch(tmp_path: Path) -> None:
    said = run(
        *(sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=1"),
        script(tmp_path, RANK),
        PYTHONPATH=str(ROOT),
    )
    assert "rank 0 fine" in said


@pytest.mark.full
@pytest.mark.parametrize("mode", ["prepend", "importlib"])
def test_pytest_in_both_import_modes(mode: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        f"def test_it():\n    {CHECK}import evaluate; assert evaluate.load\n"
    )
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--import-mode={mode}", "-c", os.devnull)
    said = run(sys.executable, *command, f"--rootdir={tmp_path}", str(tmp_path))
    assert "1 passed" in said


@pytest.mark.full
def test_pytest_never_collects_the_root_scripts() -> None:
    said = run(
        sys.executable, "-m", "pytest", "--collect-only", "-q", "--doctest-modules", ".", "--ignore=tests"
    )
    assert "select.py" not in said
    assert "evaluate.py" not in said


def test_ray_workers(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed; it is no dependency")
    program = "import ray; ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)\n" + (
        f"@ray.remote\ndef job():\n    {CHECK}return 1\nassert ray.get([job.remote() for _ in range(4)]) == [1] * 4"
    )
    run(sys.executable, script(tmp_path, program), PYTHONPATH=str(ROOT))
