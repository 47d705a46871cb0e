"""deduplicate=near|semantic: which rows of a pool nearly repeat an earlier one, looked for once and kept."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smart.collection import Collection, Groups
from smart.config import counted
from smart.conversation import from_json
from smart.embedding import Prompts, Vectors
from smart.reading import CONVERSATION, RowView, take_texts, turns_of
from smart.runtime.files import hash_bytes
from smart.runtime.locks import owned
from smart.runtime.sealed import read_sealed, write_sealed
from smart.selection.config import SelectConfig
from smart.selection.near_duplicates import Read, near_duplicates
from smart.selection.semantic_duplicates import semantic_duplicates
from smart.selection.vectors import embed_prompts, plan_prompts

VERSION = 1
"""Raised whenever other rows are found in the same pool."""
THRESHOLDS = {"near": 0.8, "semantic": 0.95}
SIGNS = {
    "near": "a Jaccard similarity of 5-word shingles of prompt and response",
    "semantic": "a cosine of the prompts' vectors, within a task",
}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Duplicates:
    """What was found in the rows of a pool."""

    kind: str
    threshold: float
    key: str
    """Key of how they are looked for, and in which vectors."""
    mask: np.ndarray
    """bool (n,): rows that are left out, each near an earlier one which stays."""
    tasks: int
    """How many tasks lose all of their rows."""
    vectors: Vectors | None
    """Of all rows, in group order; None where they were not needed."""

    @property
    def count(self) -> int:
        return int(self.mask.sum())

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "kind": self.kind,
            "sign": f"{SIGNS[self.kind]} of at least {self.threshold:g}",
            "rows": len(self.mask),
            "dropped": self.count,
            "tasks_dropped": self.tasks,
        }


def find_duplicates(
    config: SelectConfig, collection: Collection, rows: RowView, groups: Groups, prompts: Prompts
) -> Duplicates | None:
    """Find the rows that nearly repeat an earlier one, as `config.deduplicate` says.

    Args:
        rows: of the pool, after everything else that is left out.

    Returns:
        None for a plan, where caches don't know.

    Raises:
        UserError: where the encoder cannot be had.
    """
    kind = str(config.deduplicate)
    threshold = THRESHOLDS[kind] if config.deduplicate_threshold is None else config.deduplicate_threshold
    vectors = None
    if kind == "semantic":
        planned = plan_prompts(config, prompts)
        if config.plan and (planned.key is None or planned.rows):
            return None
        vectors = embed_prompts(config, prompts)
    key = hash_bytes([f"{VERSION} {kind} {threshold!r} {vectors.key if vectors else ''}".encode()])
    pool = hash_bytes([collection.fingerprint.encode(), rows.rows.tobytes()])
    path, sealed = config.cache / "duplicates" / f"{pool[:16]}-{key[:16]}.sealed", f"{pool}-{key}"
    if config.plan:
        content = read_sealed(path, sealed)
        if content is None:
            return None
    else:
        with owned(path):
            content = read_sealed(path, sealed)
            if content is None:
                if vectors is None:
                    mask = near_duplicates(reader(rows), _task_of_each(groups), threshold, config.cores())
                else:
                    mask = semantic_duplicates(vectors, groups, threshold, config.cores())
                content = np.packbits(mask).tobytes()
                write_sealed(path, sealed, content)
    mask = np.unpackbits(np.frombuffer(content, np.uint8), count=len(rows)).astype(bool)
    tasks = len(groups.tasks) - len(np.unique(_task_of_each(groups)[~mask]))
    found = Duplicates(kind, threshold, key, mask, tasks, vectors)
    log.info("Near an earlier row: %s of %s.", f"{found.count:,}", counted(len(rows), "row"))
    return found


def reader(rows: RowView) -> Read:
    """Texts of rows: prompt and response, or all that is said in a conversation, whatever is embedded of it."""

    def of_turns(places: np.ndarray) -> pa.LargeStringArray:
        column = take_texts(rows.texts[CONVERSATION], rows.positions[places])
        texts = ("\n".join(turns_of(from_json(text))) for text in column.to_pylist())
        return pa.array(texts, pa.large_string())

    def of_pairs(places: np.ndarray) -> pa.LargeStringArray:
        parts = [take_texts(rows.texts[name], rows.positions[places]) for name in ("inputs", "targets")]
        return pc.binary_join_element_wise(*parts, pa.scalar("\n", pa.large_string()))

    return of_turns if CONVERSATION in rows.column_names else of_pairs


def _task_of_each(groups: Groups) -> np.ndarray:
    """int64 (n,): number of the task of each row of the pool."""
    sizes = np.diff(groups.offsets[:: len(groups.templates)])
    tasks = np.empty(len(groups.order), np.int64)
    tasks[groups.order] = np.repeat(np.arange(len(sizes)), sizes)
    return tasks
