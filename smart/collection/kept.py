"""What is kept of a collection between runs: its texts as Arrow files, and its index, so that a run reads no text.

The index of a collection holds which rows are used, their labels, counts and messages, and where their texts lie. It is
keyed by the options of the source and by what the files hold.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from smart.collection.schema import Collection
from smart.reading import ROW, ArrowFile, RowView, map_arrow, whole_numbers, write_arrow, write_tables
from smart.runtime.content import ContentHashes
from smart.runtime.files import hash_bytes
from smart.runtime.locks import owned
from smart.runtime.manifest import cached_folder, is_intact, make_key
from smart.runtime.plans import may_write

VERSION = 1
"""Raised whenever the same source and files give another collection."""
_TEXTS, _LABELS, _FACTS = "texts.arrow", "labels.arrow", "collection.json"
_ROOMS = ("smart.collection", "smart.reading")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """The folder cache/collections, and the hashes of files that it remembers."""

    folder: Path
    hashes: ContentHashes

    @classmethod
    def of(cls, folder: Path) -> Kept:
        return cls(folder, ContentHashes(folder / "hashes"))

    def file(
        self,
        kind: str,
        asked: Mapping[str, Any],
        inputs: Sequence[str],
        version: int,
        batches: Iterable[Mapping[str, pa.ChunkedArray]],
    ) -> ArrowFile | None:
        """Texts in a folder of the cache: found, or written from `batches`; None in a plan that finds none.

        Args:
            kind: names the folder that holds such texts.
            asked, inputs, version: decide the texts.
        """
        key = make_key(asked, inputs, version)
        folder = self.folder / kind / key
        file = folder / _TEXTS

        def make(draft: Path) -> None:
            write_arrow(draft / _TEXTS, batches)

        if may_write():
            with owned(folder):
                cached_folder(folder, "texts", key, make, self.hashes)
        elif not is_intact(folder, key, hashes=self.hashes):
            return None
        return ArrowFile(file, {name: name for name in map_arrow(file).column_names}, self.hashes(file))


@contextmanager
def owned_index(kept: Kept, key: str) -> Iterator[Path]:
    """The folder of an index, which nobody else writes meanwhile; in a plan it is only looked at."""
    folder = kept.folder / "index" / key
    if not may_write():
        yield folder
        return
    with owned(folder):
        yield folder


def index_key(source: str, options: Mapping[str, Any], content: Sequence[str]) -> str:
    """Names an index.

    Args:
        source: class of the source, and its code.
        options: all of them.
        content: names all that the source reads.
    """
    plain = json.loads(json.dumps(options, default=str))
    return make_key(
        {"source": source, "options": plain}, [hash_bytes(part.encode() for part in content)], VERSION
    )


def write_index(
    kept: Kept,
    folder: Path,
    key: str,
    collection: Collection,
    files: Mapping[str, Sequence[ArrowFile]],
    messages: Sequence[tuple[int, str]],
) -> None:
    """Keep a collection.

    Args:
        files: split → where its texts lie; texts of splits that are not named are written here.
        messages: what was logged, each with its level, to be said again.
    """

    def make(draft: Path) -> None:
        splits: dict[str, Any] = {}
        for name, rows in collection.splits.items():
            (draft / name).mkdir()
            write_tables(draft / name / _LABELS, rows.labels.schema, [rows.labels.combine_chunks()])
            if name == "validation" and rows.texts is collection.train_rows.texts:
                splits[name] = "train"
            elif files.get(name):
                splits[name] = [_plain(kept, file) for file in files[name]]
            else:
                write_arrow(draft / name / _TEXTS, _text_batches(rows.texts))
                splits[name] = "here"
        facts = {
            "name": collection.name,
            "source": collection.source,
            "fingerprint": collection.fingerprint,
            "texts": splits,
            "messages": list(messages),
        }
        (draft / _FACTS).write_text(json.dumps(facts), encoding="utf-8")

    cached_folder(folder, "collection", key, make, kept.hashes)


def read_index(kept: Kept, folder: Path, key: str) -> Collection | None:
    """The collection that was kept, its texts and labels mapped, its messages said again; None where there is none."""
    if not is_intact(folder, key, hashes=kept.hashes):
        return None
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    texts: dict[str, pa.Table] = {}
    for name, where in facts["texts"].items():
        if where == "train":
            texts[name] = texts["train"]
        elif where == "here":
            texts[name] = map_arrow(folder / name / _TEXTS)
        else:
            found = [_of_plain(kept, plain) for plain in where]
            if None in found:
                return None
            texts[name] = map_texts([file for file in found if file])
    splits = {name: _open(folder / name / _LABELS, table) for name, table in texts.items()}
    for level, message in facts["messages"]:
        log.log(level, "%s", message)
    return Collection(
        facts["name"], splits["train"], splits.get("validation"), facts["source"], facts["fingerprint"]
    )


def map_texts(files: Sequence[ArrowFile]) -> pa.Table:
    """The columns of texts of files, one file after the other, as large strings."""
    tables = []
    for file in files:
        table = map_arrow(file.path)
        columns = {ours: table[theirs] for ours, theirs in file.columns.items()}
        tables.append(pa.table({name: column.cast(pa.large_string()) for name, column in columns.items()}))
    return pa.concat_tables(tables)


class Recorded(logging.Handler):
    """What is logged of a collection while it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(_ROOMS):
            self.messages.append((record.levelno, record.getMessage()))


@contextmanager
def recorded() -> Iterator[list[tuple[int, str]]]:
    """What the rooms of collections log inside, each message with its level."""
    handler, logger = Recorded(), logging.getLogger("smart")
    logger.addHandler(handler)
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)


def _text_batches(texts: pa.Table) -> Iterator[dict[str, pa.ChunkedArray]]:
    for batch in texts.to_batches(max_chunksize=50_000) or [texts]:
        yield {
            name: pa.chunked_array([batch[name]]) if len(batch) else batch[name]
            for name in texts.column_names
        }


def _open(labels: Path, texts: pa.Table) -> RowView:
    table = map_arrow(labels)
    return RowView(texts, table, whole_numbers(table[ROW]))


def _plain(kept: Kept, file: ArrowFile) -> dict[str, Any]:
    """Where a file lies: inside the cache, which may be moved, or elsewhere."""
    inside = file.path.is_relative_to(kept.folder)
    path = file.path.relative_to(kept.folder) if inside else file.path
    return {"path": str(path), "columns": dict(file.columns), "digest": file.digest}


def _of_plain(kept: Kept, plain: Mapping[str, Any]) -> ArrowFile | None:
    path = kept.folder / plain["path"]
    if not path.is_file() or kept.hashes(path) != plain["digest"]:
        log.warning("%s is damaged or gone: made again.", path)
        return None
    return ArrowFile(path, plain["columns"], plain["digest"])
