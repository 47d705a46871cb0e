"""The loss, on supervised positions alone; and batches with the labels it needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from smart.config import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IGNORED = -100
"""The label of a position that the loss is not on."""
_ROUNDING = {"float32": 1e-5, "bfloat16": 2e-2}
"""What packing may move a logit by, of the largest."""


@dataclass(frozen=True)
class Collator:
    """Rows of (ids, mask) to the tensors of a micro-batch; the mask says which ids are supervised."""

    pad: int
    packing: bool = False

    def __call__(self, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
        """Padded on the right: input_ids, attention_mask, labels, LongTensors of shape (rows, longest).

        Packed: input_ids, position_ids, labels of shape (1, all tokens); positions start at 0 with each row.
        No rows at all give one padding token without supervision.
        """
        rows = rows or [(np.array([self.pad]), np.array([False]))]
        return self._packed(rows) if self.packing else self._padded(rows)

    def _padded(self, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
        shape = (len(rows), max(len(ids) for ids, _ in rows))
        batch = {
            "input_ids": torch.full(shape, self.pad),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
            "labels": torch.full(shape, IGNORED),
        }
        for number, (ids, mask) in enumerate(rows):
            row = torch.from_numpy(ids.astype(np.int64))
            batch["input_ids"][number, : len(row)] = row
            batch["attention_mask"][number, : len(row)] = 1
            batch["labels"][number, : len(row)] = torch.where(torch.from_numpy(mask.copy()), row, IGNORED)
        return batch

    def _packed(self, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(np.concatenate([ids for ids, _ in rows]).astype(np.int64))
        positions = torch.cat([torch.arange(len(ids)) for ids, _ in rows])
        supervised = torch.from_numpy(np.concatenate([mask for _, mask in rows]))
        labels = torch.where(supervised, ids, IGNORED)
        return {"input_ids": ids[None], "position_ids": positions[None], "labels": labels[None]}


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
        return arguments if self._chosen is None else (arguments[0][self._chosen], *arguments[1:])

    @contextmanager
    def _only(self, chosen: torch.Tensor) -> Iterator[None]:
        self._chosen = chosen
        try:
            yield
        finally:
            self._chosen = None

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        """Cross-entropy of the labels, summed over all supervised positions, in float32; a scalar tensor."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        targets = batch["labels"][:, 1:]
        chosen = torch.nn.functional.pad(targets != IGNORED, (0, 1))  # position t predicts label t + 1
        with self._only(chosen):
            logits = model(**inputs, use_cache=False).logits
        return nn.functional.cross_entropy(logits.float(), targets[targets != IGNORED], reduction="sum")


def check_packing(model: PreTrainedModel) -> None:
    """Stop unless rows packed into one sequence are blind to each other: change one, and look at the other's logits.

    Raises:
        UserError: for a model that mixes them.
    """
    mask = np.ones(8, bool)
    rows = [(np.arange(5, 13), mask), (np.arange(7, 15), mask)]
    collate = Collator(pad=0, packing=True)
    logits = []
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for first in (rows[0], (rows[0][0][::-1].copy(), mask)):
            batch = {
                name: part.to(model.device)
                for name, part in collate([first, rows[1]]).items()
                if name != "labels"
            }
            logits.append(model(**batch, use_cache=False).logits[0, len(rows[0][0]) :].float())
    model.train(was_training)
    moved = float((logits[0] - logits[1]).abs().max())
    # Kernels may sum in another order where another row has changed, so some rounding of the dtype is no leak.
    if not moved <= _ROUNDING[str(model.dtype).rpartition(".")[2]] * float(logits[0].abs().max()):
        raise UserError(
            f"packing=true: {model.config.model_type} does not keep packed rows apart (logits of one row"
            f" move by {moved:.2g} when another changes); set packing=false"
        )
