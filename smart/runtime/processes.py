"""Which of the processes that a launcher started this one is, and how they agree."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from smart.config import UserError

Result = TypeVar("Result")
_PATIENCE = timedelta(days=7)
"""One may wait for the others as long as another command holds a lock; launchers end those whose peer died."""


def is_launched() -> bool:
    """True if accelerate launch or torchrun started this process."""
    return "LOCAL_RANK" in os.environ


def rank() -> int:
    """Number of this process among those of the run; 0 for the main one, and where nothing was launched."""
    return int(os.environ.get("RANK", 0)) if is_launched() else 0


def quieten_others() -> None:
    """Let processes beside the main one log errors alone."""
    if rank() > 0:
        logging.getLogger().setLevel(logging.ERROR)


@dataclass(frozen=True)
class Processes:
    """The processes that share a run's work."""

    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls) -> Processes:
        """Those that torchrun or accelerate started, connected; this one alone where nothing was launched."""
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return cls()
        import torch
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
        return cls(state.process_index, state.num_processes)

    def share(self, work: Callable[[], Result]) -> list[Result]:
        """What `work` returns on each of them, in their order, on all of them.

        Raises:
            UserError: on all of them, where it does on one.
        """
        if self.size == 1:
            return [work()]
        import torch.distributed

        told: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(told, _outcome(work))
        return [_told(one) for one in told]

    def of_main(self, work: Callable[[], Result]) -> Result:
        """What `work` returns on the main process, on all of them; the others don't run it.

        Raises:
            UserError: on all of them, where it does on the main one.
        """
        if self.size == 1:
            return work()
        import torch.distributed

        told: list[Any] = [_outcome(work) if self.rank == 0 else None]
        torch.distributed.broadcast_object_list(told)
        result: Result = _told(told[0])
        return result


def _outcome(work: Callable[[], Any]) -> tuple[Any, str | None]:
    """What `work` returns, or the message of its error: the others would report that they lost a process."""
    try:
        return work(), None
    except UserError as error:
        return None, str(error)


def _told(outcome: tuple[Any, str | None]) -> Any:
    result, message = outcome
    if message is not None:
        raise UserError(message)
    return result
