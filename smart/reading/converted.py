"""Files of rows as Arrow files of a cache, written once, in a stream, and mapped into memory from then on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from smart.config import UserError
from smart.reading.faults import Fault
from smart.reading.shapes import Batches, ShapedRows, read_shaped
from smart.reading.values import TEXT
from smart.runtime.content import ContentHashes
from smart.runtime.locks import owned
from smart.runtime.manifest import cached_folder, is_intact, make_key
from smart.runtime.plans import may_write
from smart.runtime.progress import progress

VERSION = 1
"""Raised whenever the same file is read as other rows."""
_ARROW = "rows.arrow"
_FACTS = "facts.json"


@dataclass(frozen=True)
class ArrowFile:
    """Where texts lie on disk, uncompressed."""

    path: Path
    """A file or a stream of Arrow's record batches."""
    columns: Mapping[str, str]
    """Our column of text → what the file calls it."""
    digest: str
    """xxh3_128 of the file."""


def map_arrow(path: Path) -> pa.Table:
    """All rows of an Arrow file or stream; columns without compression stay on disk until they are looked at."""
    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source).read_all()


def write_arrow(path: Path, batches: Iterable[Mapping[str, pa.ChunkedArray]]) -> None:
    """Write columns of text as large strings, batch by batch; no file for no batches."""
    tables = (pa.table({name: column.cast(TEXT) for name, column in batch.items()}) for batch in batches)
    first = next(tables, None)
    if first is not None:
        write_tables(path, first.schema, chain([first], tables))


def write_tables(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write tables of a schema to an Arrow file; the file is closed on errors too, such as of a full disk."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for table in tables:
            writer.write_table(table)


def read_mapped(
    path: str, renamed: Mapping[str, str], more: Sequence[str], cache: Path, hashes: ContentHashes
) -> tuple[ShapedRows, ArrowFile | None]:
    """What `read_shaped` returns, its columns mapped from an Arrow file of the cache, which is written if need be.

    In a plan, which writes nothing, the rows of a file that is not there yet come in memory, and no ArrowFile.
    """
    digest = hashes(Path(path))
    key = make_key({"renamed": dict(renamed), "more": list(more)}, [digest], VERSION)
    folder = cache / key
    if not may_write():
        if is_intact(folder, key, hashes=hashes):
            return _open(folder, hashes)
        return read_shaped(path, renamed, more), None
    with owned(folder):
        cached_folder(folder, "rows", key, lambda draft: _convert(draft, path, digest, renamed, more), hashes)
    return _open(folder, hashes)


def _convert(
    folder: Path, path: str, digest: str, renamed: Mapping[str, str], more: Sequence[str]
) -> dict[str, Any]:
    def keep(batches: Batches) -> dict[str, pa.ChunkedArray]:
        with progress(desc=f"Reading {Path(path).name}", unit=" rows") as bar:
            write_arrow(folder / _ARROW, _told(batches, bar))
        return _columns(folder)

    rows = read_shaped(path, renamed, more, keep)
    if rows.digest != digest:
        raise UserError(f"{path}: has changed while it was read; run the same command again")
    facts = {
        "columns": list(rows.columns),
        "more": list(rows.more),
        "faults": [fault.as_plain() for fault in rows.faults],
        "cut": rows.cut,
        "names": list(rows.names),
        "count": rows.count,
        "digest": rows.digest,
    }
    (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
    return {"counts": {"rows": rows.count}}


def _told(batches: Batches, bar: progress) -> Batches:
    for batch in batches:
        yield batch
        bar.update(len(next(iter(batch.values()))))


def _columns(folder: Path) -> dict[str, pa.ChunkedArray]:
    if not (folder / _ARROW).exists():
        return {}
    table = map_arrow(folder / _ARROW)
    return {name: table[name] for name in table.column_names}


def _open(folder: Path, hashes: ContentHashes) -> tuple[ShapedRows, ArrowFile | None]:
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    mapped = _columns(folder)
    columns, further = ({name: mapped[name] for name in facts[part]} for part in ("columns", "more"))
    faults = [Fault.of_plain(plain) for plain in facts["faults"]]
    rows = ShapedRows(columns, faults, facts["cut"], further, facts["names"], facts["count"], facts["digest"])
    if not columns:
        return rows, None
    file = folder / _ARROW
    return rows, ArrowFile(file, {name: name for name in columns}, hashes(file))
