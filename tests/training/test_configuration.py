"""Every file of conf/model and conf/tuning composes into options, and says what it should."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from smart.config import conf_dir
from smart.model import ModelOptions, TuningOptions


def composed(*overrides: str) -> dict:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("train", [*overrides]), resolve=True)


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


@pytest.mark.parametrize("model", choices("model"))
def test_every_model_gives_options(model):
    named = ["model.name=some/model"] if model == "auto" else []
    options = ModelOptions(**composed(f"model={model}", *named)["model"])
    assert options.revision == "main"
    assert (options.tiny is not None) == model.startswith("tiny_")


@pytest.mark.parametrize("tuning", choices("tuning"))
def test_every_tuning_gives_options_and_a_learning_rate(tuning):
    plain = composed(f"tuning={tuning}")
    options = TuningOptions(**plain["tuning"])
    assert options.method == {"paper": "full"}.get(tuning, tuning)
    assert plain["learning_rate"] == (2e-4 if "lora" in tuning else 2e-5)
    assert composed(f"tuning={tuning}", "learning_rate=1e-3")["learning_rate"] == 1e-3


def test_the_papers_run():
    plain = composed("tuning=paper")
    tuning = plain["tuning"]
    assert (plain["batch_size"], plain["epochs"], plain["seed"]) == (64, 1, 23)
    assert (tuning["warmup"], tuning["weight_decay"], tuning["schedule"]) == (0.01, 0.1, "cosine")


def test_qlora_as_published():
    tuning = composed()["tuning"]
    assert (tuning["method"], tuning["dtype"]) == ("qlora", "bfloat16")
    assert (tuning["lora_r"], tuning["lora_alpha"], tuning["lora_dropout"]) == (64, 16, 0.05)


def test_context_of_the_7b_models():
    contexts = {name: composed(f"model={name}")["model"]["context"] for name in ("llama2_7b", "falcon_7b")}
    assert contexts == {"llama2_7b": 4096, "falcon_7b": 2048}
