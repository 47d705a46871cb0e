"""Files as they lie on disk: their format, compression and encoding."""

from __future__ import annotations

import codecs
import contextlib
import io
import lzma
import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import pyarrow as pa

from smart.config import UserError

_TEXT_FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
_COMPRESSIONS = {"": None, ".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
SUFFIXES = (
    ".parquet",
    ".arrow",
    ".feather",
    *(text + packed for text in _TEXT_FORMATS for packed in _COMPRESSIONS),
)
"""Of the files that can be read, in lower case; upper case will do."""
SPLITS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "val", "dev", "eval", "evaluation", "heldout"},
    "test": {"test", "testing"},
}
"""Words in the names of splits, or of a folder's files, that say what they are for."""
BOM = codecs.BOM_UTF8
_OTHER_BOMS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, with whose mark it begins
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_HEAD = 1 << 20


def suffix_of(path: str | os.PathLike[str]) -> str:
    """The suffix that tells a file's format, in lower case, or "" where none of SUFFIXES fits.

    >>> suffix_of("data/ROWS.JSONL.GZ"), suffix_of("notes.txt")
    ('.jsonl.gz', '')
    """
    name = os.path.basename(path).lower()
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default="")


@contextlib.contextmanager
def open_text(path: str) -> Iterator[BinaryIO]:
    """The bytes of a file of text, unpacked."""
    packed = _COMPRESSIONS["." + suffix_of(path).split(".")[2] if suffix_of(path).count(".") > 1 else ""]
    if packed == "xz":
        with lzma.open(path) as unpacked:
            try:
                yield io.BufferedReader(unpacked)
            except lzma.LZMAError as error:
                raise OSError(str(error)) from error
    else:
        with pa.input_stream(path, compression=packed) as stream:
            yield io.BufferedReader(stream, 1 << 20)


def head_of(path: str) -> bytes:
    """The first bytes of a file of text, unpacked, without its mark of UTF-8.

    Raises:
        UserError: for UTF-16 and UTF-32.
    """
    with open_text(path) as stream:
        return refuse_utf16(path, stream.read(_HEAD)).removeprefix(BOM)


def refuse_utf16(path: str | os.PathLike[str], head: bytes) -> bytes:
    """The same bytes.

    Raises:
        UserError: where they are the beginning of UTF-16 or UTF-32.
    """
    other = next((name for bom, name in _OTHER_BOMS.items() if head.startswith(bom)), None)
    if other is None and b"\0\0\0\0" in (head[0:8:2], head[1:8:2]):
        other = "UTF-16"
    if other:
        raise UserError(
            f"{path}: is {other}, and only UTF-8 is read; convert it: iconv -f {other} -t UTF-8 FILE > NEW_FILE"
        )
    return head


def distinct(paths: Iterable[str]) -> list[str]:
    """The files behind the paths, each once, as written, sorted by absolute path.

    Links are seen through: of several paths to one file the one without symbolic links stays, else the first.
    """
    found: dict[tuple[int, int], str] = {}
    for path in sorted(paths, key=_links_last):
        found.setdefault(file_identity(path), path)
    return sorted(found.values(), key=os.path.abspath)


def _links_last(path: str) -> tuple[bool, str]:
    absolute = os.path.abspath(path)
    return os.path.realpath(path) != absolute, absolute


def file_identity(path: str) -> tuple[int, int]:
    """What two paths to one file have in common, be it by links of either kind."""
    status = os.stat(path)
    return status.st_dev, status.st_ino
