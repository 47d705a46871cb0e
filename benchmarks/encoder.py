"""How many prompts a second does the default encoder encode, and in how much memory?

    python -m benchmarks.encoder --data FOLDER --files sni-xl cot t0 flan2021 dialog

FOLDER has Parquet files with a column inputs; where they have task_name and template_type, prompts come in the order of
groups, as in a selection. Each line is a process of its own:

- wordllama: the package's own `embed`, of a sample of the prompts (evenly spaced), whose bits are compared with ours;
- smart: `smart.embedding.embed` of all prompts, from Arrow in memory to stored and hashed float16 vectors, on one
  thread and more.

A first text is encoded before the clock starts; how long that took, which is compiling where no compiled code is kept,
is shown apart. CPU seconds are those of all threads of the process. Seconds are the best of --repeats, since what else
runs on the machine disturbs them. Memory is the peak of RssAnon above what was held before (read from /proc, so on
Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smart.embedding import Prompts, WordLlama, embed
from smart.runtime.executor import Threads

GROUP = ("task_name", "template_type")


def read_prompts(folder: Path, names: list[str]) -> Prompts:
    """Prompts of the files, in the order of their groups."""
    tables = []
    for file in sorted(folder.glob("*.parquet")):
        columns = [name for name in ("inputs", *GROUP) if name in pq.read_schema(file).names]
        if "inputs" in columns and (not names or file.stem in names):
            tables.append(pq.read_table(file, columns=columns))
    table = pa.concat_tables(tables, promote_options="default")
    keys = [(name, "ascending") for name in GROUP if name in table.column_names]
    order = pc.sort_indices(table, keys).to_numpy().astype(np.int64) if keys else np.arange(len(table))
    return Prompts(table["inputs"], order, None, len(table))


def anonymous() -> int:
    return 1024 * int(re.findall(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[0])


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Bytes at most above the start, looked at every 5 ms."""
    start, most, done = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, anonymous() - start)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: most
    finally:
        done.set()
        watcher.join()


def measured(first: Callable[[], Any], work: Callable[[], Any], rows: int) -> dict[str, float]:
    began = time.perf_counter()
    first()
    start = time.perf_counter()
    with peak_memory() as memory:
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"rows": rows, "cpu": cpu, "wall": wall, "memory": memory(), "first": start - began}


def encode_by_package(prompts: Prompts, sample: int) -> dict[str, float]:
    import wordllama

    package = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(cache_dir=package, dim=256, disable_download=True)
    places = np.unique(np.linspace(0, len(prompts) - 1, sample).astype(int))
    texts = [text for place in places for text in prompts.take(place, place + 1).to_pylist()]
    found: list[np.ndarray] = []
    numbers = measured(
        lambda: model.embed(texts[:1]), lambda: found.append(model.embed(texts, norm=True)), len(texts)
    )
    with WordLlama().open() as session:
        blocks = range(0, len(texts), session.block)
        ours = np.concatenate([session.encode(texts[i : i + session.block]).vectors for i in blocks])
    same = (ours.view(np.uint32) == found[0].view(np.uint32)).all(axis=1).sum()
    return {**numbers, "same": float(same)}


def encode_by_smart(prompts: Prompts, threads: int) -> dict[str, float]:
    def first() -> None:
        with WordLlama().open() as session:
            session.encode(["first"])

    with tempfile.TemporaryDirectory() as folder:
        return measured(
            first, lambda: embed(prompts, WordLlama(), Path(folder), executor=Threads(threads)), len(prompts)
        )


def in_child(arguments: list[str]) -> dict[str, float]:
    """Run this module in a fresh process; its last line is JSON."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-m", "benchmarks.encoder", *arguments]
    done = subprocess.run(run, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def best(arguments: list[str], repeats: int) -> dict[str, float]:
    runs = [in_child(arguments) for _ in range(repeats)]
    return {key: (max if key == "memory" else min)(run[key] for run in runs) for key in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--files", nargs="*", default=[], help="names without .parquet; all by default")
    parser.add_argument("--sample", type=int, default=6_000, help="prompts for the package itself")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        prompts, number = read_prompts(options.data, options.files), int(options.worker.split()[1])
        work = encode_by_package if options.worker.startswith("package") else encode_by_smart
        print(json.dumps(work(prompts, number)))
        return
    data = ["--data", str(options.data), *(["--files", *options.files] if options.files else [])]
    ways = {"wordllama": f"package {options.sample}"}
    ways |= {f"smart, threads={threads}": f"threads {threads}" for threads in options.threads}
    print("| encoder | rows | CPU s | rows a CPU second | ratio | wall s | memory | first text |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    package = None
    for name, way in ways.items():
        run = best([*data, "--worker", way], options.repeats)
        rate = run["rows"] / run["cpu"]
        package = package or rate
        if "same" in run:
            name += f" ({run['same']:,.0f} with our bits)"
        cells = [name, f"{run['rows']:,.0f}", f"{run['cpu']:.2f}", f"{rate:,.0f}", f"{rate / package:.1f}"]
        cells += [f"{run['wall']:.2f}", f"{run['memory'] / 1e6:,.0f} MB", f"{run['first']:.1f} s"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
