"""What a run needs before any weight is read: everything found, checked, counted and named."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from smart.config import Problems, UserError, check_options, counted, deciding, nearest
from smart.conversation import from_json
from smart.mixture.budgets import read_tasks
from smart.model import ChatOptions
from smart.model.adapters import Start, find_start, target_layers
from smart.model.base import Base, find_base, load_tokenizer, quieten
from smart.model.chat import ChatFormat
from smart.model.kernels import KERNELS, are_here
from smart.model.options import FLASH_ATTENTION, HUB_KERNELS, PLAIN_ATTENTION
from smart.reading import CONVERSATION, Fault, refusal
from smart.runtime.manifest import cached_folder, make_key
from smart.runtime.names import joined
from smart.templates import SEPARATOR
from smart.training.batching import Batching
from smart.training.config import TrainConfig
from smart.training.data import Mixture, read_mixture
from smart.training.moments import OPTIMIZERS as OPTIMIZERS_WITH_MOMENTS
from smart.training.order import Order, make_stream, stages_by_gain
from smart.training.tokens import LAYOUT, TokenStore, tokenize

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

VERSION = 3
"""Raised whenever the same configuration and inputs give other weights."""

LONGEST_DEFAULT = 4096
SHARDED_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd", "rmsprop")
"""Those whose states are of the shape of the weights, so that they are sharded and gathered as the weights are."""

log = logging.getLogger(__name__)


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
    form: ChatFormat | None = None
    """How conversations become text; None: rows are prompt and response, joined by the separator."""
    start: Start | None = None
    """The adapter to go on from."""
    gains: Mapping[str, float] | None = None
    """Task → its gain in the mixture, for the curriculum of row_order=gains."""

    @property
    def separator(self) -> str:
        """Between prompt and response: what the command says, else the mixture."""
        own = self.mixture.manifest.get("config", {}).get("separator", SEPARATOR)
        return str(own if self.config.separator is None else self.config.separator)

    @property
    def deciding(self) -> dict[str, Any]:
        """The configuration as far as it decides the weights."""
        text = {"text_files": self.base.text_key} if self.base.text_key else {}
        asked = deciding(self.config)
        options = {name: asked[name] for name in asked if name not in ("format", "chat", "separator")}
        joins = {"separator": self.separator} if self.form is None else {"format": self.form.to_manifest()}
        return {**options, "max_length": self.max_length, **joins, **text}

    @property
    def inputs(self) -> list[str]:
        return [self.mixture.key, self.base.key, *([self.start.key] if self.start else [])]

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
        store, refused = tokenize(
            table,
            self.tokenizer,
            self.max_length,
            form=self.form,
            separator=self.separator,
            overlength=self.config.overlength,
        )
        self._check_refused(refused, len(table))
        largest = int(store.ids.max(initial=0))
        if largest >= self.base.vocabulary:
            raise UserError(
                f"{self.base.options.name}: its tokenizer makes token {largest}"
                f" ({self.tokenizer.convert_ids_to_tokens(largest)!r}) of a row, and its embedding has only"
                f" {counted(self.base.vocabulary, 'row')}; the two do not belong together"
            )
        return store

    def _check_refused(self, refused: Sequence[Fault], count: int) -> None:
        """Conversations that the template cannot carry stop the run, or are left out and said."""
        if refused and self.config.bad_rows == "error":
            hint = "Fix them, take another model or format, or leave them out with bad_rows=drop."
            errors = [str(fault) for fault in refused]
            raise UserError(
                refusal(
                    f"mixture={self.mixture.name}: the template of {self.base.options.name}", errors, hint
                )
            )
        for fault in refused:
            left_out, rows = f"{len(fault.rows):,}", counted(count, "row")
            log.warning("Left out %s of %s of %s: %s.", left_out, rows, self.mixture.name, fault.what)

    def order(self, train: TokenStore) -> Order:
        """The examples of the run, in the order in which they are learnt."""
        config = self.config
        examples = round(config.epochs * len(train))
        if config.max_steps is not None:
            examples = config.max_steps * config.batch_size
        stages = None if self.gains is None else stages_by_gain(self._tasks_of(train), self.gains)
        stream = make_stream(len(train), max(1, examples), config.seed, stages)
        lengths = np.asarray(train.lengths)
        batching = Batching(config.micro_batch_size, config.tokens_per_micro_batch, config.packing)
        return Order(stream, lengths, config.batch_size, batching, self.world.size)

    def _tasks_of(self, train: TokenStore) -> list[str]:
        table = self.mixture.train
        tasks = zip(table["submixture"].to_pylist(), table["task_name"].to_pylist(), strict=True)
        names = [joined(*task) for task in tasks]
        return [names[row] for row in train.source]


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
    base = find_base(config.model, config.models, convert=not config.plan)
    _refuse_for_model(base, config, world, problems)
    problems.raise_if_any()
    if config.tuning.method != "full":
        target_layers(base)
    start = None if config.adapter is None else find_start(config.adapter, base, config.tuning)
    rows = read_mixture(config.mixture, config.bad_rows)
    gains = _gains(config.mixture, rows) if config.row_order == "gains" else None

    is_chat = _is_chat(config, rows)
    tokenizer = load_tokenizer(base, lambda: _texts(rows.train.slice(0, 2000)))
    form = None
    if is_chat:
        form = ChatFormat.of(tokenizer, system=config.chat.system, thinking=config.chat.thinking)
    max_length = config.max_length or min(base.context or LONGEST_DEFAULT, LONGEST_DEFAULT)
    return TrainingJob(config, world, base, rows, tokenizer, max_length, form, start, gains)


def _gains(source: str, rows: Mixture) -> dict[str, float]:
    """Task → gain of every task that a mixture selected.

    Raises:
        UserError: for rows without such gains.
    """
    if rows.manifest.get("kind") != "mixture" or not (Path(source) / "tasks.csv").is_file():
        raise UserError(
            f"row_order=gains: {rows.name} is no mixture that select.py wrote: use row_order=shuffle"
        )
    tasks = [task for task in read_tasks(Path(source) / "tasks.csv") if task["order"]]
    if not all(task["gain"] for task in tasks):
        fn = rows.manifest.get("choices", {}).get("fn", "its set function")
        raise UserError(
            f"row_order=gains: {fn} of {rows.name} gave its tasks no gains: use row_order=shuffle"
        )
    return {joined(task["submixture"], task["task_name"]): float(task["gain"]) for task in tasks}


def _is_chat(config: TrainConfig, rows: Mixture) -> bool:
    """Whether rows go through the model's template; says what format=auto has taken."""
    has_turns = CONVERSATION in rows.train.column_names
    if config.format == "plain" and has_turns:
        raise UserError(
            f"format=plain: {rows.name} has rows with turns, which only a chat template puts together: use format=auto"
        )
    is_chat = config.format == "chat" or has_turns
    if config.chat != ChatOptions() and not is_chat:
        raise UserError("chat.system, chat.thinking: rows of prompt and response are plain: add format=chat")
    if config.format == "auto":
        log.info(
            "format=auto: %s.",
            "chat, since the rows have turns"
            if is_chat
            else "plain, since the rows have a prompt and a response",
        )
    return is_chat


