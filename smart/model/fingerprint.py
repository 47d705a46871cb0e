"""What a folder of a model or an adapter is, by its files: weights, and what makes ids of text and text of ids."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from smart.runtime.content import FileState, hash_content, state_of
from smart.runtime.files import hash_bytes

_WEIGHTS = ("config.json", "*.safetensors")
_TEXT = (
    *("tokenizer*", "special_tokens_map*", "added_tokens*", "chat_template*", "additional_chat_templates/*"),
    *("vocab*", "merges*", "*.model", "*.tiktoken", "*.spm", "*.bpe", "*.jinja"),
    *("generation_config*", "preprocessor_config*", "processor_config*", "*.index.json"),
)
"""Files that decide ids and generation, as transformers looks for them; the last says which tensor lies where."""


def weights_key(folder: Path) -> str:
    """Names the weights of a model's folder, and its architecture."""
    return hash_bytes([hash_content(file).encode() for file in _found(folder, _WEIGHTS)])


def text_key(folder: Path) -> str | None:
    """Names the files that decide which ids a text has and how answers are generated; None where there are none."""
    parts = [(file.relative_to(folder).as_posix(), hash_content(file)) for file in _found(folder, _TEXT)]
    return hash_bytes(part.encode() for pair in parts for part in pair) if parts else None


def adapter_key(folder: Path) -> str:
    """Names an adapter, with the tokenizer that lies beside it."""
    files = [folder / "adapter_config.json", *_found(folder, ("adapter_model.*",))]
    return hash_bytes([*(hash_content(file).encode() for file in files), (text_key(folder) or "").encode()])


def states(folder: Path) -> dict[Path, FileState]:
    """The files that name a folder, as they are now, for `check_unchanged`."""
    return {file: state_of(file) for file in _found(folder, (*_WEIGHTS, "adapter_*", *_TEXT))}


def _found(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})
