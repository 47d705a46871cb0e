"""From a request to a folder of scores."""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smart.benchmarks.offline import build_cache, content_key, data_from
from smart.benchmarks.suites import SEEDS, LoadedSuite, Suite, chance, check_room, load_suite, run_suite
from smart.config import UserError
from smart.evaluation.heldout import groups_in, write_tasks
from smart.evaluation.model_under_test import Subject, load_subject, settings, wrap
from smart.runtime.files import atomic_folder, hash_file
from smart.runtime.manifest import make_key, versions, write_manifest
from smart.runtime.memory import peak_memory
from smart.runtime.speed import measure

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from smart.evaluation.cached_lm import Processes

VERSION = 2
"""Raised whenever the same request gives other scores."""

THEIRS = ("results", "groups", "versions", "n-shot", "n-samples", "configs")
"""What is kept of lm-eval's own results."""
PACKAGES = ("lm_eval", "torch", "transformers", "peft", "datasets", "bitsandbytes")
TOKENIZER_TEXTS = 2_000
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What is to be scored, on what."""

    subject: Subject
    suite: Suite
    limit: int | None
    chat_template: bool
    benchmark_data: Path | None
    cache: Path
    """Folder of caches: models, answers, benchmarks."""

    @property
    def deciding(self) -> dict[str, Any]:
        """All that decides the scores, beside the model and the data."""
        suite = {**dataclasses.asdict(self.suite), "tasks": list(self.suite.tasks)}
        return {
            "suite": suite,
            "subject": self.subject.identity,
            "limit": self.limit,
            "chat_template": self.chat_template,
            "versions": versions(*PACKAGES),
        }

    @property
    def inputs(self) -> list[str]:
        data = [content_key(self.benchmark_data)] if self.benchmark_data else []
        return data + ([hash_file(Path(self.suite.collection))] if self.suite.collection else [])

    @property
    def key(self) -> str:
        return make_key(self.deciding, self.inputs, VERSION)


def load_tasks(request: Request) -> tuple[LoadedSuite, PreTrainedTokenizerBase]:
    """The suite with its data, and the tokenizer."""
    suite, data = request.suite, None
    if request.benchmark_data:
        data = build_cache(request.benchmark_data, request.cache / "benchmarks")
    if not suite.collection:
        with data_from(data):
            loaded = load_suite(suite.tasks, suite.shots)
        return loaded, request.subject.tokenizer(lambda: _texts(loaded))
    tokenizer = request.subject.tokenizer(list)
    extra = write_tasks(Path(suite.collection), tokenizer, request.cache / "heldout")
    if not data and not suite.tasks:
        data = request.cache / "heldout" / "datasets"
    with data_from(data):
        return load_suite(_names(suite, groups_in(extra)), suite.shots, extra), tokenizer


def _names(suite: Suite, groups: list[str]) -> list[str]:
    """What a suite with a collection asks for: groups of the collection that it names, or all of them."""
    return list(suite.tasks) if set(groups) & set(suite.tasks) else [*suite.tasks, *groups]


def _texts(suite: LoadedSuite) -> list[str]:
    # On which a tiny model's tokenizer is trained.
    documents = [doc for task in suite.loaded["tasks"].values() for doc in list(task.eval_docs)[:100]]
    return [" ".join(str(value) for value in doc.values()) for doc in documents][:TOKENIZER_TEXTS]


def evaluate(request: Request, folder: Path, processes: Processes, device: Any) -> dict[str, Any]:
    """Score, on as many processes as call this; the main one writes the folder and returns its results.

    Raises:
        UserError: for tasks, data, a model or an adapter that cannot be used.
    """
    from smart.evaluation.cached_lm import AnswerStore, BatchedLM
    from smart.evaluation.scores import samples_table, summarize, task_hashes, write_scores

    started = time.monotonic()
    suite, tokenizer = load_tasks(request)
    check_room(suite, request.subject.precision.max_length)
    inner = load_subject(request.subject, tokenizer, request.cache / "models", device)
    used = settings(inner, request.subject)
    answers = request.cache / "answers" / make_key({**used, "versions": versions(*PACKAGES)}, [], VERSION)
    lm = BatchedLM(inner, AnswerStore(answers, f"{request.key[:8]}-{processes.rank}"), processes)
    loaded = time.monotonic()
    results = run_suite(lm, suite, request.limit, request.chat_template)
    samples = samples_table(results.pop("samples"))
    if lm.tally.truncated:
        lost, asked, room = (f"{n:,}" for n in (lm.tally.truncated, lm.tally.requests, inner.max_length))
        log.warning("%s of %s prompts are longer than %s tokens and lost their left part.", lost, asked, room)
    content = {
        **{key: results.get(key, {}) for key in THEIRS},
        "scores": summarize(samples, suite.parts, results["results"], _categories(suite), chance(suite)),
        "parts": suite.parts,
        "task_hashes": task_hashes(samples),
        "model": used,
        "chat_template": request.chat_template,
        "requests": dataclasses.asdict(lm.tally),
        "seeds": SEEDS,
        "packages": versions(*PACKAGES),
        "seconds": {"load": round(loaded - started, 2), "all": round(time.monotonic() - started, 2)},
    }
    if processes.rank == 0:
        with atomic_folder(folder) as draft:
            write_scores(draft, samples, content)
            write_manifest(draft, _manifest(request, content))
    return content


def _categories(suite: LoadedSuite) -> dict[str, str]:
    found = {name: (task.get_config("metadata") or {}) for name, task in suite.loaded["tasks"].items()}
    return {name: data["category"] for name, data in found.items() if "category" in data}


def _manifest(request: Request, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "scores",
        "key": request.key,
        "inputs": request.inputs,
        "config": request.deciding,
        "model": content["model"],
        "adapter": {key: request.subject.manifest.get(key) for key in ("key", "mixture", "config")},
        "counts": content["requests"],
        "seconds": content["seconds"],
        "peak_memory": peak_memory(),
    }


def plan(request: Request) -> str:
    """What a run would answer and cost, from the tokens of all its prompts; loads no weights."""
    from smart.evaluation.cached_lm import CountingLM

    suite, tokenizer = load_tasks(request)
    model = request.subject.base.skeleton()
    lm = CountingLM(wrap(model, tokenizer, request.subject))
    results = run_suite(lm, suite, request.limit, request.chat_template)
    items = sum(counts["effective"] for counts in results["n-samples"].values())
    tally = lm.tally
    weights = sum(weight.numel() for weight in model.parameters())
    precision = request.subject.precision
    speed, at_once = measure(precision.dtype), precision.batch_size if precision.batch_size != "auto" else 8
    calls = tally.new_tokens / int(at_once)
    width = 4 if precision.dtype == "float32" else 2
    seconds = speed.start + speed.reading(weights, tally.input_tokens)
    seconds += speed.call * tally.requests / int(at_once)
    seconds += speed.writing(weights, calls, int(at_once), width)
    lines = {
        "items": f"{items:,} of {len(suite.loaded['tasks'])} tasks; {tally.requests:,} requests",
        "tokens": f"{tally.input_tokens:,} read, at most {tally.new_tokens:,} generated",
        "truncated": f"{tally.truncated:,} prompts longer than the model's context",
        "time": f"about {_duration(seconds)}, good for a factor of two ({speed.name})",
    }
    head = f"Plan: suite {request.suite.name} on {request.subject.name}"
    return "\n".join([head, *(f"  {name:<10} {value}" for name, value in lines.items())])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def fetch(request: Request) -> None:
    """Download the model and the data of the tasks, for machines without a network."""
    from smart.model.base import fetch as fetch_model

    fetch_model(request.subject.base)
    if not request.benchmark_data and not request.suite.collection:
        load_suite(request.suite.tasks, request.suite.shots)


def check_device(request: Request, device: Any) -> None:
    """Refuse what cannot work here.

    Raises:
        UserError: for an automatic batch size where no memory limit can be found.
    """
    if request.subject.precision.batch_size == "auto" and device.type == "cpu":
        raise UserError(
            "batch_size=auto: needs a GPU, whose memory it fills; give a number, such as batch_size=8"
        )