def _texts(table: pa.Table) -> list[str]:
    if CONVERSATION not in table.column_names:
        return [text for name in ("prompt", "response") for text in table[name].to_pylist()]
    turns = (from_json(text)["messages"] for text in table[CONVERSATION].to_pylist())
    return [message["content"] for messages in turns for message in messages]


def _refuse_combinations(config: TrainConfig, world: World, problems: Problems) -> None:
    model, tuning = config.model, config.tuning
    if config.adapter is not None and tuning.method == "full":
        problems.add(
            "adapter", config.adapter, "full tuning has no adapters", "use tuning=lora or tuning=qlora"
        )
    if config.keep_moments and tuning.optimizer not in OPTIMIZERS_WITH_MOMENTS:
        known = " or ".join(OPTIMIZERS_WITH_MOMENTS)
        problems.add(
            "keep_moments",
            "true",
            f"{tuning.optimizer} has no plain moments",
            f"use tuning.optimizer={known}",
        )
    if config.merge and tuning.method == "full":
        problems.add("merge", "true", "full tuning has no adapters to merge", "leave merge out")
    _refuse_attention(model.attention, world, problems)
    if tuning.kernels is not None and not (world.gpu and are_here(tuning.kernels)):
        package = KERNELS[tuning.kernels].replace("_", "-")
        problems.add(
            "tuning.kernels", tuning.kernels, f"needs a GPU and the package {package}", "leave it null"
        )
    if world.sharded and tuning.optimizer not in SHARDED_OPTIMIZERS:
        problems.add(
            "tuning.optimizer",
            tuning.optimizer,
            f"its states cannot be sharded; with launch=fsdp it can be {', '.join(SHARDED_OPTIMIZERS)}",
            "use tuning.optimizer=adamw_torch",
        )
    elif tuning.optimizer.startswith("paged") and not world.gpu:
        problems.add(
            "tuning.optimizer", tuning.optimizer, "pages between GPU and CPU memory, and there is no GPU",
            "use tuning.optimizer=adamw_8bit",
        )  # fmt: skip
    if tuning.checkpoint_activations == "auto" and config.gpu_memory is None:
        problems.add(
            "tuning.checkpoint_activations",
            "auto",
            "needs to know the memory of a GPU",
            "add gpu_memory=24GB, or a preset such as gpu=24gb",
        )


def _refuse_attention(name: str | None, world: World, problems: Problems) -> None:
    if name is None or name in PLAIN_ATTENTION:
        return
    if name not in FLASH_ATTENTION and not name.startswith(HUB_KERNELS):
        known = [*PLAIN_ATTENTION, *FLASH_ATTENTION]
        problems.add(
            "model.attention", name, f"no such attention. {nearest(name, known)}", f"or {HUB_KERNELS}NAME"
        )
        return
    packages = [package for package in (FLASH_ATTENTION.get(name), "kernels") if package]
    if not (world.gpu and any(map(importlib.util.find_spec, packages))):
        needed = " or ".join(packages)
        problems.add(
            "model.attention", name, f"needs a GPU and the package {needed}", "use model.attention=sdpa"
        )


def _refuse_for_model(base: Base, config: TrainConfig, world: World, problems: Problems) -> None:
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
    if config.packing and (obstacle := _packing_obstacle(base, config, world)):
        problems.add("packing", "true", obstacle, "use packing=false")


def _packing_obstacle(base: Base, config: TrainConfig, world: World) -> str | None:
    from smart.model.attention import packing_obstacle

    if base.is_stateful:
        return f"{base.config.model_type} keeps a state, which goes on from row to row"
    return packing_obstacle(base.skeleton(), config.tuning.dtype, world.gpu)


def cached_tokens(job: TrainingJob, folder: Path) -> TokenStore:
    """The training rows' tokens, made once and shared by the processes of a machine and by later runs."""
    key = make_key({"layout": LAYOUT}, [job.key], VERSION)
    cached_folder(folder, "tokens", key, lambda draft: job.train_tokens().save(draft))
    return TokenStore.load(folder)
