"""What a machine with one GPU can prove, with whatever versions are installed, and no network.

    python -m benchmarks.gpu correct --minutes 10
    python -m benchmarks.gpu train --minutes 30 --only mistral_7b/qlora
    python -m benchmarks.gpu smollm --model FOLDER --data FILE.parquet
    python -m benchmarks.gpu evaluate --data FOLDER
    python -m benchmarks.gpu encode
    python -m benchmarks.gpu report

- correct: losses and gradients against float32 on the CPU, 4-bit gradients before and after an evaluation, which
  attention kernel runs, kill and resume, both launch files;
- train: tokens per second, share of the GPU's peak, memory: ours beside TRL, on models of 7B;
- smollm: the losses of a real model beside TRL's;
- evaluate: an MMLU slice, and 256 new tokens at 8, 32 and 64 prompts at once;
- encode: documents per second of an encoder of gte-large's shape;
- report: docs/performance.md from the results.

Each measurement is a process of its own and one line of JSON in --results, written at once. What is in the file is not
measured again, so the same command goes on where it was stopped, or where its minutes were over. The most important
numbers come first. --tiny runs the same code on tiny models and a CPU: it proves the kit, not the GPU.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import report
from benchmarks.gpu.options import PARTS, Options
from benchmarks.gpu.results import Measurement, Results, describe_machine, in_turns
from benchmarks.gpu.runner import Ended, answer_and_end, guarded, in_a_child, run

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "gpu.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    asked = parse(given)
    if asked.part == "report":
        print(report.write(asked.results, asked.page))
        return 0
    options = Options.of(asked)
    options.scratch.mkdir(parents=True, exist_ok=True)
    if asked.child:
        case, contender, repeat = asked.child
        one = Measurement(asked.part, case, contender, int(repeat))
        answer_and_end(asked.answer, _measured(one, options))
        return 0
    machine = describe_machine()
    if machine["gpu"] is None and not asked.tiny:
        raise SystemExit("There is no GPU here. --tiny runs the kit on a CPU, to test it.")
    part = _part(asked.part)
    wanted = [
        one
        for one in in_turns(
            part.measurements(options), part.REPEATS if asked.repeats is None else asked.repeats
        )
        if all(word in str(one) for word in asked.only)
    ]
    if asked.here:
        measure: Any = lambda one, seconds: _measured(one, options)  # noqa: E731
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what measures is ended too
        command = [sys.executable, "-m", "benchmarks.gpu", *given]
        measure = in_a_child(command, options.scratch, options.environment)
    late = run(wanted, Results(asked.results, machine, asked.tiny), asked.minutes, measure, seed=asked.seed)
    return 3 if late else 0


def _measured(one: Measurement, options: Options) -> Ended:
    return guarded(lambda: _part(one.part).measure(one, options))


def _part(name: str) -> Any:
    try:
        return importlib.import_module(f"benchmarks.gpu.{name}")
    except ModuleNotFoundError as error:
        raise SystemExit(f"{name}: needs the package {error.name}, which is not installed.") from error


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=[*PARTS, "report"])
    parser.add_argument("--minutes", type=float, default=60.0, help="of this command, strictly")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only", nargs="+", default=[], help="words that a measurement's name must have")
    parser.add_argument("--repeats", type=int, help="3 where time is measured")
    parser.add_argument("--model", type=Path, help="folder of real weights, for smollm")
    parser.add_argument(
        "--data", type=Path, help="rows for smollm, or a folder with mmlu.parquet for evaluate"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="tiny models on a CPU")
    parser.add_argument("--here", action="store_true", help="measure in this process")
    parser.add_argument(
        "--scratch", type=Path, default=Path(tempfile.gettempdir()) / "smart-gpu", help="models are made here"
    )
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md", help="for report")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
