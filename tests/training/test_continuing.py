"""Going on from an adapter, a curriculum by gains, and the moments that are kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from smart.config import ConfigError, UserError
from smart.training import run
from smart.training.order import make_stream, stages_by_gain

PLAIN = {"lora_dropout": 0.0, "schedule": "constant", "warmup": 0.0}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def first(mixture: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished adapter with its moments."""
    from tests.training.conftest import Runner

    folder = tmp_path_factory.mktemp("first") / "adapter"
    Runner(mixture, models).train(folder, tuning=PLAIN, max_steps=3, keep_moments=True)
    return folder


def test_its_weights_are_the_start_and_it_is_in_the_key(runner, first, tmp_path):
    fresh = runner.job(tuning=PLAIN, max_steps=2)
    job = runner.job(tuning=PLAIN, max_steps=2, adapter=first)
    assert job.key != fresh.key
    assert job.inputs[:2] == fresh.inputs
    trained = runner.train(tmp_path / "on", tuning=PLAIN, max_steps=2, adapter=first)
    before = next(entry["eval_loss"] for entry in trained.history if "eval_loss" in entry)
    left = json.loads((first / "manifest.json").read_text())["evaluations"][-1]["eval_loss"]
    assert before == pytest.approx(left, rel=1e-6)
    assert trained.manifest["adapter"]["key"] == job.inputs[2]
    assert job.inputs[2] in (tmp_path / "on/README.md").read_text()
    assert weights(tmp_path / "on").keys() == weights(first).keys()


