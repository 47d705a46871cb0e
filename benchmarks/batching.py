"""How long do processes wait for each other, and how many micro-batches does a step take?

    python -m benchmarks.batching --data FOLDER

FOLDER has Parquet files with the columns inputs and targets. 20,000 of their rows, by SmolLM2's tokenizer, make steps
of 64; a hundredth of them gets lengths from 1,024 to 4,096 instead, evenly on a logarithmic scale. Nothing is trained:
it is arithmetic on lengths.

- work: tokens that the slowest process computes, padding included, times the number of processes, divided by the least
  that is possible: all real tokens, or the longest row on each process;
- micro-batches: of each process and step; in brackets, on one process, the least that hold the real tokens.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from smart.training.batching import Batching

ROWS, STEP, LIMIT = 20_000, 64, 8_192
KINDS = {
    "micro_batch_size=8": Batching(8),
    f"tokens_per_micro_batch={LIMIT}": Batching(8, LIMIT),
    f"tokens_per_micro_batch={LIMIT} packing=true": Batching(8, LIMIT, packing=True),
}


def read_lengths(folder: Path) -> np.ndarray:
    """Tokens of rows, equally many of each file: int64 (ROWS,)."""
    from smart.config import compose, read_config
    from smart.model.base import find_base, load_tokenizer
    from smart.training import TrainConfig

    config = read_config(TrainConfig, compose("train", ["mixture=none", "model=smollm2_135m"]))
    tokenizer = load_tokenizer(find_base(config.model, config.models), list)
    rng, lengths = np.random.default_rng(0), list[int]()
    files = [
        file
        for file in sorted(folder.glob("*.parquet"))
        if {"inputs", "targets"} <= set(pq.read_schema(file).names)
    ]
    for file in files:
        table = pq.read_table(file, columns=["inputs", "targets"])
        table = table.take(rng.permutation(len(table))[: math.ceil(ROWS / len(files)) * 2])
        texts = [f"{row['inputs']} {row['targets']}" for row in table.to_pylist()]
        lengths += [len(ids) + 1 for ids in tokenizer(texts)["input_ids"]]
    found = rng.choice(np.array(lengths), ROWS, replace=False)
    tail = rng.choice(ROWS, ROWS // 100, replace=False)
    found[tail] = np.exp(rng.uniform(math.log(1024), math.log(4096), len(tail)))
    return np.minimum(found, 4096)


def measure(lengths: np.ndarray, batching: Batching, world: int) -> tuple[float, float, float]:
    """Work, micro-batches of a process, and the least on one process; means over steps of STEP rows."""
    slowest = least = rounds = fewest = steps = 0
    for step in np.split(lengths, np.arange(STEP, len(lengths), STEP)):
        grid = batching.cut(step, world)
        tokens = np.array([[batching.computed(step[part]) for part in parts] for parts in grid])
        slowest += tokens.sum(0).max() * world
        least += max(step.sum(), world * step.max())
        rounds += len(grid)
        fewest += math.ceil(step.sum() / LIMIT)
        steps += 1
    return slowest / least, rounds / steps, fewest / steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    lengths = read_lengths(parser.parse_args().data)
    spread = ", ".join(f"{value:,.0f}" for value in np.percentile(lengths, [10, 50, 90, 99, 100]))
    print(f"{len(lengths):,} rows, mean {lengths.mean():,.0f} tokens; 10, 50, 90, 99, 100 %: {spread}\n")
    print("| options | processes | work | micro-batches |\n| --- | --- | --- | --- |")
    for name, batching in KINDS.items():
        for world in (1, 4, 8):
            work, rounds, fewest = measure(lengths, batching, world)
            least = f" ({fewest:.2f})" if world == 1 and batching.tokens else ""
            print(f"| `{name}` | {world} | {work:.3f} | {rounds:.2f}{least} |")


if __name__ == "__main__":
    main()
