"""The texts of a shard become vectors: what a worker does, wherever it runs. It writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smart.embedding.encoders import Encoded, Encoder, Session, Unencodable
from smart.runtime.executor import Worker, map_unordered


@dataclass(frozen=True, eq=False)
class ShardTexts:
    """The prompts of a shard."""

    number: int
    start: int
    """Position of the first, in group order."""
    texts: pa.LargeStringArray


@dataclass(frozen=True, eq=False)
class ShardVectors:
    """Their vectors."""

    vectors: np.ndarray
    """(n, d) in the type in which they are stored."""
    largest: np.ndarray
    """(n,) the largest size of a vector's entries, before they were cut to that type."""
    truncated: int
    """Prompts that the encoder cut."""


@dataclass(frozen=True)
class EncodeTask:
    """Opens the encoder once, and encodes shards. Raises Unencodable with positions in group order."""

    encoder: Encoder
    advance: Callable[[int], object] | None = None
    """Told of rows as they are encoded; only by workers in this process."""
    wide = True

    @property
    def gpu(self) -> bool:
        return bool(getattr(self.encoder, "uses_gpu", False))

    @contextmanager
    def open(self, worker: Worker) -> Iterator[Callable[[ShardTexts], ShardVectors]]:
        """See `Task.open`."""
        with self.encoder.open() as session:
            yield partial(self._encode, session, worker.threads if session.parallel else 1)

    def __reduce__(self) -> tuple[Any, ...]:
        return EncodeTask, (self.encoder,)

    def _encode(self, session: Session, threads: int, shard: ShardTexts) -> ShardVectors:
        """Encode texts of like length together, so that little is padded."""
        texts = shard.texts
        by_length = np.argsort(-pc.binary_length(texts).to_numpy(), kind="stable")

        def encode(first: int) -> Encoded:
            block = by_length[first : first + session.block]
            try:
                return session.encode(texts.take(pa.array(block)).to_pylist())
            except Unencodable as error:
                positions = shard.start + block[list(error.texts)]
                raise Unencodable(positions.tolist(), error.reason) from error

        firsts, parts, truncated = range(0, len(texts), session.block), {}, 0
        inline = zip(firsts, map(encode, firsts), strict=True)
        for first, encoded in map_unordered(encode, firsts, threads) if threads > 1 else inline:
            parts[first] = encoded.vectors
            truncated += encoded.truncated
            if self.advance:
                self.advance(len(encoded.vectors))
        vectors = np.concatenate([parts[first] for first in firsts])[np.argsort(by_length)]
        with np.errstate(over="ignore"):  # told by `largest`
            stored = vectors.astype(self.encoder.dtype)
        return ShardVectors(stored, np.abs(vectors).max(axis=1), truncated)
