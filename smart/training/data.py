"""Rows of a mixture, and their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smart.config import UserError, counted
from smart.model.tokens import Overlength, encode
from smart.runtime.content import check_unchanged, state_of
from smart.runtime.manifest import open_artifact
from smart.runtime.names import joined
from smart.templates import SEPARATOR
from smart.training.rows import BadRows, RowChecker, no_rows, read_files, read_hub

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 4096
_SHOWN = 600


@dataclass(frozen=True)
class Mixture:
    """Rows to learn from: tables of prompt and response, or of conversation, beside submixture and task_name.

    A conversation is JSON (see `smart.conversation`). Both tables have the same columns.
    """

    name: str
    key: str
    train: pa.Table
    validation: pa.Table
    manifest: dict[str, Any]
    """Manifest of the folder that the select command wrote; empty for any other data set."""


def read_mixture(source: str, bad_rows: BadRows = "error") -> Mixture:
    """Read a mixture folder, a data set file or folder, or a data set of the hub.

    Args:
        source: a path, a hub name (with @REVISION if need be), or the name of a mixture that the authors
        published.
        bad_rows: "error" or "drop", for rows without text in one of the columns.

    Raises:
        UserError: if there is nothing of the name, its columns have no known shape, or it has rows that can't be used.
        DamagedError: for a mixture that is not what was written.
    """
    path = Path(source)
    before = {file: state_of(file) for file in path.glob("*.parquet")} if path.is_dir() else {}
    manifest = open_artifact(path) or {}
    if manifest.get("kind") == "mixture":
        # The manifest's key stands for the rows, in names and on resume, so only files that it names are read.
        checker, tables = RowChecker(source, bad_rows), {}
        for split in ("train", "validation"):
            if split == "train" or f"{split}.parquet" in manifest["files"]:
                table = pq.read_table(path / f"{split}.parquet")
                tables[split] = checker.check_table(f"{split}.parquet", table)
        checker.raise_if_any()
        check_unchanged(before)
        return Mixture(
            path.name,
            manifest["key"],
            tables["train"],
            tables.get("validation", no_rows(tables["train"])),
            manifest,
        )
    tables, key = read_files(path, bad_rows) if path.exists() else read_hub(source, bad_rows)
    if "train" not in tables:
        raise UserError(f"mixture={source}: holds no rows to train on")
    return Mixture(path.stem, key, tables["train"], tables.get("validation", no_rows(tables["train"])), {})


@dataclass(frozen=True)
class TokenStore:
    """Tokens of rows, end to end."""

    ids: np.ndarray
    """int32 (tokens,)"""
    starts: np.ndarray
    """int64 (rows + 1,): row i is ids[starts[i]:starts[i + 1]]"""
    borders: np.ndarray
    """int32 (rows,): how many of a row's ids are its prompt"""
    cut: np.ndarray
    """int32 (rows,): how many ids its prompt has lost"""
    source: np.ndarray
    """int64 (rows,): which row of the table it is; rows that were dropped are missing"""
    control: np.ndarray
    """bool (rows,): whether the row's text spells a control token"""

    def __len__(self) -> int:
        return len(self.borders)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        return self.ids[self.starts[row] : self.starts[row + 1]], int(self.borders[row])

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    @property
    def supervised(self) -> int:
        return int(self.starts[-1] - self.borders.sum(dtype=np.int64))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in vars(self).items():
            np.save(folder / f"{name}.npy", array)

    @classmethod
    def load(cls, folder: Path) -> TokenStore:
        """Read what `save` wrote; the ids stay on disk, shared by all processes of the machine."""
        names = ("starts", "borders", "cut", "source", "control")
        ids = np.load(folder / "ids.npy", mmap_mode="r", allow_pickle=False)
        return cls(ids, *(np.load(folder / f"{name}.npy", allow_pickle=False) for name in names))


def tokenize(
    table: pa.Table,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    separator: str = SEPARATOR,
    overlength: Overlength = "truncate_prompt",
) -> TokenStore:
    """Encode all rows, a few thousand at a time."""
    ids: list[np.ndarray] = []
    lengths, borders, cut, source, control = [], [], [], [], []
    for first in range(0, len(table), _CHUNK):
        chunk = table.slice(first, _CHUNK)
        rows = encode(
            tokenizer,
            chunk["prompt"].to_pylist(),
            chunk["response"].to_pylist(),
            separator=separator,
            max_length=max_length,
            overlength=overlength,
        )
        for number, row in enumerate(rows):
            if row is not None:
                ids.append(np.array(row.prompt + row.response, dtype=np.int32))
                lengths.append(len(ids[-1]))
                borders.append(len(row.prompt))
                cut.append(row.cut)
                source.append(first + number)
                control.append(row.control)
    return TokenStore(
        np.concatenate(ids) if ids else np.empty(0, np.int32),
        np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        np.array(borders, np.int32),
        np.array(cut, np.int32),
        np.array(source, np.int64),
        np.array(control, bool),
    )


def count_losses(table: pa.Table, store: TokenStore) -> dict[str, dict[str, int]]:
    """Rows dropped, and prompts cut, of each task that has any: {"submixture/task": {"dropped": …, "cut": …}}."""
    names = [
        joined(s, t)
        for s, t in zip(table["submixture"].to_pylist(), table["task_name"].to_pylist(), strict=True)
    ]
    kept = np.zeros(len(table), dtype=bool)
    kept[store.source] = True
    counts: dict[str, dict[str, int]] = {}
    for row in np.flatnonzero(~kept):
        counts.setdefault(names[row], {"dropped": 0, "cut": 0})["dropped"] += 1
    for row in store.source[store.cut > 0]:
        counts.setdefault(names[row], {"dropped": 0, "cut": 0})["cut"] += 1
    return dict(sorted(counts.items()))


def sample_text(tokenizer: PreTrainedTokenizerBase, store: TokenStore, row: int = 0) -> str:
    """One row as the model sees it; what the loss is on stands between ⟦ and ⟧."""
    ids, border = store[row]
    prompt, response = (str(tokenizer.decode(part.tolist())) for part in (ids[:border], ids[border:]))
    shown = prompt if len(prompt) <= _SHOWN else "… " + prompt[-_SHOWN:]
    head = f"Row {int(store.source[row])}, {counted(len(ids), 'token')}"
    head += f", {len(ids) - border:,} of them supervised, inside ⟦ ⟧:"
    return f"{head}\n{shown}⟦{response}⟧"
