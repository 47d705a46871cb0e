"""Small pools, a fake encoder, and child processes that use or kill it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from smart.config import Problems
from smart.embedding import Encoded, Prompts, Session, Unencodable, embed

ROWS, SHARD_ROWS = 50, 8


def prompts(texts: list[str] | None = None, seed: int = 0) -> Prompts:
    """Texts in two chunks and a shuffled order; row i of the pool was row 2 i of the collection as read."""
    texts = texts if texts is not None else [f"prompt {i} " * (1 + i % 7) for i in range(ROWS)]
    half = len(texts) // 2
    column = pa.chunked_array([texts[:half], texts[half:]], type=pa.string())
    order = np.random.default_rng(seed).permutation(len(texts))
    return Prompts(column, order, 2 * np.arange(len(texts)), 2 * len(texts))


@dataclass(frozen=True)
class Fake:
    """Vectors of 4 numbers that depend on the text alone; remembers what it was asked."""

    dtype: str = "float16"
    special: dict[str, float] = field(default_factory=dict)
    seconds: float = 0
    kill_at: int | None = None
    parallel: bool = False
    refused: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def identity(self) -> dict[str, Any]:
        return {"encoder": "fake"}

    def width(self) -> int:
        return 4

    def validate(self, problems: Problems) -> None: ...

    def fetch(self) -> None: ...

    @contextmanager
    def open(self) -> Iterator[Session]:
        yield Session(self.encode, block=3, parallel=self.parallel)

    def encode(self, texts: list[str]) -> Encoded:
        self.threads.add(threading.get_ident())
        if refused := [index for index, text in enumerate(texts) if text in self.refused]:
            raise Unencodable(refused, "too odd; drop these rows")
        time.sleep(self.seconds)
        self.asked.extend(texts)
        if self.kill_at is not None and len(self.asked) >= self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return Encoded(np.stack([self.vector(text) for text in texts]), sum(len(text) > 50 for text in texts))

    def vector(self, text: str) -> np.ndarray:
        digest = np.frombuffer(xxhash.xxh3_128_digest(text.encode()), dtype=np.uint32)
        return np.float32(self.special.get(text, 1)) * (digest / np.float32(2**32)).astype(np.float32)


def die_while_encoding(folder: Path, after: int) -> None:
    embed(prompts(), Fake(kill_at=after), folder, SHARD_ROWS)


def die_while_writing(folder: Path, shard: int) -> None:
    """Die with half of a shard in its temporary file."""
    _die_writing(f"{shard:05d}.npy", folder)
    embed(prompts(), Fake(), folder, SHARD_ROWS)


def _die(place: Path) -> None:
    place.mkdir(exist_ok=True)
    (place / "died").touch()
    os.kill(os.getpid(), signal.SIGKILL)


def _die_writing(name: str, place: Path) -> None:
    write_bytes = Path.write_bytes

    def write(path: Path, content: bytes) -> int:
        if name not in path.name:
            return write_bytes(path, content)
        write_bytes(path, content[: len(content) // 2])
        _die(place)
        raise AssertionError("alive")

    Path.write_bytes = write  # type: ignore[assignment,method-assign]


def embed_and_note() -> None:
    """Embed beside two others; note each shard that is begun. The command line says how to die in the second."""
    place, told = Path(sys.argv[1]), sys.argv[2]
    pool = prompts()
    numbers = {text: number // SHARD_ROWS for number, text in enumerate(pool.take(0, len(pool)).to_pylist())}
    begun: list[int] = []

    class Noting(Fake):
        def encode(self, texts: list[str]) -> Encoded:
            number = numbers[texts[0]]
            if number not in begun:
                begun.append(number)
                with (place / "encoded").open("a") as file:
                    file.write(f"{number}\n")
                if len(begun) == 2 and told == "encoding":
                    _die(place)
                if len(begun) == 2 and told == "writing":
                    _die_writing(f"{number:05d}.npy", place)
            while told == "await a death" and not (place / "died").exists():
                time.sleep(0.005)
            time.sleep(0.02)
            return super().encode(texts)

    Noting.__module__, Noting.__qualname__ = Fake.__module__, Fake.__qualname__
    (place / f"ready-{os.getpid()}").touch()
    while len(list(place.glob("ready-*"))) < 3:
        time.sleep(0.005)
    embed(pool, Noting(), place / "cache", SHARD_ROWS)
