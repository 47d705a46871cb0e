"""The model card: what the folder is, made from what, and how to load it."""

from __future__ import annotations

from typing import Any

import yaml

from smart.config import counted
from smart.model.chat import MANIFEST_FIELD
from smart.runtime.escapes import markdown, markdown_code

_CLASSES = {
    "adapter": ("peft", "AutoPeftModelForCausalLM"),
    "model": ("transformers", "AutoModelForCausalLM"),
}


def model_card(manifest: dict[str, Any]) -> str:
    """README.md with the header that the hub reads."""
    config, counts, base = manifest["config"], manifest["counts"], manifest["base"]
    library, name = _CLASSES[manifest["kind"]]
    paragraphs = [
        _header(base["name"], library),
        f"# {markdown(base['name'])} tuned on {markdown(manifest['mixture']['name'])}",
        f"Method {config['tuning']['method']}, learning rate {config['learning_rate']:g},"
        f" {counted(config['batch_size'], 'example')} a step, {counted(counts['steps'], 'step')} over"
        f" {counted(counts['rows'], 'row')}: {counted(counts['tokens'], 'token')}, {counts['supervised_tokens']:,} of"
        " them supervised. The loss was on responses alone.",
        _departures(manifest),
        _held_out(manifest["evaluations"]),
        _format(manifest),
        f"```python\nfrom {library} import {name}\n\nmodel = {name}.from_pretrained(FOLDER)\n```",
        "`manifest.json` has the configuration, the keys of mixture and base, and all counts; `history.jsonl`"
        " has the loss of every step.",
    ]
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def _header(base: str, library: str) -> str:
    fields = {
        "base_model": base,
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": ["instruction-tuning", "data-selection", "smart"],
    }
    # Lists on one line, and no line broken: the hub's own reader is not the only one.
    text = yaml.safe_dump(fields, sort_keys=False, default_flow_style=None, allow_unicode=True, width=10**6)
    return f"---\n{text}---"


def _format(manifest: dict[str, Any]) -> str:
    form = manifest[MANIFEST_FIELD]
    if form["kind"] == "plain":
        separator = markdown_code(repr(manifest["config"]["separator"]))
        return (
            f"Prompt and response are tokenised apart and joined by {separator}; an end of sequence follows. No chat"
            " template."
        )
    told = {"system text": form["system"], "enable_thinking": form["thinking"], "today": form["date"]}
    said = ", ".join(
        f"{name} {markdown_code(repr(value))}" for name, value in told.items() if value is not None
    )
    return (
        f"Conversations are in the form of the tokenizer's chat template, which was told: {said}. Supervised:"
        f" {counted(manifest['counts']['turns'], 'turn')} of the assistant, each to its end,"
        f" {markdown_code(form['end_of_turn'])}, at which generation stops."
    )


def _departures(manifest: dict[str, Any]) -> str:
    """What the run did otherwise than most."""
    said = []
    if start := manifest.get("adapter"):
        said.append(f"It went on from the adapter {markdown_code(start['key'])}.")
    if manifest["config"].get("row_order") == "gains":
        said.append("A curriculum: in each epoch, tasks with the largest gain in the mixture came first.")
    return " ".join(said)


def _held_out(evaluations: list[dict[str, float]]) -> str:
    if len(evaluations) < 2:
        return ""
    first, last = evaluations[0]["eval_loss"], evaluations[-1]["eval_loss"]
    return f"Loss on held-out rows went from {first:.4f} to {last:.4f} nats per supervised token."
