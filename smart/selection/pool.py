"""The pool of a selection: the collection without the rows that training could not use, in groups."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from smart.collection import Collection, Groups, load
from smart.collection.loading import say_dropped
from smart.config import UserError, counted
from smart.conversation import from_json
from smart.embedding import Memory, Prompts, Vectors
from smart.model.chat import ChatFormat
from smart.model.chat import fits as conversations_fit
from smart.model.pretrained import read_tokenizer
from smart.model.tokens import fits
from smart.reading import CONVERSATION, RowView
from smart.runtime.files import hash_bytes
from smart.runtime.locks import owned
from smart.runtime.manifest import make_key
from smart.runtime.plans import may_write
from smart.runtime.progress import progress
from smart.runtime.sealed import read_sealed, write_sealed
from smart.selection.config import SelectConfig
from smart.selection.decontamination import Contamination, look_for_benchmarks
from smart.selection.duplicates import Duplicates, find_duplicates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

BATCH = 5_000
FIT_VERSION = 1
"""Raised whenever other rows fit into the same length."""


@dataclass(frozen=True)
class Pool:
    collection: Collection
    rows: RowView
    """Rows to choose from."""
    validation: RowView | None
    """Rows from which the validation sample is drawn; None where the collection has none."""
    groups: Groups
    prompts: Prompts
    source: dict[str, Any]
    """For the manifest: what was read."""
    drops: dict[str, Any]
    """For the manifest: rows read and dropped, per split and reason."""
    contamination: Contamination | None
    """Rows with benchmarks' questions; None where nobody looked."""
    duplicates: Duplicates | None = None
    """Rows near an earlier one, which are left out; None where nobody looked."""
    vectors: Vectors | None = None
    """Of the prompts, where finding duplicates has made them."""


def read_pool(config: SelectConfig) -> Pool:
    """Read the collection, and leave out what training would have to drop.

    Raises:
        UserError: by the source; when no row is left.
    """
    collection = load(config.collection, cache=config.cache / "collections")
    source = dict(collection.source)
    drops = {name: dict(counts) for name, counts in source.pop("splits").items()}
    rows, validation = collection.train_rows, collection.validation_rows
    found = None
    if config.decontaminate:
        cache = config.cache / "contamination"
        found = look_for_benchmarks(
            collection,
            config.decontaminate,
            config.benchmark_data,
            config.heldout_data,
            cache,
            config.plan,
        )
    if found and found.mode == "drop":
        rows = found.keep("train", rows)
        validation = None if validation is None else found.keep("validation", validation)
        for split, report in found.reports.items():
            drops[split]["benchmark_questions"] = int(report.mask.sum())
            say_dropped(split, "they hold a benchmark's question", int(report.mask.sum()), len(report.mask))
        if not len(rows):
            raise UserError("decontaminate=drop: every row of the collection holds a benchmark's question")
    if config.tokenizer:
        whole = len(rows)
        rows = rows.keep(_trainable(config, config.tokenizer, rows, _rows_key(collection, rows)))
        drops["train"]["longer_than_max_length"] = whole - len(rows)
        reason = f"the response alone is longer than max_length={config.max_length} tokens"
        if CONVERSATION in rows.column_names:
            reason = f"the template cannot carry them, or no answer fits into max_length={config.max_length} tokens"
        say_dropped("train", reason, whole - len(rows), whole)
        if not len(rows):
            raise UserError(
                f"max_length={config.max_length}: every response of the collection is longer; raise it"
            )
    groups = Groups.of(rows.labels)
    duplicates = vectors = None
    if config.deduplicate:
        prompts = _prompts(config, collection, rows, groups, drops["train"]["rows_read"])
        duplicates = find_duplicates(config, collection, rows, groups, prompts)
    if duplicates:
        drops["train"][f"{duplicates.kind}_duplicates"] = duplicates.count
        reason = "they are near an earlier row"
        if duplicates.tasks:
            reason += f", among them all rows of {counted(duplicates.tasks, 'task')}"
        say_dropped("train", reason, duplicates.count, len(rows))
        if duplicates.vectors:
            vectors = duplicates.vectors.keep(~duplicates.mask[groups.order])
        rows = rows.keep(~duplicates.mask)
        groups = Groups.of(rows.labels)
    log.info("The pool holds %s of %s.", counted(len(rows), "row"), counted(len(groups.tasks), "task"))
    prompts = _prompts(config, collection, rows, groups, drops["train"]["rows_read"])
    return Pool(collection, rows, validation, groups, prompts, source, drops, found, duplicates, vectors)


