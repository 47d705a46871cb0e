"""conf/collection: each file makes the options it says, with the defaults of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

CONF = Path(__file__).resolve().parents[2] / "conf" / "collection"


@pytest.mark.parametrize("name", ["files", "flan2022", "hub", "natural_instructions", "reasoning_gym"])
def test_the_yaml_says_the_defaults_of_the_code(name: str) -> None:
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    text = (CONF / f"{name}.yaml").read_text()
    assert text.startswith(f"# python select.py collection={name}")
    config = OmegaConf.create(
        {"bad_rows": "error", "drop_duplicates": False, "collection": OmegaConf.create(text)}
    )
    options = instantiate(config.collection)
    assert options == type(options)()
    assert set(config.collection) - {"_target_", "_convert_"} == set(vars(options))


def test_every_yaml_is_tested() -> None:
    assert {path.stem for path in CONF.glob("*.yaml")} == {
        *("files", "flan2022", "hub", "natural_instructions", "reasoning_gym"),
        *("dolci", "openhermes", "smoltalk2", "tulu3"),  # in test_hub
    }
