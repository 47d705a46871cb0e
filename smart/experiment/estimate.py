"""Cost estimates for runs with no comparable predecessor: arithmetic, to be taken as a guess."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smart.config import ConfigError, parse_count
from smart.runtime.speed import Speed

TOKENS = 400
"""Tokens of a row, where its text is not there yet."""
_PADDING = 1.1
"""Rows of a micro-batch are of like length."""
_BESIDE = 1.6
"""Adapters, dropout, casts and the loss take time beside the products with the weights."""
_START_STEP = 1
"""Steps' worth of time that the first one takes besides."""
_LORA = 0.0228 / 64
"""Share of a Llama's parameters that adapters on every linear layer have, per unit of rank."""
_ROW_BYTES = 1_500
_SCORE_BYTES = 2_000
"""Bytes of a sample."""
_READ_ROWS = 100_000
"""Rows of files that are read, checked and sorted a second."""
_GENERATED_ROWS = 3_000
"""Rows that reasoning-gym generates a second; they are kept, so once."""
_SEARCHED_ROWS = 7_000
"""Rows in which benchmarks' questions are looked for a second, once for each pool."""
_ENCODED = {"wordllama": 20_000, "minilm": 60}
"""Prompts that encoders for a CPU turn into vectors a second."""
_ENCODER = 2 * 335e6 * 256
"""Operations of any other encoder for a prompt."""
_WIDTH = 256
"""Dimensions of a vector."""
_ANSWERED = {
    "mmlu": (57, 14_042, 130, 0),
    "bbh_zeroshot": (27, 6_511, 180, 256),
    "bbh_fewshot": (27, 6_511, 700, 256),
    "bbh_cot_zeroshot": (27, 6_511, 190, 1_024),
    "bbh_cot_fewshot": (27, 6_511, 1_300, 1_024),
}
"""Benchmark → its tasks and items, tokens of a prompt without shots of its own, and tokens that are generated."""
_SHOT = 125
"""Tokens of a shot in MMLU."""


@dataclass(frozen=True)
class Texts:
    """What is known of the rows that a run reads."""

    sizes: Sequence[int]
    """Rows of each task, or of each group that is ordered apart."""
    tokens: float = TOKENS
    """Tokens of a row, on average: prompt and answer."""
    longest: Sequence[float] = ()
    """Tokens of the longest answer of each task."""
    made: bool = False
    """Vectors and orderings are another run's work."""

    @property
    def rows(self) -> int:
        return sum(self.sizes)


@dataclass(frozen=True)
class Estimate:
    """None where not even a guess can be made."""

    seconds: float | None
    bytes: float | None


def estimate(
    stage: str, config: Mapping[str, Any], source: Mapping[str, Any] | None, speed: Speed, texts: Texts | None
) -> Estimate:
    """Guess one run.

    Args:
        config: of the stage.
        source: of the selection before a training; of the training before an evaluation.
        texts: the pool of a selection, the mixture of a training, the held-out tasks of an evaluation.
    """
    if stage == "select":
        rows = _rows(config)
        seconds = None if texts is None else _selection(config, speed, texts)
        return Estimate(seconds, None if rows is None else rows * _ROW_BYTES)
    model = config.get("model") or (source or {}).get("model") or {}
    parameters = parameters_of(model)
    if parameters is None:
        return Estimate(None, None)
    if stage == "train":
        return _training(config, source or {}, parameters, speed, texts)
    return _evaluation(config, source or {}, parameters, speed, texts)


def parameters_of(model: Mapping[str, Any]) -> float | None:
    """Parameters as a model's name tells them; of a tiny model, by its shapes.

    >>> parameters_of({"name": "mistralai/Mistral-7B-v0.1"})
    7000000000.0
    """
    name = str(model.get("name", ""))
    if name.startswith("tiny_"):
        return 150e3
    said = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z])", name.lower().replace("_", "-"))
    return float(said[1]) * {"b": 1e9, "m": 1e6}[said[2]] if said else None


def _rows(config: Mapping[str, Any]) -> int | None:
    try:
        return parse_count(config.get("budget")).number
    except ConfigError:
        return None


