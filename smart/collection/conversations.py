"""Rows with turns in a collection: what of a conversation is embedded, and one shape for all rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pyarrow as pa

from smart.collection.check import Part
from smart.collection.kept import Kept
from smart.collection.schema import CHAT_SCHEMA, TEXTS
from smart.conversation import Conversation, from_json
from smart.reading import CONVERSATION, ArrowFile, map_arrow, plain_conversations, turns_of
from smart.templates import CHAT

Embed = Literal["user_turns", "first_turn", "conversation"]
_BETWEEN = "\n\n"
_SLICE = 5_000
_VERSION = 1
"""Raised whenever other texts are made of the same conversations."""


def one_shape(parts: Sequence[Part], turns: bool, embed: Embed, kept: Kept | None = None) -> list[Part]:
    """The same parts, all with the columns of SCHEMA, or, with turns, all with those of CHAT_SCHEMA.

    Args:
        turns: whether the collection has a row with turns: then rows of two texts become conversations, too.
        embed: what `inputs` holds of a conversation.
        kept: where the texts of parts that lie on disk are written, so that they are not held in memory.
    """
    return [_with_turns(part, embed, kept) for part in parts] if turns else list(parts)


def _with_turns(part: Part, embed: Embed, kept: Kept | None) -> Part:
    labels = {name: part.table[name] for name in ("submixture", "task_name")}
    labels["template_type"] = _chat(len(part.table))
    texts, files = None, list[ArrowFile]()
    if part.files and kept:
        asked = {"embed": embed, "columns": [dict(file.columns) for file in part.files]}
        file = kept.file(
            "turns", asked, [file.digest for file in part.files], _VERSION, _batches(part, embed)
        )
        if file:
            texts, files = map_arrow(file.path), [file]
    if texts is None:
        texts = pa.concat_tables(map(pa.table, _batches(part, embed)))
    whole = {**labels, **{name: texts[name] for name in (*TEXTS, CONVERSATION)}}
    table = pa.table({name: column.cast(CHAT_SCHEMA.field(name).type) for name, column in whole.items()})
    return replace(part, table=table, files=files)


def _batches(part: Part, embed: Embed) -> Iterator[dict[str, pa.ChunkedArray]]:
    """inputs, targets and conversation of a part, some rows at a time; null where there is none."""
    names = [CONVERSATION] if part.has_turns else list(TEXTS)
    for start in range(0, max(1, len(part.table)), _SLICE):
        columns = [part.table[name].slice(start, _SLICE) for name in names]
        turns = columns[0] if part.has_turns else plain_conversations(*columns)
        inputs, targets = _texts(turns, embed)
        yield {"inputs": inputs, "targets": targets, CONVERSATION: turns}


def _chat(count: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array([CHAT]))])


def _texts(turns: pa.ChunkedArray, embed: Embed) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """What is embedded of each conversation, and all that the assistant says; null where there is none."""
    conversations = [None if text is None else from_json(text) for text in turns.to_pylist()]
    asked = [None if one is None else _embedded(one, embed) for one in conversations]
    said = [None if one is None else _BETWEEN.join(turns_of(one, ("assistant",))) for one in conversations]
    return pa.chunked_array([asked], pa.large_string()), pa.chunked_array([said], pa.large_string())


def _embedded(conversation: Conversation, embed: Embed) -> str:
    if embed == "conversation":
        return _BETWEEN.join(turns_of(conversation))
    asked = turns_of(conversation, ("user",))
    return asked[0] if embed == "first_turn" else _BETWEEN.join(asked)
