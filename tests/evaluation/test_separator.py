"""What stands between prompt and response in training stands there in evaluation too."""

from __future__ import annotations

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smart.benchmarks.suites import Suite
from smart.config import UserError
from smart.evaluation.job import load_tasks
from smart.runtime.manifest import write_manifest
from tests.evaluation.examples import make_job


@pytest.fixture
def trained(adapter, tmp_path):
    """trained("\\n"): the folder of an adapter whose training joined rows so."""

    def folder(separator: str):
        made = tmp_path / f"adapter{ord(separator[:1] or '0')}"
        shutil.copytree(adapter, made)
        write_manifest(made, {"key": "k", "config": {"separator": separator}})
        return made

    return folder


def job_of(adapter, model, benchmarks, cache, tasks, collection=None):
    suite = Suite("mini", tasks, shots=2, collection=collection)
    return make_job(model, benchmarks, cache, adapter=adapter, suite=suite)


@pytest.mark.parametrize("separator", ["\n", "", " "])
def test_answers_and_shots_follow_the_separator(trained, model, benchmarks, cache, separator):
    job = job_of(trained(separator), model, benchmarks, cache, ("mmlu_anatomy",))
    loaded, _ = load_tasks(job)
    task = loaded.loaded["tasks"]["mmlu_anatomy"]
    task.build_all_requests(limit=1)
    context, answer = task.instances[0].args
    assert answer == f"{separator}A"
    assert context.endswith("\nAnswer:")
    assert context.count(f"Answer:{separator}") >= 2, "of the shots"
    plain = job_of(None, model, benchmarks, cache, ("mmlu_anatomy",))
    assert ("separator" in job.model.identity) == (separator != " ")
    assert "separator" not in plain.model.identity


def test_the_loss_of_unseen_tasks_follows_it_too(trained, model, benchmarks, cache, tmp_path):
    file = tmp_path / "unseen.parquet"
    pq.write_table(pa.Table.from_pylist([{"inputs": "the of", "targets": "with", "task_name": "a"}]), file)
    continuations = []
    for separator in ("\n", " "):
        loaded, _ = load_tasks(job_of(trained(separator), model, None, cache, (), str(file)))
        (doc,) = loaded.loaded["tasks"]["heldout_loss_a"].eval_docs
        continuations.append(doc["continuation"])
    assert continuations == ["\nwith</s>", " with</s>"]


def test_a_task_that_stops_at_the_separator_is_refused(trained, model, benchmarks, cache):
    job = job_of(trained("\n\n"), model, benchmarks, cache, ("bbh_cot_fewshot_navigate",))
    with pytest.raises(UserError, match=r"bbh_cot_fewshot_navigate: stops at '\\n\\n'.*leave the task out"):
        load_tasks(job)
