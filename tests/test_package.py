"""The wheel carries conf/ and the console scripts, and works in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_configuration_and_nothing_of_the_root(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    on_disk = {f"smart/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert on_disk <= set(names)
    assert not {"select.py", "evaluate.py", "train.py"} & set(names)
    (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
    scripts = zipfile.ZipFile(wheel).read(entry_points).decode()
    for stage in ("select", "train", "evaluate", "reproduce"):
        assert f"smart-{stage} = smart.cli.{stage}:main" in scripts


def test_the_wheel_works_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, folder = tmp_path / "site", tmp_path / "empty"
    folder.mkdir()
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    rows = [{"prompt": f"What is {n} and {n}?", "response": str(2 * n)} for n in range(40)]
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = subprocess.run(
        [
            site / "bin/smart-select",
            "collection=files",
            "collection.path=sums.jsonl",
            "budget=10",
            "tracker=none",
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "10 of 40 rows" in done.stdout
    command = [sys.executable, "-c", "import smart.config; print(smart.config.conf_dir())"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    said = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert said.stdout.strip() == str(site / "smart/conf")
