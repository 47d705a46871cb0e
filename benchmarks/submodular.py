"""Time, memory and regret of smart.submodular, beside other libraries on the same vectors.

    python -m benchmarks.submodular                 # all of it: most of an hour, nearly all of it the others'
    python -m benchmarks.submodular --quick         # n = 1,500 only: a minute
    python -m benchmarks.submodular --case gc-10k --case fl-10k

Each run is a process of its own on one core, and each number the median of three (a run of over a minute is made
once). Ours compile before the clock starts, on a small input, and that time is shown apart; vectors are loaded
before, kernels are built after. Memory is the peak resident size (read from /proc, so on Linux) above what the
process held with vectors loaded and code compiled. Results go to
benchmarks/results/: submodular.json, submodular.md and submodular.png.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.peers import PEERS, Peer
from smart.submodular import (
    FacilityLocation,
    GraphCut,
    LogDeterminant,
    SetFunction,
    maximize,
    regret,
    single_threaded_blas,
)

RESULTS = Path(__file__).parent / "results"
OURS = "smart"
LONG = 60.0  # seconds over which a run is not repeated
REPLAYED = 10_000  # rows up to which regret is measured: its replay is slow on purpose
NAMES = {"fl": "facility location", "gc": "graph cut", "logdet": "log-determinant"}


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    fn: str
    n: int
    budget: int
    d: int = 384
    threads: int = 1
    memory_limit: str | None = None
    peers: bool = True
    optimizer: Literal["exact", "lazy", "naive"] = "exact"
    groups: int = 0
    """Where not 0: n rows in so many groups, each ordered in full; threads take some groups each."""


def full(name: str, fn: str, n: int, **options: Any) -> Case:
    return Case(name, fn, n, n, **options)


QUICK = [full(f"{fn}-1.5k", fn, 1500) for fn in NAMES]
CASES = [
    *QUICK,
    *(full(f"{fn}-500", fn, 500) for fn in NAMES),
    *(full(f"{fn}-5k", fn, 5000) for fn in NAMES),
    full("gc-10k", "gc", 10_000),
    full("fl-10k", "fl", 10_000),
    full("logdet-10k", "logdet", 10_000, peers=False),
    *(full(f"{fn}-10k-1024d", fn, 10_000, d=1024, peers=False) for fn in NAMES),
    *(full(f"{fn}-20k", fn, 20_000, peers=False) for fn in NAMES),
    *(full(f"{fn}-20k-2-threads", fn, 20_000, peers=False, threads=2) for fn in NAMES),
    *(Case(f"{fn}-5k-lazy", fn, 5000, 500, peers=False, optimizer="lazy") for fn in NAMES),
    *(Case(f"{fn}-5k-naive", fn, 5000, 500, peers=False, optimizer="naive") for fn in NAMES),
    full("gc-100k", "gc", 100_000, peers=False),
    full("gc-100k-2-threads", "gc", 100_000, peers=False, threads=2),
    Case("fl-100k", "fl", 100_000, 10_000, memory_limit="4GB", peers=False),
    *(full(f"{fn}-groups", fn, 132_595, d=256, groups=845) for fn in NAMES),
    *(full(f"{fn}-groups-2-threads", fn, 132_595, d=256, groups=845, threads=2, peers=False) for fn in NAMES),
]


def make_vectors(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Unit vectors that lie as sentence embeddings do: clusters of about 100 about a common mean (cosines ~0.35)."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(8, n // 100), d), dtype=np.float32)
    x = centres[rng.integers(0, len(centres), n)] + np.float32(0.9) * rng.standard_normal(d, dtype=np.float32)
    x += np.float32(0.8) * rng.standard_normal((n, d), dtype=np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def group_sizes(n: int, groups: int) -> np.ndarray:
    """Log-normal sizes of 1 and more that sum to n, as the (task, template) groups of a collection have."""
    raw = np.random.default_rng(0).lognormal(sigma=1.0, size=groups)
    sizes = 1 + np.floor(raw / raw.sum() * (n - groups)).astype(np.int64)
    sizes[: n - sizes.sum()] += 1
    return sizes


# One run, in a process of its own.


def our_function(fn: str, X: np.ndarray) -> SetFunction:
    makers: dict[str, Callable[[np.ndarray], SetFunction]] = {
        "fl": FacilityLocation,
        "gc": lambda x: GraphCut(x, tradeoff=0.4),
        "logdet": LogDeterminant,
    }
    return makers[fn](X)


def our_selection(case: Case) -> Peer:
    threads = 1 if case.groups else case.threads

    def select(X: np.ndarray, budget: int) -> np.ndarray:
        f = our_function(case.fn, X)
        return maximize(f, budget, case.optimizer, threads=threads, memory_limit=case.memory_limit).order

    return select


def run_once(case: Case, who: str, vectors: Path, orders: Path) -> dict[str, float]:
    """Called in the child: seconds, bytes above the start, seconds of compiling (and of trying the path once).

    And the rate of a float32 product just afterwards, since a processor shared with others is not always as fast.
    """
    X = np.load(vectors)
    select = our_selection(case) if who == OURS else PEERS[case.fn][who]
    began = time.perf_counter()
    for rows in (100, 700, 2000) if who == OURS else (50,):
        select(make_vectors(rows, 64), rows)
    compile_seconds = time.perf_counter() - began
    borders = (
        np.concatenate([[0], np.cumsum(group_sizes(case.n, case.groups))]) if case.groups else [0, case.n]
    )
    held = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    began = time.perf_counter()
    with single_threaded_blas():
        parts = sorted(pairwise(borders), key=lambda part: part[0] - part[1])
        if who != OURS:  # submodlib needs two rows at least
            parts = [(left, right) for left, right in parts if right - left > 1]

        def work(part: tuple[int, int]) -> np.ndarray:
            return select(X[slice(*part)], part[1] - part[0] if case.groups else case.budget)

        if case.groups and case.threads > 1:
            from smart.runtime.executor import map_unordered, packs
            from smart.selection.orderings import TOGETHER

            todo = packs(parts, lambda part: int(part[1] - part[0]), TOGETHER)
            for _, ordered in map_unordered(lambda pack: list(map(work, pack)), todo, case.threads):
                order = ordered[-1]
        else:
            for part in parts:
                order = work(part)
    seconds = time.perf_counter() - began
    memory = _memory("VmHWM") - held
    np.save(orders, order)
    rate = matrix_product_rate(case.d)
    return {"seconds": seconds, "memory": memory, "compile_seconds": compile_seconds, "rate": rate}


def _memory(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(rf"{field}:\s+(\d+)", status)[0])


def matrix_product_rate(d: int) -> float:
    """Floating-point operations a second of a float32 matrix product on one core, the best of five."""
    x = make_vectors(4096, d)
    out = np.empty((4096, 4096), np.float32)
    best = min(_timed(lambda: np.dot(x, x[:4096].copy().T, out=out)) for _ in range(5))
    return 2 * 4096 * 4096 * d / best


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# The parent.


def in_child(arguments: list[str]) -> dict[str, Any]:
    """Run this module in a fresh process on one thread; its last line is JSON."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.submodular", *arguments],
        env={**os.environ, **threads},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def measure(case: Case, who: str, vectors: Path, repeats: int) -> dict[str, Any]:
    """Median of the repeats, and regret where it is measured."""
    orders = vectors.with_suffix(".order.npy")
    runs: list[dict[str, Any]] = []
    while len(runs) < repeats and not (runs and (runs[-1].get("error") or runs[-1]["seconds"] > LONG)):
        worker = ["--worker", json.dumps(asdict(case)), "--who", who]
        runs.append(in_child([*worker, "--vectors", str(vectors), "--orders", str(orders)]))
    if "error" in runs[-1]:
        return runs[-1]
    result = {key: float(np.median([run[key] for run in runs])) for key in runs[0]} | {"runs": len(runs)}
    if case.n <= REPLAYED:
        replayed = regret(our_function(case.fn, np.load(vectors)), np.load(orders))
        result |= {"regret": replayed.maximum, "regret_p99": replayed.p99}
    return result


