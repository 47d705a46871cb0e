"""What launchers say in the environment: each setting is as a training needs it, or is refused by its name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from smart.config import Problems

SHARDED = "ACCELERATE_USE_FSDP"
"""By this accelerate launch says that each process shall hold a part of the weights."""
FSDP = {
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
}
"""How weights are sharded: what accelerate launch makes of conf/accelerate/fsdp.yaml."""
FILE = "conf/accelerate/fsdp.yaml"

_OFF = ("", "no", "0", "false")


@dataclass(frozen=True)
class _Setting:
    """A variable that a training contradicts, unless it is off."""

    name: str
    reason: str
    hint: str


_DATA_PARALLEL = (
    "use conf/accelerate/ddp.yaml, or fsdp.yaml, which shards weights, gradients and optimiser states"
)
_REFUSED = (
    _Setting("ACCELERATE_USE_DEEPSPEED", "DeepSpeed is not supported", _DATA_PARALLEL),
    _Setting("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM is not supported", _DATA_PARALLEL),
    _Setting("ACCELERATE_USE_SAGEMAKER", "SageMaker's own parallelism is not supported", _DATA_PARALLEL),
    _Setting(
        "ACCELERATE_USE_PARALLELISM_CONFIG",
        "tensor, context and sequence parallelism are not supported",
        _DATA_PARALLEL,
    ),
    _Setting(
        "ACCELERATE_DYNAMO_BACKEND", "compiles what train.py has not asked for", "set dynamo_backend: no"
    ),
    _Setting(
        "ACCELERATE_TORCH_DEVICE", "would put all processes on one device", "unset it: each takes its own GPU"
    ),
    _Setting(
        "FSDP_TRANSFORMER_CLS_TO_WRAP", "the model says which of its layers are sharded", "leave it out"
    ),
    _Setting("FSDP_IGNORED_MODULES", "every weight is sharded", "leave it out"),
)
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "WORLD_SIZE")
"""How many processes srun, mpirun or a cluster's operator started, where more than one."""


def check_environment(dtype: str, problems: Problems, environment: Mapping[str, str] = os.environ) -> None:
    """Add every setting of a launcher that this training contradicts.

    Args:
        dtype: tuning.dtype, which decides the precision.
    """
    for setting in _REFUSED:
        if (value := environment.get(setting.name, "")).lower() not in _OFF:
            problems.add(setting.name, value, setting.reason, setting.hint)
    _check_precision(dtype, problems, environment)
    if is_on(SHARDED, environment):
        _check_sharding(problems, environment)
    if "LOCAL_RANK" not in environment:
        _check_unconnected(problems, environment)


def is_on(name: str, environment: Mapping[str, str] = os.environ) -> bool:
    return environment.get(name, "").lower() not in _OFF


def _check_precision(dtype: str, problems: Problems, environment: Mapping[str, str]) -> None:
    value = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    if value not in ("no", {"bfloat16": "bf16"}.get(dtype)):
        problems.add(
            "ACCELERATE_MIXED_PRECISION", value, f"tuning.dtype={dtype} decides", "set mixed_precision: no"
        )
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps not in ("1", "auto"):
        problems.add(
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
            steps,
            "batch_size and micro_batch_size decide how often gradients are accumulated",
            "leave it out",
        )


def _check_sharding(problems: Problems, environment: Mapping[str, str]) -> None:
    given = {"FSDP_VERSION": "1", **environment}  # which accelerate takes where nothing is said
    for name, needed in FSDP.items():
        if (value := given.get(name, needed)).lower() != needed.lower():
            key = name.lower()
            problems.add(name, value, f"{FILE} has {key}: {needed}", "start with that file, or as it says")
    strategy = given.get("FSDP_SHARDING_STRATEGY", "FULL_SHARD")
    if strategy not in ("1", "FULL_SHARD"):  # of FSDP1; accelerate launch always sets it
        problems.add(
            "FSDP_SHARDING_STRATEGY", strategy, "weights are sharded over all processes", "leave it out"
        )


def _check_unconnected(problems: Problems, environment: Mapping[str, str]) -> None:
    for name in _COUNTS:
        if (value := environment.get(name, "1")).isdigit() and int(value) > 1:
            problems.add(
                name,
                value,
                "as many processes were started, none of which knows of the others",
                "start torchrun or accelerate launch once on each machine (docs/launching.md)",
            )
            return
