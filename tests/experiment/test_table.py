"""Means, deviations, comparisons, marks and flags."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smart.config import ConfigError, UserError
from smart.evaluation.metrics import Metric, Scores
from smart.evaluation.statistics import holm
from smart.experiment.dry_run import spent
from smart.experiment.grid import Grid
from smart.experiment.reference import read_reference
from smart.experiment.render import DIFFERENCES, Table, as_csv, differences, latex, markdown
from smart.experiment.scores import check_metrics, shared_metrics
from smart.experiment.table import Material, TableRow, make_rows
from tests.experiment.examples import make_study, scores, write_scores

GRID = Grid.of(
    "mine",
    {"select.strategy": ["smart", "equal", "random"], "select.budget": ["10", "20"]},
    seeds=(1, 2, 3),
    baseline={"select.strategy": "equal"},
)
SIZES = {"rows": 64.0, "tokens": 1000.0, "supervised tokens": 100.0, "steps": 8.0}


def material(
    tmp_path: Path, strategy: str, budget: str, rate: float, seeds: int = 3, **sizes: float
) -> Material:
    found = tuple(
        scores(tmp_path / f"{strategy}{budget}{seed}", rate, seed, loss=2 - rate) for seed in range(seeds)
    )
    values = {"select.budget": budget, "select.strategy": strategy}
    return Material(values, True, "done", found, ({**SIZES, **sizes},) * seeds)


@pytest.fixture
def materials(tmp_path: Path) -> list[Material]:
    return [
        material(tmp_path, "smart", "10", 0.9),
        material(tmp_path, "equal", "10", 0.5),
        material(tmp_path, "random", "10", 0.89, tokens=1021.0),
        material(tmp_path, "smart", "20", 0.6, tokens=2000.0),
        Material({"select.budget": "20", "select.strategy": "equal"}, True, "failed", (), ()),
        Material({}, False, "done", (scores(tmp_path / "base", 0.25, 9, loss=3),), ()),
    ]


def rows_of(materials: list[Material]) -> tuple[list[Metric], list[TableRow]]:
    metrics = shared_metrics([one for m in materials for one in m.scores], None)
    return metrics, make_rows(GRID, materials, metrics)


def test_means_deviations_and_intervals(materials: list[Material]) -> None:
    metrics, rows = rows_of(materials)
    assert [metric.name for metric in metrics] == ["quiz/acc", "heldout_loss/loss"]
    entry = rows[0].entries[0]
    assert entry is not None
    by_hand = [np.concatenate(one.items(metrics[0])).mean() for one in materials[0].scores]
    assert entry.runs == pytest.approx(by_hand)
    assert entry.mean == pytest.approx(np.mean(by_hand))
    assert entry.deviation == pytest.approx(np.std(by_hand, ddof=1))
    assert entry.interval.low < entry.mean < entry.interval.high
    assert entry.interval.high - entry.interval.low < 0.1


def test_loss_is_per_token_whatever_the_lengths(tmp_path: Path) -> None:
    losses = np.array([1.0, 3.0, 8.0])
    write_scores(tmp_path, {"easy": np.ones(2)}, losses)
    read = Scores.read(tmp_path)
    metric = next(metric for metric in read.metrics if metric.metric == "loss")
    assert metric.sign == -1
    assert read.items(metric)[0].mean() == pytest.approx(losses.sum() / 12)


def test_each_row_meets_the_baseline_of_its_own_block_and_holm_holds_for_the_table(
    materials: list[Material],
) -> None:
    _, rows = rows_of(materials)
    compared = [(row, entry) for row in rows for entry in row.entries if entry and entry.against]
    assert {(row.values["select.strategy"], row.values["select.budget"]) for row, _ in compared} == {
        ("smart", "10"),
        ("random", "10"),
    }, "the baseline of budget 20 failed, and the untuned model does not compete"
    assert len(compared) == 4
    p = [entry.against.p for _, entry in compared if entry.against]
    assert [entry.adjusted for _, entry in compared] == pytest.approx(holm(p).tolist())
    better = rows[0].entries[0]
    assert better is not None
    assert better.against is not None
    assert better.against.interval.value == pytest.approx(0.4, abs=0.05)
    assert better.adjusted is not None
    assert better.adjusted < 0.05


def test_the_best_of_a_block_is_marked_and_what_cannot_be_told_from_it(materials: list[Material]) -> None:
    _, rows = rows_of(materials)
    marks = [[(entry.best, entry.near_best) if entry else None for entry in row.entries] for row in rows]
    assert marks[0] == [(True, False), (True, False)], "less loss is better"
    assert marks[1][0] == (False, False)
    assert marks[2][0] == (False, True)
    assert marks[3] == [(False, False)] * 2, "alone in its block, it is the best of nothing"
    assert marks[5] == [(False, False)] * 2


def test_one_seed_is_compared_on_its_items_and_one_with_several_is_not(tmp_path: Path) -> None:
    one = [material(tmp_path, "smart", "10", 0.9, seeds=1), material(tmp_path, "equal", "10", 0.5, seeds=1)]
    _, rows = rows_of(one)
    entry = rows[0].entries[0]
    assert entry is not None
    assert entry.deviation is None
    assert entry.against is not None
    assert entry.against.test == "mid-p McNemar"


@pytest.mark.parametrize(("seeds", "words"), [((1, 3), "1 and 3 seeds"), ((2, 2), "2 seeds")])
def test_too_few_seeds_have_no_test_and_the_table_says_so(
    tmp_path: Path, seeds: tuple[int, int], words: str
) -> None:
    made = [
        material(tmp_path, name, "10", rate, seeds=k)
        for name, rate, k in zip(("smart", "equal"), (0.9, 0.5), seeds, strict=True)
    ]
    lines = differences(make_table(made))
    assert len(lines) == 2
    for line in lines:
        assert line[3] == "not known"
        assert line[5] == f"none: {words}, 3 are needed"
        assert line[6:] == ["", "", "no test"]
    assert "3 seeds of each are needed" in markdown(make_table(made))
    marked = [entry.near_best for row in make_table(made).rows for entry in row.entries if entry]
    assert not any(marked), "what has no test is not called indistinguishable"


def test_a_run_that_several_seeds_share_counts_once(tmp_path: Path) -> None:
    """As with select.budget=64,64, or with train.seed given: the same run three times has no spread."""
    shared = replace(material(tmp_path, "smart", "10", 0.9, seeds=1), tuned=True)
    shared = replace(shared, scores=shared.scores * 3)
    (row,) = make_table([shared]).rows
    (entry, _) = row.entries
    assert entry is not None
    assert len(entry.runs) == 1
    assert entry.deviation is None
    assert Grid.of("mine", {"select.budget": [64, 64]}).axes == {}
    assert Grid.of("mine", {"select.budget": [64, 64, 32]}).axes == {"select.budget": [64, 32]}


def test_equal_bests_are_marked_alike(tmp_path: Path) -> None:
    best = material(tmp_path, "smart", "10", 0.9)
    twin = replace(material(tmp_path, "random", "10", 0.9), scores=best.scores)
    third = material(tmp_path, "equal", "10", 0.88)
    _, rows = rows_of([best, twin, third])
    marks = [(entry.best, entry.near_best) for row in rows for entry in row.entries[:1] if entry]
    assert marks[:2] == [(True, False), (True, False)]
    assert not marks[2][0]


def test_sizes_that_are_spread_are_flagged_inside_a_block_alone(materials: list[Material]) -> None:
    _, rows = rows_of(materials)
    assert [row.flagged for row in rows[:3]] == [("tokens",)] * 3, "2.1 % of 1,007 tokens"
    assert rows[3].flagged == (), "another budget is another block"


def test_answers_to_other_questions_are_refused(tmp_path: Path) -> None:
    first, second = scores(tmp_path / "a", 0.5, 1, items=20), scores(tmp_path / "b", 0.5, 1, items=21)
    with pytest.raises(UserError, match="did not answer the same questions"):
        shared_metrics([first, second], None)
    with pytest.raises(UserError, match="Did you mean quiz/acc"):
        shared_metrics([first], ["quiz/ac"])


def make_table(materials: list[Material], reference: Path | None = None) -> Table:
    metrics, rows = rows_of(materials)
    return Table(
        "Mine & others",
        GRID,
        metrics,
        rows,
        ["A note."],
        read_reference(reference, GRID),
    )


def test_markdown_has_marks_states_and_comparisons(materials: list[Material]) -> None:
    text = markdown(make_table(materials))
    smart = next(line for line in text.splitlines() if line.startswith("| 10 | smart"))
    assert smart.count("**") == 4
    assert "±" in smart
    assert "1,000 !" in smart
    assert "†" in next(line for line in text.splitlines() if line.startswith("| 10 | random"))
    assert "| 20 | equal | (failed) |" in text
    assert "untuned" in text
    assert "## Against the baseline (strategy=equal)" in text
    assert len(differences(make_table(materials))) == 4


def test_latex_is_booktabs_with_everything_escaped(materials: list[Material]) -> None:
    text = latex(make_table(materials))
    assert r"\caption{Mine \& others." in text
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 1 + 6
    assert {line.count("&") for line in lines} == {7}
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert r"heldout\_loss \\ loss\end{tabular}" in body, "a head in lines"
    assert r"\textbf{" in body
    assert body.count(r"\midrule") == 1 + 2, "a rule between blocks"
    assert "±" not in text
    assert "†" not in text


NAMES = ("[2.5mm]", "*", "=1+1", "a|b", "<b>x</b>", "50% & $x_1$ #{}~^\\")


def strange(tmp_path: Path) -> Table:
    """A table whose names are read as commands, where they are not escaped."""
    grid = Grid.of(NAMES[-1], {"select.strategy": [*NAMES]}, baseline={"select.strategy": "*"})
    made = [
        replace(material(tmp_path, f"s{n}", "10", 0.5), values={"select.strategy": name})
        for n, name in enumerate(NAMES)
    ]
    metrics = shared_metrics(made[0].scores, None) * 6
    return Table(NAMES[-1], grid, metrics, make_rows(grid, made, metrics), [*NAMES])


def test_names_are_text_in_every_format(tmp_path: Path) -> None:
    table = strange(tmp_path)
    tex, text, sheet = latex(table), markdown(table), as_csv(table)
    after = re.findall(r"(?:\\\\|rule)\s*(\S)", tex)
    assert not set(after) & set("[*"), "read as a length, or as a part of the command"
    assert "<b>" not in text
    assert {line.replace(r"\|", "").count("|") for line in text.splitlines() if line.startswith("|")} == {
        1 + len(table.head()),
        1 + len(DIFFERENCES),
    }
    first = {line[0] for line in csv.reader(io.StringIO(sheet))}
    assert first >= {"'=1+1", "[2.5mm]"}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs a TeX")
def test_latex_compiles_and_a_wide_table_fits(tmp_path: Path) -> None:
    head = "\\documentclass{article}\\usepackage[utf8]{inputenc}\\usepackage{booktabs,graphicx}\\begin{document}\n"
    (tmp_path / "page.tex").write_text(head + latex(strange(tmp_path)) + "\\end{document}\n")
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in done.stdout
    assert (tmp_path / "page.pdf").stat().st_size > 10_000


def test_csv_has_every_number(materials: list[Material]) -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(make_table(materials)))))
    assert len(lines) == 6 * 2
    first = lines[0]
    assert (first["select.budget"], first["select.strategy"], first["metric"]) == ("10", "smart", "acc")
    assert float(first["low"]) < float(first["mean"]) < float(first["high"])
    assert first["best"] == "True"
    assert first["seeds"] == "3"
    assert first["flagged"] == "tokens"
    assert float(first["p_holm"]) >= float(first["p"])


def test_published_values_come_from_a_file_with_sources_alone(
    tmp_path: Path, materials: list[Material]
) -> None:
    assert "reference" not in markdown(make_table(materials))
    file = tmp_path / "published.csv"
    file.write_text(
        "select.strategy,select.budget,metric,value,source\nsmart,10,quiz/acc,0.5,Someone 2020 p. 3\n"
    )
    text = markdown(make_table(materials, file))
    assert r"quiz/acc 0.5 \[Someone 2020 p. 3\]" in next(
        x for x in text.splitlines() if x.startswith("| 10 | smart")
    )
    assert text.count("Someone") == 1
    file.write_text("metric,value,source\nquiz/acc,0.5,\n")
    with pytest.raises(UserError, match="line 2: has no source"):
        read_reference(file, GRID)
    file.write_text("train.epochs,metric,value,source\n2,quiz/acc,0.5,x\n")
    with pytest.raises(UserError, match=r"train.epochs does not vary"):
        read_reference(file, GRID)


def test_unseen_tasks_are_drawn_with_all_their_items() -> None:
    """What two tasks differ by is no noise of items, but it is of a sample of tasks."""
    means = np.linspace(0, 1, 20)
    values = {(f"t{n}", "exact_match", "none"): np.full(50, mean) for n, mean in enumerate(means)}
    parts = {part: [f"t{n}" for n in range(20)] for part in ("heldout_text", "quiz")}
    metrics = {part: Metric(part, "exact_match", "none", "macro") for part in parts}
    one = Scores("one", "", values, parts, {}, tuple(metrics.values()))
    few = Scores("few", "", values, {"heldout_text": parts["quiz"][:9]}, {}, ())
    assert len(few.items(metrics["heldout_text"])) == 9, "too few to tell how tasks differ"
    row = make_rows(GRID, [Material({}, False, "done", (one,), ())], one.metrics)[0]
    unseen, fixed = (entry.interval for entry in row.entries if entry)
    assert unseen.value == pytest.approx(fixed.value) == pytest.approx(0.5)
    assert fixed.high - fixed.low < 0.07, "of 1,000 items that vary in no task"
    assert unseen.high - unseen.low == pytest.approx(2 * 2.09 * means.std(ddof=1) / 20**0.5, rel=0.1)
    entries = [entry for entry in row.entries if entry]
    assert [entry.drawn for entry in entries] == ["20 tasks", "1,000 items in 20 subtasks"]


def test_chance_stands_beside_a_score(tmp_path: Path) -> None:
    quiz, loss = scores(tmp_path / "s", 0.5, 1, loss=1.0).metrics
    assert quiz.chance == pytest.approx(0.25)
    assert quiz.title == "quiz acc (chance 0.250)"
    assert loss.chance is None


def test_what_it_took_is_a_table_of_the_runs_that_are_done(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    assert spent(study) == []
    for run in study.runs:
        run.folder.mkdir(parents=True)
        took = {"seconds": {"load": 1.0, "all": 1800.0}, "peak_memory": 2_000_000_000}
        took = took if run.stage == "evaluate" else {"seconds": 3600.0}
        read = {"train": "mixture", "evaluate": "adapter"}.get(run.stage)
        source = {read: {"key": run.source.key}} if read and run.source else {}
        (run.folder / "manifest.json").write_text(json.dumps({"key": run.key, **took, **source}))
    lines = spent(study)
    counts = {
        stage: sum(run.stage == stage for run in study.runs) for stage in ("select", "train", "evaluate")
    }
    assert [line[:3] for line in lines] == [
        ["select", str(counts["select"]), f"{counts['select']:.2f}"],
        ["train", str(counts["train"]), f"{counts['train']:.2f}"],
        ["evaluate", str(counts["evaluate"]), f"{counts['evaluate'] / 2:.2f}"],
    ]
    assert [line[3] for line in lines] == ["", "", "2.00 GB"]
    table = Table("mine", study.grid, [], [], [], spent=lines)
    assert "## What it took" in markdown(table)


def test_metrics_that_no_suite_has_are_told_together() -> None:
    suites = [{"tasks": ["mmlu", "heldout_text"]}, {"tasks": []}]
    check_metrics(["mmlu/acc", "heldout_text/rougeL", "heldout_loss/loss"], suites)
    check_metrics(None, suites)
    with pytest.raises(ConfigError) as raised:
        check_metrics(["mmul/acc", "heldout_text/rouge", "mmlu/acc"], suites)
    assert "metrics=mmul/acc: no suite of the grid has that part" in str(raised.value)
    assert "Did you mean rougeL?" in str(raised.value)
    assert "mmlu/acc:" not in str(raised.value)
