"""Any model of the sentence-transformers library."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from huggingface_hub import errors, try_to_load_from_cache

from smart.config import Problems, UserError, counted, nearest
from smart.embedding.encoders import Encoded, Encoder, Session, validate_dtype
from smart.embedding.window import NO_LIMIT, Seen, Window
from smart.runtime.executor import map_unordered
from smart.runtime.files import hash_bytes, hash_file
from smart.runtime.gpu import gpus, half_type

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

SIDES = ("left", "right")
UNLIMITED = 512
"""Tokens for which a batch of batch_size texts is meant, of a model that has no limit."""
EncodeBatch = Callable[[list[str]], np.ndarray]
"""Takes the texts of a batch and gives their vectors, float32 (n, d)."""
log = logging.getLogger(__name__)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class SentenceTransformers(Encoder):
    """A model of the Hugging Face hub or a local folder, on all GPUs of the machine.

    On GPUs it computes in bfloat16, or in float16 where they have no units for it. Pooling is the model's own. Code
    that comes with a model is never run.
    """

    name: str = "sentence-transformers/all-MiniLM-L6-v2"
    """ORG/NAME on the hub, or a folder."""
    revision: str | None = None
    """Commit, branch or tag; null is the main branch as first downloaded. A commit is the same everywhere."""
    max_length: int | None = None
    """Tokens of a prompt that the model sees; null is the model's own limit."""
    truncation: str = "left"
    """Which end of a longer prompt is cut. Few-shot prompts share a long head and differ in the question at
    the end, so cutting right gives many of them the same vector. Cutting left takes the prefix, too."""
    prefix: str | None = None
    """Put before each prompt; null is the model's own default."""
    normalize: bool = False
    """Scale vectors to unit length, where the model does not do so itself."""
    batch_size: int = 64
    """Prompts of full length a step on each device; of shorter ones as many more as have the same tokens. It does not
    change which vectors are wanted."""
    dtype: str = "float16"
    """How vectors are stored: float16 or float32."""
    uses_gpu: ClassVar[bool] = True

    def validate(self, problems: Problems) -> None:
        validate_dtype(self.dtype, problems)
        if not Path(self.name).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.name):
            problems.add("encoder.name", self.name, "is neither a folder nor ORG/NAME on the hub")
        if self.truncation not in SIDES:
            problems.add(
                "encoder.truncation", self.truncation, "is not a side", nearest(self.truncation, SIDES)
            )
        for key, value in (("max_length", self.max_length), ("batch_size", self.batch_size)):
            if value is not None and value < 1:
                problems.add(f"encoder.{key}", value, "must be at least 1")

    def identity(self) -> dict[str, Any] | None:
        """See `Encoder.identity`; the model's files name its tokenizer and pooling, too."""
        folder, commit = Path(self.name), self._commit()
        if commit is None and not folder.is_dir():
            return None
        model = (
            {"content": _hash_folder(folder)} if commit is None else {"name": self.name, "revision": commit}
        )
        return {
            "encoder": "sentence-transformers",
            "model": model,
            "max_length": self.max_length,
            "truncation": self.truncation,
            "prefix": self.prefix,
            "normalize": self.normalize,
        }

    def width(self) -> int | None:
        """Hidden size of the model, where its files are here (a last dense layer, rare, may change it)."""
        path = self._cached("config.json")
        return json.loads(path.read_text()).get("hidden_size") if path else None

    def fetch(self) -> None:
        """Download the model, if it is not there.

        Raises:
            UserError: where the hub does not give it, or cannot be reached.
        """
        self._load(device="cpu")
        if self.identity() is None:
            raise UserError(f"encoder.name={self.name}: its commit is not known; set encoder.revision to one")

    @contextmanager
    def open(self) -> Iterator[Session]:
        model = self._load()
        self._set_truncation(model)
        if half := half_type(model.device):
            compute_in(model, half)
        look, tokens = self._window(model)
        with ThreadPoolExecutor(1) as thread, self._devices(model, gpus()) as devices:
            part = 4 * self.batch_size * len(devices)

            def encode(texts: list[str]) -> Encoded:
                parts = [texts[start : start + part] for start in range(0, len(texts), part)]
                # Looking tokenises; of the next part beside the model's forward pass, where it costs no time.
                return encode_batches(thread.map(look, parts), tokens, devices)

            yield Session(encode, block=4 * part)

    @contextmanager
    def _devices(self, model: SentenceTransformer, names: Sequence[str]) -> Iterator[list[EncodeBatch]]:
        """What encodes a batch on each device: the model itself, or a process for each of several GPUs.

        The library's own pool has one queue of pieces with equally many texts for all processes, and waits for all of
        them. A pool of one process for each device takes batches of any size, and no device waits for another.
        """

        def on(pool: Any) -> EncodeBatch:
            def encode(texts: list[str]) -> np.ndarray:
                vectors: np.ndarray = model.encode(
                    texts,
                    batch_size=len(texts),
                    prompt=self.prefix,
                    normalize_embeddings=self.normalize,
                    show_progress_bar=False,
                    pool=pool,
                    chunk_size=len(texts),
                )
                return vectors

            return encode

        with ExitStack() as stack:
            pools = [model.start_multi_process_pool([name]) for name in names] if len(names) > 1 else [None]
            for pool in pools:
                if pool is not None:
                    stack.callback(model.stop_multi_process_pool, pool)
            yield list(map(on, pools))

    def _window(self, model: SentenceTransformer) -> tuple[Callable[[Sequence[str]], Seen], int]:
        """What looks at the texts, and how many tokens a batch may have."""
        if not _has_limit(model):
            return (lambda texts: Seen(list(texts), np.ones(len(texts), np.int64), 0)), self.batch_size
        prefix = self.prefix
        if prefix is None:
            prefix = model.prompts.get(model.default_prompt_name or "") or ""
        window = Window(model.tokenizer, prefix, self.truncation)
        return window.look, self.batch_size * (window.limit if window.limit < NO_LIMIT else UNLIMITED)

    def _load(self, device: str | None = None) -> SentenceTransformer:
        from sentence_transformers import SentenceTransformer

        try:
            revision = self._commit() or self.revision
            return SentenceTransformer(self.name, revision=revision, device=device, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise UserError(f"encoder.name={self.name}: {_explain(self.name, error)}") from error

    def _set_truncation(self, model: SentenceTransformer) -> None:
        if not _has_limit(model):
            return
        if self.max_length is not None:
            transformer: Any = model[0]
            room = getattr(transformer.auto_model.config, "max_position_embeddings", None)
            if room and self.max_length > room:
                raise UserError(
                    f"encoder.max_length={self.max_length}: {self.name} sees at most {counted(room, 'token')}"
                )
            model.max_seq_length = self.max_length
        model.tokenizer.truncation_side = self.truncation

    def _commit(self) -> str | None:
        """The commit of a hub model: as pinned, or as downloaded; None for a folder or an absent model."""
        if Path(self.name).is_dir():
            return None
        if self.revision and _COMMIT.fullmatch(self.revision):
            return self.revision
        path = self._cached("modules.json") or self._cached("config.json")
        return path.parent.name if path else None

    def _cached(self, file: str) -> Path | None:
        if Path(self.name).is_dir():
            path = Path(self.name, file)
            return path if path.is_file() else None
        cache = os.environ.get(
            "SENTENCE_TRANSFORMERS_HOME"
        )  # the library's own cache folder, if there is one
        found = try_to_load_from_cache(self.name, file, cache_dir=cache, revision=self.revision)
        return Path(found) if isinstance(found, str) else None


def _has_limit(model: SentenceTransformer) -> bool:
    """False for static embeddings, which have no transformers tokenizer and see the whole prompt."""
    return hasattr(model.tokenizer, "truncation_side")


def encode_batches(parts: Iterable[Seen], tokens: int, devices: Sequence[EncodeBatch]) -> Encoded:
    """Encode texts in batches of like length, each on the first device that is free.

    Args:
        parts: the texts, and how many tokens of each the model computes.
        tokens: the most tokens of a batch after padding; a text of more is a batch of its own.
        devices: what encodes a batch on each device.

    Returns:
        The vectors in the order of the texts.
    """
    free: SimpleQueue[EncodeBatch] = SimpleQueue()
    for device in devices:
        free.put(device)

    def encode(batch: Batch) -> np.ndarray:
        device = free.get()
        try:
            return device(batch.texts)
        finally:
            free.put(device)

    looked: list[Seen] = []

    def seen() -> Iterator[Seen]:
        for part in parts:
            looked.append(part)
            yield part

    found = list(map_unordered(encode, batches(seen(), tokens), len(devices)))
    vectors = np.concatenate([made for _, made in found])
    rows = np.concatenate([batch.rows for batch, _ in found])
    return Encoded(vectors[np.argsort(rows)], sum(part.truncated for part in looked))


class Batch(NamedTuple):
    """Texts that a model encodes together."""

    texts: list[str]
    rows: list[int]
    """Their positions among all texts."""


def batches(parts: Iterable[Seen], tokens: int) -> Iterator[Batch]:
    """Cut texts into batches, longest first within each part: a batch has at most so many tokens after padding.

    >>> part = Seen(["a", "b c d", "e"], np.array([1, 3, 1]), 0)
    >>> [batch.texts for batch in batches([part], tokens=3)]
    [['b c d'], ['a', 'e']]
    """
    texts: list[str] = []
    rows: list[int] = []
    longest = first = 0
    for part in parts:
        for place in np.argsort(-part.tokens, kind="stable").tolist():
            wider = max(longest, int(part.tokens[place]))
            if texts and wider * (len(texts) + 1) > tokens:
                yield Batch(texts, rows)
                texts, rows, wider = [], [], int(part.tokens[place])
            texts.append(part.texts[place])
            rows.append(first + place)
            longest = wider
        first += len(part.texts)
    if texts:
        yield Batch(texts, rows)


def compute_in(model: SentenceTransformer, dtype: torch.dtype) -> None:
    """Run the transformer in a type of 16 bits, but pool and normalise its output in float32.

    float16 ends at 65,504, and some models were trained in types that go on. From the first output that is not finite
    the transformer computes in float32.
    """
    model[0].to(dtype)
    model[0].register_forward_hook(_widen)


def _widen(module: torch.nn.Module, inputs: tuple[Any, ...], features: dict[str, Any]) -> dict[str, Any]:
    import torch

    halves = {
        name: value
        for name, value in features.items()
        if torch.is_tensor(value) and value.dtype.itemsize == 2
    }
    if any(value.dtype == torch.float16 and not value.isfinite().all() for value in halves.values()):
        log.warning("The model overflows float16: it computes in float32 from now on.")
        widened: dict[str, Any] = module.float()(*inputs)
        return widened
    return features | {name: value.float() for name, value in halves.items() if value.is_floating_point()}


def _hash_folder(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hash_bytes(f"{path.relative_to(folder)}\0{hash_file(path)}".encode() for path in files)


def _explain(name: str, error: BaseException) -> str:
    """One line on why a model cannot be loaded, and what to do."""
    causes = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    if any(isinstance(cause, errors.GatedRepoError) for cause in causes):
        return f"accept its terms at https://huggingface.co/{name}, then log in with `hf auth login`"
    if any(isinstance(cause, errors.RepositoryNotFoundError) for cause in causes):
        return "is neither a folder nor a public model; for a private one log in with `hf auth login`"
    if any(isinstance(cause, errors.RevisionNotFoundError) for cause in causes):
        return "has no such revision; set encoder.revision"
    if any(isinstance(cause, (errors.LocalEntryNotFoundError, ConnectionError)) for cause in causes):
        return (
            "is neither a folder nor downloaded, and the hub cannot be reached; run once with "
            "fetch_only=true where there is a network, name a folder, or take encoder=wordllama"
        )
    return f"cannot be loaded: {str(error).strip().splitlines()[0]}"
