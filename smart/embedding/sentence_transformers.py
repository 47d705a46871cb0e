"""Any model of the sentence-transformers library."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import errors, try_to_load_from_cache

from smart.config import Problems, UserError, counted, nearest
from smart.embedding.encoders import Encoded, Encoder, Session, validate_dtype
from smart.runtime.files import hash_bytes, hash_file
from smart.runtime.gpu import has_tensor_types

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SIDES = ("left", "right")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class SentenceTransformers(Encoder):
    """A model of the Hugging Face hub or a local folder, in bfloat16 on GPUs, on all GPUs of the machine.

    Pooling is the model's own. Code that comes with a model is never run.
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
    """Prompts a step on each device; does not change which vectors are wanted."""
    dtype: str = "float16"
    """How vectors are stored: float16 or float32."""

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
        import torch

        model = self._load()
        self._set_truncation(model)
        if has_tensor_types(model.device):
            compute_in_bfloat16(model)
        devices = torch.cuda.device_count()
        pool = model.start_multi_process_pool() if devices > 1 else None
        try:
            with ThreadPoolExecutor(1) as thread:
                yield self._session(model, pool, thread, block=self.batch_size * 16 * max(1, devices))
        finally:
            if pool is not None:
                model.stop_multi_process_pool(pool)

    def _session(
        self, model: SentenceTransformer, pool: Any, thread: ThreadPoolExecutor, block: int
    ) -> Session:
        count_truncated = self._truncation_counter(model)

        def encode(texts: list[str]) -> Encoded:
            # Counting tokenises once more; beside the model's forward pass that costs no time.
            truncated = thread.submit(count_truncated, texts)
            vectors = model.encode(
                texts,
                batch_size=self.batch_size,
                prompt=self.prefix,
                normalize_embeddings=self.normalize,
                show_progress_bar=False,
                pool=pool,
                chunk_size=4 * self.batch_size,
            )
            return Encoded(vectors, truncated.result())

        return Session(encode, block)

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

    def _truncation_counter(self, model: SentenceTransformer) -> Callable[[list[str]], int]:
        if not _has_limit(model):
            return lambda texts: 0
        tokenizer = copy.deepcopy(model.tokenizer)  # two threads cannot share one
        limit, tokenizer.model_max_length = (
            tokenizer.model_max_length,
            int(1e30),
        )  # no warning of long prompts
        prefix = self.prefix
        if prefix is None:
            prefix = model.prompts.get(model.default_prompt_name or "") or ""

        def count(texts: list[str]) -> int:
            tokens = tokenizer([prefix + text for text in texts], return_attention_mask=False)["input_ids"]
            return sum(len(ids) > limit for ids in tokens)

        return count

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


def compute_in_bfloat16(model: SentenceTransformer) -> None:
    """Run the transformer in bfloat16, but pool and normalise its output in float32."""
    import torch

    model[0].to(torch.bfloat16)
    model[0].register_forward_hook(_widen)


def _widen(module: object, inputs: object, features: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {
        name: value.float() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in features.items()
    }


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