def _selection(config: Mapping[str, Any], speed: Speed, pool: Texts) -> float:
    """Reading, vectors, and greedy orders of whole groups, each of whose kernels is a matrix product."""
    seconds = speed.start / 2 + pool.rows / _READ_ROWS
    if pool.made:
        return seconds
    if "ReasoningGym" in str(config.get("collection")):
        seconds += pool.rows / _GENERATED_ROWS
    if config.get("decontaminate"):
        seconds += pool.rows / _SEARCHED_ROWS
    encoder = str(config.get("encoder")).lower()
    each = next((1 / rate for name, rate in _ENCODED.items() if name in encoder), _ENCODER / speed.flops)
    pairs = float(sum(size**2 for size in pool.sizes))
    return seconds + pool.rows * each + 8 * pairs * _WIDTH / speed.flops


def _training(
    config: Mapping[str, Any], source: Mapping[str, Any], parameters: float, speed: Speed, texts: Texts | None
) -> Estimate:
    """Forward and backward are 2 operations a parameter and token each, and so are again the weights' gradients in
    full tuning, and the forward pass again where activations are recomputed."""
    tuning = config.get("tuning") or {}
    full = tuning.get("method") == "full"
    size = 2 * parameters if full else 4 * parameters * _LORA * float(tuning.get("lora_r", 64))
    rows = texts.rows if texts else _rows(source)
    examples = rows and rows * float(config.get("epochs") or 1)
    batch = float(config.get("batch_size") or 64)
    if config.get("max_steps"):
        examples = float(config["max_steps"]) * batch
    if not examples:
        return Estimate(None, size)
    tokens = min(texts.tokens if texts else TOKENS, config.get("max_length") or TOKENS * 100)
    passes = 2 + full + bool(tuning.get("checkpoint_activations", True))
    calls = passes * (examples + _START_STEP * batch) / float(config.get("micro_batch_size") or 8)
    unpacked = parameters * speed.unpack if tuning.get("method") == "qlora" else 0.0
    learnt = _PADDING * tokens * (examples + _START_STEP * batch)
    learning = _BESIDE * passes * speed.reading(parameters, learnt)
    checked = 2 * speed.reading(parameters, tokens * float(source.get("validation_rows") or 0))
    seconds = speed.start + learning + checked + calls * (unpacked + speed.call)
    return Estimate(seconds, size)


def _evaluation(
    config: Mapping[str, Any],
    source: Mapping[str, Any],
    parameters: float,
    speed: Speed,
    heldout: Texts | None,
) -> Estimate:
    suite = config.get("suite") or {}
    limit = suite.get("limit") if config.get("limit") is None else config["limit"]
    names = [str(task) for task in suite.get("tasks") or []]
    asked = [_asked(task, suite.get("shots"), limit) for task in names if not task.startswith("heldout_")]
    if suite.get("collection"):
        if heldout is None:
            return Estimate(None, None)
        whole = len(asked) == len(names)  # no group of the collection is named, so all are asked
        for size, longest in zip(heldout.sizes, heldout.longest, strict=True):
            items = min(size, limit or size)
            scored = (items, heldout.tokens, 0.0)
            asked += [scored] if whole or "heldout_loss" in names else []
            asked += [(items, heldout.tokens, longest)] if whole or "heldout_text" in names else []
            asked += [scored] if "heldout_options" in names else []
    if not asked or None in asked:
        return Estimate(None, None)
    at_once = config.get("batch_size")
    at_once = at_once if isinstance(at_once, int) else 8
    generated_at_once = (config.get("generation") or {}).get("batch_size") or at_once
    four_bit = False if config.get("merged") else config.get("four_bit")
    if four_bit is None:
        four_bit = (source.get("tuning") or {}).get("method") == "qlora"
    unpacked = parameters * speed.unpack if four_bit else 0.0
    width = 4 if config.get("dtype") == "float32" else 2
    seconds, items = speed.start, 0.0
    for some, read, written in filter(None, asked):
        batches = -(-some // at_once)
        seconds += speed.reading(parameters, some * read) + batches * (unpacked + speed.call)
        calls = -(-some // generated_at_once) * written
        seconds += speed.writing(parameters, calls, min(generated_at_once, some), width)
        items += some
    return Estimate(seconds, items * _SCORE_BYTES)


def _asked(task: str, shots: int | None, limit: int | None) -> tuple[float, float, float] | None:
    """Items of a benchmark or of one of its tasks, tokens of a prompt, and tokens that are generated."""
    for name in sorted(_ANSWERED, key=len, reverse=True):
        if task == name or task.startswith(f"{name}_"):
            tasks, items, tokens, written = _ANSWERED[name]
            part = 1 if task != name else tasks
            number = min(items * part / tasks, limit * part if limit else items)
            return number, tokens + (_SHOT * (shots or 0) if name == "mmlu" else 0), written
    return None
