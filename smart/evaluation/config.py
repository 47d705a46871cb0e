"""What an evaluation is asked for: the options of evaluate.py, typed and checked before any work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smart.benchmarks.suites import Suite
from smart.config import option
from smart.config.types import Folder, Positive, Seed
from smart.model import ChatOptions, ModelOptions
from smart.runtime.common_config import CommonConfig


@dataclass(frozen=True)
class GenerationOptions:
    """How answers are generated."""

    batch_size: Positive | None = option(None, added=True, hint="leave it null for that of all prompts")
    """Prompts at once while answers are generated; None: batch_size. Each new token reads all weights, so a larger one
    is quicker; in bfloat16 it changes answers."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(CommonConfig):
    """The options of `python evaluate.py`. conf/evaluate.yaml has the defaults."""

    suite: Suite = option(default_factory=lambda: Suite("paper", ("mmlu", "bbh_zeroshot"), shots=0))
    """Which of lm-eval's tasks, with how many shots."""
    seed: Seed = option(23, role="input", through="comparison")
    """Seed of a comparison's bootstrap; scores have lm-eval's own seeds."""
    model: ModelOptions | None = option(None, role="input", through="model")
    """None: the adapter knows its own."""
    adapter: Folder | None = option(None, role="input", through="model")
    """A folder with an adapter, or with a whole model (full tuning, merged)."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """float32 is slower, and hardly depends on batch_size."""
    four_bit: bool | None = None
    """The base in 4 bits (NF4); None: as the adapter was trained, and never for a model without adapter."""
    batch_size: Positive | Literal["auto"] = 8
    """Prompts at once; auto: as many as a GPU holds. In bfloat16 it changes scores: keep it fixed to compare."""
    adapter_dtype: Literal["float32", "bfloat16"] = option("float32", added=True)
    """Of the adapters, which are trained and kept in float32; bfloat16 computes them as the model, which is quicker."""
    merged: bool = option(False, added=True)
    """Put the adapters into the weights of the model, never into 4 bits, before it answers."""
    tf32: bool = option(False, added=True)
    """Multiply what is in float32 in TF32, on GPUs that have it: quicker, with 10 bits of a number's 23."""
    generation: GenerationOptions = option(default_factory=GenerationOptions, added=True)
    max_length: Positive | None = option(None, hint="leave it null for what the model was trained on")
    """Tokens of prompt and answer; None: what the model was trained on."""
    format: Literal["auto", "plain", "chat"] = option(
        "auto", replaces="chat_template", stored_as={"auto": False, "plain": False, "chat": True}
    )
    """plain: prompts as they are; chat: as a user's turns, through the tokenizer's template; auto: as the adapter was
    trained, and plain for any other model."""
    chat: ChatOptions = option(default_factory=ChatOptions, role="input", through="model", added=True)
    """What the template is told, with format=chat; null: as the adapter was trained."""
    limit: Positive | None = option(None, hint="leave it null for all")
    """The first so many items of each task; None: as the suite says."""
    benchmark_data: Folder | None = option(None, role="input", through="benchmarks")
    """A folder with mmlu.parquet and bbh.parquet, instead of the hub."""
    compare: list[str] | dict[str, list[str]] | None = option(None, role="input", through="scores")
    """Two folders of scores, or name → folders of runs over seeds; None: score."""

    @property
    def cache(self) -> Path:
        """Folder of caches: models, answers, benchmarks."""
        return self.output_root / "cache"
