"""Several processes for one run: which of them this is, and how to start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta

from smart.config import Problems, UserError, conf_dir
from smart.config.command_line import shell_line
from smart.runtime import processes
from smart.runtime.common_config import available_cores
from smart.training.job import World


def world(launch: str | None, num_processes: int | None) -> World:
    """The processes that take part: those of the launcher that started this one, or those that it shall start.

    Raises:
        ConfigError: for a launch that does not exist or cannot work here.
    """
    import torch

    gpus = torch.cuda.device_count()
    if processes.is_launched():
        sharded = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
        return World(int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"]), gpus > 0, sharded)
    problems = Problems()
    if launch is None and num_processes not in (None, 1):
        problems.add(
            "num_processes", num_processes, "one process is started without launch", "add launch=ddp"
        )
    size = 1 if launch is None else num_processes or max(1, gpus)
    if not isinstance(size, int) or size < 1 or (gpus and size > gpus):
        problems.add(
            "num_processes", size, f"this machine has {gpus} GPUs", "leave it null for one process for each"
        )
    problems.raise_if_any()
    return World(size, 0, gpus > 0, launch == "fsdp_qlora")


def join_group(world: World, timeout: int) -> None:
    """Make the group of the run's processes, who wait for each other so many seconds at most.

    The first to make it decides, so this comes before anything else asks accelerate for it.
    """
    from accelerate import PartialState

    options = {"timeout": timedelta(seconds=timeout)} if processes.is_launched() else {}
    PartialState(cpu=not world.gpu, **options)


def wait_for_all(world: World) -> None:
    """Return when every process of the run has come here."""
    from accelerate import PartialState

    PartialState(cpu=not world.gpu).wait_for_everyone()


def start(launch: str, world: World, overrides: Sequence[str]) -> None:
    """Run the command in as many processes as `world` says, and wait for them; signals are passed on.

    Raises:
        UserError: if they fail; their own messages are above.
        KeyboardInterrupt: if they were stopped by a signal.
    """
    size = world.size
    if world.gpu:
        config = conf_dir() / "accelerate" / f"{launch}.yaml"
        launcher = ["accelerate.commands.launch", f"--config_file={config}", f"--num_processes={size}"]
    else:  # accelerate starts a single process where there is no GPU
        launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={size}"]
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
