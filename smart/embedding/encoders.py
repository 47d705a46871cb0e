"""What an encoder is, and the default one, whose weights lie inside its package."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NamedTuple, Protocol

import numpy as np

from smart.config import Problems, nearest

DTYPES = ("float16", "float32")


class Encoded(NamedTuple):
    """Vectors of some texts."""

    vectors: np.ndarray
    """float32 (n, d)"""
    truncated: int
    """How many of the texts were cut."""


class Session(NamedTuple):
    """A loaded encoder."""

    encode: Callable[[list[str]], Encoded]
    block: int
    """How many texts, alike in length, one call should get."""


class Encoder(Protocol):
    """Options that say which vectors are wanted; only `fetch` and `open` import or load anything heavy."""

    @property
    def dtype(self) -> str:
        """float16 or float32: how the vectors are stored."""

    def identity(self) -> dict[str, Any] | None:
        """All that decides the vectors of given texts, or None where it is known only after `fetch`.

        Batch size and device are not part of it.
        """

    def width(self) -> int | None:
        """Dimensions of a vector, where they are known without loading or downloading anything."""

    def validate(self, problems: Problems) -> None:
        """Add what is wrong with the options."""

    def fetch(self) -> None:
        """Download what the encoder needs, if it is not there yet."""

    def open(self) -> AbstractContextManager[Session]:
        """Load the encoder, and free it in the end."""


def validate_dtype(dtype: str, problems: Problems) -> None:
    if dtype not in DTYPES:
        problems.add("encoder.dtype", dtype, "vectors cannot be stored so", nearest(dtype, DTYPES))


@dataclass(frozen=True)
class WordLlama:
    """Mean of static token embeddings, 256 dimensions (https://github.com/dleemiller/WordLlama, MIT).

    No download and no GPU: the weights are inside the package. The whole prompt is pooled, nothing is cut.
    """

    normalize: bool = True
    """Scale each vector to unit length, so that every prompt weighs the same in its task's mean."""
    dtype: str = "float16"
    """How vectors are stored: float16 or float32."""

    def identity(self) -> dict[str, Any]:
        return {
            "encoder": "wordllama/l2_supercat",
            "revision": metadata.version("wordllama"),
            "dimensions": self.width(),
            "pooling": "mean",
            "max_length": None,
            "normalize": self.normalize,
        }

    def width(self) -> int:
        return 256

    def validate(self, problems: Problems) -> None:
        validate_dtype(self.dtype, problems)

    def fetch(self) -> None:
        """Nothing: the weights are installed with the package."""

    def open(self) -> AbstractContextManager[Session]:
        from pathlib import Path

        import wordllama

        # Its loader looks for the tokenizer under cache_dir alone, and would download what the package holds.
        package = Path(wordllama.__file__).parent
        model = wordllama.WordLlama.load(cache_dir=package, dim=self.width(), disable_download=True)

        def encode(texts: list[str]) -> Encoded:
            return Encoded(model.embed(texts, norm=self.normalize), truncated=0)

        return nullcontext(Session(encode, block=4096))
