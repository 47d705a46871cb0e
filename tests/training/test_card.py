"""The card of an adapter, whatever its base and mixture are called."""

from __future__ import annotations

import pytest
import yaml

from smart.training.card import model_card

MANIFEST = {
    "kind": "adapter",
    "config": {
        "tuning": {"method": "lora"},
        "learning_rate": 2e-4,
        "batch_size": 1,
        "separator": " ",
    },
    "counts": {"steps": 1, "rows": 1200, "tokens": 25_000, "supervised_tokens": 300},
    "base": {"name": "org/model"},
    "mixture": {"name": "animals"},
    "evaluations": [],
    "text_format": {"kind": "plain"},
}


@pytest.mark.parametrize(
    "name", ["a: b # c", "[x]", "'\"", "null", "007", "ü\U0001f600", "a\nb: c", "- x", "x" * 300]
)
def test_any_name_of_a_base_is_text_in_the_header(name: str) -> None:
    _, header, _ = model_card({**MANIFEST, "base": {"name": name}}).split("---\n", 2)
    assert yaml.safe_load(header) == {
        "base_model": name,
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["instruction-tuning", "data-selection", "smart"],
    }


def test_names_and_the_separator_are_no_markup() -> None:
    strange = {
        "base": {"name": "<b>base</b>"},
        "mixture": {"name": "*mix*|"},
        "config": {**MANIFEST["config"], "separator": "`<i>"},  # type: ignore[dict-item]
    }
    text = model_card({**MANIFEST, **strange}).split("---\n", 2)[2]
    assert r"# &lt;b&gt;base&lt;/b&gt; tuned on \*mix\*\|" in text
    assert "joined by `` '`<i>' ``;" in text


def test_a_chat_format_is_told() -> None:
    form = {
        "kind": "chat",
        "template": "abc",
        "end_of_turn": "<|im_end|>",
        "end_ids": [2],
        "system": "Be *terse*.",
        "thinking": None,
        "date": "2024-07-26",
    }
    config = {key: value for key, value in MANIFEST["config"].items() if key != "separator"}  # type: ignore[attr-defined]
    counts = {**MANIFEST["counts"], "turns": 1}  # type: ignore[dict-item]
    text = model_card({**MANIFEST, "config": config, "counts": counts, "text_format": form})
    assert "was told: system text `'Be *terse*.'`, today `'2024-07-26'`." in text
    assert (
        "Supervised: 1 turn of the assistant, each to its end, `<|im_end|>`, at which generation stops."
        in text
    )
    assert "separator" not in text


def test_counts_agree_with_their_nouns() -> None:
    said = "1 example a step, 1 step over 1,200 rows: 25,000 tokens, 300 of them supervised."
    assert said in model_card(MANIFEST)
