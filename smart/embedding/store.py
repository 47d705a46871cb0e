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

from smart.config import UserError, code_of, counted
from smart.embedding.encoders import Encoder, Unencodable
from smart.embedding.encoding import EncodeTask, ShardTexts, ShardVectors
from smart.embedding.precomputed import Precomputed
from smart.embedding.prompts import Prompts
from smart.embedding.vectors import ShardReader, Vectors
from smart.runtime.claims import Claims
from smart.runtime.executor import Executor, Threads
from smart.runtime.files import hash_file, write_atomic
from smart.runtime.locks import owned
from smart.runtime.manifest import FILE, is_told, make_key, versions, write_manifest
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
    executor: Executor = Threads(1),  # noqa: B008 - frozen
) -> Vectors:
    """Vectors of the prompts in group order: found under FOLDER/KEY, or resumed, or made.

    Hashes are checked each time; damaged shards, and only those, are made again. Processes that want the same
    vectors share the shards.

    Args:
        executor: where shards are encoded. Threads(n) calls the encoder from n threads, where its session is
            `parallel`; the vectors are the same.

    Raises:
        UserError: where the encoder cannot be had, it refuses a prompt, a vector is not finite or does not fit
            the storage type, precomputed vectors do not fit the collection, or the disk is full.
    """
    if isinstance(encoder, Precomputed):
        return encoder.vectors(prompts, folder)
    if encoder.identity() is None:
        encoder.fetch()
    store = _Store(prompts, encoder, folder, shard_rows)
    return store.open(store.complete(executor))


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
        self.damaged: set[int] = set()

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

    def complete(self, executor: Executor) -> list[_Shard]:
        """Make what is missing or damaged, unless others do; returns the records of all shards."""
        started = time.monotonic()
        shards = {number: shard for number in range(self.count) if (shard := self._whole(number))}
        missing = [number for number in range(self.count) if number not in shards]
        if not missing and is_told(self.home, self.key):
            log.info("The embeddings are there: %s", self.home)
        else:
            with owned(self.home):
                if missing:
                    (self.home / FILE).unlink(missing_ok=True)
            shards |= self._make(missing, executor)
            with owned(self.home):
                if not is_told(self.home, self.key):
                    ordered = [shards[number] for number in range(self.count)]
                    self._write_manifest(ordered, time.monotonic() - started)
        return [shards[number] for number in range(self.count)]

    def open(self, shards: list[_Shard]) -> Vectors:
        paths = [self.path(number).absolute() for number in range(self.count)]
        truncated = sum(shard.truncated for shard in shards)
        read = ShardReader(paths, self.shard_rows)
        return Vectors(self.key, self.home, len(self.prompts), shards[0].dimensions, truncated, read)

    def _whole(self, number: int) -> _Shard | None:
        shard = self.record(number)
        if shard is None:
            return None
        path = self.path(number)
        whole = path.is_file() and hash_file(path) == shard.hash
        if not whole or np.load(path, mmap_mode="r").shape != (self.rows(number), shard.dimensions):
            if number not in self.damaged:  # looked at again before it is made
                log.warning("%s is damaged or gone: made again.", path)
            self.damaged.add(number)
            return None
        return shard

    def _make(self, missing: list[int], executor: Executor) -> dict[int, _Shard]:
        made: dict[int, _Shard] = {}
        rows = sum(map(self.rows, missing))
        done = len(self.prompts) - rows
        if missing and done:
            log.info(
                "Resuming in %s: embedded already are %s of %s",
                self.home,
                f"{done:,}",
                counted(len(self.prompts), "prompt"),
            )

        def is_done(number: int) -> bool:
            shard = self._whole(number)
            if shard:
                add(number, shard)
            return shard is not None

        def add(number: int, shard: _Shard) -> None:
            made[number] = shard
            bar.update(max(0, done + sum(map(self.rows, made)) - bar.n))  # what `advance` has not told

        with (
            Claims(self.home, "{:05d}".format, is_done) as claims,
            progress(total=len(self.prompts), initial=done, desc="Embedding", unit="row") as bar,
        ):
            task = EncodeTask(self.encoder, bar.update)
            for left in claims.rounds(missing):
                found = executor.map(task, map(self._texts, claims.free(left)))
                with self._refusals_explained(), contextlib.closing(found):
                    for texts, encoded in found:
                        add(texts.number, self._save(texts, encoded))
                        claims.give_back(texts.number)
        return made

    def _texts(self, number: int) -> ShardTexts:
        start = number * self.shard_rows
        return ShardTexts(number, start, self.prompts.take(start, start + self.rows(number)))

    def _save(self, texts: ShardTexts, encoded: ShardVectors) -> _Shard:
        self._check(encoded.largest, texts.start)
        number, vectors = texts.number, encoded.vectors
        path = self.path(number)
        with self._full_disk_explained(vectors[0].nbytes):
            write_atomic(path, _npy(vectors))
            shard = _Shard(hash_file(path), len(vectors), vectors.shape[1], encoded.truncated)
            content = json.dumps(asdict(shard)).encode()
            write_sealed(self._record(number), f"{self.key}/{number}", content)
        return shard

    def _check(self, largest: np.ndarray, start: int) -> None:
        bad = np.flatnonzero(~(largest <= np.finfo(self.encoder.dtype).max))  # NaN is not <=
        if len(bad):
            fault = "not finite: the encoder fails on these prompts"
            if np.isfinite(largest).all():
                fault = f"too large for {self.encoder.dtype}; set encoder.dtype=float32"
            raise UserError(f"Vectors of {self._rows(start + bad)} of the collection are {fault}")

    @contextlib.contextmanager
    def _refusals_explained(self) -> Iterator[None]:
        try:
            yield
        except Unencodable as error:
            rows = self._rows(np.array(error.texts))
            raise UserError(f"Prompts of {rows} of the collection: {error.reason}") from error

    @contextlib.contextmanager
    def _full_disk_explained(self, row_bytes: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            left = sum(self.rows(number) for number in range(self.count) if not self.record(number))
            raise UserError(
                f"{self.home} is full: the vectors still to be stored need {counted(left * row_bytes, 'byte')}. What "
                "is there is whole: free some space, or move output_root to a larger disk, and run the same command "
                "again"
            ) from error

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
