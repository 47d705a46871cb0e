"""Independent units of work, wherever they are done: on the cores of this machine, or on a cluster (`cluster.py`)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Taken = TypeVar("Taken", contravariant=True)
Given = TypeVar("Given", covariant=True)
Outcomes = Generator[tuple[Item, Result], None, None]


@dataclass(frozen=True)
class Worker:
    """What does units of a task, one after the other."""

    threads: int
    """That it may use."""
    share: int
    """Workers on its machine, which have equal parts of the memory."""


class Task(Protocol[Taken, Given]):
    """What workers do. The task, its items and its results can be pickled; results come back to be written."""

    @property
    def wide(self) -> bool:
        """One worker on each machine, with all of its threads; else one on each core."""

    @property
    def gpu(self) -> bool:
        """Each worker needs a GPU, where there are any."""

    def open(self, worker: Worker) -> AbstractContextManager[Callable[[Taken], Given]]:
        """Get a worker ready, once: what it does with each item, in one or several threads."""


class Executor(Protocol):
    """Where units of work are done."""

    def map(self, task: Task[Item, Result], items: Iterable[Item]) -> Outcomes[Item, Result]:
        """Yield (item, result) as they finish.

        Items are asked for as workers have room, at most two for each of them; without any, nothing is opened. The
        first error, or closing the iterator, stops the rest.
        """


@dataclass(frozen=True)
class Threads:
    """The cores of this machine.

    Threads, not processes: the work is compiled code that frees the interpreter, the vectors stay where they are, and
    no worker can be killed by itself.
    """

    threads: int

    def map(self, task: Task[Item, Result], items: Iterable[Item]) -> Outcomes[Item, Result]:
        """See `Executor.map`. A wide task is done in the calling thread."""
        waiting = iter(items)
        first = list(islice(waiting, 1))
        if not first:
            return
        worker = Worker(self.threads, 1) if task.wide else Worker(1, self.threads)
        with task.open(worker) as work:
            if worker.share > 1:
                yield from map_unordered(work, chain(first, waiting), worker.share)
            else:
                yield from ((item, work(item)) for item in chain(first, waiting))


def map_unordered(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, work(item)) as they finish; at most 2 x threads items are under way or waiting.

    The first error, or closing the iterator, stops the rest.
    """
    waiting = iter(items)
    pool = ThreadPoolExecutor(threads)
    running: dict[Future[Result], Item] = {}
    try:
        while True:
            for item in islice(waiting, 2 * threads - len(running)):
                running[pool.submit(work, item)] = item
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def packs(items: Iterable[Item], size: Callable[[Item], int], least: int) -> Iterator[list[Item]]:
    """Items in their order, as many together as make `least`, where handing over one takes longer than its work."""
    pack: list[Item] = []
    total = 0
    for item in items:
        pack.append(item)
        total += size(item)
        if total >= least:
            yield pack
            pack, total = [], 0
    if pack:
        yield pack
