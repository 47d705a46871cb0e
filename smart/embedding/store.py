"""The store of vectors: keyed, in shards, each hashed, resumed from the last whole one."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smart.config import UserError, code_of, counted
from smart.embedding.encoders import Encoded, Encoder, Session, Unencodable
from smart.embedding.precomputed import Precomputed
from smart.embedding.prompts import Prompts
from smart.embedding.vectors import Vectors
from smart.runtime.executor import map_unordered
from smart.runtime.files import hash_file, write_atomic
from smart.runtime.locks import owned
from smart.runtime.manifest import FILE, is_intact, make_key, versions, write_manifest
from smart.runtime.progress import progress
from smart.runtime.sealed import read_sealed, write_sealed

log = logging.getLogger(__name__)

VERSION = 1
SHARD_ROWS = 50_000


@dataclass(frozen=True)
class EmbeddingPlan:
    """What `embed` would do, as far as that is known without doing it."""

    key: str | None
    """None where the encoder has to be fetched before its revision is known."""
    rows: int
    """Prompts still to be encoded."""
    bytes: int | None
    """Disk that their vectors will take, or None where the encoder's dimensions are not known yet."""


def embed(
    prompts: Prompts,
    encoder: Encoder | Precomputed,
    folder: Path,
    shard_rows: int = SHARD_ROWS,
    threads: int = 1,
) -> Vectors:
    """Vectors of the prompts in group order: found under FOLDER/KEY, or resumed, or made.

    Hashes are checked each time; damaged shards, and only those, are made again. Of two processes that want
    the same vectors, the second waits for the first.

    Args:
        threads: how many call the encoder at once, where its session is `parallel`; the vectors are the same.

    Raises:
        UserError: where the encoder cannot be had, it refuses a prompt, a vector is not finite or does not fit
            the storage type, precomputed vectors do not fit the collection, or the disk is full.
    """
    if isinstance(encoder, Precomputed):
        return encoder.vectors(prompts, folder)
    if encoder.identity() is None:
        encoder.fetch()
    store = _Store(prompts, encoder, folder, shard_rows)
    with owned(store.home):
        shards = store.complete(threads)
    return store.open(shards)


def plan_embedding(
    prompts: Prompts, encoder: Encoder | Precomputed, folder: Path, shard_rows: int = SHARD_ROWS
) -> EmbeddingPlan:
    """Plan what `embed` would do; reads small files and hashes the prompts, and writes nothing."""
    if isinstance(encoder, Precomputed):
        return EmbeddingPlan(encoder.key(prompts), rows=0, bytes=0)
    key, rows = None, len(prompts)
    if encoder.identity() is not None:
        store = _Store(prompts, encoder, folder, shard_rows)
        recorded = [store.record(number) for number in range(store.count)]
        key, rows = store.key, rows - sum(shard.rows for shard in recorded if shard)
    width = encoder.width() if rows else 0
    return EmbeddingPlan(
        key, rows, None if width is None else rows * width * np.dtype(encoder.dtype).itemsize
    )


@dataclass(frozen=True)
class _Shard:
    """The record of a shard, written after it: a shard without one is not whole."""

    hash: str
    rows: int
    dimensions: int
    truncated: int


