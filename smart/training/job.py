"""What a run needs before any weight is read: everything found, checked, counted and named."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from smart.config import Problems, UserError, check_options, counted, deciding
from smart.model.adapters import target_layers
from smart.model.base import Base, find_base, load_tokenizer, quieten
from smart.runtime.manifest import cached_folder, make_key
from smart.templates import SEPARATOR
from smart.training.config import TrainConfig
from smart.training.data import Mixture, TokenStore, read_mixture, tokenize
from smart.training.order import Order, make_stream

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

VERSION = 2
"""Raised whenever the same configuration and inputs give other weights."""

LONGEST_DEFAULT = 4096


@dataclass(frozen=True)
class World:
    """The processes of a run, and what each of them computes on."""

    size: int = 1
    rank: int = 0
    gpu: bool = False
    sharded: bool = False
    """FSDP: each process holds a part of the weights."""


@dataclass(frozen=True)
class TrainingJob:
    """A training that may start."""

    config: TrainConfig
    world: World
    base: Base
    mixture: Mixture
    tokenizer: PreTrainedTokenizerBase
    max_length: int

    @property
    def separator(self) -> str:
        """Between prompt and response: what the command says, else the mixture."""
        own = self.mixture.manifest.get("config", {}).get("separator", SEPARATOR)
        return str(own if self.config.separator is None else self.config.separator)

    @property
    def deciding(self) -> dict[str, Any]:
        """The configuration as far as it decides the weights."""
        text = {"text_files": self.base.text_key} if self.base.text_key else {}
        options = deciding(self.config)
        return {**options, "max_length": self.max_length, "separator": self.separator, **text}

    @property
    def inputs(self) -> list[str]:
        return [self.mixture.key, self.base.key]

    @property
    def key(self) -> str:
        return make_key(self.deciding, self.inputs, VERSION)

    def train_tokens(self) -> TokenStore:
        """Tokens of the training rows.

        Raises:
            UserError: if no row is left.
        """
        store = self._tokenize(self.mixture.train)
        if not len(store):
            raise UserError(
                f"mixture={self.mixture.name}: none of its {counted(len(self.mixture.train), 'row')} fits into"
                f" max_length={self.max_length} tokens; raise it"
            )
        return store

    def validation_tokens(self) -> dict[str, TokenStore]:
        """Tokens of the validation rows of each submixture."""
        table = self.mixture.validation
        names = sorted(pc.unique(table["submixture"]).to_pylist())
        stores = {name: self._tokenize(table.filter(pc.equal(table["submixture"], name))) for name in names}
        return {name: store for name, store in stores.items() if len(store)}

    def _tokenize(self, table: pa.Table) -> TokenStore:
        store = tokenize(
            table,
            self.tokenizer,
            self.max_length,
            separator=self.separator,
            overlength=self.config.overlength,
        )
        largest = int(store.ids.max(initial=0))
        if largest >= self.base.vocabulary:
            raise UserError(
                f"{self.base.options.name}: its tokenizer makes token {largest}"
                f" ({self.tokenizer.convert_ids_to_tokens(largest)!r}) of a row, and its embedding has only"
                f" {counted(self.base.vocabulary, 'row')}; the two do not belong together"
            )
        return store

    def order(self, train: TokenStore) -> Order:
        """The examples of the run, in the order in which they are learnt."""
        config = self.config
        examples = round(config.epochs * len(train))
        if config.max_steps is not None:
            examples = config.max_steps * config.batch_size
        stream = make_stream(len(train), max(1, examples), config.seed)
        lengths = np.asarray(train.lengths)
        return Order(stream, lengths, config.batch_size, config.micro_batch_size, self.world.size)


def prepare(config: TrainConfig, world: World) -> TrainingJob:
    """Check everything that can be checked before a weight is read, and find model and mixture.

    Raises:
        ConfigError: with every wrong value, or every combination of options that cannot work.
        UserError: if model or mixture cannot be found, or a LoRA target matches no layer.
    """
    quieten()
    problems = Problems()
    check_options(config, problems)
    problems.raise_if_any()
    config.check_batches(world.size, problems)
    _refuse_combinations(config, world, problems)
    problems.raise_if_any()
    base = find_base(config.model)
    _refuse_for_model(base, config, problems)
    problems.raise_if_any()
    if config.tuning.method != "full":
        target_layers(base)
    rows = read_mixture(config.mixture, config.bad_rows)

    def texts() -> list[str]:
        return [
            text for name in ("prompt", "response") for text in rows.train[name].slice(0, 2000).to_pylist()
        ]

    max_length = config.max_length or min(base.context or LONGEST_DEFAULT, LONGEST_DEFAULT)
    return TrainingJob(config, world, base, rows, load_tokenizer(base, texts), max_length)


def _refuse_combinations(config: TrainConfig, world: World, problems: Problems) -> None:
    model, tuning = config.model, config.tuning
    if config.merge and tuning.method == "full":
        problems.add("merge", "true", "full tuning has no adapters to merge", "leave merge out")
    if model.attention == "flash_attention_2" and not (world.gpu and importlib.util.find_spec("flash_attn")):
        problems.add(
            "model.attention",
            model.attention,
            "needs a GPU and the package flash-attn",
            "use model.attention=sdpa",
        )
    if world.sharded and not world.gpu:
        problems.add("launch", "fsdp_qlora", "sharding needs GPUs", "use launch=ddp")
    if world.sharded and tuning.method == "qlora" and tuning.dtype != "bfloat16":
        problems.add(
            "tuning.dtype",
            tuning.dtype,
            "sharded 4-bit weights are stored as bfloat16",
            "use tuning.dtype=bfloat16",
        )
    if world.sharded and "8bit" in tuning.optimizer:
        problems.add(
            "tuning.optimizer",
            tuning.optimizer,
            "8-bit states cannot be sharded",
            "use tuning.optimizer=adamw_torch",
        )
    if tuning.optimizer.startswith("paged") and not world.gpu:
        problems.add(
            "tuning.optimizer", tuning.optimizer, "pages between GPU and CPU memory, and there is no GPU",
            "use tuning.optimizer=adamw_8bit",
        )  # fmt: skip


def _refuse_for_model(base: Base, config: TrainConfig, problems: Problems) -> None:
    if base.context is not None and (config.max_length or 0) > base.context:
        problems.add(
            "max_length",
            config.max_length,
            f"{base.options.name} was trained on {counted(base.context, 'token')} at once",
            f"use at most {base.context}",
        )
    experts, method = base.expert_weights, config.tuning.method
    if base.is_stateful and method != "full":
        problems.add(
            "tuning.method",
            method,
            f"{base.config.model_type} keeps a recurrent state, and reads the weights of its layers in ways that 4 bits"
            " and adapters do not know",
            "use tuning=full",
        )
    if experts and (method == "qlora" or (method == "lora" and base.options.lora_targets is None)):
        share = sum(experts.values()) / sum(weight.numel() for weight in base.skeleton().parameters())
        problems.add(
            "tuning.method",
            method,
            f"{share:.0%} of the weights of {base.options.name} are experts in tensors such as {next(iter(experts))},"
            " which get neither 4 bits nor adapters",
            "use tuning=full, or tuning=lora with model.lora_targets=[q_proj,v_proj] for adapters beside them",
        )
    if config.packing and base.config.model_type == "falcon":
        problems.add("packing", "true", "Falcon does not keep packed rows apart", "use packing=false")


def cached_tokens(job: TrainingJob, folder: Path) -> TokenStore:
    """The training rows' tokens, made once and shared by the processes of a machine and by later runs."""
    cached_folder(folder, "tokens", job.key, lambda draft: job.train_tokens().save(draft))
    return TokenStore.load(folder)
