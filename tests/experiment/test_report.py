"""The page: whole in one file, drawn in a browser without a complaint."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from smart.config import Composition
from smart.experiment.config import ReproduceConfig
from smart.experiment.execute import Runner, one_after_the_other, run_missing
from smart.experiment.report import TaskMap
from smart.experiment.results import read_table, write_results
from smart.experiment.run_graph import Study
from smart.experiment.status import RunLog
from tests.experiment.examples import fakes, make_study, scores

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TASKS = ["a/<b>first</b>", "a/second", "b/third"]


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of two strategies and two budgets; one cell failed."""
    monkeypatch.setenv("TRAPS", str(tmp_path))
    study, run_log = make_study(tmp_path), RunLog(tmp_path / "logs")
    (tmp_path / "fail").write_text(study.cells[-2].runs[1].name)
    run_missing(
        study,
        run_log,
        one_after_the_other(Runner(run_log, (), fakes(tmp_path)), lambda line: None),
        lambda line: None,
    )
    fill(study)
    composed = Composition(choices={"table": "mine"}, overrides=("table=mine",))
    config = ReproduceConfig(title="Mine <&> others", composed=composed)
    table = read_table(study, run_log, config)
    places = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 3.0]])
    folder = tmp_path / "tables" / "mine"
    task_map = TaskMap(TASKS, places, np.array([0.5, 0.25]))
    write_results(folder, study, run_log, table, task_map, config)
    return folder / "report.html"


def fill(study: Study) -> None:
    """What the fakes leave out: scores, and the tasks of mixtures."""
    for number, cell in enumerate(study.cells):
        if cell.last.folder.exists():
            scores(cell.last.folder, 0.5 + number / 20, number, items=40, loss=2)
    for run in study.runs:
        if run.stage == "select":
            lines = [
                f"{task.replace('/', ',', 1)},{place},{3 - place},0.3,{place + 5},{place + 1}"
                for place, task in enumerate(TASKS)
            ]
            head = "submixture,task_name,order,gain,weight,size,budget"
            (run.folder / "tasks.csv").write_text("\n".join([head, *lines]) + "\n")


def test_the_page_is_whole_and_tells_every_cell(page: Path) -> None:
    text = page.read_text()
    outside = [
        url for url in re.findall(r"""(?:src|href)=["']([^"']+)""", text) if not url.startswith("data:")
    ]
    assert outside == [], "nothing is loaded from elsewhere"
    assert "Mine &lt;&amp;&gt; others" in text
    assert "<b>first</b>" not in text
    assert text.count("<details>") == 9
    assert text.count("<pre>python train.py mixture=") == 8
    assert "manifest key <code>" in text
    assert "cannot do it" in text, "the log's end of what failed"
    assert text.count("<figure>") == 4, "scores, budget, rows of tasks, gains"
    names = {path.name for path in page.parent.rglob("*") if path.is_file()}
    assert {"table.md", "table.tex", "table.csv", "manifest.json", "budget.png", "budget.svg"} <= names


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_browser_draws_it_without_a_complaint(page: Path, tmp_path: Path) -> None:
    # Asks the page itself, after its script has run and the mouse has been over a task.
    probe = """<script>addEventListener("load", () => {
      const circle = document.querySelector("#map circle"), images = [...document.images];
      circle.dispatchEvent(new MouseEvent("mousemove", {clientX: 300, clientY: 300, bubbles: true}));
      document.title = JSON.stringify([images.length, images.every(i => i.naturalWidth > 200),
        document.getElementById("mixture").options.length, circle.getAttribute("r") !== "5",
        document.getElementById("tip").textContent]);
    });</script></body>"""
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</body>", probe))
    assert BROWSER is not None
    done = subprocess.run(
        [
            *(BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *("--virtual-time-budget=4000", f"--user-data-dir={tmp_path / 'browser'}"),
            *("--dump-dom", probed.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stderr
    assert title[1].startswith("[4,true,4,true,"), title[1]
    assert "5 rows in the pool" in title[1]
    assert "CONSOLE" not in done.stderr
