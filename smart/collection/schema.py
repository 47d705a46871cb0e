"""The schema of a collection, the same for every source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from smart.reading import CONVERSATION, RowView

LABELS = ("submixture", "task_name", "template_type")
TEXTS = ("inputs", "targets")
"""What is embedded, and what is learnt. Of a conversation: what `collection.embed` says, and all of the assistant's."""

_LABEL = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [(name, _LABEL) for name in LABELS]
    + [(name, pa.large_string()) for name in TEXTS]
    + [("row", pa.int64())]
)
CHAT_SCHEMA = SCHEMA.insert(len(LABELS) + len(TEXTS), pa.field(CONVERSATION, pa.large_string()))
"""Of rows with turns: a conversation as JSON beside the rest. A collection with any has it for all."""


@dataclass(frozen=True)
class Collection:
    """Instruction-formatted tasks; a task is known by (submixture, task_name)."""

    name: str
    """A readable stem for the names of artifacts."""
    train_rows: RowView
    """The pool; its rows are numbered as read, files sorted by path, before any drop."""
    validation_rows: RowView | None
    """Rows kept apart; numbered within their own split, or in the pool if taken out of it."""
    source: dict[str, Any]
    """For the manifest: what was read, rows read, dropped per reason, exact duplicates."""
    fingerprint: str
    """Hash of the rows of both splits, in order; nothing else about the source matters to what follows."""

    @property
    def splits(self) -> dict[str, RowView]:
        """train, and validation where there is one."""
        apart = {} if self.validation_rows is None else {"validation": self.validation_rows}
        return {"train": self.train_rows, **apart}

    @property
    def train(self) -> pa.Table:
        """The pool in SCHEMA or CHAT_SCHEMA; its texts may be copied into memory."""
        return self.train_rows.table

    @property
    def validation(self) -> pa.Table | None:
        """The validation split, alike."""
        return None if self.validation_rows is None else self.validation_rows.table
