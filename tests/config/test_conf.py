"""Every file of conf/ composes, and every option in it is one that its class takes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from smart.config import conf_dir

# What has no default: the user must name it.
NEEDED = {
    "collection=files": ["collection.path=a.parquet"],
    "collection=natural_instructions": ["collection.path=folder"],
    "encoder=precomputed": ["encoder.path=E.npy"],
    "encoder=sentence_transformers": ["encoder.name=a/b"],
}
PARTS = ("collection", "encoder", "fn", "weighting", "instance_fn", "strategy", "tracker")


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


@pytest.mark.parametrize("choice", [f"{group}={name}" for group in PARTS for name in choices(group)])
def test_every_choice_of_select(choice: str) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("select", [choice, *NEEDED.get(choice, [])], return_hydra_config=False)
    group = choice.partition("=")[0]
    for part in ("fn", "instance_fn", "weighting") if group == "strategy" else (group,):
        if "_target_" in config[part]:
            made = instantiate(config[part])
            assert isinstance(made, partial) == bool(config[part].get("_partial_"))


def test_every_file_is_headed_by_its_command() -> None:
    def headed(path: Path) -> bool:
        head = [line for line in path.read_text().splitlines() if line.startswith("#")][:4]
        return any(".py" in line or "launch" in line for line in head)

    folders = [conf_dir() / group for group in PARTS] + [conf_dir()]
    files = [path for folder in folders for path in folder.glob("*.yaml") if path.name != "base.yaml"]
    assert [path for path in files if not headed(path)] == []


def test_strategies_are_presets_that_the_command_line_overrides() -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        preset = compose("select", ["strategy=equal"])
        overridden = compose("select", ["fn=logdet", "strategy=equal"])
    assert preset.fn._target_.endswith("Random")
    assert overridden.fn._target_.endswith("LogDeterminant")
    assert preset.instance_fn == overridden.instance_fn
