"""The loss on supervised positions, padding and packing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from smart.config import UserError
from smart.model import ModelOptions, find_base, weights_source
from smart.model.attention import PACKED, FusedFalconAttention, needs_ones, prepare_attention
from smart.model.load import load_model
from smart.model.tiny import ARCHITECTURES
from smart.training.loss import Collator, SupervisedHead, check_packing, move


def row(ids: np.ndarray, *spans: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros(len(ids), bool)
    for start, stop in spans:
        mask[start:stop] = True
    return ids, mask


ROWS = [
    row(np.arange(5, 25), (12, 20)),
    row(np.arange(40, 49), (3, 9)),
    row(np.arange(100, 130), (4, 9), (20, 22), (29, 30)),
]


@pytest.fixture(params=ARCHITECTURES)
def model(request, models):
    base = find_base(ModelOptions(f"tiny_{request.param}"))
    return load_model(base, weights_source(base, models), dtype="float32")


def training_loss(model, packing: bool, rows=ROWS) -> torch.Tensor:
    prepare_attention(model, packing)
    return SupervisedHead(model).loss(model, Collator(2, packing, needs_ones(model))(rows))


def whole_head_loss(model, rows) -> torch.Tensor:
    """Loss of rows one by one, by transformers' own head on all positions."""
    loss = torch.zeros(())
    for ids, mask in rows:
        labels = torch.where(torch.from_numpy(mask), torch.from_numpy(ids), -100)
        logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0, :-1]
        loss = loss + torch.nn.functional.cross_entropy(logits, labels[1:], reduction="sum")
    return loss


@pytest.mark.parametrize("packing", [False, True])
def test_batches_supervise_responses_and_nothing_else(packing):
    batch = Collator(pad=2, packing=packing)(ROWS)
    flat = batch["input_ids"].flatten()
    assert batch["input_ids"].shape == ((1, 20 + 9 + 30) if packing else (3, 30))
    starts = [0, 20, 29] if packing else [0, 30, 60]
    supervised = []
    for start, (ids, mask) in zip(starts, ROWS, strict=True):
        assert flat[start : start + len(ids)].tolist() == ids.tolist()
        supervised += (start + np.flatnonzero(mask)).tolist()
    assert (batch["predicting"] + 1).tolist() == supervised
    assert batch["targets"].tolist() == flat[supervised].tolist()
    if packing:
        assert batch["position_ids"].tolist() == [[*range(20), *range(9), *range(30)]]
        assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == [0, 20, 29, 59]
        assert batch["max_length_q"] == batch["max_length_k"] == 30


@pytest.mark.parametrize("packing", [False, True])
def test_nothing_predicts_the_first_token_of_a_row(packing):
    rows = [row(np.arange(5, 9), (0, 4)), row(np.arange(9, 12), (0, 3))]
    batch = Collator(pad=2, packing=packing)(rows)
    assert batch["targets"].tolist() == [6, 7, 8, 10, 11]
    first = 4
    assert batch["predicting"].tolist() == [0, 1, 2, first, first + 1]


def test_end_of_sequence_is_supervised_where_it_is_also_the_padding():
    batch = Collator(pad=7)([row(np.array([3, 4, 7]), (1, 3)), row(np.array([3, 4, 5, 6, 7]), (2, 5))])
    assert batch["targets"].tolist() == [4, 7, 5, 6, 7]
    assert batch["predicting"].tolist() == [0, 1, 6, 7, 8]


@pytest.mark.parametrize("packing", [False, True])
def test_loss_and_gradients_equal_those_of_the_whole_head(model, packing):
    model.zero_grad()
    expected = whole_head_loss(model, ROWS)
    expected.backward()
    gradients = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    loss = training_loss(model, packing)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for weight, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-6)


def test_the_head_sees_supervised_positions_alone(model):
    seen = []
    head = SupervisedHead(model)
    handle = model.get_output_embeddings().register_forward_hook(
        lambda *call: seen.append(call[2].shape[:-1].numel())
    )
    head.loss(model, Collator(pad=2)(ROWS))
    handle.remove()
    assert seen == [8 + 6 + 5 + 2 + 1]
    assert model(input_ids=torch.arange(6)[None]).logits.shape[:2] == (1, 6), "other calls see all positions"


def test_an_empty_micro_batch_has_no_loss_and_zero_gradients(model):
    model.zero_grad()
    loss = SupervisedHead(model).loss(model, Collator(pad=2)([]))
    loss.backward()
    assert loss == 0
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert gradients
    assert not any(gradient.any() for gradient in gradients)


def test_packed_rows_are_kept_apart_or_refused(model, monkeypatch):
    prepare_attention(model, packing=True)
    check_packing(model, "float32")
    prepare_attention(model, packing=False)
    for layer in model.modules():
        if isinstance(layer, FusedFalconAttention):
            layer.rows = None
    model.config._attn_implementation = "sdpa"
    blind = Collator.__call__
    monkeypatch.setattr(
        Collator, "__call__", lambda self, rows: blind(self, rows) | {"attention_mask": None} | EVEN
    )
    with pytest.raises(UserError, match="does not keep packed rows apart"):
        check_packing(model, "float32")


def test_packing_is_checked_in_the_type_of_computation(model):
    """Weights that are trained in full are float32, and kernels of packed attention on a GPU know bfloat16 alone."""
    prepare_attention(model, packing=True)
    seen = set()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(lambda *call: seen.add(call[2].dtype))
    check_packing(model, "bfloat16")
    assert seen == {torch.bfloat16}


def test_what_packed_attention_does_not_know_is_refused():
    heads = torch.zeros(1, 1, 2, 8)
    rows = {"cu_seq_lens_q": torch.tensor([0, 2], dtype=torch.int32), "max_length_q": 2}
    packed = AttentionInterface()[PACKED]
    assert packed(torch.nn.Identity(), heads, heads, heads, None, **rows)[0].shape == (1, 2, 1, 8)
    for extra, said in (({"softcap": 5.0}, "softcap"), ({"dropout": 0.1}, "a mask or dropout")):
        with pytest.raises(UserError, match=said):
            packed(torch.nn.Identity(), heads, heads, heads, None, **rows, **extra)
    with pytest.raises(UserError, match="masks beside causal ones"):
        AttentionMaskInterface()[PACKED](allow_is_causal_skip=False)


EVEN = {"position_ids": torch.arange(16)[None]}
"""Of packed rows: as if they were one."""


@pytest.mark.parametrize("packing", [False, True])
def test_a_step_waits_for_no_device(model, packing, monkeypatch):
    """Nothing in the forward pass or the loss depends on a tensor's values: tensors without any will do."""
    prepare_attention(model, packing)
    ones = needs_ones(model)
    monkeypatch.setattr("smart.model.attention.varlen_attention", lambda query, *_: query)
    batch = move(Collator(2, packing, ones)(ROWS), torch.device("meta"))
    loss = SupervisedHead(model).loss(model.to("meta"), batch)
    assert loss.shape == ()
    loss.backward()
