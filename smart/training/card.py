"""The model card: what the folder is, made from what, and how to load it."""

from __future__ import annotations

from typing import Any

_CLASSES = {
    "adapter": ("peft", "AutoPeftModelForCausalLM"),
    "model": ("transformers", "AutoModelForCausalLM"),
}


def model_card(manifest: dict[str, Any]) -> str:
    """README.md with the header that the hub reads."""
    config, counts, base = manifest["config"], manifest["counts"], manifest["base"]
    library, name = _CLASSES[manifest["kind"]]
    paragraphs = [
        f"---\nbase_model: {base['name']}\nlibrary_name: {library}\npipeline_tag: text-generation\n"
        "tags: [instruction-tuning, data-selection, smart]\n---",
        f"# {base['name']} tuned on {manifest['mixture']['name']}",
        f"Method {config['tuning']['method']}, learning rate {config['learning_rate']:g},"
        f" {config['batch_size']} examples a step, {counts['steps']:,} steps over {counts['rows']:,} rows:"
        f" {counts['tokens']:,} tokens, {counts['supervised_tokens']:,} of them supervised. The loss was on"
        " responses alone.",
        _held_out(manifest["evaluations"]),
        f"Prompt and response are tokenised apart and joined by `{config['separator']!r}`; an end of sequence"
        " follows. No chat template.",
        f"```python\nfrom {library} import {name}\n\nmodel = {name}.from_pretrained(FOLDER)\n```",
        "`manifest.json` has the configuration, the keys of mixture and base, and all counts; `history.jsonl`"
        " has the loss of every step.",
    ]
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def _held_out(evaluations: list[dict[str, float]]) -> str:
    if len(evaluations) < 2:
        return ""
    first, last = evaluations[0]["eval_loss"], evaluations[-1]["eval_loss"]
    return f"Loss on held-out rows went from {first:.4f} to {last:.4f} nats per supervised token."
