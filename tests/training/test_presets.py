"""Each preset of today's models, on a small model of the same architecture: composed, planned, trained for a step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers

from smart.model import ModelOptions
from smart.model.tiny import train_tokenizer
from smart.training.dry_run import describe_plan
from tests.model.conftest import make_rows
from tests.training.test_configuration import composed

PRESETS = {
    "llama3_1_8b": ("LlamaConfig", 131_072),
    "qwen3_8b": ("Qwen3Config", 32_768),
    "gemma3_4b": ("Gemma3Config", 131_072),
    "olmo3_7b": ("Olmo3Config", 65_536),
    "smollm3_3b": ("SmolLM3Config", 65_536),
}
"""Preset → the architecture that its config.json names, and its trained context."""
_SMALL = {
    "vocab_size": 768,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 262_144,
    "pad_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def small(kind: str) -> transformers.PretrainedConfig:
    options: dict[str, Any] = dict(_SMALL)
    if kind == "Gemma3Config":
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        }
        vision |= {"image_size": 28, "patch_size": 14}
        options = {"text_config": options, "vision_config": vision, "mm_tokens_per_image": 4}
    return getattr(transformers, kind)(**options)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fits_its_architecture(preset: str, runner: Any, tmp_path: Path) -> None:
    kind, context = PRESETS[preset]
    folder = tmp_path / "model"
    config = small(kind)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer = train_tokenizer("llama", [text for row in make_rows(60) for text in row])
    tokenizer.save_pretrained(folder)
    options = ModelOptions(**composed(f"model={preset}", f"model.name={folder}")["model"])
    assert options.context == context
    job = runner.job(model=str(folder), tuning={"method": "lora"}, max_steps=1)
    job = replace(job, config=replace(job.config, model=options), base=replace(job.base, options=options))
    assert job.base.context == context
    targets = {name.rpartition(".")[2] for name in job.base.linear_layers}
    assert targets == set(options.lora_targets or ()), "every linear layer of the text model, and no other"
    plan = describe_plan(job)
    assert "Plan: lora" in plan
    assert "peak memory" in plan
    from smart.training.fit import fit

    fit(job, tmp_path / "adapter")  # stops where the adapters learn nothing
    assert (tmp_path / "adapter/adapter_model.safetensors").is_file()
