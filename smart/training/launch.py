"""Several processes for one run: which of them this is, and how to start them."""

from __future__ import annotations

import os
import platform
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from smart.config import Problems, UserError, counted
from smart.config.command_line import shell_line
from smart.runtime import processes
from smart.runtime.common_config import available_cores
from smart.runtime.files import PARTIAL, write_atomic
from smart.training.config import TrainConfig
from smart.training.environment import SHARDED, check_environment, is_on
from smart.training.job import World

SHARD_CPUS = "SMART_SHARD_CPUS"
"""Set to 1 by tests, to shard without GPUs, which nobody gains by."""
GRACE = 120
"""Seconds in which processes that were told to stop may write a checkpoint."""
PATIENCE = 20.0
"""Seconds in which a file system has to show on one machine what another has written."""


def world(config: TrainConfig) -> World:
    """The processes that take part: those of the launcher that started this one, or those that it shall start.

    A plan is for the processes that it is asked for, on GPUs, whatever this machine has.

    Raises:
        ConfigError: for a launch that does not exist or cannot work here.
    """
    import torch

    problems = Problems()
    check_environment(config.tuning.dtype, problems)
    gpus = 0 if is_on("ACCELERATE_USE_CPU") else torch.cuda.device_count()
    elsewhere = config.plan or config.fetch_only  # on a login node, say, for a run on other machines
    if processes.is_launched():
        found = _launched(config, gpus, problems)
    elif elsewhere and config.launch is not None:
        found = World(config.num_processes or max(1, gpus), 0, True, config.launch == "fsdp")
    else:
        found = _to_start(config, gpus, problems)
    if found.sharded and not (found.gpu or elsewhere or is_on(SHARD_CPUS)):
        problems.add("launch", "fsdp", "sharding needs GPUs", "use launch=ddp")
    problems.raise_if_any()
    return found


def _launched(config: TrainConfig, gpus: int, problems: Problems) -> World:
    size, rank, local = (int(os.environ[name]) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    if config.launch == "ddp" and is_on(SHARDED):
        problems.add("launch", "ddp", f"accelerate launch was told to shard ({SHARDED})", "use launch=fsdp")
    if config.num_processes not in (None, size):
        problems.add(
            "num_processes", config.num_processes, f"the launcher started {size}", "leave num_processes out"
        )
    if gpus and local >= gpus:
        problems.add(
            "LOCAL_RANK", local, f"this machine has {counted(gpus, 'GPU')}", "start one process for each"
        )
    return World(size, rank, gpus > 0, config.launch == "fsdp" or is_on(SHARDED))


def _to_start(config: TrainConfig, gpus: int, problems: Problems) -> World:
    launch, asked = config.launch, config.num_processes
    if launch is None and asked not in (None, 1):
        problems.add("num_processes", asked, "one process is started without launch", "add launch=ddp")
    size = 1 if launch is None else asked or max(1, gpus)
    if gpus and size > gpus:
        problems.add(
            "num_processes",
            size,
            f"this machine has {counted(gpus, 'GPU')}",
            "leave it null for one process for each; several machines are started as docs/launching.md says",
        )
    return World(size, 0, gpus > 0, launch == "fsdp")


def join_group(world: World, timeout: int) -> processes.Processes:
    """Make the group of the run's processes, who wait for each other so many seconds at most.

    The first to make it decides, so this comes before anything else asks accelerate for it.
    """
    from accelerate import PartialState
    from accelerate.utils import check_cuda_p2p_ib_support

    if world.gpu and not check_cuda_p2p_ib_support():  # as accelerate launch does for GPUs without it
        for name in ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE"):
            os.environ.setdefault(name, "1")
    options = {"timeout": timedelta(seconds=timeout)} if processes.is_launched() else {}
    PartialState(cpu=not world.gpu, **options)
    return processes.Processes(world.rank, world.size)


def check_agreement(key: str, folder: Path, group: processes.Processes) -> None:
    """Stop unless all processes are about to do the same run, in a folder that all of them see.

    Args:
        key: of the run.
        folder: of the run; its lock is held.

    Raises:
        UserError: on all of them, with the machines that differ.
    """
    if group.size == 1:
        return
    here = platform.node()
    keys = group.share(lambda: (here, key))
    main = keys[0][0]
    if differing := sorted({host for host, other in keys if other != keys[0][1]}):
        raise UserError(
            f"{', '.join(differing)}: finds another model, mixture or configuration than {main}, where the main"
            " process runs",
            "give all machines the same command, and files that they share",
        )
    mark = folder.with_name(group.of_main(lambda: f".{folder.name}{PARTIAL}{secrets.token_hex(8)}"))
    group.of_main(lambda: write_atomic(mark, ""))
    seen = group.share(lambda: (here, _appears(mark)))  # in its own folder, whatever that is called
    if group.rank == 0:
        mark.unlink()
    if blind := sorted({host for host, sees in seen if not sees}):
        raise UserError(
            f"{folder}: {', '.join(blind)} does not see what {main} writes there",
            "output, or output_root, has to lie on a file system that all machines share",
        )


def _appears(file: Path) -> bool:
    """Whether a file can be seen, on file systems that tell of it late."""
    until = time.monotonic() + PATIENCE
    while not file.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
        if file.parent.is_dir():
            os.listdir(file.parent)  # makes network file systems look again
    return True


def start(world: World, overrides: Sequence[str]) -> None:
    """Run the command in as many processes as `world` says, and wait for them; signals are passed on.

    Raises:
        UserError: if they fail; their own messages are above.
        KeyboardInterrupt: if they were stopped by a signal.
    """
    from torch.distributed.run import get_args_parser

    size = world.size
    launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={size}"]
    if "shutdown_timeout" in vars(get_args_parser().parse_args(["script"])):  # which older ones lack
        launcher.append(f"--shutdown-timeout={GRACE}")
    command = [sys.executable, "-m", *launcher, "-m", "smart.cli.train", *overrides]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": _threads(size)})
    caught: list[int] = []

    def pass_on(number: int, _: object) -> None:
        caught.append(number)
        process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if process.poll() is None:
            process.terminate()
            process.wait()
    if caught:
        raise KeyboardInterrupt
    if code:
        raise UserError(f"one of the {size} processes failed (exit code {code}); what it said is above")


def refuse_sweep(arguments: Sequence[str]) -> None:
    """A launcher would run the whole sweep once in each process.

    Raises:
        UserError: with the command that sweeps.
    """
    if processes.is_launched() and {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(arguments):
        rest = [argument for argument in arguments if argument not in ("-m", "--multirun")]
        rest += ["launch=ddp", f"num_processes={os.environ['WORLD_SIZE']}"]
        raise UserError(
            "a sweep cannot run under accelerate launch or torchrun, which would run all of it in every"
            " process. Each"
            f" run gets its own processes with:\n  {shell_line('python train.py', '-m', *rest)}"
        )


def _threads(processes: int) -> str:
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, available_cores() // processes))
