"""Unseen tasks of a file become lm-eval tasks, and their metrics equal those worked out apart."""

from __future__ import annotations

import math
import shutil
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from smart.benchmarks.heldout import heldout_texts, read_heldout
from smart.benchmarks.suites import Suite
from smart.config import UserError
from smart.evaluation import scoring
from smart.evaluation.heldout import heldout_groups, per_token, score_text, task_stems
from smart.evaluation.job import load_tasks
from smart.model import encode
from smart.runtime.processes import Processes
from tests.evaluation.examples import WORDS, make_job, save_model

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


def test_lm_evals_own_evaluation_gives_the_same(scored, collection, model):
    import lm_eval
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    groups = heldout_groups(collection, AutoTokenizer.from_pretrained(model))
    theirs = lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={model},dtype=float32",
        tasks=list(groups.values()),
        task_manager=TaskManager(include_defaults=False),
        batch_size=4,
        device="cpu",
    )
    assert theirs is not None
    result, _ = scored
    for name, found in result["results"].items():
        assert {k: v for k, v in theirs["results"][name].items() if k != "alias"} == {
            k: v for k, v in found.items() if k != "alias"
        }


def test_the_best_reference_counts():
    scores = score_text({"references": ["a dog", "The cat lay, on the mat"]}, ["the cat lay on a mat"])
    assert scores == {"exact_match": 0.0, "rougeL": pytest.approx(5 / 6)}
    assert score_text({"references": ["No", "Yes, it is."]}, [" yes it is\n"])["exact_match"] == 1


def test_scoring_says_nothing_for_each_answer(caplog):
    with caplog.at_level("INFO"):
        for number in range(3):
            score_text({"references": ["it is"]}, [f"it is {number}"])
    assert caplog.text == ""


def test_long_answers_weigh_more_in_the_loss():
    assert per_token([(2.0, 1), (2.0, 3)]) == 1.0


def written(folder, columns):
    pq.write_table(pa.table(columns), folder / "unseen.parquet")
    return folder / "unseen.parquet"


GOOD = {"inputs": ["a", "b"], "targets": ["x", "y"], "task_name": ["t", "t"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ["a", None]}, "inputs: null in 1 row: 1"),
        ({"targets": [None, "x"], "task_name": ["t", None]}, "targets: null in 1 row: 0"),
        ({"targets": [None, "x"], "task_name": ["t", None]}, "task_name: null in 1 row: 1"),
        ({"task_name": ["t", " "]}, "task_name: blank in 1 row: 1"),
        ({"targets": [1, 2]}, "targets: int64 instead of text in 2 rows: 0 (1)"),
        ({"task_source": [1, 2]}, "task_source: int64 instead of text in 2 rows"),
        ({"options": ['["x"]', '["y"]']}, "options: string instead of a list of texts in 2 rows"),
        ({"options": [["x", None], ["y"]]}, "options: holds a null in 1 row: 0"),
        ({"options": [["x", "z"], ["y", ""]]}, "options: holds a blank text in 1 row: 1"),
        ({"references": [["x"], [None]]}, "references: holds a null in 1 row: 1"),
        (
            {"inputs": pa.array([b"\xff", b"b"], pa.binary()).view(pa.string())},
            "inputs: invalid UTF-8 in 1 row: 0",
        ),
        ({name: pa.array([], pa.string()) for name in GOOD}, "holds no rows"),
    ],
)
def test_files_that_cannot_be_used_say_why_and_in_which_rows(tmp_path, change, message):
    with pytest.raises(UserError) as raised:
        read_heldout(written(tmp_path, {**GOOD, **change}), "suite.collection")
    assert message in str(raised.value)
    assert f"suite.collection={tmp_path / 'unseen.parquet'}" in str(raised.value)


def test_a_file_that_is_missing_or_lacks_columns_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_heldout(tmp_path / "nothing.parquet", "suite.collection")
    with pytest.raises(UserError, match=r"no column targets or response.*it has: inputs, task_name"):
        read_heldout(written(tmp_path, {"inputs": ["a"], "task_name": ["t"]}), "suite.collection")
    alone = read_heldout(written(tmp_path, {"inputs": ["a"], "targets": ["b"]}), "suite.collection")
    assert alone["task_name"].to_pylist() == ["unseen"], "named by its file"


def test_a_row_takes_its_task_as_in_a_collection(tmp_path):
    texts = {"inputs": ["a", "b", "c"], "targets": ["x", "y", "z"]}
    sources = {**texts, "source": ["s", None, " "], "domain": ["d", "d", "d"]}
    found = read_heldout(written(tmp_path, sources), "suite.collection")
    assert found["task_name"].to_pylist() == ["s", "unseen", "unseen"]
    nothing = {**texts, "source": pa.nulls(3, pa.string()), "domain": ["d", "d", "e"]}
    found = read_heldout(written(tmp_path, nothing), "suite.collection")
    assert found["task_name"].to_pylist() == ["d", "d", "e"]


def test_cases_from_outside(shared):
    found = {}
    for file in sorted((shared / "cases/evaluation").glob("*.parquet")):
        try:
            read_heldout(file, "suite.collection")
        except UserError as error:
            found[file.stem] = str(error)
    assert list(found) == ["null_target", "str_options", "zero_rows"]
    assert "targets: null in 1 row: 0" in found["null_target"]
    assert "options: string instead of a list of texts in 2 rows" in found["str_options"]


