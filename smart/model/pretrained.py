"""The one door through which files of others come in: never with code, with one line for whatever is wrong."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from smart.config import UserError
from smart.runtime.hub import NotHere

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_TEXTS = ("The answer to 12 + 345 is: 357.", "Don't say\n\n  naïve things, x_1 = 2.50!")
"""What a tokenizer's class must read as its tokenizer.json does."""


def from_pretrained(kind: str, source: str | Path, **options: Any) -> Any:
    """transformers' own from_pretrained of a class, such as AutoConfig; no code of a repository is ever run."""
    import transformers

    return getattr(transformers, kind).from_pretrained(source, trust_remote_code=False, **options)


def read_tokenizer(name: str, source: str | Path, **options: Any) -> PreTrainedTokenizerBase:
    """A tokenizer, after making sure that it has tokens and reads texts as its files say.

    Args:
        name: what messages call it.

    Raises:
        UserError: where it cannot be read, has no files, or its class overrides them.
    """
    missing = UserError(
        f"{name}: has no tokenizer files, such as tokenizer.json or tokenizer.model; copy those of the model that it"
        " was made from"
    )
    with hub_errors(name):
        try:
            tokenizer: PreTrainedTokenizerBase = from_pretrained("AutoTokenizer", source, **options)
        except ValueError as error:
            if "backend tokenizer" in str(error):
                raise missing from error
            raise
    if not _plain_ids(tokenizer, "a"):
        raise missing
    file = Path(source) / "tokenizer.json"
    if not Path(source).is_dir():
        cached = try_to_load_from_cache(str(source), "tokenizer.json", revision=options.get("revision"))
        file = Path(str(cached))
    if file.is_file():
        _refuse_other_class(name, file, tokenizer)
    return tokenizer


def _refuse_other_class(name: str, tokenizer_json: Path, tokenizer: PreTrainedTokenizerBase) -> None:

    file = Tokenizer.from_file(str(tokenizer_json))
    for text in _TEXTS:
        if _plain_ids(tokenizer, text) != file.encode(text, add_special_tokens=False).ids:
            raise UserError(
                f"{name}: the class {type(tokenizer).__name__}, which its tokenizer_config.json names, makes other"
                " tokens than its tokenizer.json, so one of the two is not the model's; with tokenizer_class"
                " PreTrainedTokenizerFast in tokenizer_config.json the file decides"
            )


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def check_weights(name: str, folder: Path) -> None:
    """Stop at weights that are damaged or pickled, before any are loaded.

    Raises:
        UserError: with the file's name.
    """

    files = sorted(folder.glob("*.safetensors"))
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if not files and pickles:
        raise UserError(
            f"{name}: {pickles[0]} is a pickle, which can run code when it is read; only safetensors are read. Where"
            " you trust it, load it once and save it with save_pretrained"
        )
    for file in files:
        try:
            with safe_open(file, framework="np"):
                pass  # reads the header, and compares it with the file's length
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{file}: is damaged or cut off ({_first_line(error)}); copy it again") from error


def read_json(file: Path) -> dict[str, Any]:
    """An object of JSON.

    Raises:
        UserError: for a file that cannot be read, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({_first_line(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: must hold an object, not {type(content).__name__}")
    return content


@contextlib.contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn what the hub's client says about a model into one line with a hint."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        causes = [cause for cause in (error, error.__cause__, error.__context__) if cause is not None]
        status = [getattr(getattr(cause, "response", None), "status_code", None) for cause in causes]
        if any(isinstance(cause, GatedRepoError) for cause in causes) or 403 in status:
            raise UserError(
                f"{name} is gated: accept its licence at https://huggingface.co/{name} with your account,"
                " then log in with `hf auth login`, or set HF_TOKEN"
            ) from error
        if any(isinstance(cause, RepositoryNotFoundError) for cause in causes) or 401 in status:
            raise UserError(
                f"{name} was not found, or needs a login: check the name, then log in with `hf auth"
                " login`, or set HF_TOKEN"
            ) from error
        if any(isinstance(cause, LocalEntryNotFoundError) for cause in causes) or "offline" in str(error):
            raise NotHere(
                f"{name} is not in the cache, and the hub cannot be reached: run the same command with"
                " fetch_only=true where it can, or name a folder"
            ) from error
        if "trust_remote_code" in str(error):
            raise UserError(f"{name} needs code of its own repository, which is never run") from error
        raise UserError(f"{name} cannot be read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
