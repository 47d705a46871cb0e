"""What an executor costs: the same embeddings and orderings on threads and on Ray, with as many workers.

    python -m benchmarks.executors --rows 40000 --workers 2

Seconds of wall clock from empty caches, with kernels compiled before. Starting Ray is apart; starting its workers, as
each stage does, is not.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from smart.embedding import Prompts, WordLlama, embed
from smart.runtime.cluster import RayCluster, connect
from smart.runtime.executor import Executor, Threads
from smart.selection.orderings import Orderer, order_groups
from smart.submodular import FacilityLocation

GROUP = 500
"""Rows of most groups."""


def prompts(rows: int) -> Prompts:
    """Questions of 20 to 200 words."""
    rng = np.random.default_rng(0)
    words = np.array(
        [f"{a}{b}{c}" for a in "bcdfghklmnprst" for b in "aeiou" for c in ("n", "l", "rt", "sk")]
    )
    texts = [" ".join(rng.choice(words, rng.integers(20, 200))) + f" {row}" for row in range(rows)]
    return Prompts(pa.chunked_array([texts]), np.arange(rows), np.arange(rows), rows)


def measure(executor: Executor, pool: Prompts, folder: Path) -> dict[str, float]:
    """Seconds of each stage, and a number that all executors must find."""
    seconds = {}

    def timed(name: str, work: Callable[[], object]) -> object:
        began = time.perf_counter()
        found = work()
        seconds[name] = time.perf_counter() - began
        return found

    shards = 5_000
    vectors = timed("embeddings", lambda: embed(pool, WordLlama(), folder / "embeddings", shards, executor))
    offsets = np.append(np.arange(0, len(pool), GROUP), len(pool))
    orderer = Orderer(FacilityLocation, {"fn": "facility_location"}, None)
    wanted = range(len(offsets) - 1)
    orders = timed(
        "orderings", lambda: order_groups(orderer, vectors, offsets, wanted, folder / "orderings", executor)
    )
    seconds["check"] = float(sum(int(order[0]) for order in orders.values()))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    pool = prompts(arguments.rows)
    executors: dict[str, Executor] = {
        "threads": Threads(arguments.workers),
        "ray": RayCluster(arguments.workers),
    }
    with tempfile.TemporaryDirectory() as place:
        measure(executors["threads"], pool, Path(place) / "warm")  # compiles kernels, if they are not cached
        began = time.perf_counter()
        connect(arguments.workers)
        print(f"starting Ray: {time.perf_counter() - began:.1f} s")
        for name, executor in executors.items():
            found = measure(executor, pool, Path(place) / name)
            print(name, {stage: round(value, 2) for stage, value in found.items()})


if __name__ == "__main__":
    main()
