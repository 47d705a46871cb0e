"""Unseen tasks of a file become lm-eval tasks, and their metrics equal those worked out apart."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from smart.benchmarks.heldout import heldout_texts
from smart.benchmarks.suites import Suite
from smart.config import UserError
from smart.evaluation import scoring
from smart.evaluation.cached_lm import Processes
from smart.evaluation.heldout import per_token, score_text, write_tasks
from smart.evaluation.job import load_tasks
from smart.model import encode
from tests.evaluation.examples import WORDS, make_job

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Three tasks of two categories; one has options."""
    rng = np.random.default_rng(3)
    rows = []
    for task, category in (("task1_a", "Cause"), ("task2_b", "Cause"), ("task3_c", "Title")):
        for _ in range(4):
            options = ["yes", "no way", "it is not"] if task == "task2_b" else []
            answer = str(rng.choice(options)) if options else " ".join(rng.choice(WORDS, rng.integers(1, 6)))
            rows.append(
                {
                    "inputs": " ".join(rng.choice(WORDS, 12)) + "\nOutput:",
                    "targets": answer,
                    "task_name": task,
                    "task_source": category,
                    "references": [answer, "the other"],
                    "options": options,
                }
            )
    path = tmp_path_factory.mktemp("collection") / "unseen.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="module")