def _prompts(
    config: SelectConfig, collection: Collection, rows: RowView, groups: Groups, rows_read: int
) -> Prompts:
    key = _rows_key(collection, rows)
    memory = Memory(config.cache / "prompts" / f"{key}.sealed", key)
    return Prompts(rows.texts["inputs"], rows.positions[groups.order], _row_numbers(rows), rows_read, memory)


def _rows_key(collection: Collection, rows: RowView) -> str:
    """Names the rows of a collection that are kept."""
    return hash_bytes([collection.fingerprint.encode(), rows.rows.view(np.uint8).data])


def _row_numbers(rows: RowView) -> np.ndarray | None:
    """The row number of each text; None where text i is row i, as in every collection that is read."""
    if np.array_equal(rows.rows, rows.positions):
        return None
    numbers = np.full(len(rows.texts), -1)
    numbers[rows.positions] = rows.rows
    return numbers


def _trainable(config: SelectConfig, tokenizer_name: str, rows: RowView, rows_key: str) -> np.ndarray:
    """bool (n,): rows of which training would have an answer left. A sweep measures once."""
    tokenizer = read_tokenizer(f"tokenizer={tokenizer_name}", tokenizer_name)
    key = _fit_key(config, tokenizer, rows_key)
    file = config.cache / "trainable" / f"{key}.sealed"
    if key is None:
        return _measure(config, tokenizer, rows)
    if (known := read_sealed(file, key)) is not None:
        return np.unpackbits(np.frombuffer(known, np.uint8), count=len(rows)).astype(bool)
    if not may_write():
        return _measure(config, tokenizer, rows)
    with owned(file):
        if (known := read_sealed(file, key)) is None:
            known = np.packbits(_measure(config, tokenizer, rows)).tobytes()
            write_sealed(file, key, known)
    return np.unpackbits(np.frombuffer(known, np.uint8), count=len(rows)).astype(bool)


def _fit_key(config: SelectConfig, tokenizer: PreTrainedTokenizerBase, rows_key: str) -> str | None:
    """Names what is measured; None for a tokenizer that can't be named by what it does."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    template = json.dumps(tokenizer.chat_template, sort_keys=True)
    asked = {"max_length": config.max_length, "separator": config.separator}
    return make_key(
        asked, [rows_key, hash_bytes([backend.to_str().encode(), template.encode()])], FIT_VERSION
    )


def _measure(config: SelectConfig, tokenizer: PreTrainedTokenizerBase, rows: RowView) -> np.ndarray:
    turns = CONVERSATION in rows.column_names
    form = ChatFormat.of(tokenizer) if turns else None

    def trainable(batch: pa.Table) -> np.ndarray:
        if form is not None:
            conversations = list(map(from_json, batch[CONVERSATION].to_pylist()))
            return conversations_fit(form, tokenizer, conversations, config.max_length)
        return fits(
            tokenizer,
            batch["inputs"].to_pylist(),
            batch["targets"].to_pylist(),
            config.max_length,
            separator=config.separator,
        )

    keep = []
    with progress(total=len(rows), desc="Measuring responses", unit=" rows") as bar:
        for batch in rows.batches(BATCH):
            keep.append(trainable(batch))
            bar.update(len(batch))
    return np.concatenate(keep)
