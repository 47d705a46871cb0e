"""Tokens of a mixture's rows, and what the loss is on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from smart.config import counted
from smart.conversation import from_json
from smart.model.chat import ChatFormat, encode_conversations
from smart.model.tokens import Overlength, encode
from smart.reading import CONVERSATION, Fault, plain_conversations
from smart.runtime.names import joined
from smart.templates import SEPARATOR

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LAYOUT = 2
"""Of a stored TokenStore; one of another layout is made again."""
_CHUNK = 4096
_SHOWN = 600


@dataclass(frozen=True)
class TokenStore:
    """Tokens of rows, end to end."""

    ids: np.ndarray
    """int32 (tokens,)"""
    mask: np.ndarray
    """bool (tokens,): which of the ids are supervised"""
    starts: np.ndarray
    """int64 (rows + 1,): row i is ids[starts[i]:starts[i + 1]]"""
    cut: np.ndarray
    """int32 (rows,): how many ids its prompt has lost, or messages or answers its conversation"""
    source: np.ndarray
    """int64 (rows,), ascending: which row of the table it is. Rows that were dropped are missing; a conversation may
    be several rows"""
    control: np.ndarray
    """bool (rows,): whether the row's text spells a control token"""

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask of a row."""
        here = slice(self.starts[row], self.starts[row + 1])
        return self.ids[here], self.mask[here]

    @property
    def lengths(self) -> np.ndarray:
        """int64 (rows,)"""
        return np.diff(self.starts)

    @property
    def supervised(self) -> np.ndarray:
        """Supervised tokens of each row: int64 (rows,)"""
        return self._sums(self.mask)

    @property
    def turns(self) -> np.ndarray:
        """Supervised spans of each row: int64 (rows,)"""
        begins = np.array(self.mask)
        begins[1:] &= ~self.mask[:-1]
        begins[self.starts[:-1]] = self.mask[self.starts[:-1]]
        return self._sums(begins)

    def _sums(self, marks: np.ndarray) -> np.ndarray:
        if not len(self):
            return np.zeros(0, np.int64)
        sums: np.ndarray = np.add.reduceat(marks, self.starts[:-1], dtype=np.int64)
        return sums

    @property
    def split(self) -> int:
        """How many conversations are several rows."""
        return int((np.unique(self.source, return_counts=True)[1] > 1).sum())

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in vars(self).items():
            np.save(folder / f"{name}.npy", array)

    @classmethod
    def load(cls, folder: Path) -> TokenStore:
        """Read what `save` wrote; ids and mask stay on disk, shared by all processes of the machine."""
        long = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("ids", "mask")
        }
        names = ("starts", "cut", "source", "control")
        return cls(**long, **{name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in names})


class _Row(NamedTuple):
    ids: list[int]
    spans: Sequence[tuple[int, int]]
    cut: int
    source: int
    control: bool


def tokenize(
    table: pa.Table,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    form: ChatFormat | None = None,
    separator: str = SEPARATOR,
    overlength: Overlength = "truncate_prompt",
) -> tuple[TokenStore, list[Fault]]:
    """Encode all rows, a few thousand at a time.

    Args:
        form: of conversations, to which rows of prompt and response become; None: prompt and response are joined by
            the separator.

    Returns:
        The tokens, and which rows the template cannot carry; they are in no row of the store.
    """
    if form is None:
        return _store(_plain_rows(table, tokenizer, max_length, separator, overlength)), []
    refused: dict[str, list[int]] = {}
    store = _store(_chat_rows(table, tokenizer, max_length, form, overlength, refused))
    return store, [Fault(CONVERSATION, reason, np.array(rows)) for reason, rows in sorted(refused.items())]


def _plain_rows(
    table: pa.Table,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    separator: str,
    overlength: Overlength,
) -> Iterator[_Row]:
    for first in range(0, len(table), _CHUNK):
        chunk = table.slice(first, _CHUNK)
        texts = chunk["prompt"].to_pylist(), chunk["response"].to_pylist()
        rows = encode(tokenizer, *texts, separator=separator, max_length=max_length, overlength=overlength)
        for number, row in enumerate(rows, first):
            if row is not None:
                ids = row.prompt + row.response
                yield _Row(ids, [(len(row.prompt), len(ids))], row.cut, number, row.control)


def _chat_rows(
    table: pa.Table,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    form: ChatFormat,
    overlength: Overlength,
    refused: dict[str, list[int]],
) -> Iterator[_Row]:
    for first in range(0, len(table), _CHUNK):
        chunk = table.slice(first, _CHUNK)
        is_plain = CONVERSATION not in table.column_names
        texts = plain_conversations(chunk["prompt"], chunk["response"]) if is_plain else chunk[CONVERSATION]
        conversations = [from_json(text) for text in texts.to_pylist()]
        found = encode_conversations(
            form, tokenizer, conversations, max_length=max_length, overlength=overlength
        )
        for number, one in enumerate(found, first):
            if one.fault is not None:
                refused.setdefault(one.fault, []).append(number)
            for row in one.rows:
                yield _Row(row.ids, row.spans, max(row.cut, one.lost), number, one.control)


def _store(rows: Iterable[_Row]) -> TokenStore:
    ids, masks, rest = list[np.ndarray](), list[np.ndarray](), list[tuple[int, int, bool]]()
    for row in rows:
        mask = np.zeros(len(row.ids), bool)
        for start, stop in row.spans:
            mask[start:stop] = True
        mask[:1] = False  # nothing predicts a row's first token
        ids.append(np.array(row.ids, dtype=np.int32))
        masks.append(mask)
        rest.append((row.cut, row.source, row.control))
    cut, source, control = zip(*rest, strict=True) if rest else ((), (), ())
    return TokenStore(
        np.concatenate(ids) if ids else np.empty(0, np.int32),
        np.concatenate(masks) if masks else np.empty(0, bool),
        np.concatenate([[0], np.cumsum([len(one) for one in ids], dtype=np.int64)]).astype(np.int64),
        np.array(cut, np.int32),
        np.array(source, np.int64),
        np.array(control, bool),
    )


def count_losses(table: pa.Table, store: TokenStore) -> dict[str, dict[str, int]]:
    """Rows dropped, and rows whose prompt or conversation is cut, of each task that has any.

    Returns:
        {"submixture/task": {"dropped": …, "cut": …}}; rows are those of the table.
    """
    names = [
        joined(s, t)
        for s, t in zip(table["submixture"].to_pylist(), table["task_name"].to_pylist(), strict=True)
    ]
    kept = np.zeros(len(table), dtype=bool)
    kept[store.source] = True
    lost = {"dropped": np.flatnonzero(~kept), "cut": np.unique(store.source[store.cut > 0])}
    counts: dict[str, dict[str, int]] = {}
    for what, rows in lost.items():
        for row in rows:
            counts.setdefault(names[row], {"dropped": 0, "cut": 0})[what] += 1
    return dict(sorted(counts.items()))


def sample_text(tokenizer: PreTrainedTokenizerBase, store: TokenStore, row: int = 0) -> str:
    """One row as the model sees it; what the loss is on stands between ⟦ and ⟧."""
    ids, mask = store[row]
    borders = np.flatnonzero(np.diff(mask)) + 1
    shown = ""
    for part, supervised in zip(
        np.split(ids, borders), (bool(part[0]) for part in np.split(mask, borders)), strict=True
    ):
        text = str(tokenizer.decode(part.tolist()))
        shown += f"⟦{text}⟧" if supervised else text if len(text) <= _SHOWN else "… " + text[-_SHOWN:]
    head = f"Row {int(store.source[row])}, {counted(len(ids), 'token')}"
    return f"{head}, {int(mask.sum()):,} of them supervised, inside ⟦ ⟧:\n{shown}"
