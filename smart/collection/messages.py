"""Conversations of one turn as prompt and response."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smart.reading import Fault, as_text, fault_where, is_blank, is_text

MULTI_TURN = "more than one turn"


def from_messages(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray, list[Fault]]:
    """Take inputs and targets from `messages`, a column of lists of {role, content}.

    One user message and one assistant message make a row; a system message at the head is put before the
    user's, with an empty line between. Conversations of several turns are dropped and counted; what else
    there is (no answer, unknown roles, null) cannot be used.

    Returns:
        inputs and targets, null where there is no single turn; and the faults.
    """
    if not _are_messages(column.type):
        what = f"{column.type} instead of a list of {{role, content}}"
        nothing = pa.chunked_array([pa.nulls(len(column), pa.large_string())])
        return nothing, nothing, list(fault_where("messages", what, np.ones(len(column), bool)))
    length = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    stop = np.cumsum(length)
    start = stop - length
    flat = pc.list_flatten(column)
    roles = pc.struct_field(flat, "role")
    content, wrong = as_text("messages", pc.struct_field(flat, "content"))
    content = content.cast(pa.large_string())
    system, user, assistant = (_is(roles, role) for role in ("system", "user", "assistant"))

    head = np.where(length > 0, _at(system, start), False)
    first = start + head
    single = (length == head + 2) & _at(user, first) & _at(assistant, first + 1)
    many = ~single & ((_count(user, start, stop) > 1) | (_count(assistant, start, stop) > 1))
    inputs = _take(content, first, single)
    before = _take(content, start, single & head)
    inputs = pc.if_else(
        pc.invert(pc.fill_null(is_blank(before), True)),
        pc.binary_join_element_wise(before, inputs, pa.scalar("\n\n", pa.large_string())),
        inputs,
    )
    faults = [
        replace(fault, rows=np.unique(np.searchsorted(stop, fault.rows, side="right")), values={})
        for fault in wrong
    ]
    faults += [Fault("messages", MULTI_TURN, np.flatnonzero(many), expected=True)]
    faults += fault_where("messages", "no user message followed by an assistant's", ~single & ~many, column)
    return inputs, _take(content, first + 1, single), faults


def _are_messages(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(
        kind.value_type
    ):
        return False
    types = {field.name: field.type for field in kind.value_type}
    return all(is_text(types.get(name, pa.int8())) for name in ("role", "content"))


def _is(roles: pa.ChunkedArray, role: str) -> np.ndarray:
    return pc.fill_null(pc.equal(roles, role), False).to_numpy()


def _at(mask: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """mask[positions], False beyond the end."""
    return np.append(mask, [False, False])[np.minimum(positions, len(mask))]


def _count(mask: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    total = np.concatenate([[0], np.cumsum(mask)])
    return total[stop] - total[start]


def _take(texts: pa.ChunkedArray, positions: np.ndarray, where: np.ndarray) -> pa.ChunkedArray:
    return texts.take(pa.array(np.where(where, positions, 0), mask=~where))
