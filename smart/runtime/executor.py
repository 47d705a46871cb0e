"""Independent units of work on the cores of one machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_unordered(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, work(item)) as they finish; at most 2 x threads items are under way or waiting.

    Threads, not processes: the work is compiled code that frees the interpreter, the vectors stay where they are,
    and no worker can be killed by itself. The first error, or closing the iterator, stops the rest.
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
