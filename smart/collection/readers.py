"""The columns of a collection in one file, under the names that people give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from smart.collection.schema import LABELS, TEXTS
from smart.config import UserError
from smart.reading import LINE, TEXT, Kind, Rows, read

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.large_string())]))
_KINDS: dict[str, Kind] = {
    **dict.fromkeys([*LABELS, *TEXTS, "prompt", "response"], TEXT),
    "messages": _MESSAGES,
}
KNOWN = tuple(_KINDS)

# Under which names files carry the two texts; the first is preferred.
_NAMES = {"inputs": ("inputs", "prompt"), "targets": ("targets", "response")}


def read_columns(path: str, renamed: Mapping[str, str], more: Sequence[str] = ()) -> Rows:
    """The labels that a file has, and either inputs and targets or messages, under these names.

    Args:
        renamed: what the file calls our columns; each must be there.
        more: further columns of text, which are read where the file has them.

    Raises:
        UserError: for a file that cannot be read, or one with rows that lacks the texts or a column of `renamed`.
    """
    theirs = {name: name for name in more} | {ours: renamed.get(ours, ours) for ours in KNOWN}
    rows = read(path, {name: _KINDS.get(ours, TEXT) for ours, name in theirs.items()})
    if not rows.count:
        return replace(rows, columns={})
    for ours, name in renamed.items():
        if name not in rows.names:
            raise UserError(
                f"{path}: no column {name} (collection.columns.{ours}); it has: {_listed(rows.names)}"
            )
    columns = {ours: rows.columns[name] for ours, name in theirs.items() if name in rows.columns}
    used = {name: name for name in LABELS if name in columns} | _texts(path, columns, rows.names)
    named = {theirs[name] for name in used.values()} | {LINE}
    used |= {name: name for name in more if name in columns and name not in used}
    return replace(
        rows,
        columns={ours: columns[name] for ours, name in used.items()},
        faults=[fault for fault in rows.faults if fault.column in named],
    )


def _texts(path: str, columns: Mapping[str, pa.ChunkedArray], present: Sequence[str]) -> dict[str, str]:
    """Which columns become inputs and targets; or the messages, where these two are not both there."""
    found = {ours: name for ours, names in _NAMES.items() for name in reversed(names) if name in columns}
    if len(found) < len(_NAMES) and "messages" in columns:
        return {"messages": "messages"}
    for ours, names in _NAMES.items():
        if ours not in found:
            raise UserError(
                f"{path}: no column {' or '.join(names)}, nor messages; it has: {_listed(present)}. "
                f"Name yours with collection.columns.{ours}=NAME"
            )
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
