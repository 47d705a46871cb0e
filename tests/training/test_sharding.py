"""Two processes that hold half of every weight each (FSDP2, on CPUs by gloo), against one that holds all of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from smart.config import UserError
from smart.model import ModelOptions
from smart.model.base import find_base, weights_source
from smart.model.load import load_model
from smart.runtime.manifest import is_intact
from smart.training.callbacks import PrecisionCallback
from tests.commands import ROOT, python
from tests.training.conftest import Runner

DESCENT = {
    "optimizer": "sgd",
    "schedule": "constant",
    "warmup": 0.0,
    "max_grad_norm": 1e9,
    "lora_dropout": 0.0,
}
"""Each weight moves by its gradient, at a learning rate of 1."""
RUNS = {
    "qlora": {
        "tuning": {"method": "qlora", "lora_dropout": 0.0},
        "max_steps": 4,
        "micro_batch_size": 2,
        "merge": True,
        "keep_moments": True,
    },
    "lora": {"tuning": {"method": "lora", **DESCENT}, "max_steps": 1, "learning_rate": 1.0},
    "full": {"tuning": {"method": "full"}, "max_steps": 4},
    "half": {
        "tuning": {"method": "full", "dtype": "bfloat16", "checkpoint_activations": True},
        "max_steps": 1,
    },
}
"""Name → options; all but "half" in float32."""
# What each of two processes does, with a Runner of its own: runs, which go on with what lies there; one that is called
# stopped is stopped by a signal after its second step first, and a copy is made of what it has left.
SCRIPT = """
import os, shutil, signal, sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from smart.training import launch
from smart.training.job import World
from tests.training.conftest import Runner

here, rank = Path({here!r}), int(os.environ["RANK"])
group = launch.join_group(world := World(2, rank, False, True), 120)
runner = Runner(Path({mixture!r}), Path({models!r}), {model!r}, world)
runs = {runs!r}

def stop(logs, step):
    if step == 1 and "loss" in logs:
        signal.raise_signal(signal.SIGUSR1)

for name in {order!r}:
    what, _, how = name.partition("-")
    if how == "stopped":
        assert runner.train(here / name, watch=stop, **runs[what]).interrupted
        group.of_main(lambda: shutil.copytree(here / name, here / f"{{what}}-left"))
    runner.train(here / name, **runs[what])
"""


def shard(runner: Runner, here: Path, order: list[str]) -> None:
    """Do such runs in two processes."""
    places = {
        "root": str(ROOT),
        "here": str(here),
        "mixture": str(runner.mixture),
        "models": str(runner.models),
    }
    script = here / "runs.py"
    script.write_text(SCRIPT.format(**places, model=runner.model, runs=RUNS, order=order))
    command = [python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]


def stop(logs, step) -> None:
    if step == 1 and "loss" in logs:
        signal.raise_signal(signal.SIGUSR1)


@pytest.fixture(
    scope="module",
    params=[
        "tiny_llama",
        *(pytest.param(f"tiny_{name}", marks=pytest.mark.full) for name in ("falcon", "mistral")),
    ],
)
def runs(request, mixture, models, tmp_path_factory) -> SimpleNamespace:
    """Folders of the same runs: `one` by one process, `two` by two that shard."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    runner = Runner(mixture, models, request.param)
    for name, options in RUNS.items():
        runner.train(one / name, **options)
    assert runner.train(two / "full-one", watch=stop, **RUNS["full"]).interrupted
    shard(runner, two, ["qlora", "qlora-stopped", "lora", "half", "full-one"])
    return SimpleNamespace(one=one, two=two, runner=runner)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*model.safetensors")
    return load_file(file)


def metrics(folder: Path, name: str) -> list[float]:
    entries = map(json.loads, (folder / "history.jsonl").read_text().splitlines())
    return [entry[name] for entry in entries if name in entry]


@pytest.mark.parametrize("name", ["qlora", "lora"])
def test_losses_are_those_of_one_process(runs, name):
    for metric in ("loss", "eval_loss", "eval_loss/cot"):
        assert metrics(runs.two / name, metric) == pytest.approx(metrics(runs.one / name, metric), rel=1e-6)
    ours, theirs = (metrics(folder / name, "grad_norm") for folder in (runs.two, runs.one))
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_gradients_are_those_of_one_process(runs):
    one, two = weights(runs.one / "lora"), weights(runs.two / "lora")
    for name in one:
        assert "lora_A" in name or one[name].any()  # these begin at 0, so they hold minus their gradient
        assert (one[name] - two[name]).abs().max() <= 1e-6 * one[name].abs().max()


@pytest.mark.parametrize("name", ["qlora", "half", "full-one"])
def test_what_is_written_is_whole_and_of_the_same_types(runs, name):
    one, two = runs.one / name.removesuffix("-one"), runs.two / name
    ours, theirs = ({key: (w.shape, w.dtype) for key, w in weights(folder).items()} for folder in (one, two))
    assert ours == theirs
    assert {w.dtype for w in weights(two).values()} == {torch.bfloat16 if name == "half" else torch.float32}
    names = [{file.name for file in folder.iterdir()} for folder in (one, two)]
    assert names[0] == names[1]
    if "config.json" in names[0]:
        assert (one / "config.json").read_text() == (two / "config.json").read_text()


def test_stopped_and_gone_on_with_ends_bit_equal(runs):
    whole, stopped = runs.two / "qlora", runs.two / "qlora-stopped"
    assert metrics(whole, "loss") == metrics(stopped, "loss")
    ours, theirs = weights(whole), weights(stopped)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_moments_are_those_of_one_process(runs):
    one, two = (load_file(folder / "qlora" / "moments.safetensors") for folder in (runs.one, runs.two))
    assert one.keys() == two.keys()
    assert all((one[key] - two[key]).abs().max() <= 1e-4 * one[key].abs().max() for key in one)


def test_one_process_goes_on_with_what_two_have_left(runs, tmp_path):
    folder = shutil.copytree(runs.two / "qlora-left", tmp_path / "left")
    assert is_intact(folder / "checkpoints" / "checkpoint-2", runs.runner.job(**RUNS["qlora"]).key)
    runs.runner.train(folder, **RUNS["qlora"] | {"merge": False})
    assert metrics(folder, "loss") == pytest.approx(metrics(runs.two / "qlora", "loss"), rel=1e-5)


def test_two_go_on_with_what_one_process_has_left(runs):
    ours, theirs = metrics(runs.two / "full-one", "loss"), metrics(runs.one / "full", "loss")
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("name", ["qlora/merged", "half"])
def test_models_are_read_as_any_other(runs, name):
    base = find_base(ModelOptions(str(runs.two / name)))
    model = load_model(base, weights_source(base, runs.two), dtype="float32")
    assert sum(weight.numel() for weight in model.parameters()) > 0


def test_rotary_frequencies_that_are_not_float32_stop_the_run():
    model = torch.nn.Module()
    model.register_buffer("inv_freq", torch.ones(4, dtype=torch.bfloat16))
    with pytest.raises(UserError, match="inv_freq is bfloat16 after the first step"):
        PrecisionCallback().on_step_end(None, None, None, model=model)
