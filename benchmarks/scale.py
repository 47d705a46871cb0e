"""How a whole selection grows: CPU seconds of its stages, and memory, from one million rows to four.

    python -m benchmarks.scale                          # 1, 2 and 4 million rows: about half an hour, 12 GB of disk
    python -m benchmarks.scale --rows 100000 200000     # a minute

Collections are made first: FLAN-like, some 820 bytes a row, in compressed Parquet files of 250,000 rows. A task has
four groups (template types) of log-normal sizes, 2,390 rows in the mean as in FLAN 2022 (17,587,432 rows, 1,840 tasks),
so more rows are more tasks. Words are drawn from two million by Zipf's law, a third of them from words of the row's own
task: the words of a tokenizer, and for the rare ones pairs of them. The first 60
words are the group's, as definitions and examples are.

Each size is selected from three times, on one thread, by `python select.py collection=files fn=graphcut
instance_fn=facility_location budget=2%`: from nothing; again with a budget of 1 % (what a sweep pays for one more
mixture); and once more, which finds the mixture made. Memory is the peak of RssAnon, read from /proc every 50 ms: what
the process holds itself, without the pages of mapped files, which the system may drop. Text is not part of it.

Results go to benchmarks/results/: scale.json, scale.md and scale.png. The extrapolation takes the seconds a row of
the largest size, stage by stage; what grows with the vectors' width by it, and what the cores share divided by them.
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
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

RESULTS = Path(__file__).parent / "results"
FLAN, TASKS = 17_587_432, 1_840
FILE_ROWS, BATCH_ROWS = 250_000, 25_000
WORDS, OWN_WORDS, HEAD = 2_000_000, 400, 60
TEMPLATES = ("zs_opt", "zs_noopt", "fs_opt", "fs_noopt")
SHARED = {"embeddings", "orderings"}
"""Stages whose work the cores share; the others run on one."""
WIDE = {"orderings", "tasks"}
"""Stages that grow with the width of the vectors."""
RUNS = {"from nothing": "2%", "new budget": "1%", "made before": "1%"}


@dataclass
class Run:
    """One command."""

    cpu: float
    """Seconds, user and system, of the process."""
    wall: float
    anonymous: int
    """Bytes: the peak of RssAnon."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each stage, from the manifest; empty where the mixture was made before."""


def group_sizes(rows: int, rng: np.random.Generator) -> np.ndarray:
    """int64 (tasks, 4): rows of each task and template type, log-normal."""
    groups = len(TEMPLATES) * max(1, round(rows / FLAN * TASKS))
    raw = rng.lognormal(sigma=1.0, size=groups)
    sizes = 1 + np.floor(raw / raw.sum() * (rows - groups)).astype(np.int64)
    sizes[: rows - sizes.sum()] += 1
    return sizes.reshape(-1, len(TEMPLATES))


def vocabulary(rng: np.random.Generator) -> pa.LargeStringArray:
    """WORDS words, each with a space behind it: those of the default encoder's tokenizer, then pairs of them."""
    import wordllama

    file = next(Path(wordllama.__file__).parent.rglob("*tokenizer*.json"))
    tokens = json.loads(file.read_text(encoding="utf-8"))["model"]["vocab"]
    known = sorted(token[1:] for token in tokens if re.fullmatch("▁[A-Za-z]+", token))
    single = pa.array(known, pa.large_string()).take(pa.array(rng.permutation(len(known))))
    drawn = (single.take(pa.array(rng.integers(0, len(known), WORDS))) for _ in range(2))
    words = pa.concat_arrays([single, pc.binary_join_element_wise(*drawn, pa.scalar("", pa.large_string()))])
    space, nothing = pa.scalar(" ", pa.large_string()), pa.scalar("", pa.large_string())
    return pc.binary_join_element_wise(words[:WORDS], space, nothing)


def write_collection(folder: Path, rows: int, seed: int = 0) -> None:
    """The files of a collection, unless they are there."""
    done = folder / "done"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    words, chances = vocabulary(rng), np.cumsum(1 / np.arange(1, WORDS + 1) ** 0.95)
    group = np.repeat(
        np.arange(group_sizes(rows, rng).size), group_sizes(rows, np.random.default_rng(seed)).ravel()
    )
    group = rng.permutation(group)
    for first in range(0, rows, FILE_ROWS):
        with pq.ParquetWriter(
            folder / f"{first // FILE_ROWS:04d}.parquet", _SCHEMA, compression="zstd"
        ) as file:
            for start in range(first, min(first + FILE_ROWS, rows), BATCH_ROWS):
                file.write_table(
                    _batch(
                        group[start : min(start + BATCH_ROWS, rows, first + FILE_ROWS)], words, chances, rng
                    )
                )
    done.touch()


