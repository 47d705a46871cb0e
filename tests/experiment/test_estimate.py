"""Guesses before anything was measured: by hand from the arithmetic of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smart.experiment.dry_run import Basis, costs, describe_plan
from smart.experiment.estimate import Texts, estimate, parameters_of
from smart.experiment.lengths import heldout_texts, mixture_texts
from smart.experiment.status import RunLog, Status
from smart.runtime.speed import A100, Speed, measure
from tests.experiment.examples import make_study

SPEED = Speed("a machine", flops=1e12, bandwidth=1e10, call=0.0, unpack=0.0, start=0.0)
MODEL = {"model": {"name": "a-7b"}}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mistralai/Mistral-7B-v0.1", 7e9),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 135e6),
        ("falcon_7b", 7e9),
        ("org/model-1.5b", 1.5e9),
        ("tiny_llama", 150e3),
        ("Llama-2", None),
    ],
)
def test_parameters_are_read_from_the_name(name: str, expected: float | None) -> None:
    assert parameters_of({"name": name}) == expected


def test_a_tiny_model_has_about_as_many_parameters_as_is_said() -> None:
    from smart.model import ModelOptions, find_base

    counted = sum(weight.numel() for weight in find_base(ModelOptions("tiny_llama")).skeleton().parameters())
    assert parameters_of({"name": "tiny_llama"}) == pytest.approx(counted, rel=0.5)


def seconds(stage: str, config: dict[str, Any], source: dict[str, Any] | None, texts: Texts | None) -> float:
    found = estimate(stage, config, source, SPEED, texts).seconds
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("tuning", "passes"),
    [
        ({"method": "qlora", "checkpoint_activations": True}, 3),
        ({"method": "lora", "checkpoint_activations": False}, 2),
        ({"method": "full", "checkpoint_activations": True}, 4),
    ],
)
def test_a_pass_of_training_is_two_operations_a_parameter_and_token(
    tuning: dict[str, Any], passes: int
) -> None:
    texts = Texts([40, 24], tokens=250.0)
    config = {**MODEL, "epochs": 2, "batch_size": 8, "tuning": tuning}
    examples = 2 * 64 + 8  # the first step takes as long again; 1.1 is padding, 1.6 what is no product
    by_hand = passes * 2 * 7e9 * examples * 250 * 1.1 * 1.6 / 1e12
    assert seconds("train", config, {"validation_rows": 0}, texts) == pytest.approx(by_hand)
    validated = seconds("train", config, {"validation_rows": 100}, texts) - by_hand
    assert validated == pytest.approx(2 * 2 * 7e9 * 100 * 250 / 1e12), "at the start and at the end"
    capped = seconds("train", {**config, "max_steps": 1, "max_length": 100}, {}, texts)
    assert capped == pytest.approx(passes * 2 * 7e9 * (8 + 8) * 100 * 1.1 * 1.6 / 1e12)


def test_adapters_are_as_large_as_llamas() -> None:
    found = estimate("train", {**MODEL, "tuning": {"lora_r": 64}}, {"budget": "25k"}, A100, None)
    assert found.bytes == pytest.approx(4 * 160e6, rel=0.01), "160 million parameters for Llama 2 7B"


def test_what_cannot_be_told_is_not_told() -> None:
    unknown: list[tuple[str, dict[str, Any], dict[str, Any] | None]] = [
        ("train", {"model": {"name": "Llama-2"}}, {"budget": "25k"}),
        ("train", MODEL, {"budget": "5%"}),
        ("select", {"budget": "25k"}, None),
        ("evaluate", {"suite": {"tasks": ["mmlu", "something_else"]}}, MODEL),
        ("evaluate", {"suite": {"tasks": [], "collection": "unseen.parquet"}}, MODEL),
    ]
    for stage, config, source in unknown:
        assert estimate(stage, config, source, SPEED, None).seconds is None


def test_benchmarks_are_counted_whole_by_task_and_by_limit() -> None:
    def asked(*tasks: str, **more: Any) -> float:
        return seconds("evaluate", {"suite": {"tasks": list(tasks), **more}, "batch_size": 8}, MODEL, None)

    assert asked("mmlu") == pytest.approx(2 * 7e9 * 14_042 * 130 / 1e12)
    assert asked("mmlu_anatomy") == pytest.approx(asked("mmlu") / 57)
    assert asked("mmlu", limit=20) == pytest.approx(2 * 7e9 * 57 * 20 * 130 / 1e12)
    assert asked("mmlu", shots=5) > 5 * asked("mmlu")
    assert asked("bbh_cot_fewshot") > asked("bbh_fewshot") > asked("bbh_zeroshot") > asked("mmlu")


def test_generation_reads_all_weights_for_each_token_of_a_batch() -> None:
    texts = Texts([8], tokens=100.0, longest=[16.0])
    config = {"suite": {"tasks": [], "collection": "unseen.parquet"}, "batch_size": 8}
    read = 2 * (2 * 7e9 * 8 * 100 / 1e12)  # once for the loss, once for the answer
    written = 16 * (7e9 * 2 / 1e10 + 2 * 7e9 * 8 / 1e12)
    assert seconds("evaluate", config, MODEL, texts) == pytest.approx(read + written)


def test_vectors_and_orders_are_paid_for_once() -> None:
    config = {"budget": "25k", "encoder": {"_target_": "smart.embedding.WordLlama"}}
    first, second = (seconds("select", config, None, Texts([500] * 20, made=made)) for made in (False, True))
    assert first - second == pytest.approx(10_000 / 20_000 + 8 * 20 * 500**2 * 256 / 1e12)


def test_lengths_are_those_of_the_rows_by_the_models_own_tokenizer(tmp_path: Path) -> None:
    from smart.model import ModelOptions, encode, find_base, load_tokenizer

    prompts, answers = [f"what is {n} and {n}?" for n in range(30)], ["it is"] * 30
    pq.write_table(pa.table({"prompt": prompts, "response": answers}), tmp_path / "train.parquet")
    tokenizer = load_tokenizer(find_base(ModelOptions("tiny_llama")), lambda: [*prompts, *answers])
    rows = [row for row in encode(tokenizer, prompts, answers) if row is not None]
    found = mixture_texts(tmp_path, {"name": "tiny_llama"})
    assert found.rows == 30
    assert found.tokens == pytest.approx(sum(len(r.prompt) + len(r.response) for r in rows) / 30)
    elsewhere = mixture_texts(tmp_path, {"name": "org/not-here-7b"})
    characters = sum(map(len, [*prompts, *answers])) / 30
    assert elsewhere.tokens == pytest.approx(characters / 4 + 1), "the hub is not asked"


def test_conversations_are_counted_with_all_that_stands_before_their_last_answer(tmp_path: Path) -> None:
    words = ["what is this?", "it is that", "and that?", "it is this"]
    roles = ["user", "assistant"] * 2
    turns = [{"role": role, "content": text} for role, text in zip(roles, words, strict=True)]
    pq.write_table(pa.table({"messages": [turns] * 3}), tmp_path / "train.parquet")
    found = mixture_texts(tmp_path, {"name": "org/not-here-7b"})
    assert found.rows == 3
    assert found.tokens == pytest.approx((sum(map(len, words)) + 2 * 2) / 4 + 1), (
        "turns are apart by an empty line"
    )


def test_each_task_generates_as_many_tokens_as_its_longest_answer_has() -> None:
    rows = pa.table(
        {"inputs": ["say"] * 3, "targets": ["x" * 4, "x" * 40, "x" * 80], "task_name": ["a", "a", "b"]}
    )
    found = heldout_texts(rows, {"name": "org/not-here-7b"})
    assert found.sizes == [2, 1]
    assert found.longest[1] == pytest.approx(2 * found.longest[0], rel=0.1)


def test_a_plan_says_what_its_estimates_rest_on(tmp_path: Path) -> None:
    study, run_log = make_study(tmp_path), RunLog(tmp_path / "logs")
    assert "time by one A100; GPU-hours on one A100; no rows are known yet" in describe_plan(
        study, run_log, {}
    )
    known = {run.id: Texts([64], 100.0) for run in study.runs if run.stage == "train"}
    basis = Basis(known, SPEED)
    assert "time by a machine; GPU-hours on one A100; real lengths of rows" in describe_plan(
        study, run_log, {}, basis
    )
    found = costs(study, dict.fromkeys((run.id for run in study.runs), Status.WAITING), basis)["train"]
    assert found.seconds is not None
    assert found.gpu_seconds is not None
    each = estimate("train", study.config(study.cells[0].runs[1]), {}, SPEED, Texts([64], 100.0)).seconds
    assert found.seconds == pytest.approx(found.left * (each or 0))
    assert found.gpu_seconds != found.seconds


def test_this_machine_is_measured_in_its_own_dtype() -> None:
    speed = measure("float32")
    assert 1e9 < speed.flops < 1e15
    assert speed.bandwidth > 1e8
    assert "measured now" in speed.name


def test_groups_of_unseen_tasks_are_counted_as_they_are_named() -> None:
    texts = Texts([100], 10.0, [5.0])

    def taken(*tasks: str) -> float:
        suite = {"tasks": list(tasks), "collection": "unseen.parquet", "limit": 10}
        return seconds("evaluate", {**MODEL, "suite": suite}, None, texts)

    loss, text = taken("heldout_loss"), taken("heldout_text")
    assert loss == pytest.approx(2 * 7e9 * 10 * 10 / 1e12)
    assert text > loss
    assert taken() == pytest.approx(loss + text)
    assert taken("heldout_loss", "heldout_text", "mmlu_anatomy") > loss + text


def test_a_pool_is_read_for_every_selection_and_searched_once() -> None:
    plain = {"encoder": "wordllama"}
    sizes = [1] * 200_000

    def taken(made: bool = False, **more: Any) -> float:
        return seconds("select", {**plain, **more}, None, Texts(sizes, made=made))

    assert taken(made=True, decontaminate="drop") == taken(made=True) == pytest.approx(2.0)
    assert taken(decontaminate="drop") - taken() == pytest.approx(200_000 / 7_000)
    assert taken(collection={"_target_": "smart.collection.ReasoningGym"}) - taken() > 60
