"""What a run may use: threads and memory. The engine owns both, and leaves the caller's settings as they were."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Resources:
    """Passed to every exact kernel."""

    threads: int = 1
    """Threads that the engine starts itself; the matrix library inside each runs on one."""
    memory: int = 2**62
    """Bytes that may be used above the vectors."""

    def map(self, work: Callable[[T], U], items: Iterable[T]) -> Iterable[U]:
        """work(item) for every item, in order, shared by the threads, while the caller consumes what comes first."""
        todo = list(items)
        return map(work, todo) if self.threads == 1 or len(todo) == 1 else self._pool.map(work, todo)

    def run(self, jobs: Sequence[Callable[[], U]]) -> list[U]:
        """What the jobs return, in order. The caller's thread works too: short jobs don't wait for others to wake."""
        results: dict[int, U] = {}
        todo = iter(enumerate(jobs))

        def work() -> None:
            for place, job in todo:
                results[place] = job()

        helpers = [self._pool.submit(work) for _ in range(min(self.threads, len(jobs)) - 1)]
        try:
            work()
        finally:
            for helper in helpers:
                if not helper.cancel():
                    helper.result()
        return [results[place] for place in range(len(jobs))]

    def chunks(self, n: int, least: int) -> list[slice]:
        """n items in one piece for every thread, none smaller than `least` where that can be."""
        pieces = max(1, min(self.threads, n // least))
        borders = [n * piece // pieces for piece in range(pieces + 1)]
        return [slice(left, right) for left, right in pairwise(borders)]

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads)

    def __enter__(self) -> "Resources":
        return self

    def __exit__(self, *error: object) -> None:
        if "_pool" in self.__dict__:
            self._pool.shutdown()

    def need(self, wanted: int, what: str) -> None:
        """Refuse before allocating.

        Raises:
            MemoryLimitError: `wanted` bytes are more than the limit.
        """
        if wanted > self.memory:
            raise MemoryLimitError(wanted, self.memory, what)


class MemoryLimitError(MemoryError):
    """A selection would need more memory than it may use."""

    def __init__(self, needed: int, limit: int, what: str) -> None:
        super().__init__(
            f"{what} needs {needed / 1e9:.2f} GB above the vectors, and the limit is {limit / 1e9:.2f} GB: raise "
            "memory_limit, or use optimizer='partition' (approximate)"
        )
        self.needed, self.limit, self.what = needed, limit, what

    def __reduce__(self) -> tuple[type, tuple[int, int, str]]:
        return type(self), (self.needed, self.limit, self.what)


def parse_memory(limit: int | str | None) -> int:
    """Bytes of 4000000000, "4GB" or "512MB" (powers of 1000), "4GiB" (of 1024); None: 80 % of what is free now."""
    if limit is None:
        return int(0.8 * _free_memory_lately(int(time.monotonic())))
    if isinstance(limit, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", limit, re.IGNORECASE)
        if not match:
            raise ValueError(f"memory_limit={limit!r}: write bytes, or a size such as 512MB or 4GB")
        base = 1024 if match[3] else 1000
        limit = int(float(match[1]) * base ** " KMGT".index(match[2].upper() or " "))
    if not 0 < limit < float("inf"):
        raise ValueError(f"memory_limit={limit}: must be a finite number above 0")
    return int(limit)


# Controllers: where the groups are mounted; the files of limit and use, and what the kernel gives back when asked.
_GROUPS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": (
        "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    ),
}  # fmt: skip


@lru_cache(maxsize=1)
def _free_memory_lately(second: int) -> int:
    """Asked once a second: for the small groups of a collection, asking takes longer than ordering."""
    return _free_memory()


def _free_memory(root: Path = Path("/")) -> int:
    """Free bytes of the machine, or of the control group (a container's, a Slurm job's) that has least left."""
    free = 2**62
    try:
        meminfo = (root / "proc/meminfo").read_text()
        free = 1024 * int(re.findall(r"MemAvailable:\s+(\d+)", meminfo)[0])
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, IndexError):
        return free
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in _GROUPS:
            mount, *files = _GROUPS[controllers]
            group = root / mount / path.lstrip("/")
            while group.is_relative_to(root / mount):
                free = min(free, _left_in_group(group, *files))
                group = group.parent
    return max(free, 1)


def _left_in_group(group: Path, limit: str, use: str, cache: str) -> int:
    try:
        left = int((group / limit).read_text()) - int((group / use).read_text())
        files = re.findall(rf"^{cache} (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
        return left + sum(map(int, files))
    except (OSError, ValueError):  # no limit here: "max", or no such file
        return 2**62


def default_threads() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


_lock = threading.Lock()
_owners = 0
_limits: Any = None


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Hold the matrix library at one thread a call; the engine's own threads share the work instead.

    The setting is global to the process, so the first to enter saves it and the last to leave restores it: runs may
    overlap in several threads.
    """
    global _owners, _limits
    with _lock:
        if _owners == 0:
            _limits = _controller().limit(limits=1, user_api="blas")
        _owners += 1
    try:
        yield
    finally:
        with _lock:
            _owners -= 1
            if _owners == 0:
                _limits.restore_original_limits()
