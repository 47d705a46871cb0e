"""Rows with turns in a collection: what of a conversation is embedded, and one shape for all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pyarrow as pa

from smart.collection.check import Part
from smart.collection.schema import CHAT_SCHEMA, TEXTS
from smart.conversation import Conversation, from_json
from smart.reading import CONVERSATION, plain_conversations, turns_of
from smart.templates import CHAT

Embed = Literal["user_turns", "first_turn", "conversation"]
_BETWEEN = "\n\n"
_SLICE = 5_000


def one_shape(parts: Sequence[Part], turns: bool, embed: Embed) -> list[Part]:
    """The same parts, all with the columns of SCHEMA, or, with turns, all with those of CHAT_SCHEMA.

    Args:
        turns: whether the collection has a row with turns: then rows of two texts become conversations, too.
        embed: what `inputs` holds of a conversation.
    """
    return [_with_turns(part, embed) for part in parts] if turns else list(parts)


def _with_turns(part: Part, embed: Embed) -> Part:
    table = part.table
    plain = () if part.has_turns else (table[name] for name in TEXTS)
    turns = table[CONVERSATION] if part.has_turns else plain_conversations(*plain)
    inputs, targets = _texts(turns, embed)
    ready = {
        **{name: table[name] for name in ("submixture", "task_name")},
        "template_type": _chat(len(table)),
    }
    ready |= {"inputs": inputs, "targets": targets, CONVERSATION: turns}
    kinds = {name: CHAT_SCHEMA.field(name).type for name in ready}
    return replace(part, table=pa.table({name: ready[name].cast(kind) for name, kind in kinds.items()}))


def _chat(count: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array([CHAT]))])


def _texts(turns: pa.ChunkedArray, embed: Embed) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """What is embedded of each conversation, and all that the assistant says; null where there is none."""
    inputs, targets = [], []
    for start in range(0, len(turns), _SLICE):
        texts = turns.slice(start, _SLICE).to_pylist()
        conversations = [None if text is None else from_json(text) for text in texts]
        asked = [None if one is None else _embedded(one, embed) for one in conversations]
        said = [
            None if one is None else _BETWEEN.join(turns_of(one, ("assistant",))) for one in conversations
        ]
        inputs.append(pa.array(asked, pa.large_string()))
        targets.append(pa.array(said, pa.large_string()))
    return pa.chunked_array(inputs, pa.large_string()), pa.chunked_array(targets, pa.large_string())


def _embedded(conversation: Conversation, embed: Embed) -> str:
    if embed == "conversation":
        return _BETWEEN.join(turns_of(conversation))
    asked = turns_of(conversation, ("user",))
    return asked[0] if embed == "first_turn" else _BETWEEN.join(asked)