def measure_case(case: Case, folder: Path, repeats: int) -> dict[str, Any]:
    vectors = folder / f"{case.n}-{case.d}.npy"
    if not vectors.exists():
        np.save(vectors, make_vectors(case.n, case.d))
    result = {"case": asdict(case), OURS: measure(case, OURS, vectors, repeats)}
    for peer in PEERS[case.fn] if case.peers else ():
        if not (case.groups and peer == "apricot"):
            result[peer] = measure(case, peer, vectors, repeats)
    return {**result, "date": str(date.today())}


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one line a case, our time and memory, then every peer's with the ratio."""
    lines = [
        "| case | seconds | memory above the vectors | regret | matrix products | peers: seconds (ratio), memory |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        case, ours = Case(**result["case"]), result[OURS]
        title = f"{NAMES[case.fn]}, {case.n:,} × {case.d}, k = {case.budget:,}"
        title += f", {case.groups} groups" if case.groups else ""
        title += f", {case.threads} threads" if case.threads > 1 else ""
        title += f", {case.optimizer} optimizer" if case.optimizer != "exact" else ""
        title += f", limit {case.memory_limit}" if case.memory_limit else ""
        if "error" in ours:
            lines.append(f"| {title} | {ours['error']} | | | | |")
            continue
        peers = "; ".join(_peer_cell(peer, result[peer], ours) for peer in PEERS[case.fn] if peer in result)
        squares = float((group_sizes(case.n, case.groups) ** 2).sum()) if case.groups else float(case.n) ** 2
        products = ours["seconds"] / (2 * squares * case.d / ours["rate"])
        lines.append(
            f"| {title} | {ours['seconds']:.3g} | {ours['memory'] / 1e6:.0f} MB | {_regret(ours)} "
            f"| {products:.2g} | {peers} |"
        )
    return "\n".join(lines)


def _regret(run: dict[str, Any]) -> str:
    return f"{run['regret']:.1e}" if "regret" in run else "not replayed"


def _peer_cell(name: str, peer: dict[str, Any], ours: dict[str, Any]) -> str:
    if "error" in peer:
        return f"{name}: {peer['error']}"
    ratio = peer["seconds"] / ours["seconds"]
    regret = f", regret {_regret(peer)}" if "regret" in peer else ""
    return f"{name} {peer['seconds']:.3g} ({ratio:.0f}×), {peer['memory'] / 1e6:.0f} MB{regret}"


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Time of full orderings against n, log-log, one panel a function."""
    from matplotlib import pyplot

    from smart.runtime.plot_style import save_figure, style

    names = list(dict.fromkeys([OURS, *(peer for fn in NAMES for peer in PEERS[fn])]))
    with style():
        figure, axes = pyplot.subplots(1, 3, figsize=(12, 4), sharey=True)
        for axis, (fn, title) in zip(axes, NAMES.items(), strict=True):
            for who in (OURS, *PEERS[fn]):
                points = sorted(
                    (result["case"]["n"], result[who]["seconds"])
                    for result in results
                    if _plain(result["case"], fn) and "seconds" in result.get(who, {})
                )
                if points:
                    axis.plot(
                        *zip(*points, strict=True),
                        marker="o",
                        label=who,
                        color=f"C{names.index(who)}",  # the same in every panel
                        linewidth=2.5 if who == OURS else 1.2,
                    )
            axis.set(title=title, xlabel="rows n, all of them ordered", xscale="log", yscale="log")
            if axis.lines:
                axis.legend()
        axes[0].set_ylabel("seconds, one core, kernel included")
        save_figure(figure, path)


def _plain(case: dict[str, Any], fn: str) -> bool:
    return (
        case["fn"] == fn
        and case["d"] == 384
        and case["threads"] == 1
        and not case["groups"]
        and case["budget"] == case["n"]
        and case.get("optimizer", "exact") == "exact"
    )


def processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return found[0] if found else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="n = 1,500 only")
    parser.add_argument("--case", action="append", metavar="NAME", help="only this case; may be repeated")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    for hidden in ("--worker", "--who", "--vectors", "--orders"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        case = Case(**json.loads(options.worker))
        print(json.dumps(run_once(case, options.who, Path(options.vectors), Path(options.orders))))
        return
    known = {case.name: case for case in CASES}
    unknown = [name for name in options.case or () if name not in known]
    if unknown:
        parser.error(f"no case {unknown[0]}; known: {', '.join(known)}")
    chosen = [known[name] for name in options.case] if options.case else QUICK if options.quick else CASES
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for case in chosen:
            results.append(measure_case(case, Path(folder), options.repeats))
            print(table(results[-1:]).splitlines()[-1], flush=True)
    write(results, options.output)


def write(results: list[dict[str, Any]], folder: Path) -> None:
    """Table, numbers and figure."""
    folder.mkdir(parents=True, exist_ok=True)
    days = sorted({result["date"] for result in results})
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "date": " to ".join(dict.fromkeys((days[0], days[-1]))),
    }
    (folder / "submodular.json").write_text(
        json.dumps({"machine": machine, "results": results}, indent=1) + "\n"
    )
    compiling = max((result[OURS].get("compile_seconds", 0.0) for result in results), default=0.0)
    note = (
        f"{machine['processor']}, {machine['date']}. One core unless said otherwise; medians; kernels included. "
        "Matrix products: our time in units of one float32 product of the kernel's size on this core. Compiling is "
        f"not included: at most {compiling:.1f} s in these runs, kept on disk between processes.\n"
    )
    (folder / "submodular.md").write_text(note + "\n" + table(results) + "\n")
    draw(results, folder / "submodular.png")
    print(f"written to {folder}")


if __name__ == "__main__":
    main()
