"""Every key of every command, given a wrong type, a negative number and a list: refused by name, all together."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from smart.config import Composition, ConfigError, Problems, compose, read_config
from smart.config.reading import read_options
from smart.evaluation import EvaluateConfig
from smart.experiment import ReproduceConfig
from smart.selection import SelectConfig
from smart.training import TrainConfig

CONFIGS: dict[str, Any] = {
    "select": SelectConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "reproduce": ReproduceConfig,
}
BASES = [
    ("select", "collection=reasoning_gym", "encoder=minilm", "weighting=softmax"),
    (
        "select",
        "collection=files",
        "collection.path=no.parquet",
        "encoder=precomputed",
        "encoder.path=no.npy",
        "weighting=temperature",
    ),
    ("select", "collection=natural_instructions", "collection.path=x", "weighting=proportional", "fn=logdet"),
    ("select", "collection=flan2022", "fn=random", "encoder=wordllama"),
    ("train", "mixture=x", "model=tiny_llama"),
    ("evaluate", "model=tiny_llama"),
    ("reproduce", "table=budget"),
]
WRONG: list[Any] = ["abc", -1, [1], 1.5, True]
FOLDERS = {"mixture", "output", "output_root", "heldout_data", "benchmark_data", "adapter", "reference"}
"""A folder may have any name, and be named by a number."""
TEXTS = {
    *("entity", "group", "project", "tokenizer", "revision", "prefix", "name", "title", "run", "separator"),
    *(
        "task",
        "eos_token",
        "attention",
        "gguf_package",
        "submixture",
        "mixture",
        "split",
        "cot",
        "dialog",
        "niv2",
    ),
    *("flan2021", "t0", "system"),
}
"""Keys of any text; whether there is such a thing is told when it is looked for."""
NUMBERS = {
    "temperature",
    "regularizer",
    "epochs",
    "learning_rate",
    "weight_decay",
    "max_grad_norm",
    "tradeoff",
}
FREE_FORM = ("grid", "baseline", "heldout")
"""Mappings of other stages' keys, which are checked when the stages are composed."""


def keys_of(tree: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        if not key.startswith("_"):
            yield (*prefix, key)
            if isinstance(value, dict) and key not in FREE_FORM:
                yield from keys_of(value, (*prefix, key))


def is_right(key: tuple[str, ...], value: Any, default: Any) -> bool:
    """Whether the value is one that the key takes."""
    last = key[-1]
    return (
        (isinstance(default, bool) and value is True)
        or (last in FOLDERS and (value == "abc" or value == -1))
        or (last in TEXTS and value == "abc")
        or (last in NUMBERS and value == 1.5)
        or (last in ("four_bit", "thinking") and value is True)
        or (key == ("seeds",) and value == [1])
    )


def problems_of(command: str, composed: Composition, values: dict[str, Any]) -> list[str]:
    problems = Problems()
    read_options(CONFIGS[command], values, problems, choices=composed.choices, extra={"composed": composed})
    return problems.found


@pytest.mark.parametrize("base", BASES, ids=lambda base: "-".join(base[:2]))
def test_every_key_refuses_what_it_cannot_take(base: tuple[str, ...]) -> None:
    command, *overrides = base
    composed = compose(command, overrides)
    before = set(problems_of(command, composed, dict(composed.values)))
    taken, refused = [], 0
    for key in keys_of(dict(composed.values)):
        for wrong in WRONG:
            values = copy.deepcopy(dict(composed.values))
            place = values
            for part in key[:-1]:
                place = place[part]
            right = is_right(key, wrong, place[key[-1]])
            place[key[-1]] = wrong
            said = [line for line in problems_of(command, composed, values) if line not in before]
            if not said and not right:
                taken.append((".".join(key), wrong))
            if said:
                refused += 1
                assert any(part in line for line in said for part in (".".join(key), key[-1], key[0])), said
    assert taken == []
    assert refused > 100 or command == "reproduce"


def test_all_wrong_values_come_together_with_hints() -> None:
    overrides = [
        "overwrite=no",
        "seed=true",
        "threads=[1]",
        "fn.tradeoff=x",
        "tracker.mode=onlin",
        "+extra=1",
    ]
    overrides += ["collection.seed=x", "weighting=softmax", "weighting.temperature=0", "budget=1.0"]
    with pytest.raises(ConfigError) as caught:
        read_config(SelectConfig, compose("select", overrides))
    said = str(caught.value)
    assert said.startswith("9 values of the configuration are wrong")
    for line in (
        "overwrite=no: must be true or false; did you mean false?",
        "seed=true: must be a whole number, at least 0",
        "threads=[1]: must be a whole number, at least 1, or null; leave it null for all cores",
        "fn.tradeoff=x: must be a number",
        "tracker.mode=onlin: must be one of auto, online, offline, disabled; did you mean online?",
        "extra=1: no such key",
        "collection.seed=x: must be a whole number",
        "weighting.temperature=0",
        "budget=1.0: is not a whole number of rows; did you mean 100%?",
    ):
        assert line in said


@pytest.mark.parametrize("key", ["overwrite", "plan", "fetch_only"])
@pytest.mark.parametrize("word", ["no", "off", "'false'", "1"])
def test_a_word_is_no_boolean(key: str, word: str) -> None:
    """`overwrite=no` once replaced what it should have kept."""
    for command, more in (("select", []), ("train", ["mixture=x"]), ("evaluate", ["model=tiny_llama"])):
        with pytest.raises(ConfigError, match=f"{key}=.*: must be true or false"):
            read_config(CONFIGS[command], compose(command, [*more, f"{key}={word}"]))


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", " ", "a\nb", "x" * 101, "ü" * 51])
def test_a_name_is_one_component_of_a_path(name: str) -> None:
    composed = compose("select", ["collection=reasoning_gym"])
    values = copy.deepcopy(dict(composed.values))
    values["collection"]["name"] = name
    (said,) = problems_of("select", composed, values)
    assert said.startswith("collection.name=")
    assert "names files, so it must" in said
