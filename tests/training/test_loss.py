"""The loss on supervised positions, padding and packing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from smart.config import UserError
from smart.model import ModelOptions, find_base, weights_source
from smart.model.load import load_model
from smart.model.tiny import ARCHITECTURES
from smart.training.loss import IGNORED, Collator, SupervisedHead, check_packing


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


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request, models):
    base = find_base(ModelOptions(f"tiny_{request.param}"))
    return load_model(base, weights_source(base, models), dtype="float32")


def whole_head_loss(model, batch) -> torch.Tensor:
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits = model(**inputs).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["labels"][:, 1:], reduction="sum")


def test_padded_batches_supervise_responses_and_nothing_else():
    batch = Collator(pad=2)(ROWS)
    assert batch["input_ids"].shape == batch["labels"].shape == (3, 30)
    for number, (ids, mask) in enumerate(ROWS):
        assert batch["input_ids"][number, : len(ids)].tolist() == ids.tolist()
        assert batch["attention_mask"][number].sum() == len(ids)
        supervised = batch["labels"][number] != IGNORED
        assert supervised.nonzero().flatten().tolist() == np.flatnonzero(mask).tolist()
        assert batch["labels"][number][supervised].tolist() == ids[mask].tolist()


def test_end_of_sequence_is_supervised_where_it_is_also_the_padding():
    batch = Collator(pad=7)([row(np.array([3, 4, 7]), (1, 3)), row(np.array([3, 4, 5, 6, 7]), (2, 5))])
    assert batch["labels"][0].tolist() == [IGNORED, 4, 7, IGNORED, IGNORED]


def test_loss_and_gradients_equal_those_of_the_whole_head(model):
    batch = Collator(pad=2)(ROWS)
    model.zero_grad()
    expected = whole_head_loss(model, batch)
    expected.backward()
    gradients = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    loss = SupervisedHead(model).loss(model, batch)
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


def test_packing_gives_the_loss_of_padding_or_is_refused(model):
    head = SupervisedHead(model)
    padded, packed = Collator(pad=2)(ROWS), Collator(pad=2, packing=True)(ROWS)
    assert packed["input_ids"].shape == (1, 20 + 9 + 30)
    assert (packed["labels"] != IGNORED).sum() == (padded["labels"] != IGNORED).sum()
    with torch.no_grad():
        difference = abs(float(head.loss(model, packed) / head.loss(model, padded)) - 1)
    if model.config.model_type == "falcon":
        assert difference > 1e-5
        with pytest.raises(UserError, match="falcon does not keep packed rows apart"):
            check_packing(model)
    else:
        assert difference < 1e-5
        check_packing(model)
