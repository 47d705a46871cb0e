"""Attention of training and of Falcon, against transformers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, FalconConfig, MistralConfig, PreTrainedModel

from smart.model import attention, load
from smart.model.attention import (
    PackedRows,
    fused_obstacle,
    needs_ones,
    packing_obstacle,
    prepare_attention,
    tell_falcon_its_rows,
    varlen_attention,
)
from smart.model.tiny import ARCHITECTURES, tiny_config

IDS = torch.arange(3, 3 + 2 * 24).view(2, 24) % 700


def build(config: Any, ours: bool = True) -> PreTrainedModel:
    torch.manual_seed(0)
    with load.ordinary_falcon() if ours else torch.no_grad():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    tell_falcon_its_rows(model)
    return model.eval()


@pytest.fixture
def falcons() -> tuple[PreTrainedModel, PreTrainedModel]:
    """Ours and transformers', with the same weights."""
    ours, theirs = build(tiny_config("falcon")), build(tiny_config("falcon"), ours=False)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def test_falcon_is_transformers_falcon(falcons):
    ours, theirs = falcons
    assert any(isinstance(module, attention.FusedFalconAttention) for module in ours.modules())
    assert not any(isinstance(module, attention.FusedFalconAttention) for module in theirs.modules())
    left = torch.ones_like(IDS)
    left[0, :9] = 0
    with torch.no_grad():
        for mask in (None, torch.ones_like(IDS), left):
            found, expected = (model(input_ids=IDS, attention_mask=mask).logits for model in falcons)
            seen = slice(None) if mask is not left else left.bool()
            torch.testing.assert_close(found[seen], expected[seen], rtol=1e-5, atol=1e-6)
        options = {"attention_mask": left, "max_new_tokens": 8, "do_sample": False, "eos_token_id": -1}
        assert ours.generate(IDS, **options).tolist() == theirs.generate(IDS, **options).tolist()


@pytest.fixture
def calls(monkeypatch) -> list[tuple[Any, dict[str, Any]]]:
    """Every attention that is computed."""
    made = []
    compute = torch.nn.functional.scaled_dot_product_attention

    def record(*args, **options):
        made.append((args, options))
        return compute(*args, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", record)
    monkeypatch.setattr(attention, "scaled_dot_product_attention", record)
    return made


def obstacles(calls: list[tuple[Any, dict[str, Any]]]) -> set[str | None]:
    found = set()
    for args, options in calls:
        mask = args[3] if len(args) > 3 else options.get("attn_mask")
        found.add(fused_obstacle(*args[:3], mask, options.get("enable_gqa", False)))
    return found


def batch_of(model: PreTrainedModel, packing: bool) -> dict[str, Any]:
    """The rows of IDS as training hands them over."""
    batch: dict[str, Any] = {"input_ids": IDS}
    if packing:
        starts = torch.tensor([0, 24, 48], dtype=torch.int32)
        batch = {"input_ids": IDS.view(1, 48), "position_ids": torch.arange(24).repeat(2)[None]}
        batch |= {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": 24, "max_length_k": 24}
    return batch | ({"attention_mask": torch.ones_like(batch["input_ids"])} if needs_ones(model) else {})


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_needs_no_mask_and_meets_what_fused_kernels_ask_for(architecture, packing, calls):
    model = build(tiny_config(architecture))
    prepare_attention(model, packing)
    model(**batch_of(model, packing), use_cache=False)
    assert calls
    assert obstacles(calls) == {None}
    for args, options in calls:
        assert (args[3] if len(args) > 3 else options.get("attn_mask")) is None
        assert options["is_causal"]


def test_what_no_fused_kernel_takes_is_said(calls, falcons):
    _, theirs = falcons
    theirs(input_ids=IDS)
    assert obstacles(calls) == {"4 heads of queries and 1 of keys"}
    wide = torch.zeros(1, 2, 4, 320)
    assert fused_obstacle(wide, wide, wide) == "heads of width 320 and 320"
    half = torch.zeros(1, 2, 4, 16, dtype=torch.bfloat16)
    single = half.float()
    assert fused_obstacle(single, single, half) == "torch.float32, torch.float32 and torch.bfloat16 together"
    with torch.autocast("cpu", torch.bfloat16):
        assert fused_obstacle(single, single, half) is None
    mask = torch.ones(4, 4, dtype=torch.bool)
    assert fused_obstacle(single, single[:, :1], single[:, :1], mask, grouped=True) is not None
    assert fused_obstacle(single, single[:, :1], single[:, :1], None, grouped=True) is None


def plain_attention(query, key, value, window) -> torch.Tensor:
    """Softmax over all scores of one row."""
    tokens = query.shape[2]
    key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    places = torch.arange(tokens)
    distance = places[:, None] - places
    return scores.masked_fill((distance < 0) | (distance >= window), -torch.inf).softmax(-1) @ value


@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("heads", [4, 2, 1])
def test_attention_inside_rows(heads, window):
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(1, count, 20, 8, generator=generator) for count in (4, heads, heads))
    lengths = [1, 12, 7]
    rows = PackedRows(torch.tensor([0, 1, 13, 20], dtype=torch.int32), 12)
    found = varlen_attention(query, key, value, rows, window=window)
    expected = [
        plain_attention(*parts, window or 99)
        for parts in zip(*(tensor.split(lengths, 2) for tensor in (query, key, value)), strict=True)
    ]
    torch.testing.assert_close(found, torch.cat(expected, 2), rtol=1e-5, atol=1e-6)


def test_a_window_as_long_as_the_rows_needs_no_mask(calls):
    """Mistral on rows of 4,096 tokens, its window."""
    for window, masks in ((IDS.shape[1], 0), (IDS.shape[1] - 1, 2)):
        model = build(MistralConfig(**{**tiny_config("mistral").to_dict(), "sliding_window": window}))
        with torch.no_grad():
            expected = model(input_ids=IDS).logits
            prepare_attention(model, packing=False)
            calls.clear()
            found = model(**batch_of(model, packing=False)).logits
        assert sum(options.get("attn_mask") is not None for _, options in calls) == masks
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("packing", [False, True])
def test_a_window_shorter_than_a_row_is_kept(packing):
    model = build(MistralConfig(**{**tiny_config("mistral").to_dict(), "sliding_window": 5}))
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        prepare_attention(model, packing)
        found = model(**batch_of(model, packing)).logits.view_as(expected)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_packed_is_named():
    llama, falcon, mistral = (build(tiny_config(name)) for name in ("llama", "falcon", "mistral"))
    for model in (llama, falcon, mistral):
        assert packing_obstacle(model, "float32", gpu=False) is None
        assert packing_obstacle(model, "float32", gpu=True) is not None
        assert packing_obstacle(model, "bfloat16", gpu=True) is None
    alibi = build(FalconConfig(**{**tiny_config("falcon").to_dict(), "alibi": True}))
    assert "ALiBi" in str(packing_obstacle(alibi, "float32", gpu=False))
    llama.config.attention_dropout = 0.1
    assert "drops out 10%" in str(packing_obstacle(llama, "float32", gpu=False))
    mistral.config.attention_chunk_size = 8
    assert "chunks of 8" in str(packing_obstacle(mistral, "float32", gpu=False))
