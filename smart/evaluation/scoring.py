"""Scoring: lm-eval's own evaluation of a loaded model, and the folder of scores."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smart.benchmarks.suites import SEEDS, LoadedSuite, chance, check_room
from smart.config import UserError, counted
from smart.evaluation.job import PACKAGES, VERSION, EvaluationJob, load_tasks
from smart.evaluation.model_under_test import load_lm, settings
from smart.evaluation.scores import losses_by_turn, samples_table, summarize, task_hashes, write_scores
from smart.runtime.files import atomic_folder
from smart.runtime.gpu import device_name, has_tensor_types, tf32
from smart.runtime.logs import log_so_far
from smart.runtime.manifest import make_key, versions, write_manifest
from smart.runtime.memory import peak_memory

if TYPE_CHECKING:
    import torch

    from smart.evaluation.cached_lm import CachedLM
    from smart.runtime.processes import Processes

THEIRS = ("results", "groups", "versions", "n-shot", "n-samples", "configs")
"""What is kept of lm-eval's own results."""
LOG_FILE = "evaluate.log"
log = logging.getLogger(__name__)


def score(job: EvaluationJob, folder: Path, processes: Processes, device: torch.device) -> dict[str, Any]:
    """Answer and score every item, on as many processes as call this; the main one writes the folder.

    Raises:
        UserError: for tasks, data, a model or an adapter that cannot be used.
    """
    from smart.evaluation.cached_lm import AnswerStore, CachedLM

    started = time.monotonic()
    suite, tokenizer = load_tasks(job)
    check_room(suite, job.model.precision.max_length)
    inner = load_lm(job.model, tokenizer, job.config.cache / "models", device)
    if job.model.precision.batch_size == "auto":  # all processes have to make the same batches
        inner.batch_size_per_gpu = min(processes.share(inner._detect_batch_size))
        log.info("batch_size=auto: room for %s at once.", counted(inner.batch_size_per_gpu, "prompt"))
    used = settings(inner, job.model)
    answers = job.config.cache / "answers" / make_key({**used, "versions": versions(*PACKAGES)}, [], VERSION)
    store = AnswerStore(answers, f"{job.key[:8]}-{processes.rank}")
    size = job.model.precision.generation_batch_size
    lm = CachedLM(inner, store, processes, job.model.chat, generation_batch_size=size)
    loaded = time.monotonic()
    with tf32(job.model.precision.tf32):
        results = run_suite(lm, suite, job.limit)
    turns = losses_by_turn(results["samples"])
    samples = samples_table(results.pop("samples"))
    if lm.tally.truncated:
        lost, asked = f"{lm.tally.truncated:,}", counted(lm.tally.requests, "prompt")
        log.warning(
            "Longer than %s, so cut at the left: %s of %s.", counted(inner.max_length, "token"), lost, asked
        )
    if lm.tally.without_system:
        log.warning(
            "The template refuses a system text: left out of %s.", counted(lm.tally.without_system, "prompt")
        )
    content = {
        **{key: results.get(key, {}) for key in THEIRS},
        "scores": summarize(
            samples, suite.parts, results["results"], _categories(suite), chance(suite, job.limit)
        ),
        **({"turns": turns} if turns else {}),
        "parts": suite.parts,
        "task_hashes": task_hashes(samples),
        "model": used,
        "format": "plain" if job.model.chat is None else "chat",
        "limit": job.limit,
        "version": VERSION,
        "requests": asdict(lm.tally),
        "seeds": SEEDS,
        "packages": versions(*PACKAGES),
        "seconds": {"load": round(loaded - started, 2), "all": round(time.monotonic() - started, 2)},
    }
    if processes.rank == 0:
        with atomic_folder(folder) as draft:
            write_scores(draft, samples, content)
            (draft / LOG_FILE).write_text(log_so_far(), encoding="utf-8")
            write_manifest(draft, _manifest(job, content))
    return content


def _categories(suite: LoadedSuite) -> dict[str, str]:
    found = {name: (task.get_config("metadata") or {}) for name, task in suite.loaded["tasks"].items()}
    return {name: data["category"] for name, data in found.items() if "category" in data}


def _manifest(job: EvaluationJob, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "scores",
        "key": job.key,
        "inputs": job.inputs,
        "config": job.deciding,
        "model": content["model"],
        "adapter": {key: job.model.manifest.get(key) for key in ("key", "mixture", "config")},
        "counts": content["requests"],
        "seconds": content["seconds"],
        "peak_memory": peak_memory(),
    }


def check_device(job: EvaluationJob, device: torch.device) -> None:
    """Refuse an automatic batch size where no memory limit can be found, and TF32 where there is none."""
    if job.model.precision.tf32 and not has_tensor_types(device):
        raise UserError(f"tf32=true: {device_name(device)} does not have it; GPUs from Ampere (A100) on do")
    if job.model.precision.batch_size == "auto" and device.type == "cpu":
        raise UserError(
            "batch_size=auto: needs a GPU, whose memory it fills; give a number, such as batch_size=8"
        )


def run_suite(lm: CachedLM, suite: LoadedSuite, limit: int | None) -> dict[str, Any]:
    """lm-eval's own evaluation of tasks that are loaded, with the seeds of its command.

    Where the model has a format of conversations, with its options --apply_chat_template and --fewshot_as_multiturn,
    and with the format's system text as its --system_instruction.

    Returns:
        lm-eval's results with samples.
    """
    import torch
    from lm_eval.evaluator import evaluate

    random.seed(SEEDS["python"])
    np.random.seed(SEEDS["numpy"])
    torch.manual_seed(SEEDS["torch"])
    with _without_bars():
        results = evaluate(
            lm,
            suite.loaded,
            limit=limit,
            system_instruction=None if lm.form is None else lm.form.system,
            apply_chat_template=lm.form is not None,
            fewshot_as_multiturn=lm.form is not None,
        )
    assert results is not None
    return dict(results)


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    # lm-eval draws a bar for each of 84 subtasks, each of which takes no time.
    from lm_eval.api import task

    before = task.tqdm
    task.tqdm = lambda rows, **_: rows
    try:
        yield
    finally:
        task.tqdm = before
