"""What a run would cost that nothing like it has been done for: arithmetic on one A100, to be taken as a guess."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smart.config import ConfigError, parse_count

FLOPS = 125e12
"""Operations per second in bfloat16: 40 % of what an A100 can."""
BANDWIDTH = 1.5e12
"""Bytes per second from an A100's memory, which bounds generation."""
TOKENS = 400
"""Of a row."""
_ITEMS = {"mmlu": 14_042, "bbh": 6_511}
_GENERATED = 256
"""Tokens of an answer in BBH, at most."""
_LORA = 0.0228 / 64
"""Share of a Llama's parameters that adapters on every linear layer have, per unit of rank."""
_ROW_BYTES = 1_500


@dataclass(frozen=True)
class Estimate:
    """None where not even a guess can be made."""

    seconds: float | None
    bytes: float | None


def estimate(stage: str, config: Mapping[str, Any], source: Mapping[str, Any] | None) -> Estimate:
    """Guess one run.

    Args:
        config: of the stage.
        source: of the selection before a training; of the training before an evaluation.
    """
    if stage == "select":
        rows = _rows(config)
        return Estimate(None, None if rows is None else rows * _ROW_BYTES)
    model = config.get("model") or (source or {}).get("model") or {}
    parameters = parameters_of(str(model.get("name", "")))
    if parameters is None:
        return Estimate(None, None)
    if stage == "train":
        return _training(config, source or {}, parameters)
    return Estimate(_evaluation(config, parameters), 50e6)


def parameters_of(name: str) -> float | None:
    """Parameters as a model's name tells them.

    >>> parameters_of("mistralai/Mistral-7B-v0.1")
    7000000000.0
    """
    said = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z])", name.lower().replace("_", "-"))
    return float(said[1]) * {"b": 1e9, "m": 1e6}[said[2]] if said else None


def _rows(config: Mapping[str, Any]) -> int | None:
    try:
        return parse_count(config.get("budget")).number
    except ConfigError:
        return None


def _training(config: Mapping[str, Any], source: Mapping[str, Any], parameters: float) -> Estimate:
    # Forward 2, backward 4, activations again 2 operations a parameter and token.
    tuning = config.get("tuning") or {}
    rank = None if tuning.get("method") == "full" else float(tuning.get("lora_r", 64))
    size = 2 * parameters if rank is None else 4 * parameters * _LORA * rank
    rows = _rows(source)
    examples = rows and rows * float(config.get("epochs") or 1)
    if config.get("max_steps"):
        examples = float(config["max_steps"]) * float(config["batch_size"])
    tokens = min(TOKENS, config.get("max_length") or TOKENS)
    return Estimate(examples and 8 * parameters * examples * tokens / FLOPS, size)


def _evaluation(config: Mapping[str, Any], parameters: float) -> float | None:
    tasks = (config.get("suite") or {}).get("tasks") or []
    kinds = [kind for task in tasks for kind in _ITEMS if task == kind or task.startswith(f"{kind}_")]
    if not kinds or len(kinds) < len(tasks) or config.get("limit"):
        return None
    seconds = 0.0
    for kind in kinds:
        read = 2 * parameters * TOKENS / FLOPS
        written = _GENERATED * 2 * parameters / BANDWIDTH / 8 if kind == "bbh" else 0.0
        seconds += _ITEMS[kind] * (read + written)
    return seconds
