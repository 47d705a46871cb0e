"""The page: whole in one file, drawn in a browser without a complaint."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from smart.config import Composition
from smart.evaluation.metrics import Scores
from smart.experiment.config import ReproduceConfig
from smart.experiment.execute import Runner, one_after_the_other, run_missing
from smart.experiment.render import Table
from smart.experiment.report import TaskMap, report
from smart.experiment.results import read_table, write_results
from smart.experiment.run_graph import Study
from smart.experiment.status import RunLog
from smart.experiment.table import Material, make_rows
from smart.experiment.table_figures import palette
from smart.runtime.names import joined
from smart.runtime.plot_style import COLOURS
from tests.experiment.examples import fakes, make_study, scores

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TASKS = ["a/<b>first</b>", "a/second", "b/third"]


@dataclass(frozen=True)
class Made:
    study: Study
    run_log: RunLog
    table: Table
    folder: Path

    @property
    def page(self) -> Path:
        return self.folder / "report.html"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
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
    names = [joined(*task.split("/", 1)) for task in TASKS]
    task_map = TaskMap(names, places, np.array([0.5, 0.25]))
    write_results(folder, study, run_log, table, task_map, config)
    return Made(study, run_log, table, folder)


@pytest.fixture
def page(made: Made) -> Path:
    return made.page


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


def test_the_samples_that_a_report_was_made_from_lie_beside_it(made: Made) -> None:
    """So that its intervals can be made again, by a better method too."""
    kept = {folder.name: Scores.read(folder) for folder in (made.folder / "samples").iterdir()}
    done = {cell.last.folder.name: cell for cell in made.study.cells if cell.last.folder.exists()}
    assert set(kept) == set(done)
    for row in made.table.rows:
        scores = [kept[name] for name, cell in done.items() if cell.values == row.values]
        again = make_rows(
            made.study.grid, [Material(row.values, False, "done", tuple(scores), ())], made.table.metrics
        )
        expected = [entry and entry.interval for entry in row.entries]
        assert [entry and entry.interval for entry in again[0].entries] == expected
    assert all("responses" not in pq.read_schema(path).names for path in made.folder.rglob("samples.parquet"))


def test_a_strategy_has_one_colour_in_all_figures(made: Made) -> None:
    colours = palette(made.study.grid)
    assert list(colours) == ["smart", "equal"]
    for name in ("scores", "budget", "budgets", "gains"):
        found = set(re.findall(r"stroke: (#[0-9a-f]{6})", (made.folder / f"figures/{name}.svg").read_text()))
        palettes = {colour.lower() for colour in COLOURS[:6]} & found
        assert palettes <= {colour.lower() for colour in colours.values()}, name
        assert palettes, name


def wide(table: Table) -> Table:
    """The table with nine metrics of long names, as a study of several suites has."""
    names = [f"bbh_zeroshot_boolean_expressions_{n}" for n in range(9)]
    metrics = [replace(table.metrics[0], part=name, filter="flexible-extract") for name in names]
    rows = [replace(row, entries=tuple(row.entries[:1]) * 9, values={**row.values}) for row in table.rows]
    return replace(table, metrics=metrics, rows=rows)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_browser_draws_it_without_a_complaint(made: Made, tmp_path: Path) -> None:
    # Asks the page itself, after its script has run and the mouse has been over a task.
    probe = """<script>addEventListener("load", () => {
      const circle = document.querySelector("#map circle"), images = [...document.images];
      circle.dispatchEvent(new MouseEvent("mousemove", {clientX: 300, clientY: 300, bubbles: true}));
      document.title = JSON.stringify([images.length, images.every(i => i.naturalWidth > 200),
        document.getElementById("mixture").options.length, circle.getAttribute("r") !== "5",
        document.getElementById("tip").textContent,
        [...document.querySelectorAll("table")].map(table => table.getBoundingClientRect().right).concat(
          document.documentElement.scrollWidth)]);
    });</script></body>"""
    probed = tmp_path / "probed.html"
    # The figures of the page, and a table that is far wider than it.
    text = report(made.study, made.run_log, wide(made.table), [], None, "python reproduce.py")
    more = re.search("<h2>Scores</h2>.*<h2>Cells</h2>", text, re.DOTALL)
    assert more is not None
    probed.write_text(made.page.read_text().replace("</body>", f"{more[0]}{probe}"))
    assert BROWSER is not None
    done = subprocess.run(
        [
            *(BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *(
                "--window-size=1280,900",
                "--virtual-time-budget=4000",
                f"--user-data-dir={tmp_path / 'browser'}",
            ),
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
    edges = json.loads(html.unescape(title[1]))[-1]
    assert len(edges) == 3 + 4 + 1, "scores, differences and costs; the wide scores in two tables; the page"
    assert max(edges) <= 1280, "cut off"
    assert "CONSOLE" not in done.stderr