class _Store:
    """FOLDER/KEY: 00000.npy and its record 00000.sealed, and so on; manifest.json comes last."""

    def __init__(self, prompts: Prompts, encoder: Encoder, folder: Path, shard_rows: int) -> None:
        self.prompts, self.encoder, self.shard_rows = prompts, encoder, shard_rows
        self.config = {"encoder": encoder.identity(), "dtype": encoder.dtype, "shard_rows": shard_rows}
        if code := code_of(type(encoder)):
            self.config["code"] = code
        self.texts = prompts.text_hash
        self.key = make_key(self.config, [self.texts], VERSION)
        self.home = folder / self.key
        self.count = len(range(0, len(prompts), shard_rows))

    def path(self, number: int) -> Path:
        return self.home / f"{number:05d}.npy"

    def rows(self, number: int) -> int:
        return min(self.shard_rows, len(self.prompts) - number * self.shard_rows)

    def record(self, number: int) -> _Shard | None:
        """The record of a shard; None where it was never finished, or is damaged."""
        content = read_sealed(self._record(number), f"{self.key}/{number}")
        return self._plain_record(number) if content is None else _Shard(**json.loads(content))

    def _record(self, number: int) -> Path:
        return self.path(number).with_suffix(".sealed")

    def _plain_record(self, number: int) -> _Shard | None:
        """As version 0.1.0 wrote it, which took hours for some."""
        try:
            return _Shard(**json.loads(self.path(number).with_suffix(".json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def complete(self, threads: int) -> list[_Shard]:
        """Make what is missing or damaged; returns the records of all shards."""
        shards = {number: shard for number in range(self.count) if (shard := self._whole(number))}
        missing = [number for number in range(self.count) if number not in shards]
        if missing or not is_intact(self.home, self.key, files=False):
            (self.home / FILE).unlink(missing_ok=True)
            started = time.monotonic()
            shards |= self._make(missing, threads)
            self._write_manifest([shards[number] for number in range(self.count)], time.monotonic() - started)
        else:
            log.info("The embeddings are there: %s", self.home)
        return [shards[number] for number in range(self.count)]

    def open(self, shards: list[_Shard]) -> Vectors:
        arrays = [np.load(self.path(number), mmap_mode="r") for number in range(self.count)]

        def read(start: int, stop: int) -> np.ndarray:
            numbers = range(start // self.shard_rows, max(start, stop - 1) // self.shard_rows + 1)
            firsts = [number * self.shard_rows for number in numbers]
            parts = [
                arrays[number][max(0, start - first) : stop - first]
                for number, first in zip(numbers, firsts, strict=True)
            ]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

        truncated = sum(shard.truncated for shard in shards)
        return Vectors(self.key, self.home, len(self.prompts), shards[0].dimensions, truncated, read)

    def _whole(self, number: int) -> _Shard | None:
        shard = self.record(number)
        if shard is None:
            return None
        path = self.path(number)
        whole = path.is_file() and hash_file(path) == shard.hash
        if not whole or np.load(path, mmap_mode="r").shape != (self.rows(number), shard.dimensions):
            log.warning("%s is damaged or gone: made again.", path)
            return None
        return shard

    def _make(self, missing: list[int], threads: int) -> dict[int, _Shard]:
        if not missing:
            return {}
        rows = sum(map(self.rows, missing))
        done = len(self.prompts) - rows
        if done:
            log.info(
                "Resuming in %s: embedded already are %s of %s",
                self.home,
                f"{done:,}",
                counted(len(self.prompts), "prompt"),
            )
        with (
            self.encoder.open() as session,
            progress(total=len(self.prompts), initial=done, desc="Embedding", unit="row") as bar,
        ):
            threads = threads if session.parallel else 1
            return {number: self._make_shard(number, session, threads, bar) for number in missing}

    def _make_shard(self, number: int, session: Session, threads: int, bar: progress) -> _Shard:
        start = number * self.shard_rows
        encoded = self._encode(start, start + self.rows(number), session, threads, bar)
        self._check(encoded.vectors, start)
        vectors, path = encoded.vectors.astype(self.encoder.dtype), self.path(number)
        rows_left = sum(self.rows(later) for later in range(number, self.count) if not self.record(later))
        with _full_disk_explained(self.home, rows_left * vectors[0].nbytes):
            write_atomic(path, _npy(vectors))
            shard = _Shard(hash_file(path), len(vectors), vectors.shape[1], encoded.truncated)
            content = json.dumps(asdict(shard)).encode()
            write_sealed(self._record(number), f"{self.key}/{number}", content)
        return shard

    def _encode(self, start: int, stop: int, session: Session, threads: int, bar: progress) -> Encoded:
        """Encode a shard, texts of like length together, so that little is padded."""
        texts = self.prompts.take(start, stop)
        by_length = np.argsort(-pc.binary_length(texts).to_numpy(), kind="stable")

        def encode(first: int) -> Encoded:
            block = by_length[first : first + session.block]
            try:
                return session.encode(texts.take(pa.array(block)).to_pylist())
            except Unencodable as error:
                raise self._refusal(start + block[list(error.texts)], error) from error

        firsts, parts, truncated = range(0, len(texts), session.block), {}, 0
        inline = zip(firsts, map(encode, firsts), strict=True)
        for first, encoded in map_unordered(encode, firsts, threads) if threads > 1 else inline:
            parts[first] = encoded.vectors
            truncated += encoded.truncated
            bar.update(len(encoded.vectors))
        vectors = np.concatenate([parts[first] for first in firsts])
        return Encoded(vectors[np.argsort(by_length)], truncated)

    def _check(self, vectors: np.ndarray, start: int) -> None:
        largest = np.abs(vectors).max(axis=1)
        bad = np.flatnonzero(~(largest <= np.finfo(self.encoder.dtype).max))  # NaN is not <=
        if len(bad):
            fault = "not finite: the encoder fails on these prompts"
            if np.isfinite(largest).all():
                fault = f"too large for {self.encoder.dtype}; set encoder.dtype=float32"
            raise UserError(f"Vectors of {self._rows(start + bad)} of the collection are {fault}")

    def _refusal(self, positions: np.ndarray, error: Unencodable) -> UserError:
        return UserError(f"Prompts of {self._rows(positions)} of the collection: {error.reason}")

    def _rows(self, positions: np.ndarray) -> str:
        """Row numbers, for a message."""
        rows = np.sort(self.prompts.row_numbers(positions))
        return "rows " + ", ".join(map(str, rows[:5])) + (" …" if len(rows) > 5 else "")

    def _write_manifest(self, shards: list[_Shard], seconds: float) -> None:
        content: dict[str, Any] = {
            "kind": "embeddings",
            "key": self.key,
            "inputs": {"prompts": self.texts},
            "config": self.config,
            "versions": versions("numpy", "pyarrow"),
            "counts": {
                "rows": len(self.prompts),
                "dimensions": shards[0].dimensions,
                "truncated": sum(shard.truncated for shard in shards),
            },
            "files": {self.path(number).name: shard.hash for number, shard in enumerate(shards)},
            "timings": {"last_session_seconds": round(seconds, 3)},
        }
        write_manifest(self.home, content)


def _npy(vectors: np.ndarray) -> bytes:
    # Through memory: on a full disk, numpy.save to a file raises an OSError that does not say so.
    buffer = io.BytesIO()
    np.save(buffer, vectors)
    return buffer.getvalue()


@contextlib.contextmanager
def _full_disk_explained(folder: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{folder} is full: the vectors still to be stored need {counted(size, 'byte')}. What is there is whole: "
            "free some space, or move output_root to a larger disk, and run the same command again"
        ) from error
