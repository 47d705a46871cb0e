"""The pool of a selection: the collection without the rows that training could not use, in groups."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from smart.collection import Collection, Groups, load
from smart.collection.tables import keep_rows
from smart.commands.request import Request
from smart.config import UserError
from smart.embedding import Prompts
from smart.runtime.progress import progress

log = logging.getLogger(__name__)

BATCH = 5_000


@dataclass(frozen=True)
class Pool:
    collection: Collection
    table: pa.Table
    """Rows to choose from, in the collection's schema."""
    groups: Groups
    prompts: Prompts
    source: dict[str, Any]
    """For the manifest: what was read."""
    drops: dict[str, Any]
    """For the manifest: rows read and dropped, per split and reason."""


def read_pool(request: Request) -> Pool:
    """Read the collection, and leave out what training would have to drop.

    Raises:
        UserError: by the source; when no row is left.
    """
    cache = None if request.plan else request.root / "cache/collections"
    collection = load(request.collection, cache=cache)
    source = dict(collection.source)
    drops = {name: dict(counts) for name, counts in source.pop("splits").items()}
    table = collection.train
    if request.tokenizer:
        table = _trainable(table, request.tokenizer, request.max_length)
        drops["train"]["longer_than_max_length"] = len(collection.train) - len(table)
        if not len(table):
            raise UserError(
                f"max_length={request.max_length}: every response of the collection is longer; raise it"
            )
    groups = Groups.of(table)
    prompts = Prompts(table["inputs"], groups.order, table["row"].to_numpy(), drops["train"]["rows_read"])
    log.info("The pool holds %s rows of %s tasks.", f"{len(table):,}", f"{len(groups.tasks):,}")
    return Pool(collection, table, groups, prompts, source, drops)


def _trainable(table: pa.Table, tokenizer_name: str, max_length: int) -> pa.Table:
    from transformers import AutoTokenizer

    from smart.model.tokens import fits

    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"tokenizer={tokenizer_name}: cannot be loaded ({str(error).splitlines()[0]}); give a folder or a hub "
            "name, and for a gated one accept its terms on the hub and run `hf auth login`"
        ) from error
    keep = []
    with progress(total=len(table), desc="Measuring responses", unit=" rows") as bar:
        for batch in table.to_batches(BATCH):
            texts = (batch["inputs"].to_pylist(), batch["targets"].to_pylist())
            keep.append(fits(tokenizer, *texts, max_length))
            bar.update(len(batch))
    return keep_rows(table, np.concatenate(keep))
