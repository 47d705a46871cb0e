"""The pool of a selection: the collection without the rows that training could not use, in groups."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from smart.collection import Collection, Groups, load
from smart.collection.loading import say_dropped
from smart.config import UserError, counted
from smart.conversation import from_json
from smart.embedding import Memory, Prompts
from smart.model.chat import ChatFormat
from smart.model.chat import fits as conversations_fit
from smart.model.pretrained import read_tokenizer
from smart.model.tokens import fits
from smart.reading import CONVERSATION, RowView
from smart.runtime.files import hash_bytes
from smart.runtime.progress import progress
from smart.selection.config import SelectConfig
from smart.selection.decontamination import Contamination, look_for_benchmarks

log = logging.getLogger(__name__)

BATCH = 5_000


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
        rows = _trainable(rows, config.tokenizer, config.max_length, config.separator)
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
    log.info("The pool holds %s of %s.", counted(len(rows), "row"), counted(len(groups.tasks), "task"))
    prompts = _prompts(config, collection, rows, groups, drops["train"]["rows_read"])
    return Pool(collection, rows, validation, groups, prompts, source, drops, found)


def _prompts(
    config: SelectConfig, collection: Collection, rows: RowView, groups: Groups, rows_read: int
) -> Prompts:
    kept = hash_bytes([collection.fingerprint.encode(), rows.rows.tobytes()])
    memory = Memory(config.cache / "prompts" / f"{kept}.sealed", kept)
    return Prompts(rows.texts["inputs"], rows.positions[groups.order], _row_numbers(rows), rows_read, memory)


def _row_numbers(rows: RowView) -> np.ndarray | None:
    """The row number of each text; None where text i is row i, as in every collection that is read."""
    if np.array_equal(rows.rows, rows.positions):
        return None
    numbers = np.full(len(rows.texts), -1)
    numbers[rows.positions] = rows.rows
    return numbers


def _trainable(rows: RowView, tokenizer_name: str, max_length: int, separator: str) -> RowView:
    tokenizer = read_tokenizer(f"tokenizer={tokenizer_name}", tokenizer_name)
    turns = CONVERSATION in rows.column_names
    form = ChatFormat.of(tokenizer) if turns else None

    def trainable(batch: pa.Table) -> np.ndarray:
        if form is not None:
            conversations = list(map(from_json, batch[CONVERSATION].to_pylist()))
            return conversations_fit(form, tokenizer, conversations, max_length)
        return fits(
            tokenizer,
            batch["inputs"].to_pylist(),
            batch["targets"].to_pylist(),
            max_length,
            separator=separator,
        )

    keep = []
    with progress(total=len(rows), desc="Measuring responses", unit=" rows") as bar:
        for batch in rows.batches(BATCH):
            keep.append(trainable(batch))
            bar.update(len(batch))
    return rows.keep(np.concatenate(keep))
