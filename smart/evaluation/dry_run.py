"""plan=true: what an evaluation would answer and cost, from the tokens of all its prompts."""

from __future__ import annotations

from collections.abc import Mapping

from smart.config import counted
from smart.evaluation.config import EvaluateConfig
from smart.evaluation.job import EvaluationJob, load_tasks
from smart.evaluation.model_under_test import wrap
from smart.evaluation.scoring import run_suite
from smart.runtime.hub import NotHere
from smart.runtime.speed import measure


def describe_plan(job: EvaluationJob) -> str:
    """What a run would answer and cost, from the tokens of all its prompts; loads no weights."""
    from smart.evaluation.cached_lm import CountingLM

    suite, tokenizer = load_tasks(job)
    model = job.model.base.skeleton()
    lm = CountingLM(wrap(model, tokenizer, job.model), form=job.model.chat)
    results = run_suite(lm, suite, job.limit)
    items = sum(counts["effective"] for counts in results["n-samples"].values())
    tally = lm.tally
    weights = sum(weight.numel() for weight in model.parameters())
    precision = job.model.precision
    speed, at_once = measure(precision.dtype), precision.batch_size if precision.batch_size != "auto" else 8
    generated_at_once = precision.generation_batch_size or int(at_once)
    calls = tally.new_tokens / generated_at_once
    width = 4 if precision.dtype == "float32" else 2
    seconds = speed.start + speed.reading(weights, tally.input_tokens)
    seconds += speed.call * tally.requests / int(at_once)
    seconds += speed.writing(weights, calls, generated_at_once, width)
    lines = {
        "items": f"{items:,} of {counted(len(suite.loaded['tasks']), 'task')}; {counted(tally.requests, 'request')}",
        "tokens": f"{tally.input_tokens:,} read, at most {tally.new_tokens:,} generated",
        "truncated": f"{counted(tally.truncated, 'prompt')} longer than the model's context",
        "time": f"about {_duration(seconds)}, good for a factor of two ({speed.name})",
    }
    return _page(job.suite.name, job.model.name, lines)


def describe_missing(config: EvaluateConfig, missing: NotHere) -> str:
    """The plan of an evaluation whose model or data are not here."""
    name = config.adapter.resolve().name if config.adapter else config.model and config.model.name
    return _page(config.suite.name, str(name), {"not known": f"items, tokens, time: {missing}"})


def _page(suite: str, model: str, lines: Mapping[str, str]) -> str:
    head = f"Plan: suite {suite} on {model}"
    return "\n".join([head, *(f"  {name:<10} {value}" for name, value in lines.items())])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
