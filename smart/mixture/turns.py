"""Conversations as columns of a mixture's Parquet files, and what there is to say about them.

The columns are OpenAI's: `messages`, a list of {role, content, …}; `tools` and `chat_template_kwargs` where any row has
them. Calls, tools and template arguments differ in shape from row to row, so they are text of Parquet's own type JSON:
`load_dataset` of datasets 5 gives them as objects, other readers as text. `smart.reading` turns such columns into the
same conversations again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from smart.conversation import Conversation, from_json
from smart.reading import CONVERSATION, RowView

_OPTIONAL = ("reasoning_content", "tool_calls", "tool_call_id", "name")
"""Fields of a message that not every mixture has."""
_AS_JSON = {"tool_calls", "tools", "chat_template_kwargs"}
_SLICE = 5_000


@dataclass(frozen=True)
class Turns:
    """What there is to say about rows with turns."""

    answers: np.ndarray
    """int64 (rows,): turns of the assistant, each of which is learnt."""
    system: int
    """Rows with a system text."""
    tools: int
    """Rows with tools, be they schemas or arguments of the template."""
    calls: int
    """Calls of tools."""

    def counts(self) -> dict[str, int]:
        """For the manifest."""
        return {
            "turns": int(self.answers.sum()),
            "rows_with_system_text": self.system,
            "rows_with_tools": self.tools,
            "tool_calls": self.calls,
        }


@dataclass(frozen=True)
class Layout:
    """Which columns and fields some row fills; both splits of a mixture have the same."""

    fields: tuple[str, ...]
    """Of messages, in the order in which they stand there."""
    beside: tuple[str, ...]
    """Columns beside messages."""

    @classmethod
    def of(cls, splits: Sequence[RowView]) -> Layout:
        fields, beside = Counter[str](), Counter[str]()
        for rows in splits:
            for conversation in conversations(rows):
                beside.update(conversation.keys())
                for message in conversation["messages"]:
                    fields.update(message.keys())
        return cls(
            ("role", "content", *(name for name in _OPTIONAL if fields[name])),
            tuple(name for name in ("tools", "chat_template_kwargs") if beside[name]),
        )

    def columns(self, texts: Sequence[str]) -> dict[str, pa.Array]:
        """Conversations, as JSON, as columns."""
        made: list[Conversation] = [from_json(text) for text in texts]
        messages = [message for one in made for message in one["messages"]]
        fields = {name: _column(name, messages) for name in self.fields}
        edges = np.cumsum([0, *(len(one["messages"]) for one in made)])
        struct = pa.StructArray.from_arrays(list(fields.values()), list(fields))
        return {
            "messages": pa.ListArray.from_arrays(pa.array(edges, pa.int32()), struct),
            **{name: _column(name, made) for name in self.beside},
        }


def conversations(rows: RowView) -> Iterator[Conversation]:
    """The conversations of rows, one after the other."""
    for batch in rows.batches(_SLICE):
        yield from map(from_json, batch[CONVERSATION].to_pylist())


def describe_turns(rows: RowView) -> Turns | None:
    """What there is to say about rows' conversations; None where they are two texts."""
    if CONVERSATION not in rows.column_names:
        return None
    answers, counts = [], Counter[str]()
    for conversation in conversations(rows):
        messages = conversation["messages"]
        answers.append(sum(message["role"] == "assistant" for message in messages))
        kwargs = conversation.get("chat_template_kwargs", {})
        counts["system"] += messages[0]["role"] == "system"
        counts["tools"] += any(("tools" in conversation, kwargs.get("python_tools"), kwargs.get("xml_tools")))
        counts["calls"] += sum(len(message.get("tool_calls", ())) for message in messages)
    return Turns(np.array(answers, np.int64), counts["system"], counts["tools"], counts["calls"])


def _column(name: str, values: Sequence[Any]) -> pa.Array:
    """A field of messages or conversations."""
    texts = [_stored(name, value) for value in values]
    if name in _AS_JSON:
        return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))
    return pa.array(texts, pa.large_string())


def _stored(name: str, values: Any) -> str | None:
    """A field of a message or conversation as text."""
    value = values.get(name)
    if name == "chat_template_kwargs" and value is None:
        value = {}  # TRL passes them on, whatever they are
    if value is None or name not in _AS_JSON:
        return value
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
