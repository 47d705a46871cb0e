"""Units of work on the workers of a Ray cluster: that of RAY_ADDRESS, or one that is started on this machine.

Ray Core alone: an actor for each worker, which is opened once and then given one item after the other. What is lost
with a worker or its machine is given to another; what a worker raises ends the run here, as if it had been raised by a
thread. Ray keeps nothing of a run: what the driver has written is what is done.
"""

from __future__ import annotations

import logging
import os
import pickle
import platform
import sys
import sysconfig
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import chain, islice, takewhile
from typing import Any, Generic

import numpy as np

from smart.config import UserError, counted
from smart.runtime.common_config import available_cores
from smart.runtime.executor import Item, Outcomes, Result, Task, Worker

AHEAD = 2
"""Items that a worker has at most: one that it works on, and one that is on its way."""
LOST = 3
"""Workers that may die of the same item before the run gives up."""
PATIENCE = 60.0
"""Seconds without any worker after which the log says so."""
_FORWARDED = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "SENTENCE_TRANSFORMERS_HOME",
    "TOKENIZERS_PARALLELISM",
)
"""With NUMBA_* and SMART_*, what workers on other machines need of the driver's environment; no secrets."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RayCluster:
    """The workers of a Ray cluster. Nothing is started before there is something to do."""

    threads: int | None = None
    """Processors to use in all; None: all that the cluster has."""

    def map(self, task: Task[Item, Result], items: Iterable[Item]) -> Outcomes[Item, Result]:
        """See `Executor.map`.

        Raises:
            UserError: where no cluster can be reached, or an item has killed its workers again and again.
        """
        waiting = iter(items)
        first = list(islice(waiting, 1))
        if not first:
            return
        connect(self.threads)
        pool = _Pool(task, self._size(task))
        try:
            yield from pool.map(chain(first, waiting))
        finally:
            pool.close()

    def _size(self, task: Task[Item, Result]) -> _Size:
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return _Size.of(task, [(int(n.get("CPU", 0)), int(n.get("GPU", 0))) for n in nodes], self.threads)


@dataclass(frozen=True)
class _Size:
    """Workers of a task on a cluster, and what each of them has."""

    workers: int
    worker: Worker
    gpus: int = 0

    @classmethod
    def of(cls, task: Task[Any, Any], nodes: list[tuple[int, int]], threads: int | None) -> _Size:
        """For nodes with so many processors and GPUs. Every worker reserves its processors: one that reserves GPUs
        alone takes a processor that others wait for.

        >>> from types import SimpleNamespace
        >>> wide, encoder = SimpleNamespace(wide=True, gpu=False), SimpleNamespace(wide=True, gpu=True)
        >>> _Size.of(wide, [(8, 0), (4, 1), (0, 0)], None)
        _Size(workers=3, worker=Worker(threads=4, share=2), gpus=0)
        >>> _Size.of(encoder, [(8, 0), (4, 1)], None)
        _Size(workers=1, worker=Worker(threads=4, share=1), gpus=1)
        """
        if task.gpu and (with_gpus := [(cpus, gpus) for cpus, gpus in nodes if gpus]):
            threads = max(1, min(cpus // gpus for cpus, gpus in with_gpus))
            return cls(
                sum(gpus for _, gpus in with_gpus), Worker(threads, max(gpus for _, gpus in with_gpus)), 1
            )
        cores = [cpus for cpus, _ in nodes if cpus]
        if not cores:
            raise UserError("executor=ray: the cluster has no processors", "start nodes with --num-cpus")
        each = min(cores) if task.wide else 1
        each = min(each, threads) if threads else each
        workers = sum(cpus // each for cpus in cores)
        workers = max(1, min(workers, threads // each)) if threads else workers
        return cls(workers, Worker(each, min(workers, max(cores) // each)))


def connect(threads: int | None) -> None:
    """Join the cluster of RAY_ADDRESS, or start one here; it stays until the process ends."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as Ray will have it; else it warns
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        options |= {"num_cpus": threads or available_cores(), "include_dashboard": False}
    try:
        ray.init(address, runtime_env={"env_vars": _environment()}, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        where = "executor=ray" if address == "local" else f"RAY_ADDRESS={address}"
        raise UserError(f"{where}: no Ray cluster: {said}") from error
    nodes = sum(node["Alive"] for node in ray.nodes())
    log.info(
        "Ray: %s with %s.", counted(nodes, "node"), counted(int(ray.cluster_resources().get("CPU", 0)), "CPU")
    )


def _environment() -> dict[str, str]:
    """Of workers: what they need of the driver's, and where it finds modules that are not installed."""
    library = os.path.dirname(sysconfig.get_path("stdlib"))  # from here on, the interpreter's own places
    mine = takewhile(lambda place: not place.startswith(library), sys.path)
    places = [os.path.abspath(place) for place in mine]
    asked = {name: os.environ[name] for name in os.environ if name.startswith(("NUMBA_", "SMART_"))}
    asked |= {name: os.environ[name] for name in _FORWARDED if name in os.environ}
    return asked | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(places))}


