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

from smart.embedding.encoders import Encoder, Session, Unencodable
from smart.runtime.executor import Worker, map_unordered

BLOCK_BYTES = 1 << 25
"""Text that an encoder gets at a time."""


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
        lengths = pc.binary_length(texts).to_numpy()
        by_length = np.argsort(-lengths, kind="stable")

        def encode(block: range) -> ShardVectors:
            positions = by_length[block.start : block.stop]
            try:
                vectors, truncated = session.encode(texts.take(pa.array(positions)).to_pylist())
            except Unencodable as error:
                refused = shard.start + positions[list(error.texts)]
                raise Unencodable(refused.tolist(), error.reason) from error
            with np.errstate(over="ignore"):  # told by `largest`
                stored = vectors.astype(self.encoder.dtype)
            return ShardVectors(stored, np.abs(vectors).max(axis=1), truncated)

        blocks, parts = list(_blocks(lengths[by_length], session.block)), dict[int, ShardVectors]()
        inline = zip(blocks, map(encode, blocks), strict=True)
        for block, part in map_unordered(encode, blocks, threads) if threads > 1 else inline:
            parts[block.start] = part
            if self.advance:
                self.advance(len(block))
        ordered, places = [parts[block.start] for block in blocks], np.argsort(by_length)
        return ShardVectors(
            np.concatenate([part.vectors for part in ordered])[places],
            np.concatenate([part.largest for part in ordered])[places],
            sum(part.truncated for part in ordered),
        )


def _blocks(lengths: np.ndarray, most: int) -> Iterator[range]:
    """Places of up to `most` texts at a time: fewer where they are long, of BLOCK_BYTES together, or one."""
    ends, start = np.cumsum(lengths), 0
    while start < len(lengths):
        fit = int(np.searchsorted(ends, ends[start] - lengths[start] + BLOCK_BYTES, side="right"))
        block = range(start, min(start + most, max(start + 1, fit)))
        yield block
        start = block.stop