def test_blank_prompts_and_empty_targets_are_scored_without_a_beginning_of_sequence(tmp_path, benchmarks):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = save_model(tmp_path / "falcon", "falcon")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("")["input_ids"] == []
    prompts, targets = ["", "  ", "it was"], ["the of", "in", ""]
    columns = {"inputs": prompts, "targets": targets, "task_name": ["a", "b", "c"]}
    columns["options"] = [["the of", "to"], ["in", "to"], None]
    suite = Suite("heldout", (), 0, str(written(tmp_path, columns)))
    job = make_job(folder, benchmarks, tmp_path, suite=suite)
    result = scoring.score(job, tmp_path / "scores", Processes(), CPU)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for name, prompt, target in zip("abc", prompts, targets, strict=True):
        (tokens,) = encode(tokenizer, [prompt], [target])
        ids = torch.tensor([tokens.prompt + tokens.response])
        labels = torch.tensor([[-100] * len(tokens.prompt) + tokens.response])
        loss = network(input_ids=ids, labels=labels).loss.item()
        assert result["results"][f"heldout_loss_{name}"]["loss,none"] == pytest.approx(loss, rel=1e-5)
    assert part(result, "heldout_text", "rougeL")["items"] == 3


def test_rows_whose_target_is_no_option_are_counted(tmp_path, model, caplog):
    from transformers import AutoTokenizer

    columns = {**GOOD, "options": [["x", "z"], ["z", "w"]]}
    groups = heldout_groups(written(tmp_path, columns), AutoTokenizer.from_pretrained(model))
    (task,) = groups["heldout_options"].get_all_tasks()
    assert len(task.eval_docs) == 1
    assert "rows whose target is none of their options: 1" in caplog.text


EVIL = "import pathlib\npathlib.Path({marker!r}).touch()\ndef f(*_): return 'evil'\nscore_text = score_loss = f\n"
YAML = "task: {name}\ndataset_path: parquet\ndoc_to_text: !function evil.f\ndoc_to_target: !function evil.f\n"
TEXTS = (
    "!function evil.f",
    "{{ 7 * 7 }}",
    "{{ cycler.__init__.__globals__.os.mkdir('marker') }}{% for x in y %}",
    "[1, 2]",
    "[" * 200 + "]" * 200,
    "42",
    "²",
    "a\x81\x00b\u2028: - &x *y #z",
)


def test_no_text_of_a_file_and_nothing_in_a_cache_becomes_code(adapter, benchmarks, tmp_path, monkeypatch):
    """Names, prompts, targets, options and categories that would be YAML tags, templates or Python."""
    marker = tmp_path / "marker"
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "inputs": text,
            "targets": text,
            "task_name": name,
            "task_source": text,
            "references": [text],
            "options": [text, "{{ other }}"],
        }
        for name in ("!function evil.f", "{{ name }}")
        for text in TEXTS
    ]
    pq.write_table(pa.Table.from_pylist(rows), "unseen.parquet")
    suite = Suite(
        "heldout", ("mmlu_anatomy", "heldout_text", "heldout_loss", "heldout_options"), 0, "unseen.parquet"
    )
    own = tmp_path / "adapter"
    shutil.copytree(adapter, own)
    job = make_job(None, benchmarks, tmp_path, adapter=own, suite=suite, limit=2)
    folders = [
        tmp_path,
        own,
        *(tmp_path / "cache" / name for name in ("heldout", "heldout/datasets", "benchmarks")),
    ]
    for folder in folders:
        for module in ("evil", "heldout_metrics", "smart/evaluation/heldout", "parquet/parquet"):
            path = folder / f"{module}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(EVIL.format(marker=str(marker)))
        for name in ("mmlu_anatomy", "heldout_text", "heldout_loss"):
            (folder / f"{name}.yaml").write_text(YAML.format(name=name))
    loaded, _ = load_tasks(job)
    for part in ("heldout_text", "heldout_loss", "heldout_options"):
        for name in loaded.parts[part]:
            task = loaded.loaded["tasks"][name]
            docs = list(task.eval_docs)
            assert [task.doc_to_text(doc) for doc in docs] == list(TEXTS)
            assert task.get_config("metadata")["category"] == TEXTS[0]
            if part == "heldout_text":
                assert [task.doc_to_target(doc) for doc in docs] == list(TEXTS)
            if part == "heldout_options":
                assert [task.doc_to_choice(doc) for doc in docs] == [[text, "{{ other }}"] for text in TEXTS]
    result = scoring.score(job, tmp_path / "scores", Processes(), CPU)
    assert part_names(result) >= {"mmlu_anatomy", "heldout_text", "heldout_loss", "heldout_options"}
    assert not marker.exists()


def part_names(result: dict) -> set[str]:
    return {row["part"] for row in result["scores"]}


def test_names_of_tasks_stay_apart():
    names = ["a b", "a-b", "c", "d" * 300, "d" * 299 + "e", "日本"]
    stems = task_stems(names)
    assert len(set(stems.values())) == len(names)
    assert stems["c"] == "c"
    assert stems["日本"] == "日本"
    assert max(map(len, stems.values())) < 120
    assert task_stems(["a b"]) == {"a b": "a_b"}, "a name that is alone keeps its stem"


def test_rows_without_options_make_no_options_task(collection, model):
    from transformers import AutoTokenizer

    groups = heldout_groups(collection, AutoTokenizer.from_pretrained(model))
    assert {name: len(group) for name, group in groups.items()} == {
        "heldout_text": 3,
        "heldout_loss": 3,
        "heldout_options": 1,
    }


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
