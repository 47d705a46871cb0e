"""Small inputs that never change, and commands run through the scripts of the root."""

from __future__ import annotations

import json
import random
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smart.evaluation.scores import RESULTS, SAMPLES, samples_table, summarize, task_hashes
from smart.runtime.manifest import write_manifest

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ("zs_opt", "zs_noopt", "fs_opt", "fs_noopt")


def run_script(stage: str, *arguments: str) -> int:
    """Run `python STAGE.py ARGUMENTS` in this process and return its exit code."""
    before = sys.argv
    sys.argv = [f"{stage}.py", *arguments]
    try:
        runpy.run_path(str(ROOT / f"{stage}.py"), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


def write_inputs(folder: Path) -> None:
    """small.parquet (12 tasks, 576 rows), vectors.npy, mixture/, benchmarks/, unseen.parquet."""
    rng = np.random.default_rng(0)
    words = np.array([f"{a}{b}" for a in "bcdfghklmnprst" for b in ("an", "el", "ir", "ot", "ub")])
    rows: list[dict[str, Any]] = []
    for task in range(12):
        topic = rng.choice(words, 12)
        for number in range(14 + 6 * task + (task % 3)):
            rows.append(
                {
                    "submixture": "ab"[task % 2],
                    "task_name": f"task{max(task // 2, 1)}" if task < 2 else f"task{task}",
                    "template_type": TEMPLATES[number % 4],
                    "inputs": f"Task {task}: {' '.join(rng.choice(topic, 6))} {number}",
                    "targets": str(topic[number % 3]),
                }
            )
    pq.write_table(pa.Table.from_pylist(rows), folder / "small.parquet")
    np.save(folder / "vectors.npy", rng.normal(size=(len(rows), 16)).astype(np.float16).astype(np.float32))
    _write_mixture(folder / "mixture")
    _write_benchmarks(folder / "benchmarks", words)
    unseen = [
        {"task_name": f"unseen{n % 2}", "inputs": f"Say {words[n]}", "targets": f"{words[n + 1]} {n % 3}"}
        for n in range(12)
    ]
    pq.write_table(pa.Table.from_pylist(unseen), folder / "unseen.parquet")


def _write_mixture(folder: Path) -> None:
    folder.mkdir()
    sounds = {"cat": "meow", "dog": "woof", "cow": "moo", "duck": "quack"}
    for split, count, seed in (("train", 60, 0), ("validation", 12, 1)):
        draw = random.Random(seed)
        rows = []
        for number in range(count):
            animal = draw.choice(sorted(sounds))
            filler = " ".join(draw.choice(["far", "old", "green", "there"]) for _ in range(draw.randrange(9)))
            rows.append(
                {
                    "prompt": f"{filler} What does the {animal} say?\nAnswer:",
                    "response": " ".join([sounds[animal]] * draw.randrange(1, 4)),
                    "submixture": ["niv2", "cot"][number % 2],
                    "task_name": animal,
                }
            )
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    manifest = {"kind": "mixture", "key": "a" * 32, "config": {"budget": 60}}
    write_manifest(folder, manifest)


def _write_benchmarks(folder: Path, words: np.ndarray) -> None:
    folder.mkdir()
    rng = np.random.default_rng(3)

    def text(count: int) -> str:
        return " ".join(rng.choice(words, count))

    mmlu = [
        {
            "subject": subject,
            "question": f"{text(12)}?",
            "choices": [text(2) for _ in range(4)],
            "answer": int(rng.integers(4)),
            "split": split,
        }
        for subject in ("abstract_algebra", "anatomy")
        for split, count in (("dev", 5), ("test", 6))
        for _ in range(count)
    ]
    bbh = [
        {"task": "navigate", "input": f"{text(15)} is", "target": str(rng.choice(["Yes", "No"]))}
        for _ in range(6)
    ]
    pq.write_table(pa.Table.from_pylist(mmlu), folder / "mmlu.parquet")
    pq.write_table(pa.Table.from_pylist(bbh), folder / "bbh.parquet")


PLANNED = re.compile(r"\[.\] (select|train|evaluate)\s+(\S+)\s+((?:select|train|evaluate)-[0-9a-f]{8})")


def planned_runs(said: str) -> dict[str, tuple[str, str]]:
    """Id of each run of a printed plan → its stage, and the name of its folder."""
    return {found[3]: (found[1], found[2]) for found in PLANNED.finditer(said)}


def write_finished_run(root: Path, stage: str, name: str, source: str | None, rate: float, seed: int) -> None:
    """The folder of a run as if it were finished, with fixed contents.

    Args:
        source: name of the folder that the run read; None for a model without tuning.
        rate: the share of right answers of an evaluation.
    """
    folder = root / {"select": "mixtures", "train": "adapters", "evaluate": "scores"}[stage] / name
    folder.mkdir(parents=True)
    manifest: dict[str, Any] = {"key": f"key of {name}", "seconds": 1.5, "peak_memory": 10**9}
    if stage == "select":
        manifest["kind"] = "mixture"
        lines = ["submixture,task_name,order,gain,weight,size,budget,zs_opt,zs_noopt,fs_opt,fs_noopt"]
        lines += [f"a,task{n},,,0.5,{30 + n},{10 + n},{10 + n},0,0,0" for n in range(2)]
        (folder / "tasks.csv").write_text("\n".join(lines) + "\n")
    elif stage == "train":
        counts = {"examples": 60, "tokens": 900 + seed, "supervised_tokens": 90, "steps": 8}
        manifest |= {"kind": "adapter", "mixture": {"key": f"key of {source}"}, "counts": counts}
    else:
        manifest |= {"kind": "scores", "adapter": {"key": source and f"key of {source}"}}
        _write_scores(folder, rate, seed)
    write_manifest(folder, manifest)


def _write_scores(folder: Path, rate: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = {
        "heldout_text": ["heldout_text_easy", "heldout_text_hard"],
        "heldout_loss": ["heldout_loss_easy"],
    }
    listed: dict[str, list[dict[str, Any]]] = {}
    results: dict[str, dict[str, float]] = {}
    for task in parts["heldout_text"]:
        right = (rng.random(40) < rate).astype(float)
        listed[task] = [_sample(task, n, {"exact_match": float(x)}) for n, x in enumerate(right)]
        results[task] = {"exact_match,none": float(right.mean())}
    (task,) = parts["heldout_loss"]
    losses = np.abs(rng.normal(5 - rate, 0.1, 40)).round(6)
    listed[task] = [_sample(task, n, {"loss": (float(x), 4)}) for n, x in enumerate(losses)]
    results[task] = {"loss,none": float(losses.sum() / 160)}
    samples = samples_table(listed)
    pq.write_table(samples, folder / SAMPLES)
    content = {
        "parts": parts,
        "scores": summarize(samples, parts, results, {}, {}),
        "task_hashes": task_hashes(samples),
    }
    (folder / RESULTS).write_text(json.dumps(content))


def _sample(task: str, number: int, metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "doc_id": number,
        "doc_hash": f"{task}{number}",
        "prompt_hash": f"p{number}",
        "target_hash": "t",
        "filter": "none",
        "target": "x",
        "resps": [["y"]],
        "filtered_resps": ["y"],
        "metrics": list(metrics),
        **metrics,
    }
