"""What does evaluate.py cost over lm-eval's own command, and which of them asks the model sooner?

    python -m benchmarks.evaluation --data ../shared/data
    python -m benchmarks.evaluation --data ../shared/data --model HUB_NAME_OR_FOLDER --limit 50 --repeats 5

The same model, tasks, data, dtype and batch size for both; each run is a process of its own, the two take turns, and
the median counts. Three times are taken from the process's start:

- first: until the model is called for the first time;
- work: from then on until its last call has ended, in seconds of the clock and of the processors;
- all: until the process ends.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TASKS = "mmlu_anatomy,mmlu_virology,mmlu_high_school_us_history,bbh_zeroshot_navigate"
CONTENDERS = ("smart", "lm_eval")
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with mmlu.parquet and bbh.parquet")
    parser.add_argument("--model", help="a tiny model by default")
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", default=str(len(os.sched_getaffinity(0))))
    parser.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options)
    else:
        print(report(compare(options)))


def compare(options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    from smart.benchmarks.offline import build_cache

    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or str(make_model(Path(scratch) / "tiny"))
        cache = build_cache(options.data, Path(scratch) / "benchmarks")
        for repeat in range(options.repeats):
            for name in CONTENDERS if repeat % 2 else CONTENDERS[::-1]:
                times = Path(scratch) / "times.json"
                environment = {
                    **os.environ,
                    "HF_DATASETS_CACHE": str(cache),
                    "HF_HUB_OFFLINE": "1",
                    "OMP_NUM_THREADS": options.threads,
                    "STARTED": str(time.time()),
                    "TIMES": str(times),
                }
                command = [sys.executable, "-m", "benchmarks.evaluation", *sys.argv[1:]]
                command += ["--child", name, "--model", model, "--cache", f"{scratch}/{repeat}"]
                done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(done.stdout + done.stderr)
                measured = json.loads(times.read_text())
                found[name].append({**measured, "all": time.time() - float(environment["STARTED"])})
                print(name, measured, file=sys.stderr)
    return found


def report(found: dict[str, list[dict[str, float]]]) -> str:
    middle = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in found.items()
    }
    lines = ["|  | first item | work | processors | all |", "| --- | --- | --- | --- | --- |"]
    for name, times in middle.items():
        cells = (f"{times[key]:.2f} s" for key in ("first", "work", "processors", "all"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    ours, theirs = (middle[name] for name in CONTENDERS)
    for key in ("work", "processors"):
        lines.append(f"\nOverhead ({key}): {100 * (ours[key] / theirs[key] - 1):+.1f} %")
    return "\n".join(lines)


def make_model(folder: Path) -> Path:
    from transformers import AutoModelForCausalLM

    from smart.model.tiny import tiny_config, train_tokenizer

    config = tiny_config("llama")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    train_tokenizer("llama", [Path(__file__).read_text()]).save_pretrained(folder)
    return folder


def run_child(options: argparse.Namespace) -> None:
    """One of the two, with a watch on the model."""
    import lm_eval.models.huggingface as theirs

    started = float(os.environ["STARTED"])
    marks: list[tuple[float, float]] = []
    for name in ("_model_call", "_model_generate"):
        plain = getattr(theirs.HFLM, name)

        def watched(*args: Any, plain: Any = plain, **kwargs: Any) -> Any:
            marks.append((time.time(), time.process_time()))
            answer = plain(*args, **kwargs)
            marks.append((time.time(), time.process_time()))
            return answer

        setattr(theirs.HFLM, name, watched)
    try:
        run_lm_eval(options) if options.child == "lm_eval" else run_smart(options)
    except SystemExit as stop:
        if stop.code:
            raise
    (first, first_cpu), (last, last_cpu) = marks[0], marks[-1]
    times = {"first": first - started, "work": last - first, "processors": last_cpu - first_cpu}
    Path(os.environ["TIMES"]).write_text(json.dumps(times))


def run_lm_eval(options: argparse.Namespace) -> None:
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["lm_eval", "run", "--model", "hf", "--tasks", *options.tasks.split(",")]
    sys.argv += ["--model_args", f"pretrained={options.model},dtype={options.dtype}", "--batch_size", "8"]
    sys.argv += [
        "--device",
        "cpu",
        "--limit",
        str(options.limit),
        "--output_path",
        options.cache,
        "--log_samples",
    ]
    cli_evaluate()


def run_smart(options: argparse.Namespace) -> None:
    from smart.cli.evaluate import main as evaluate

    sys.argv = ["evaluate.py", "model=auto", f"model.name={options.model}", f"suite.tasks=[{options.tasks}]"]
    sys.argv += [f"limit={options.limit}", f"dtype={options.dtype}", "batch_size=8", "tracker=none"]
    sys.argv += [f"benchmark_data={options.data.resolve()}", f"output_root={options.cache}"]
    evaluate()


if __name__ == "__main__":
    main()
