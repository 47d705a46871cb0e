"""The loss, on supervised positions alone; and batches with the indices it needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from smart.config import UserError
from smart.model.attention import needs_ones

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROUNDING = {"float32": 1e-5, "bfloat16": 2e-2}
"""What packing may move a logit by, of the largest."""

Batch = dict[str, Any]
"""What a model is called with, and beside it:

- predicting: int64 (supervised,), positions in the flattened batch whose next token is supervised;
- targets: int64 (supervised,), those tokens.
"""


@dataclass(frozen=True)
class Collator:
    """Rows of (ids, mask) to the tensors of a micro-batch; the mask says which ids are supervised.

    The indices that the loss needs are made here, on the CPU: made of a mask on a GPU, they would have to wait for it.
    """

    pad: int
    packing: bool = False
    ones: bool = False
    """Adds an attention_mask of ones; see `smart.model.attention.needs_ones`."""

    def __call__(self, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> Batch:
        """Padded on the right: input_ids, int64 (rows, longest). No token sees what comes after, so no mask is needed.

        Packed: input_ids and position_ids, int64 (1, all tokens), where positions start at 0 with each row; and where
        rows start, under the names that transformers has for it. No rows at all give one padding token without
        supervision. The first token of a row, which nothing predicts, is never supervised.
        """
        rows = rows or [(np.array([self.pad]), np.array([False]))]
        lengths = [len(ids) for ids, _ in rows]
        width = sum(lengths) if self.packing else max(lengths)
        starts = np.cumsum([0, *lengths]) if self.packing else np.arange(len(rows)) * width
        ids = np.full(width if self.packing else width * len(rows), self.pad, np.int64)
        supervised = np.zeros(len(ids), bool)
        for start, (row, mask) in zip(starts, rows, strict=False):
            ids[start : start + len(row)] = row
            supervised[start + 1 : start + len(row)] = mask[1:]
        targets = np.flatnonzero(supervised)
        batch: Batch = {
            "input_ids": torch.from_numpy(ids).view(-1, width),
            "predicting": torch.from_numpy(targets - 1),
            "targets": torch.from_numpy(ids[targets]),
        }
        if self.packing:
            positions = np.concatenate([np.arange(length) for length in lengths])
            bounds = torch.from_numpy(starts.astype(np.int32))
            batch |= {"position_ids": torch.from_numpy(positions)[None]}
            batch |= {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
            batch |= {"max_length_q": max(lengths), "max_length_k": max(lengths)}
        if self.ones:
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        return batch


def move(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device; from pinned memory without waiting for it."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }


class SupervisedHead:
    """Computes a model's head at the positions that predict a label, and nowhere else.

    In instruction data few positions are supervised, while the logits of all of them are the largest tensor
    of a step. The positions are chosen by a hook before the head, so the model is still called as a whole,
    which DistributedDataParallel and FSDP need.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._chosen: torch.Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._choose)

    def _choose(self, module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        if self._chosen is None:
            return arguments
        return (arguments[0].flatten(0, -2).index_select(0, self._chosen), *arguments[1:])

    @contextmanager
    def _only(self, chosen: torch.Tensor) -> Iterator[None]:
        self._chosen = chosen
        try:
            yield
        finally:
            self._chosen = None

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Cross-entropy of the targets, summed over all supervised positions, in float32; a scalar tensor."""
        inputs = {name: value for name, value in batch.items() if name not in ("predicting", "targets")}
        with self._only(batch["predicting"]):
            logits = model(**inputs, use_cache=False).logits
        return nn.functional.cross_entropy(logits.float(), batch["targets"], reduction="sum")


def check_packing(model: PreTrainedModel, dtype: str) -> None:
    """Stop unless rows packed into one sequence are blind to each other: change one, and look at the other's logits.

    Args:
        dtype: of computation, which is coarser than the weights where they are trained in full.

    Raises:
        UserError: for a model that mixes them.
    """
    mask = np.ones(8, bool)
    rows = [(np.arange(5, 13), mask), (np.arange(7, 15), mask)]
    collate = Collator(pad=0, packing=True, ones=needs_ones(model))
    logits = []
    was_training = model.training
    model.eval()
    autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == "bfloat16")
    with torch.no_grad(), autocast:
        for first in (rows[0], (rows[0][0][::-1].copy(), mask)):
            batch = move(collate([first, rows[1]]), model.device)
            inputs = {name: value for name, value in batch.items() if name not in ("predicting", "targets")}
            logits.append(model(**inputs, use_cache=False).logits[0, len(rows[0][0]) :].float())
    model.train(was_training)
    moved = float((logits[0] - logits[1]).abs().max())
    # Kernels may sum in another order where another row has changed, so some rounding of the dtype is no leak.
    if not moved <= _ROUNDING[dtype] * float(logits[0].abs().max()):
        raise UserError(
            f"packing=true: {model.config.model_type} does not keep packed rows apart (logits of one row"
            f" move by {moved:.2g} when another changes); set packing=false"
        )
