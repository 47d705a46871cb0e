"""The pool of a selection: the collection without the rows that training could not use, in groups."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from smart.collection import Collection, Groups, load
from smart.collection.loading import say_dropped
from smart.collection.tables import keep_rows
from smart.config import UserError, counted
from smart.conversation import from_json
from smart.embedding import Prompts
from smart.model.chat import ChatFormat
from smart.model.chat import fits as conversations_fit
from smart.model.pretrained import read_tokenizer
from smart.model.tokens import fits
from smart.reading import CONVERSATION
from smart.runtime.progress import progress
from smart.selection.config import SelectConfig
from smart.selection.decontamination import Contamination, look_for_benchmarks

log = logging.getLogger(__name__)

BATCH = 5_000


@dataclass(frozen=True)
class Pool:
    collection: Collection
    table: pa.Table
    """Rows to choose from, in the collection's schema."""
    validation: pa.Table | None
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
    kept = None if config.plan else config.cache / "collections"
    collection = load(config.collection, cache=kept)
    source = dict(collection.source)
    drops = {name: dict(counts) for name, counts in source.pop("splits").items()}
    table, validation = collection.train, collection.validation
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
        table = found.keep("train", table)
        validation = None if validation is None else found.keep("validation", validation)
        for split, report in found.reports.items():
            drops[split]["benchmark_questions"] = int(report.mask.sum())
            say_dropped(split, "they hold a benchmark's question", int(report.mask.sum()), len(report.mask))
        if not len(table):
            raise UserError("decontaminate=drop: every row of the collection holds a benchmark's question")
    if config.tokenizer:
        whole = len(table)
        table = _trainable(table, config.tokenizer, config.max_length, config.separator)
        drops["train"]["longer_than_max_length"] = whole - len(table)
        reason = f"the response alone is longer than max_length={config.max_length} tokens"
        if CONVERSATION in table.column_names:
            reason = f"the template cannot carry them, or no answer fits into max_length={config.max_length} tokens"
        say_dropped("train", reason, whole - len(table), whole)
        if not len(table):
            raise UserError(
                f"max_length={config.max_length}: every response of the collection is longer; raise it"
            )
    groups = Groups.of(table)
    prompts = Prompts(table["inputs"], groups.order, table["row"].to_numpy(), drops["train"]["rows_read"])
    log.info("The pool holds %s of %s.", counted(len(table), "row"), counted(len(groups.tasks), "task"))
    return Pool(collection, table, validation, groups, prompts, source, drops, found)


def _trainable(table: pa.Table, tokenizer_name: str, max_length: int, separator: str) -> pa.Table:
    tokenizer = read_tokenizer(f"tokenizer={tokenizer_name}", tokenizer_name)
    turns = CONVERSATION in table.column_names
    form = ChatFormat.of(tokenizer) if turns else None

    def trainable(batch: pa.RecordBatch) -> np.ndarray:
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
    with progress(total=len(table), desc="Measuring responses", unit=" rows") as bar:
        for batch in table.to_batches(BATCH):
            keep.append(trainable(batch))
            bar.update(len(batch))
    return keep_rows(table, np.concatenate(keep))
