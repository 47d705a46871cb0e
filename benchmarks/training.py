"""How fast is training, and how much memory does it take, against TRL and against a plain loop?

    python -m benchmarks.training --data ../shared/data/sni-small.parquet --model smollm2_135m
    python -m benchmarks.training --data ../shared/data/sni-small.parquet --model tiny_llama --rows 1024

The same rows, model, LoRA, dtype and examples per step for all; each measurement is a process of its own, the
contenders take turns, and the median counts. The first step, in which libraries set themselves up, is left out.

- smart: what train.py does;
- trl_random, trl_grouped: SFTTrainer with random batches, and with batches of like length;
- naive: random batches padded to the longest, logits and loss over all positions.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTENDERS = ("smart", "trl_random", "trl_grouped", "naive")
MICRO = 8


def read_job(options: argparse.Namespace, mixture: Path, root: Path) -> Any:
    from smart.config import compose, read_config
    from smart.training import TrainConfig
    from smart.training.job import World, prepare

    words = [f"mixture={mixture}", f"model={options.model}", "tuning=lora", f"tuning.dtype={options.dtype}"]
    words += ["tuning.lora_r=16", "tuning.lora_dropout=0.0", "tuning.checkpoint_activations=false"]
    words += [f"batch_size={options.batch_size}", f"micro_batch_size={MICRO}", "max_length=1024"]
    words += [f"save_steps={10**6}", f"output_root={root}"]
    return prepare(read_config(TrainConfig, compose("train", words)), World())


def load(job: Any) -> Any:
    from smart.model import weights_source
    from smart.model.adapters import add_adapters
    from smart.model.load import load_model

    model = load_model(job.base, weights_source(job.base, job.config.models), dtype=job.config.tuning.dtype)
    return add_adapters(job.base, model, job.config.tuning, seed=0)


def run_smart(job: Any, folder: Path, tick: Callable[[], None]) -> None:
    from smart.training.fit import fit

    fit(job, folder / "out", lambda logs, step: tick() if "loss" in logs else None)


def run_trl(job: Any, folder: Path, tick: Callable[[], None], sampling: str) -> None:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Tick(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            tick()

    train = job.mixture.train
    rows = {"prompt": train["prompt"], "completion": [f" {text}" for text in train["response"].to_pylist()]}
    config = SFTConfig(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=MICRO,
        gradient_accumulation_steps=job.config.batch_size // MICRO,
        num_train_epochs=1,
        learning_rate=job.config.learning_rate,
        bf16=job.config.tuning.dtype == "bfloat16",
        gradient_checkpointing=False,
        train_sampling_strategy=sampling,
        max_length=1024,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    dataset = Dataset.from_dict({name: list(map(str, column)) for name, column in rows.items()})
    SFTTrainer(
        load(job),
        config,
        train_dataset=dataset,
        processing_class=job.tokenizer,
        callbacks=[Tick()],
    ).train()


def whole(collate: Any, rows: list[Any]) -> dict[str, Any]:
    """What people hand to a model: padding behind the rows with a mask, and labels at all positions."""
    import torch

    ids = collate(rows)["input_ids"]
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for number, (row, supervised) in enumerate(rows):
        mask[number, : len(row)] = 1
        chosen = torch.from_numpy(supervised.nonzero()[0])
        labels[number, chosen] = ids[number, chosen]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def run_naive(job: Any, folder: Path, tick: Callable[[], None]) -> None:
    import torch

    from smart.training.loss import Collator

    model, store = load(job), job.train_tokens()
    collate = Collator(job.tokenizer.pad_token_id)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=job.config.learning_rate)
    stream = job.order(store).stream
    model.train()
    for first in range(0, len(stream), job.config.batch_size):
        rows = stream[first : first + job.config.batch_size]
        for start in range(0, len(rows), MICRO):
            batch = whole(collate, [store[row] for row in rows[start : start + MICRO]])
            with torch.autocast("cpu", torch.bfloat16, enabled=job.config.tuning.dtype == "bfloat16"):
                loss = model(**batch, use_cache=False).loss * MICRO / len(rows)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tick()


def measure(options: argparse.Namespace) -> None:
    """One contender in this process; prints its steps' times and its peak memory as JSON."""
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    mixture = Path(options.mixture)
    job = read_job(options, mixture / "rows", mixture)
    ticks: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        runs = {
            "smart": lambda: run_smart(job, Path(name), tick),
            "naive": lambda: run_naive(job, Path(name), tick),
            "trl_random": lambda: run_trl(job, Path(name), tick, "random"),
            "trl_grouped": lambda: run_trl(job, Path(name), tick, "group_by_length"),
        }

        def tick() -> None:
            ticks.append(time.perf_counter())

        runs[options.contender]()
    store = job.train_tokens()
    supervised = int(store.supervised.sum()) * (len(ticks) - 1) / len(ticks)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {"supervised_per_second": supervised / (ticks[-1] - ticks[0]), "peak": peak, "steps": len(ticks)}
    print("RESULT", json.dumps(result))


def make_mixture(options: argparse.Namespace, folder: Path) -> None:
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(options.data, columns=["inputs", "targets"]).rename_columns(["prompt", "response"])
    chosen = np.sort(np.random.default_rng(options.seed).permutation(len(table))[: options.rows])
    (folder / "rows").mkdir()
    pq.write_table(table.take(chosen), folder / "rows" / "train.parquet")


def compare(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    results: dict[str, list[dict[str, float]]] = {name: [] for name in options.contenders}
    with tempfile.TemporaryDirectory() as name:
        make_mixture(options, Path(name))
        for repetition in range(options.repetitions):
            for contender in options.contenders:
                command = [sys.executable, "-m", "benchmarks.training", *sys.argv[1:]]
                command += ["--contender", contender, "--mixture", name]
                done = subprocess.run(command, capture_output=True, text=True)
                lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
                if not lines:
                    sys.exit(f"{contender} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
                results[contender].append(json.loads(lines[0].removeprefix("RESULT ")))
                print(repetition, contender, lines[0].removeprefix("RESULT "), file=sys.stderr, flush=True)
    return {
        name: {key: statistics.median(run[key] for run in runs) for key in ("supervised_per_second", "peak")}
        for name, runs in results.items()
    }


def report(options: argparse.Namespace, results: dict[str, dict[str, float]]) -> None:
    rates = {name: result["supervised_per_second"] for name, result in results.items()}
    print(f"{options.model}, {options.dtype}, {options.rows} rows, {options.batch_size} examples a step")
    for name, result in results.items():
        print(f"  {name:<12} {rates[name]:9.1f} supervised tokens/s   peak {result['peak'] / 1e9:5.2f} GB")
    trl = [name for name in rates if name.startswith("trl")]
    if "smart" in rates and trl:
        best = max(trl, key=lambda name: rates[name])
        print(
            f"  smart / TRL at its best ({best}) = {rates['smart'] / rates[best]:.2f}, memory"
            f" {results['smart']['peak'] / results[best]['peak']:.2f}"
        )
    if "smart" in rates and "naive" in rates:
        print(f"  smart / naive = {rates['smart'] / rates['naive']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="Parquet file with inputs and targets")
    parser.add_argument("--model", default="smollm2_135m", help="a file of conf/model")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--mixture", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        measure(options)
    else:
        report(options, compare(options))


if __name__ == "__main__":
    main()
