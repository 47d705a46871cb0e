"""What an evaluation needs before any weight is read: the model found, the suite named, the key made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smart.benchmarks.offline import build_cache, content_key, data_from
from smart.benchmarks.suites import LoadedSuite, Suite, join_by, load_suite
from smart.config import Problems, check_options, deciding
from smart.evaluation.config import EvaluateConfig
from smart.evaluation.heldout import heldout_groups
from smart.evaluation.model_under_test import ModelUnderTest, Precision, find_model
from smart.runtime.content import FileState, check_unchanged, state_of
from smart.runtime.files import hash_file
from smart.runtime.manifest import make_key, versions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION = 4
"""Raised whenever the same job gives other scores."""
PACKAGES = ("lm_eval", "torch", "transformers", "peft", "datasets", "bitsandbytes")
TOKENIZER_TEXTS = 2_000


@dataclass(frozen=True)
class EvaluationJob:
    """An evaluation that may start."""

    config: EvaluateConfig
    model: ModelUnderTest
    data: Mapping[Path, FileState] = field(default_factory=dict, compare=False, repr=False)
    """The files of the data as they were before they were hashed."""

    @property
    def suite(self) -> Suite:
        return self.config.suite

    @property
    def limit(self) -> int | None:
        """Items of each task at most; None: all."""
        return self.suite.limit if self.config.limit is None else self.config.limit

    @property
    def deciding(self) -> dict[str, Any]:
        """All that decides the scores, beside the data."""
        precision = asdict(self.model.precision)
        options = {name: value for name, value in deciding(self.config).items() if name not in precision}
        return {
            **options,
            "chat_template": self.model.chat is not None,
            "limit": self.limit,
            "subject": self.model.identity,
            "versions": versions(*PACKAGES),
        }

    @cached_property
    def inputs(self) -> list[str]:
        """Hashes of the data."""
        data = [content_key(self.config.benchmark_data)] if self.config.benchmark_data else []
        return data + ([hash_file(Path(self.suite.collection))] if self.suite.collection else [])

    @property
    def key(self) -> str:
        return make_key(self.deciding, self.inputs, VERSION)


def prepare(config: EvaluateConfig) -> EvaluationJob:
    """Find the model.

    Raises:
        ConfigError: with every wrong value.
        UserError: where model or adapter cannot be found, or do not belong together.
    """
    problems = Problems()
    check_options(config, problems)
    problems.raise_if_any()
    _refuse_combinations(config, problems)
    problems.raise_if_any()
    precision = Precision(
        config.dtype,
        config.four_bit,
        config.batch_size,
        config.max_length,
        adapter_dtype=config.adapter_dtype,
        merged=config.merged,
        tf32=config.tf32,
        generation_batch_size=config.generation.batch_size,
    )
    files = sorted(config.benchmark_data.glob("*.parquet")) if config.benchmark_data else []
    files += [Path(config.suite.collection)] if config.suite.collection else []
    data = {file: state_of(file) for file in files if file.is_file()}
    model = find_model(
        config.model, config.adapter, precision, config.format, config.chat, cache=config.cache / "models"
    )
    return EvaluationJob(config, model, data)


def _refuse_combinations(config: EvaluateConfig, problems: Problems) -> None:
    if config.merged and config.four_bit:
        problems.add(
            "merged",
            "true",
            "merging into 4 bits would lose what was learnt",
            "leave four_bit out, or merged",
        )
    if config.adapter_dtype == "bfloat16" and config.merged:
        problems.add(
            "adapter_dtype", "bfloat16", "merged adapters have the type of the model", "leave it out"
        )
    elif config.adapter_dtype == "bfloat16" and config.dtype == "float32":
        problems.add(
            "adapter_dtype",
            "bfloat16",
            "is coarser than the model's float32",
            "use dtype=bfloat16, or leave it out",
        )


def load_tasks(job: EvaluationJob) -> tuple[LoadedSuite, PreTrainedTokenizerBase]:
    """The suite with its data, and the tokenizer.

    Raises:
        UserError: for data that cannot be read, or have changed since the job was named by them.
    """
    suite, tokenizer = _load_tasks(job)
    check_unchanged(job.data)
    if job.model.chat is None:
        join_by(suite, job.model.separator)
    return suite, tokenizer


def _load_tasks(job: EvaluationJob) -> tuple[LoadedSuite, PreTrainedTokenizerBase]:
    suite, cache, data = job.suite, job.config.cache, None
    if job.config.benchmark_data:
        data = build_cache(job.config.benchmark_data, cache / "benchmarks")
    if not suite.collection:
        with data_from(data):
            loaded = load_suite(suite.tasks, suite.shots)
        return loaded, job.model.tokenizer(lambda: _texts(loaded))
    tokenizer = job.model.tokenizer(list)
    groups = heldout_groups(Path(suite.collection), tokenizer, job.model.separator, job.model.chat)
    with data_from(data):
        return load_suite(_names(suite, groups), suite.shots, groups), tokenizer


def _names(suite: Suite, groups: Iterable[str]) -> list[str]:
    """What a suite with a collection asks for: groups of the collection that it names, or all of them."""
    return list(suite.tasks) if set(groups) & set(suite.tasks) else [*suite.tasks, *groups]


def _texts(suite: LoadedSuite) -> list[str]:
    # On which a tiny model's tokenizer is trained.
    documents = [doc for task in suite.loaded["tasks"].values() for doc in list(task.eval_docs)[:100]]
    return [" ".join(str(value) for value in doc.values()) for doc in documents][:TOKENIZER_TEXTS]