def scored(collection, model, benchmarks, cache, tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("heldout") / "scores"
    suite = Suite("heldout", (), 0, str(collection))
    job = make_job(model, benchmarks, cache, suite=suite)
    return scoring.score(job, folder, Processes(), CPU), folder


def part(result: dict, name: str, metric: str) -> dict:
    (row,) = [row for row in result["scores"] if (row["part"], row["metric"]) == (name, metric)]
    return row


def test_the_loss_is_that_of_training_per_supervised_token(scored, collection, model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = pq.read_table(collection).to_pylist()
    sums: dict[str, list[float]] = {}
    tokens_of: dict[str, int] = {}
    for row in rows:
        (tokens,) = encode(tokenizer, [row["inputs"]], [row["targets"]])
        ids = torch.tensor([tokens.prompt + tokens.response])
        labels = torch.tensor([[-100] * len(tokens.prompt) + tokens.response])
        loss = network(input_ids=ids, labels=labels).loss.item() * len(tokens.response)
        sums.setdefault(row["task_name"], []).append(loss)
        tokens_of[row["task_name"]] = tokens_of.get(row["task_name"], 0) + len(tokens.response)
    expected = {name: math.fsum(losses) / tokens_of[name] for name, losses in sums.items()}
    result, _ = scored
    for name, loss in expected.items():
        assert result["results"][f"heldout_loss_{name}"]["loss,none"] == pytest.approx(loss, rel=1e-5)
    row = part(result, "heldout_loss", "loss")
    assert row["macro"]["value"] == pytest.approx(np.mean(list(expected.values())), rel=1e-5)
    by_category = [(expected["task1_a"] + expected["task2_b"]) / 2, expected["task3_c"]]
    assert row["macro_categories"]["value"] == pytest.approx(np.mean(by_category), rel=1e-5)


def test_the_likeliest_option_is_taken_where_there_are_options(scored):
    result, folder = scored
    assert result["parts"]["heldout_options"] == ["heldout_options_task2_b"]
    rows = [
        r
        for r in pq.read_table(folder / "samples.parquet").to_pylist()
        if r["task"].startswith("heldout_options")
    ]
    assert len(rows) == 4
    for row in rows:
        assert row["correct"] == float(int(np.argmax(row["likelihoods"])) == int(row["target"]))


def test_all_metrics_of_all_tasks_are_reported(scored):
    result, _ = scored
    assert {(row["part"], row["metric"]) for row in result["scores"]} == {
        ("heldout_text", "exact_match"),
        ("heldout_text", "rougeL"),
        ("heldout_loss", "loss"),
        ("heldout_options", "acc"),
        ("heldout_options", "acc_norm"),
    }
    assert part(result, "heldout_text", "rougeL")["items"] == 12


def test_lm_evals_own_command_runs_the_files(scored, collection, model, tmp_path):
    import lm_eval
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    folder = write_tasks(collection, AutoTokenizer.from_pretrained(model), tmp_path)
    theirs = lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={model},dtype=float32",
        tasks=["heldout_loss", "heldout_text", "heldout_options"],
        task_manager=TaskManager(include_defaults=False, include_path=str(folder)),
        batch_size=4,
        device="cpu",
    )
    assert theirs is not None
    result, _ = scored
    for name, found in result["results"].items():
        assert {k: v for k, v in theirs["results"][name].items() if k != "alias"} == {
            k: v for k, v in found.items() if k != "alias"
        }


def lcs(a: list[str], b: list[str]) -> int:
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def test_rouge_l_equals_its_definition_and_takes_the_best_reference():
    answer, references = "the cat sat on a mat", ["a dog", "the cat lay on the mat"]
    shared = lcs(answer.split(), references[1].split())
    assert shared == 4
    scores = score_text({"references": references}, [answer])
    assert scores["rougeL"] == pytest.approx(2 * (4 / 6) * (4 / 6) / (4 / 6 + 4 / 6))
    assert scores["exact_match"] == 0


def test_case_and_punctuation_do_not_count_in_exact_match():
    assert score_text({"references": ["No", "Yes, it is."]}, [" yes it is\n"])["exact_match"] == 1


def test_scoring_says_nothing_for_each_answer(caplog):
    with caplog.at_level("INFO"):
        for number in range(3):
            score_text({"references": ["it is"]}, [f"it is {number}"])
    assert caplog.text == ""


def test_long_answers_weigh_more_in_the_loss():
    assert per_token([(2.0, 1), (2.0, 3)]) == 1.0


def test_files_that_cannot_be_used_are_refused(collection, model, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    with pytest.raises(UserError, match="no such file"):
        write_tasks(tmp_path / "nothing.parquet", tokenizer, tmp_path)
    pq.write_table(pq.read_table(collection).drop_columns(["task_name"]), tmp_path / "bad.parquet")
    with pytest.raises(UserError, match="lacks the columns task_name"):
        write_tasks(tmp_path / "bad.parquet", tokenizer, tmp_path)


def test_rows_without_options_make_no_options_task(collection, model, tmp_path):
    from transformers import AutoTokenizer

    folder = write_tasks(collection, AutoTokenizer.from_pretrained(model), tmp_path)
    kinds = Counter(file.stem.rsplit("_task", 1)[0] for file in folder.glob("heldout_*_task*.yaml"))
    assert kinds == {"heldout_text": 3, "heldout_loss": 3, "heldout_options": 1}


def test_the_answer_is_the_first_paragraph_that_is_not_empty():
    assert score_text({"references": ["five"]}, ["\n\nfive\n\nSo it is."])["exact_match"] == 1
    assert score_text({"references": ["one\n\ntwo"]}, [" one\n\ntwo"])["exact_match"] == 1


def test_instructions_are_no_text_of_an_unseen_task(tmp_path):
    prompts = [f"Say whether this is so.\nInput: the {word} fell\nOutput:" for word in WORDS]
    path = tmp_path / "unseen.parquet"
    pq.write_table(
        pa.table({"inputs": prompts, "targets": ["x"] * len(WORDS), "task_name": ["t"] * len(WORDS)}), path
    )
    assert heldout_texts(path) == {"heldout/t": [f"Input: the {word} fell" for word in WORDS]}


def test_groups_that_are_named_are_asked_alone(collection, model, benchmarks, cache):
    def asked(*tasks: str) -> list[str]:
        suite = Suite("heldout", tasks, 0, str(collection))
        return list(load_tasks(make_job(model, benchmarks, cache, suite=suite))[0].parts)

    assert asked("heldout_loss") == ["heldout_loss"]
    assert asked() == ["heldout_text", "heldout_loss", "heldout_options"]


def test_chance_is_a_random_option_or_the_commonest_answer(scored, collection):
    rows = pq.read_table(collection).to_pylist()
    shares = [
        max(Counter(row["targets"] for row in rows if row["task_name"] == task).values()) / 4
        for task in ("task1_a", "task2_b", "task3_c")
    ]
    assert part(scored[0], "heldout_options", "acc")["chance"]["micro"] == pytest.approx(1 / 3)
    assert part(scored[0], "heldout_text", "exact_match")["chance"]["macro"] == pytest.approx(np.mean(shares))
    assert "chance" not in part(scored[0], "heldout_text", "rougeL")


def test_a_length_without_room_is_refused_before_a_model_is_loaded(
    collection, model, benchmarks, cache, tmp_path, monkeypatch
):
    monkeypatch.setattr(scoring, "load_lm", lambda *_: pytest.fail("a model was loaded"))
    suite = Suite("heldout", (), 0, str(collection))
    job = make_job(model, benchmarks, cache, suite=suite, max_length=2)
    with pytest.raises(UserError, match=r"max_length=2: heldout_text_\w+ generates up to \d+ tokens"):
        scoring.score(job, tmp_path / "scores", Processes(), CPU)
