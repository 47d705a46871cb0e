"""Which processes take part, what a launcher may have set, and whether all machines do the same run."""

from __future__ import annotations

import re

import pytest
import yaml

from smart.config import ConfigError, UserError, compose, conf_dir, read_config
from smart.runtime.processes import Processes
from smart.training import TrainConfig, launch, plan
from smart.training.environment import FSDP, SHARDED
from smart.training.job import World

CLEAN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS", launch.SHARD_CPUS, SHARDED)


@pytest.fixture
def machine(monkeypatch):
    """Called with GPUs and variables: a machine that has them."""
    import torch

    for name in CLEAN:
        monkeypatch.delenv(name, raising=False)

    def make(gpus: int = 0, **variables: object) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return make


def world(*arguments: str) -> World:
    return launch.world(read_config(TrainConfig, compose("train", ["mixture=some", *arguments])))


def launched(size: int = 8, rank: int = 0, local: int | None = None) -> dict[str, int]:
    return {"WORLD_SIZE": size, "RANK": rank, "LOCAL_RANK": rank if local is None else local}


@pytest.mark.parametrize(
    ("gpus", "variables", "arguments", "found"),
    [
        (0, {}, [], World(1, 0, False, False)),
        (8, {}, [], World(1, 0, True, False)),
        (8, {}, ["launch=ddp"], World(8, 0, True, False)),
        (8, {}, ["launch=fsdp", "num_processes=4"], World(4, 0, True, True)),
        (0, {}, ["launch=ddp", "num_processes=2"], World(2, 0, False, False)),
        (0, {launch.SHARD_CPUS: 1}, ["launch=fsdp", "num_processes=2"], World(2, 0, False, True)),
        (8, launched(16, 9, 1), [], World(16, 9, True, False)),
        (8, launched(16, 9, 1), ["launch=fsdp"], World(16, 9, True, True)),
        (8, {**launched(), SHARDED: "true", **FSDP}, [], World(8, 0, True, True)),
        (8, {**launched(), "ACCELERATE_USE_CPU": "True"}, [], World(8, 0, False, False)),
        # A plan is for other machines.
        (0, {}, ["launch=fsdp", "num_processes=8", "plan=true"], World(8, 0, True, True)),
        (1, {}, ["launch=ddp", "num_processes=16", "fetch_only=true"], World(16, 0, True, False)),
        (0, launched(2), ["launch=fsdp", "plan=true"], World(2, 0, False, True)),
    ],
)
def test_processes_that_take_part(machine, gpus, variables, arguments, found):
    machine(gpus, **variables)
    assert world(*arguments) == found


SHARD = {**launched(), SHARDED: "true", **FSDP}


