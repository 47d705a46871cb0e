"""Guesses before anything was measured: by hand from the arithmetic of transformers."""

from __future__ import annotations

import pytest

from smart.experiment.estimate import BANDWIDTH, FLOPS, estimate, parameters_of


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mistralai/Mistral-7B-v0.1", 7e9),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 135e6),
        ("falcon_7b", 7e9),
        ("org/model-1.5b", 1.5e9),
        ("tiny_llama", None),
        ("Llama-2", None),
    ],
)
def test_parameters_are_read_from_the_name(name: str, expected: float | None) -> None:
    assert parameters_of(name) == expected


def test_training_is_eight_operations_a_parameter_and_token() -> None:
    config = {"model": {"name": "a-7b"}, "epochs": 2, "tuning": {"method": "qlora", "lora_r": 64}}
    guess = estimate("train", config, {"budget": "25k"})
    assert guess.seconds == pytest.approx(8 * 7e9 * 50_000 * 400 / FLOPS)
    assert guess.bytes == pytest.approx(4 * 160e6, rel=0.01), (
        "Llama 2 7B has 160 million parameters in such adapters"
    )
    capped = estimate(
        "train", {**config, "max_steps": 10, "batch_size": 64, "max_length": 100}, {"budget": "25k"}
    )
    assert capped.seconds == pytest.approx(8 * 7e9 * 640 * 100 / FLOPS)


def test_what_cannot_be_told_is_not_told() -> None:
    assert estimate("train", {"model": {"name": "tiny_llama"}}, {"budget": "25k"}).seconds is None
    assert estimate("train", {"model": {"name": "a-7b"}}, {"budget": "5%"}).seconds is None
    assert estimate("select", {"budget": "25k"}, None).seconds is None
    suite = {"tasks": ["mmlu", "something_else"]}
    assert estimate("evaluate", {"suite": suite}, {"model": {"name": "a-7b"}}).seconds is None


def test_generation_is_bound_by_memory() -> None:
    read = 2 * 7e9 * 400 / FLOPS
    guess = estimate("evaluate", {"suite": {"tasks": ["mmlu", "bbh_zeroshot"]}}, {"model": {"name": "a-7b"}})
    written = 6_511 * 256 * 2 * 7e9 / BANDWIDTH / 8
    assert guess.seconds == pytest.approx((14_042 + 6_511) * read + written)
