"""Rows of a mixture, and their tokens."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from smart.config import UserError
from smart.model.tokens import Overlength, encode
from smart.runtime.files import hash_bytes, hash_file
from smart.runtime.manifest import open_artifact
from smart.templates import SEPARATOR

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AUTHORS = "kowndinya23/"
"""Owner of the published mixtures, flan2022-4096-TASKS-tasks-FN-ROWS-instances-FN."""
_CHUNK = 4096
_SHOWN = 600
_LONGEST_LINE = 1 << 26


@dataclass(frozen=True)
class Mixture:
    """Rows to learn from: tables with the columns prompt, response, submixture and task_name."""

    name: str
    key: str
    train: pa.Table
    validation: pa.Table
    manifest: dict[str, Any]
    """Manifest of the folder that the select command wrote; empty for any other data set."""


def read_mixture(source: str) -> Mixture:
    """Read a mixture folder, a data set file or folder, or a data set of the hub.

    Args:
        source: a path, a hub name (with @REVISION if need be), or the name of a mixture that the authors
        published.

    Raises:
        UserError: if there is nothing of the name, or it lacks prompt and response.
        DamagedError: for a mixture that is not what was written.
    """
    path = Path(source)
    manifest = open_artifact(path) or {}
    if manifest.get("kind") == "mixture":
        # The manifest's key stands for the rows, in names and on resume, so only files that it names are read.
        train = pq.read_table(path / "train.parquet")
        named = "validation.parquet" in manifest["files"]
        validation = pq.read_table(path / "validation.parquet") if named else None
        return Mixture(
            path.name, manifest["key"], _columns(train, source), _columns(validation, source), manifest
        )
    splits, key = _read_path(path) if path.exists() else _read_hub(source)
    train = splits.get("train")
    if train is None:
        raise UserError(f"mixture={source}: has no split named train, only {', '.join(sorted(splits))}")
    return Mixture(path.stem, key, _columns(train, source), _columns(splits.get("validation"), source), {})


def _read_path(path: Path) -> tuple[dict[str, pa.Table], str]:
    # Read without datasets, whose cache could answer for a file that has changed since.
    files = [path] if path.is_file() else _data_files(path)
    if not files or any(file.suffix not in _READERS for file in files):
        raise UserError(f"mixture={path}: must be a file, or a folder of files: {', '.join(_READERS)}")
    splits: dict[str, list[pa.Table]] = {}
    for file in files:
        named = {"validation", "test"} & set(re.split(r"[^a-z]+", file.stem.lower()))
        split = min(named) if named and path.is_dir() else "train"
        splits.setdefault(split, []).append(_columns(_READERS[file.suffix](file), str(file)))
    key = hash_bytes([hash_file(file).encode() for file in files])
    return {split: pa.concat_tables(tables) for split, tables in splits.items()}, key


def _data_files(folder: Path) -> list[Path]:
    """Files of rows directly in a folder, or, where there are none, in the data/ of a cloned data set."""
    for place in (folder, folder / "data"):
        if files := sorted(file for file in place.glob("*") if file.suffix in _READERS):
            return files
    return []


def _read_json_lines(file: Path) -> pa.Table:
    return pyarrow.json.read_json(file, pyarrow.json.ReadOptions(block_size=_LONGEST_LINE))


def _read_csv(file: Path) -> pa.Table:
    return pyarrow.csv.read_csv(file, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True))


_READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".parquet": pq.read_table,
    ".jsonl": _read_json_lines,
    ".csv": _read_csv,
}


def _read_hub(source: str) -> tuple[dict[str, pa.Table], str]:
    from datasets import load_dataset

    name, _, revision = source.partition("@")
    if name.startswith("flan2022-4096-"):
        name = AUTHORS + name
    try:
        splits = load_dataset(name, revision=revision or None)
    except (OSError, ValueError) as error:
        raise UserError(
            f"mixture={source}: no such folder or file, and the hub gave no data set of that name"
            f" ({str(error).splitlines()[0]})"
        ) from error
    fingerprints = [splits[split]._fingerprint.encode() for split in sorted(splits)]
    return {name: split.with_format("arrow")[:] for name, split in splits.items()}, hash_bytes(fingerprints)


def _columns(table: pa.Table | None, source: str) -> pa.Table:
    if table is None:
        return pa.table(
            {name: pa.array([], pa.string()) for name in ("prompt", "response", "submixture", "task_name")}
        )
    missing = {"prompt", "response"} - set(table.column_names)
    if missing:
        raise UserError(
            f"mixture={source}: has no column {' and '.join(sorted(missing))}, only"
            f" {', '.join(table.column_names)}"
        )
    columns = {}
    for name in ("prompt", "response", "submixture", "task_name"):
        column = (
            table[name] if name in table.column_names else pa.chunked_array([pa.repeat("all", len(table))])
        )
        if column.null_count:
            raise UserError(f"mixture={source}: {column.null_count} rows have no {name}")
        columns[name] = column.cast(pa.string())
    return pa.table(columns)


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
        names = ("starts", "borders", "cut", "source")
        ids = np.load(folder / "ids.npy", mmap_mode="r")
        return cls(ids, *(np.load(folder / f"{name}.npy") for name in names))


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
    lengths, borders, cut, source = [], [], [], []
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
    return TokenStore(
        np.concatenate(ids) if ids else np.empty(0, np.int32),
        np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        np.array(borders, np.int32),
        np.array(cut, np.int32),
        np.array(source, np.int64),
    )


def count_losses(table: pa.Table, store: TokenStore) -> dict[str, dict[str, int]]:
    """Rows dropped, and prompts cut, of each task that has any: {"submixture/task": {"dropped": …, "cut": …}}."""
    names = [
        f"{s}/{t}"
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
    head = f"Row {int(store.source[row])}, {len(ids)} tokens, of which {len(ids) - border} are supervised, inside ⟦ ⟧:"
    return f"{head}\n{shown}⟦{response}⟧"
