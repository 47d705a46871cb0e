"""The default encoder, whose weights lie inside its package: its own vectors to the bit, by compiled code."""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smart.config import Problems, counted
from smart.embedding.encoders import Encoded, Encoder, Session, Unencodable, validate_dtype
from smart.embedding.llama_kernels import LONGEST_WORD, Scratch, Vocabulary, new_scratch, sum_tokens
from smart.embedding.llama_tokens import TokenizerError, read_vocabulary

if TYPE_CHECKING:
    from wordllama.inference import WordLlamaInference

log = logging.getLogger(__name__)

BLOCK = 1024
PROBES = (
    "The capital of France",
    "  two spaces,\ta tab\n\nand an end ",
    "ein ▁ Zeichen ▁▁ Größe",
    "日本 😀 \0",
    "<s> a</s>b <unk><s>",
    "x" * 40,
)
"""Texts whose vectors are compared with the package's own when it is loaded."""
_LONGEST_UNCUT = 1 << 18  # bytes of a text that the package itself gets: it takes 2 KB for each


@dataclass(frozen=True)
class WordLlama(Encoder):
    """Mean of static token embeddings, 256 dimensions (https://github.com/dleemiller/WordLlama, MIT).

    No download and no GPU: the weights are inside the package. The whole prompt is pooled, nothing is cut. The vectors
    are those of the package's own `embed`, to the bit; compiled code makes them, on as many threads as it is given.
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

    @contextmanager
    def open(self) -> Iterator[Session]:
        import wordllama

        # Its loader looks for the tokenizer under cache_dir alone, and would download what the package holds.
        package = Path(wordllama.__file__).parent
        model = wordllama.WordLlama.load(cache_dir=package, dim=self.width(), disable_download=True)
        with _no_threads_of_the_tokenizer():
            encode = compiled_or_own(model, self.normalize)
            yield Session(
                lambda texts: Encoded(encode(texts), 0), BLOCK, parallel=isinstance(encode, Compiled)
            )


def compiled_or_own(model: WordLlamaInference, normalize: bool) -> Callable[[Sequence[str]], np.ndarray]:
    """What encodes texts: compiled code if it gives the package's own vectors, else, with a warning, the package."""
    own = Own(model, normalize)
    try:
        compiled = Compiled(
            read_vocabulary(json.loads(model.tokenizer.to_str()), len(model.embedding)),
            model.embedding,
            normalize,
        )
        if not np.array_equal(compiled(PROBES).view(np.uint32), own(PROBES).view(np.uint32)):
            raise TokenizerError("other vectors")
    except TokenizerError as error:
        log.warning(
            "wordllama %s is not as its compiled kernels know it (%s), so it encodes by its own, slow code.",
            metadata.version("wordllama"),
            error,
        )
        return own
    return compiled


class Own:
    """The package's `embed`, text by text, since it pads all texts of a call to the longest."""

    def __init__(self, model: WordLlamaInference, normalize: bool) -> None:
        self.model, self.normalize = model, normalize

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (n, d).

        Raises:
            Unencodable: for texts that would take too much memory.
        """
        if long := [i for i, text in enumerate(texts) if len(text.encode()) > _LONGEST_UNCUT]:
            raise Unencodable(
                long, f"each over {counted(_LONGEST_UNCUT, 'byte')} long; shorten them or leave them out"
            )
        return np.concatenate([self.model.embed([text], norm=self.normalize) for text in texts])


class Compiled:
    """The same vectors by compiled code. Several threads may call it: each gets a scratch of its own."""

    def __init__(self, vocabulary: Vocabulary, table: np.ndarray, normalize: bool) -> None:
        self.vocabulary, self.table, self.normalize = vocabulary, table, normalize
        self.spare: deque[Scratch] = deque()
        """Of threads that encode nothing at the moment."""

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (n, d).

        Raises:
            Unencodable: for texts with a word over LONGEST_WORD.
        """
        encoded = [text.encode() for text in texts]
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(text) for text in encoded], out=offsets[1:])
        text = b"".join(encoded)
        del encoded
        n, d = len(texts), self.table.shape[1]
        sums, counts, refused = np.zeros((n, d), np.float32), np.zeros(n, np.int64), np.zeros(n, bool)
        scratch = self._scratch()
        try:
            sum_tokens(
                np.frombuffer(text, np.uint8), offsets, _sorted(text, offsets),
                self.vocabulary, self.table, scratch, sums, counts, refused,
            )  # fmt: skip
        finally:
            self.spare.append(scratch)
        if refused.any():
            raise Unencodable(
                np.flatnonzero(refused).tolist(),
                f"each has a word of over {counted(LONGEST_WORD, 'byte')}; break it with spaces, or leave the row out",
            )
        means = sums / np.maximum(counts, 1).astype(np.float32)[:, np.newaxis]
        return means / np.linalg.norm(means, axis=1, keepdims=True) if self.normalize else means

    def _scratch(self) -> Scratch:
        try:
            return self.spare.pop()
        except IndexError:
            return new_scratch(self.table.shape[1])


def _sorted(text: bytes, offsets: np.ndarray) -> np.ndarray:
    """int64 (n,): texts in the order of their bytes."""
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(text)]
    array = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)
    order: np.ndarray = pc.sort_indices(array).to_numpy().astype(np.int64)
    return order


@contextmanager
def _no_threads_of_the_tokenizer() -> Iterator[None]:
    """The tokenizers library would start one for each core, whatever `threads` says."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