@pytest.mark.parametrize(
    ("gpus", "variables", "arguments", "said"),
    [
        (0, {}, ["launch=fsdp", "num_processes=2"], "launch=fsdp: sharding needs GPUs; use launch=ddp"),
        (2, {}, ["launch=ddp", "num_processes=3"], "num_processes=3: this machine has 2 GPUs"),
        (2, {}, ["num_processes=2"], "num_processes=2: one process is started without launch"),
        (2, {}, ["num_processes=2", "plan=true"], "num_processes=2: one process is started without launch"),
        (2, launched(4, 3), [], "LOCAL_RANK=3: this machine has 2 GPUs; start one process for each"),
        (8, launched(4), ["num_processes=8"], "num_processes=8: the launcher started 4"),
        (8, SHARD, ["launch=ddp"], "launch=ddp: accelerate launch was told to shard"),
        (0, SHARD, [], "launch=fsdp: sharding needs GPUs"),
        (8, {**launched(), SHARDED: "true"}, [], "FSDP_VERSION=1: conf/accelerate/fsdp.yaml has fsdp_version: 2"),
        (8, SHARD | {"FSDP_OFFLOAD_PARAMS": "true"}, [], "FSDP_OFFLOAD_PARAMS=true: "),
        (8, SHARD | {"FSDP_CPU_RAM_EFFICIENT_LOADING": "True"}, [], "FSDP_CPU_RAM_EFFICIENT_LOADING=True: "),
        (8, SHARD | {"FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}, [], "FSDP_STATE_DICT_TYPE=SHARDED_STATE_DICT"),
        (8, SHARD | {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, [], "FSDP_ACTIVATION_CHECKPOINTING=true: "),
        (8, SHARD | {"FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}, [], "FSDP_AUTO_WRAP_POLICY=NO_WRAP: "),
        (8, SHARD | {"FSDP_RESHARD_AFTER_FORWARD": "false"}, [], "FSDP_RESHARD_AFTER_FORWARD=false: "),
        (8, SHARD | {"FSDP_SHARDING_STRATEGY": "HYBRID_SHARD"}, [], "FSDP_SHARDING_STRATEGY=HYBRID_SHARD: "),
        (8, SHARD | {"FSDP_TRANSFORMER_CLS_TO_WRAP": "Block"}, [], "FSDP_TRANSFORMER_CLS_TO_WRAP=Block: "),
        (8, SHARD | {"FSDP_IGNORED_MODULES": ".*norm"}, [], "FSDP_IGNORED_MODULES=.*norm: "),
        (8, {"ACCELERATE_USE_DEEPSPEED": "true"}, [], "ACCELERATE_USE_DEEPSPEED=true: DeepSpeed is not supported"),
        (8, {"ACCELERATE_USE_MEGATRON_LM": "true"}, [], "ACCELERATE_USE_MEGATRON_LM=true: "),
        (8, {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, [], "ACCELERATE_USE_PARALLELISM_CONFIG=true: tensor, "),
        (8, {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, [], "ACCELERATE_DYNAMO_BACKEND=INDUCTOR: "),
        (8, {"ACCELERATE_TORCH_DEVICE": "cuda:0"}, [], "ACCELERATE_TORCH_DEVICE=cuda:0: "),
        (8, {"ACCELERATE_MIXED_PRECISION": "fp16"}, [], "ACCELERATE_MIXED_PRECISION=fp16: tuning.dtype=bfloat16"),
        (8, {"ACCELERATE_MIXED_PRECISION": "bf16"}, ["tuning.dtype=float32"], "tuning.dtype=float32 decides"),
        (8, {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": 4}, [], "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4: "),
        (8, {"SLURM_STEP_NUM_TASKS": 8}, [], "SLURM_STEP_NUM_TASKS=8: as many processes were started, none of which"),
        (8, {"WORLD_SIZE": 2, "RANK": 1}, [], "WORLD_SIZE=2: as many processes were started, none of which knows"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_by_its_name(machine, gpus, variables, arguments, said):
    machine(gpus, **variables)
    with pytest.raises(ConfigError, match=re.escape(said)):
        world(*arguments)


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_files_for_accelerate_say_what_train_py_needs(machine, monkeypatch, name):
    """What accelerate launch makes of a file is taken; and the file has each setting that is counted on."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    file = conf_dir() / "accelerate" / f"{name}.yaml"
    command = ["--config_file", str(file), "--main_process_port", "0", "train.py"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    made = prepare_multi_gpu_env(arguments)
    machine(8, **launched(), **{key: made[key] for key in made if key.startswith(("ACCELERATE_", "FSDP_"))})
    assert world() == World(8, 0, True, name == "fsdp")
    if name == "fsdp":
        said = yaml.safe_load(file.read_text())["fsdp_config"]
        assert {key.upper(): str(value) for key, value in said.items()} == {
            key: {"true": "True", "false": "False"}.get(value, value) for key, value in FSDP.items()
        }


def test_a_plan_on_a_login_node_is_of_the_processes_that_it_is_for(machine, mixture, tmp_path):
    machine(0)
    options = [
        f"mixture={mixture}",
        "model=tiny_llama",
        f"output_root={tmp_path}",
        "plan=true",
        "launch=fsdp",
    ]

    def planned(*more: str) -> str:
        return plan(read_config(TrainConfig, compose("train", [*options, *more])))

    assert "8 processes x 1 accumulated x 8" in planned("num_processes=8")
    with pytest.raises(
        ConfigError, match="batch_size=64: cannot be made of micro-batches of 8 on 16 processes"
    ):
        planned("num_processes=16")
    with pytest.raises(ConfigError, match=r"tuning.optimizer=adamw_8bit: its states cannot be sharded"):
        planned("num_processes=8", "tuning.optimizer=adamw_8bit")


class Group(Processes):
    """Stands for a group of two; the other process answers as it is told to."""

    def __init__(self, others: list[object], rank: int = 0) -> None:
        super().__init__(rank, 2)
        object.__setattr__(self, "others", others)

    def share(self, work):
        return [work(), self.others.pop(0)]

    def of_main(self, work):
        return work()


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ([("far", "other")], "far: finds another model, mixture or configuration than "),
        ([("far", "key"), ("far", False)], "far does not see what "),
    ],
)
def test_machines_that_differ_or_share_no_folder_are_named(tmp_path, others, said):
    with pytest.raises(UserError, match=said):
        launch.check_agreement("key", tmp_path / "run", Group(others))
    assert not list(tmp_path.iterdir())


def test_machines_that_agree_go_on(tmp_path):
    launch.check_agreement("key", tmp_path / "run", Group([("far", "key"), ("far", True)]))
    assert not list(tmp_path.iterdir())


def test_one_process_looks_for_all_whether_a_run_has_finished(machine, monkeypatch, mixture, tmp_path):
    """What each saw for itself might be another command's work of a moment before or after."""
    from smart.training import run

    class Told(Group):
        def of_main(self, work):
            return True

    machine(0, **launched(2, 1))
    monkeypatch.setattr(launch, "join_group", lambda world, timeout: Told([], rank=1))
    monkeypatch.setattr(launch, "check_agreement", lambda key, folder, group: None)
    monkeypatch.setattr(run, "is_finished", None)
    monkeypatch.setattr(run, "_fit_and_track", None)
    options = [f"mixture={mixture}", "model=tiny_llama", "batch_size=16", f"output_root={tmp_path}"]
    assert run.train(read_config(TrainConfig, compose("train", options))).found


def test_a_plan_under_a_launcher_is_printed_once(machine, mixture, tmp_path, capsys):
    from smart.cli import train

    options = [
        f"mixture={mixture}",
        "model=tiny_llama",
        f"output_root={tmp_path}",
        "plan=true",
        "launch=fsdp",
    ]
    said = []
    for rank in (0, 1):
        machine(0, **launched(2, rank))
        train.train(read_config(TrainConfig, compose("train", options)))
        said.append(capsys.readouterr().out)
    assert "2 processes" in said[0]
    assert said[1] == ""