@dataclass(frozen=True)
class _Reply:
    """What a worker gives back: a result, or what its work raised."""

    result: Any = None
    error: BaseException | None = None

    @classmethod
    def of(cls, work: Callable[..., Any], *arguments: Any) -> _Reply:
        try:
            return cls(work(*arguments))
        except Exception as error:
            return cls(error=_portable(error))

    def get(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.result


def _portable(error: Exception) -> BaseException:
    """An error that arrives as it was, or as text where it cannot be pickled; with its traceback, unless the user is to
    read one line."""
    try:
        sent: BaseException = pickle.loads(pickle.dumps(error))
    except Exception:
        said = str(error)
        sent = (
            UserError(said)
            if isinstance(error, UserError)
            else RuntimeError(f"{type(error).__name__}: {said}")
        )
    if not isinstance(error, UserError):
        sent.add_note(f"In a worker on {platform.node()}:\n{traceback.format_exc()}")
    return sent


@dataclass(frozen=True)
class _Packed:
    """A task on its way to workers. They read its arrays from the memory that they share."""

    content: bytes
    arrays: list[np.ndarray]
    folder: str
    """The driver's, since options name files from there."""
    path: list[str]
    """The driver's, for code of the user's own."""

    @classmethod
    def of(cls, task: Task[Any, Any]) -> _Packed:
        import ray.cloudpickle

        buffers: list[pickle.PickleBuffer] = []
        try:
            content = ray.cloudpickle.dumps(task, protocol=5, buffer_callback=buffers.append)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise UserError(f"executor=ray: cannot be sent to workers: {error}") from error
        arrays = [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]
        return cls(content, arrays, os.getcwd(), sys.path)

    def unpack(self) -> Task[Any, Any]:
        with suppress(OSError):
            os.chdir(self.folder)
        sys.path += [place for place in self.path if place not in sys.path]
        try:
            task: Task[Any, Any] = pickle.loads(self.content, buffers=self.arrays)
        except ImportError as error:
            raise UserError(
                f"executor=ray: a worker on {platform.node()} cannot begin: {error}",
                "what a run imports must be there on every machine of the cluster, under the same name",
            ) from error
        return task


class _Server:
    """The actor: a worker of a task."""

    def __init__(self) -> None:
        self._opened = ExitStack()

    def open(self, task: _Packed, worker: Worker) -> _Reply:
        """Get ready."""
        reply = _Reply.of(lambda: self._opened.enter_context(task.unpack().open(worker)))
        self._work = reply.result
        return _Reply(error=reply.error)

    def work(self, item: Any) -> _Reply:
        """Do one item."""
        return _Reply.of(self._work, item)


@dataclass(eq=False)
class _Job(Generic[Item]):
    item: Item
    lost: int = 0
    """Workers that have died of it."""


@dataclass(eq=False)
class _Hand(Generic[Item]):
    """A worker as the driver sees it."""

    actor: Any
    opening: Any
    """What Ray promises; None when it is open."""
    jobs: dict[Any, _Job[Item]] = field(default_factory=dict)
    """By what Ray promises, the one that it works on first."""


class _Pool(Generic[Item, Result]):
    """Hands out items to actors, and replaces those that are lost."""

    def __init__(self, task: Task[Item, Result], size: _Size) -> None:
        import ray

        self.ray, self.size = ray, size
        self.task = ray.put(_Packed.of(task))
        self.hands: list[_Hand[Item]] = [self._hire() for _ in range(size.workers)]
        self.waiting: deque[_Job[Item]] = deque()
        """Lost with a worker, or the next one."""
        self.died_opening = 0

    def map(self, items: Iterator[Item]) -> Iterator[tuple[Item, Result]]:
        """See `Executor.map`."""
        todo = map(_Job, items)
        while self._hand_out(todo):
            yield from self._receive()

    def close(self) -> None:
        """Stop the workers, whatever they do."""
        for hand in self.hands:
            self.ray.kill(hand.actor)

    def _hire(self) -> _Hand[Item]:
        actor: Any = (
            self.ray.remote(_Server)
            .options(num_cpus=self.size.worker.threads, num_gpus=self.size.gpus, max_restarts=0)
            .remote()
        )
        return _Hand(actor, actor.open.remote(self.task, self.size.worker))

    def _hand_out(self, todo: Iterator[_Job[Item]]) -> bool:
        """Give workers what they have room for; False where all is done."""
        for jobs in range(AHEAD):
            for hand in self.hands:
                if hand.opening is None and len(hand.jobs) == jobs and self._is_more(todo):
                    job = self.waiting.popleft()
                    hand.jobs[hand.actor.work.remote(job.item)] = job
        return any(hand.jobs for hand in self.hands) or self._is_more(todo)

    def _is_more(self, todo: Iterator[_Job[Item]]) -> bool:
        if not self.waiting:
            self.waiting.extend(islice(todo, 1))
        return bool(self.waiting)

    def _receive(self) -> Iterator[tuple[Item, Result]]:
        promised = {hand.opening: hand for hand in self.hands if hand.opening is not None}
        promised |= {promise: hand for hand in self.hands for promise in hand.jobs}
        done, _ = self.ray.wait(list(promised), num_returns=1, timeout=PATIENCE)
        if not done and all(hand.opening for hand in self.hands):
            self._say_what_is_lacking()
        for promise in done:
            hand = promised[promise]
            try:
                result = self.ray.get(promise).get()
            except self.ray.exceptions.RayTaskError:  # not of the work, whose errors are in the reply
                raise
            except self.ray.exceptions.RayError as error:
                self._replace(hand, error)
                continue
            if promise == hand.opening:
                hand.opening, self.died_opening = None, 0
            else:
                yield hand.jobs.pop(promise).item, result

    def _replace(self, hand: _Hand[Item], error: Exception) -> None:
        """Its worker, or the machine, is gone: what it had to do is for others."""
        jobs = list(hand.jobs.values())
        if jobs:
            jobs[0].lost += 1
        else:
            self.died_opening += 1
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if self.died_opening == LOST or any(job.lost == LOST for job in jobs):
            raise UserError(
                f"executor=ray: {LOST} workers have died one after the other at the same work ({said})",
                "they may lack memory: set a lower threads, or give the cluster more",
            )
        log.warning("Ray has lost a worker (%s): others do its work.", said)
        self.waiting.extendleft(reversed(jobs))
        self.ray.kill(hand.actor)  # where it only cannot be reached
        self.hands[self.hands.index(hand)] = self._hire()

    def _say_what_is_lacking(self) -> None:
        log.warning(
            "Ray has had no worker for this for a minute: %s, each with %s%s.",
            counted(self.size.workers, "worker"),
            counted(self.size.worker.threads, "CPU"),
            " and a GPU" if self.size.gpus else "",
        )
