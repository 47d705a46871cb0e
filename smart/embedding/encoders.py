"""The contract of an encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple

import numpy as np

from smart.config import Problems, nearest

DTYPES = ("float16", "float32")


class Encoded(NamedTuple):
    """The vectors of n texts."""

    vectors: np.ndarray
    """(n, d) of a float type; float32 as a rule. Row i belongs to text i."""
    truncated: int
    """How many of the n texts were cut before they were encoded."""


class Session(NamedTuple):
    """A loaded encoder."""

    encode: Callable[[list[str]], Encoded]
    """Takes 1 to `block` texts, in any order, and gives their vectors."""
    block: int
    """The most texts that one call of `encode` gets, at least 1; they are of like length."""
    parallel: bool = False
    """Several threads may call `encode` at once, and gain by it: it frees the interpreter for most of its time."""


class Unencodable(Exception):  # noqa: N818
    """Texts that an encoder refuses. `embed` tells the user their rows in the collection, and the reason.

    Attributes:
        texts: their indices in the list that `Session.encode` got.
        reason: what is wrong with them, and what the user can do.
    """

    def __init__(self, texts: Sequence[int], reason: str) -> None:
        super().__init__(texts, reason)
        self.texts, self.reason = texts, reason


class Encoder(ABC):
    """Texts become vectors. A frozen dataclass whose fields are the options of conf/encoder/NAME.yaml.

    An instance holds options alone: it is cheap to make, and only `fetch` and `open` import or load anything
    heavy. The calls come in this order, in one process:

    1. `validate`, once, before anything is read; the options have the types that they are annotated with.
    2. `identity`, several times: it names the cached vectors. Where it returns None, `fetch` and then
       `identity` again. With plan=true only `identity` and `width` are called, and nothing is fetched; with
       fetch_only=true only `fetch`, whatever is there.
    3. `open`, only where vectors are missing in the cache; then `Session.encode`, block by block, longest
       texts first. What it returns is cut to `dtype` and written.

    A UserError from any of them is shown to the user as one line; other exceptions are shown with their
    traceback. `check_encoder` tells an author which part of this contract an encoder breaks.

    A class that has these methods without inheriting works too, if it has `dtype` and all of them.
    """

    dtype: str = "float16"
    """How vectors are stored: float16 or float32. Each vector must be finite in this type."""
    uses_gpu: ClassVar[bool] = False
    """Sessions run on a GPU where there is one, so that each worker of a cluster gets its own."""

    @abstractmethod
    def identity(self) -> dict[str, Any] | None:
        """All that decides the vectors of given texts: model, revision, pooling, cuts, prefix.

        The values are what JSON can hold. Equal identities mean equal vectors, in any process and on any
        machine, so batch size and device are left out.

        Returns:
            None where it is known only after `fetch`, such as the commit of a model that is not downloaded.
        """

    @abstractmethod
    def open(self) -> AbstractContextManager[Session]:
        """Load the encoder; free it when the context ends. It may be opened again.

        `Session.encode` gives a text the same vector whatever texts stand beside it (but for rounding), keeps
        the order of the texts, and does not write to an array that it has returned. Texts are never blank;
        they may be of any length and language.

        Raises:
            UserError: for what the user can fix, such as a model that does not load. `Session.encode` may raise
                Unencodable for texts that it refuses.
        """

    def width(self) -> int | None:
        """Dimensions of a vector, d; None where that takes loading or downloading. plan=true shows the disk."""
        return None

    def validate(self, problems: Problems) -> None:  # noqa: B027
        """Add every wrong option with `problems.add("encoder.NAME", value, what, hint)`; raise nothing."""

    def fetch(self) -> None:  # noqa: B027
        """Download what `open` needs, if it is not there; afterwards `identity` is not None.

        Raises:
            UserError: where it cannot be had.
        """


def validate_dtype(dtype: str, problems: Problems) -> None:
    """Add a problem for a dtype in which vectors cannot be stored."""
    if dtype not in DTYPES:
        problems.add("encoder.dtype", dtype, "vectors cannot be stored so", nearest(dtype, DTYPES))