def test_two_runs_of_plain_descent_are_one_longer_run(runner, tmp_path):
    descent = {**PLAIN, "optimizer": "sgd", "max_grad_norm": 1e9}
    options: dict[str, Any] = {
        "tuning": descent,
        "learning_rate": 0.1,
        "batch_size": 120,
        "micro_batch_size": 40,
    }
    runner.train(tmp_path / "long", max_steps=2, **options)
    runner.train(tmp_path / "short", max_steps=1, **options)
    runner.train(tmp_path / "on", max_steps=1, adapter=tmp_path / "short", **options)
    long, on = weights(tmp_path / "long"), weights(tmp_path / "on")
    assert all(torch.allclose(long[name], on[name], rtol=1e-4, atol=1e-7) for name in long)
    short = weights(tmp_path / "short")
    assert not all(torch.allclose(long[name], short[name], rtol=1e-4, atol=1e-7) for name in long)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tuning": {"lora_r": 8, "lora_alpha": 5}}, "add tuning.lora_r=4 tuning.lora_alpha=16"),
        ({"model": "tiny_mistral"}, "was trained on tiny_llama"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_before_weights_are_read(runner, first, options, said):
    with pytest.raises(UserError, match=said):
        runner.job(adapter=first, **options)


def test_tensors_and_kinds_that_do_not_fit_are_named(runner, first, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    (copy / "manifest.json").unlink()  # as others would write it
    tensors = weights(copy)
    gone = sorted(tensors)[0]
    save_file(
        {name: tensor for name, tensor in tensors.items() if name != gone}, copy / "adapter_model.safetensors"
    )
    with pytest.raises(UserError, match=f"does not fit the model .missing: {gone}"):
        runner.train(tmp_path / "out", adapter=copy, max_steps=1)
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(UserError, match="has use_dora, with which training cannot go on"):
        runner.job(adapter=copy)
    with pytest.raises(UserError, match="holds no adapter"):
        runner.job(adapter=tmp_path)
    with pytest.raises(ConfigError, match="full tuning has no adapters"):
        runner.job(adapter=first, tuning={"method": "full"})


def test_moments_are_those_of_adam(runner, first, tmp_path):
    with safe_open(first / "moments.safetensors", framework="pt") as file:
        told, names = file.metadata(), set(file.keys())
    assert (told["steps"], told["beta1"], told["beta2"]) == ("3", "0.9", "0.999")
    assert names == {f"{name}.{kind}" for name in weights(first) for kind in ("exp_avg", "exp_avg_sq")}
    assert json.loads((first / "manifest.json").read_text())["files"]["moments.safetensors"]
    # After one step of Adam m = (1 - beta1) g and v = (1 - beta2) g²; plain descent at a rate of 1 moves by -g.
    runner.train(tmp_path / "adam", tuning=PLAIN, max_steps=1, keep_moments=True, learning_rate=1.0)
    descent = {**PLAIN, "optimizer": "sgd"}
    runner.train(tmp_path / "sgd", tuning=descent, max_steps=1, learning_rate=1.0)
    moments, moved = load_file(tmp_path / "adam/moments.safetensors"), weights(tmp_path / "sgd")
    for name, weight in moved.items():
        if "lora_B" in name:  # which begin at 0
            assert weight.any()
            gradient = moments[f"{name}.exp_avg"] / 0.1
            assert torch.allclose(-weight, gradient, rtol=1e-4, atol=1e-7)
            assert torch.allclose(gradient**2, moments[f"{name}.exp_avg_sq"] / 0.001, rtol=1e-4, atol=1e-12)


def test_moments_that_cannot_be_had_are_refused(runner, tmp_path):
    with pytest.raises(ConfigError, match="adamw_8bit has no plain moments"):
        runner.job(keep_moments=True, tuning={"optimizer": "adamw_8bit"})
    job = runner.job(max_steps=1)
    runner.train(tmp_path / "out", max_steps=1)
    again = runner.job(max_steps=1, keep_moments=True, output=tmp_path / "out").config
    assert runner.job(max_steps=1, keep_moments=True).key == job.key
    with pytest.raises(UserError, match="was trained before, without keeping them"):
        run.train(again)


def test_a_curriculum_begins_with_the_largest_gain_and_shuffles_within_tasks():
    names = [f"task{number % 3}" for number in range(30)]
    stages = stages_by_gain(names, {"task0": 0.5, "task1": 2.0, "task2": 0.5, "other": 9.0})
    assert sorted(set(stages.tolist())) == [1, 2, 3]
    stream = make_stream(30, 70, 5, stages)
    for epoch in (stream[:30], stream[30:60]):
        assert [names[row] for row in epoch] == ["task1"] * 10 + ["task0"] * 10 + ["task2"] * 10
        assert sorted(epoch) == list(range(30))
    assert stream[:10].tolist() != sorted(stream[:10])
    assert stream[:10].tolist() != stream[30:40].tolist()
    np.testing.assert_array_equal(stream, make_stream(30, 70, 5, stages))


def test_a_curriculum_needs_gains(runner, mixture, tmp_path):
    with pytest.raises(UserError, match="animals is no mixture that select"):
        runner.job(row_order="gains")
    head = "submixture,task_name,order,gain,weight,size,budget"
    lines = [f"{s},{task},{order},{gain},0,9,9" for s in ("niv2", "cot") for order, (task, gain) in enumerate(
        {"cat": 1, "dog": 5, "cow": 2, "duck": 4, "pig": 3, "sheep": 0}.items())]  # fmt: skip
    copy = tmp_path / "animals"
    shutil.copytree(mixture, copy)
    runner.mixture = copy
    (copy / "tasks.csv").write_text("\n".join([head, *lines]) + "\n")
    job = runner.job(row_order="gains", max_steps=None)
    assert job.key != runner.job(max_steps=None).key
    store = job.train_tokens()
    learnt = [
        job.mixture.train["task_name"][int(store.source[row])].as_py() for row in job.order(store).stream
    ]
    assert list(dict.fromkeys(learnt)) == ["dog", "duck", "pig", "cow", "cat", "sheep"]
    (copy / "tasks.csv").write_text("\n".join([head, "niv2,cat,0,,1,9,9"]) + "\n")
    with pytest.raises(UserError, match="gave its tasks no gains"):
        runner.job(row_order="gains")
