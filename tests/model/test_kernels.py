"""Quicker kernels: what is replaced, and that compiled layers are the same function."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from smart.model.kernels import compile_layers, use_kernels
from smart.model.tiny import ARCHITECTURES, tiny_config


def test_liger_replaces_all_but_the_loss(monkeypatch):
    given = []
    monkeypatch.setattr(
        "transformers.integrations.liger.apply_liger_kernel", lambda *call: given.append(call)
    )
    model = AutoModelForCausalLM.from_config(tiny_config("llama"))
    use_kernels(model, "liger")
    ((patched, settings),) = given
    assert patched is model
    assert {name for name, value in settings.items() if value} >= {"rope", "rms_norm", "swiglu"}
    assert not settings["fused_linear_cross_entropy"]
    assert not settings["cross_entropy"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_layer_is_compiled_and_nothing_else(architecture, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: compiled.append(type(self).__name__))
    model = AutoModelForCausalLM.from_config(tiny_config(architecture))
    assert compile_layers(model) == 2
    assert compiled == [f"{architecture.capitalize()}DecoderLayer"] * 2


@pytest.mark.full
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiled_layers_are_the_same_function(architecture):
    model = AutoModelForCausalLM.from_config(tiny_config(architecture))
    ids = torch.arange(3, 63).view(2, 30)
    expected = model(input_ids=ids, use_cache=False).logits
    expected.square().mean().backward()
    gradients = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    assert compile_layers(model) == 2
    found = model(input_ids=ids, use_cache=False).logits
    found.square().mean().backward()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for weight, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-3, atol=1e-6)