_SCHEMA = pa.schema(
    [(name, pa.large_string()) for name in ("submixture", "task_name", "template_type", "inputs", "targets")]
)


def _batch(
    group: np.ndarray, words: pa.LargeStringArray, chances: np.ndarray, rng: np.random.Generator
) -> pa.Table:
    task, template = np.divmod(group, len(TEMPLATES))
    lengths = HEAD + np.minimum(1 + rng.lognormal(3.6, 0.8, len(group)).astype(np.int64), 4_000)
    drawn = np.searchsorted(chances, rng.random(lengths.sum()) * chances[-1])
    own = rng.random(len(drawn)) < 1 / 3
    of_task = np.repeat(task, lengths)[own] * 7_919 + rng.integers(0, OWN_WORDS, own.sum()) ** 2
    drawn[own] = of_task % WORDS
    place = np.arange(len(drawn)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    head = place < HEAD
    drawn[head] = (np.repeat(group, lengths)[head] * 104_729 + place[head] ** 3) % 20_000
    return pa.table(
        {
            "submixture": pa.array([f"sub{number % 5}" for number in task.tolist()], pa.large_string()),
            "task_name": pa.array([f"task{number:05d}" for number in task.tolist()], pa.large_string()),
            "template_type": pa.array([TEMPLATES[number] for number in template.tolist()], pa.large_string()),
            "inputs": _texts(words, drawn, lengths),
            "targets": _texts(words, drawn[: 6 * len(group)], np.full(len(group), 6)),
        }
    )


def _texts(words: pa.LargeStringArray, drawn: np.ndarray, lengths: np.ndarray) -> pa.LargeStringArray:
    """The drawn words one behind the other, so many a text: the words' own buffer is the texts'."""
    taken = words.take(pa.array(drawn))
    edges = np.frombuffer(taken.buffers()[1], np.int64)[np.concatenate([[0], np.cumsum(lengths)])]
    return pa.LargeStringArray.from_buffers(len(lengths), pa.py_buffer(edges.copy()), taken.buffers()[2])


def measure(command: list[str], environment: dict[str, str]) -> Run:
    """Run a command to its end, looking at its memory all the while."""
    started, peak, over = time.monotonic(), 0, threading.Event()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.05):
            try:
                found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            except OSError:
                return
            peak = max(peak, 1024 * int(found[1]) if found else 0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, used = os.wait4(process.pid, 0)
    over.set()
    watcher.join()
    if status:
        raise SystemExit(f"{' '.join(command)}: exit status {status}")
    return Run(used.ru_utime + used.ru_stime, time.monotonic() - started, peak)


def run_size(rows: int, work: Path, threads: int) -> dict[str, Run]:
    """The three commands on a collection of so many rows."""
    write_collection(work / f"rows-{rows}", rows)
    root = work / f"outputs-{rows}"
    runs = {}
    for name, budget in RUNS.items():
        output = root / f"mixture-{budget.rstrip('%')}"
        command = [sys.executable, "-m", "smart.cli.select", "collection=files", f"budget={budget}"]
        command += [f"collection.path={work}/rows-{rows}/*.parquet", "fn=graphcut", f"threads={threads}"]
        command += [f"output_root={root}", f"output={output}", "tracker=none"]
        runs[name] = measure(command, {**os.environ, "OMP_NUM_THREADS": str(threads)})
        if name != "made before":
            runs[name].seconds = json.loads((output / "manifest.json").read_text())["seconds"]
        print(
            f"{rows:,} rows, {name}: {runs[name].cpu:.1f} CPU s, {runs[name].anonymous / 1e6:,.0f} MB",
            flush=True,
        )
    return runs


Runs = dict[int, dict[str, Run]]
"""Rows → name of the run → what it took."""


def extrapolate(runs: Runs, rows: int, width: int, cores: int, measured: int = 256) -> dict[str, float]:
    """Seconds of each stage from nothing, from those a row of the largest size that was measured."""
    largest = max(runs)
    found = {}
    for stage, seconds in runs[largest]["from nothing"].seconds.items():
        if stage != "total":
            scale = rows / largest * (width / measured if stage in WIDE else 1)
            found[stage] = seconds * scale / (cores if stage in SHARED else 1)
    return {**found, "total": sum(found.values())}


def render(runs: Runs, machine: str) -> str:
    sizes = sorted(runs)
    stages = list(runs[sizes[-1]]["from nothing"].seconds)
    held = {size: max(run.anonymous for run in runs[size].values()) for size in sizes}
    growth = ""
    if len(sizes) > 1:
        bytes_a_row = (held[sizes[-1]] - held[sizes[0]]) / (sizes[-1] - sizes[0])
        cpu = [runs[size]["from nothing"].cpu for size in sizes]
        exponent = np.polyfit(np.log(sizes), np.log(cpu), 1)[0]
        growth = f"Memory grows by {bytes_a_row:.0f} bytes a row; CPU seconds as rows^{exponent:.2f}."
    cases = ((FLAN, 256), (FLAN, 1024), (100_000_000, 256))
    return (
        "\n\n".join(
            [
                f"`python -m benchmarks.scale`, {date.today()}, {machine}, one thread.",
                _table(
                    ["rows", *(f"{name}, CPU s" for name in RUNS), "memory held, MB"],
                    [
                        [
                            f"{size:,}",
                            *(f"{run.cpu:.1f}" for run in runs[size].values()),
                            f"{held[size] / 1e6:,.0f}",
                        ]
                        for size in sizes
                    ],
                ),
                growth,
                "Seconds of the stages:",
                _table(
                    ["rows", *stages],
                    [
                        [
                            f"{size:,}, {name}",
                            *(f"{runs[size][name].seconds.get(stage, 0):.1f}" for stage in stages),
                        ]
                        for size in sizes
                        for name in ("from nothing", "new budget")
                    ],
                ),
                "Extrapolated: seconds from nothing on 16 cores, embedding as the default encoder does it:",
                _table(
                    ["rows, width of the vectors", *stages],
                    [
                        [f"{rows:,}, {width:,}", *(f"{found[stage]:,.0f}" for stage in stages)]
                        for rows, width in cases
                        for found in [extrapolate(runs, rows, width, 16)]
                    ],
                ),
            ]
        )
        + "\n"
    )


def _table(head: list[str], lines: list[list[str]]) -> str:
    rule = ["---:"] * len(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def draw(runs: Runs, path: Path) -> None:
    from matplotlib.ticker import NullLocator

    from smart.runtime.plot_style import COLOURS, log_scale, new_figure, save_figure, style

    sizes = sorted(runs)
    with style():
        figure = new_figure(11, 4.6)
        left, right = figure.subplots(1, 2)
        stages = [stage for stage in runs[sizes[-1]]["from nothing"].seconds if stage != "total"]
        for stage, colour in zip(["CPU, all", *stages], COLOURS, strict=False):
            found = [
                run["from nothing"].cpu if stage == "CPU, all" else run["from nothing"].seconds[stage]
                for run in (runs[size] for size in sizes)
            ]
            left.plot(sizes, found, "o-", color=colour, label=stage)
        ideal = np.array(sizes) / sizes[-1] * runs[sizes[-1]]["from nothing"].cpu
        left.plot(sizes, ideal, "--", color="#999999", label="linear")
        left.set(title="Seconds from nothing, one thread", xlabel="rows", ylabel="seconds")
        left.legend(fontsize=8)
        for name, colour in zip(RUNS, COLOURS, strict=False):
            right.plot(
                sizes, [runs[size][name].anonymous / 1e6 for size in sizes], "o-", color=colour, label=name
            )
        right.set(title="Memory held (peak of RssAnon)", xlabel="rows", ylabel="MB")
        right.legend(fontsize=8)
        for axes in (left, right):
            log_scale(axes, "x")
            log_scale(axes, "y")
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axes.xaxis.set_minor_locator(NullLocator())
        save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 2_000_000, 4_000_000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--work", type=Path, help="keep collections and outputs here; else a temporary folder"
    )
    parser.add_argument("--machine", default=f"{os.cpu_count()} cores")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        runs = {rows: run_size(rows, work.resolve(), options.threads) for rows in sorted(options.rows)}
    options.results.mkdir(parents=True, exist_ok=True)
    plain = {rows: {name: asdict(run) for name, run in found.items()} for rows, found in runs.items()}
    (options.results / "scale.json").write_text(json.dumps(plain, indent=1) + "\n")
    (options.results / "scale.md").write_text(text := render(runs, options.machine))
    draw(runs, options.results / "scale.png")
    print(text)


if __name__ == "__main__":
    main()
