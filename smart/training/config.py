"""What a training is asked for: the options of train.py, typed and checked before any work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import BeforeValidator

from smart.config import Problems, counted, option
from smart.config.types import Folder, Gigabytes, Positive, PositiveNumber
from smart.model import ChatOptions, ModelOptions, TuningOptions
from smart.model.tokens import Overlength
from smart.runtime.common_config import CommonConfig


def _named(value: object) -> object:
    if not value:
        raise ValueError("needs a folder, file or hub name")
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _launched(value: object) -> object:
    if value == "fsdp_qlora":
        raise ValueError("is launch=fsdp now, for tuning=qlora, lora and full alike")
    return value


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CommonConfig):
    """The options of `python train.py`. conf/train.yaml has the defaults."""

    mixture: Annotated[str, BeforeValidator(_named)] = option(
        role="input", through="mixture", hint="python select.py makes one"
    )
    """A mixture's folder; a file, folder or hub name with prompt and response; or a published mixture."""
    model: ModelOptions = option(default_factory=lambda: ModelOptions("mistralai/Mistral-7B-v0.1"))
    tuning: TuningOptions = option(default_factory=TuningOptions)
    """Which weights learn, and how."""
    adapter: Folder | None = option(
        None, role="input", added=True, hint="a folder with a LoRA adapter of the same model"
    )
    """An adapter to go on from: its weights are the start. None: fresh adapters, which begin as nothing."""
    bad_rows: Literal["error", "drop"] = option("error", added=True)
    """"error": rows without text in one of the columns stop the run; "drop": they are left out, and counted."""
    batch_size: Positive = 64
    """Examples per optimiser step, over all processes and accumulation steps."""
    micro_batch_size: Positive = 8
    """Examples that one process takes through the model at once, without tokens_per_micro_batch."""
    tokens_per_micro_batch: Positive | None = option(
        None, added=True, hint="leave it null for micro_batch_size examples"
    )
    """Tokens that one process takes through the model at once, padding included: as many examples as fit, a longer one
    alone. None: micro_batch_size examples."""
    epochs: PositiveNumber = 1
    max_steps: Positive | None = option(None, hint="leave it null for as many as the epochs need")
    """Optimiser steps; None: as many as `epochs` need."""
    learning_rate: PositiveNumber = 2e-4
    max_length: Annotated[int, Ge(3)] | None = option(
        None,
        hint="a row is a prompt, a response and its end; leave it null for what the model was trained on",
    )
    """Tokens of a row at most; None: what the model was trained on, but no more than 4,096."""
    separator: str | None = option(None, replaces="separator", stored_as={None: " "})
    """Between prompt and response; None: the mixture's own, which is a space unless select.py was told otherwise."""
    format: Literal["auto", "plain", "chat"] = option("auto", added=True)
    """plain: prompt and response, joined by the separator. chat: the model's own chat template, and rows of prompt and
    response as a turn of the user and one of the assistant. auto: chat for rows with turns, plain for others."""
    chat: ChatOptions = option(default_factory=ChatOptions, added=True)
    """What the template is told, with format=chat."""
    overlength: Overlength = "truncate_prompt"
    """What to do with longer rows. truncate_prompt: cut the prompt from the left, or leave out whole turns from the
    beginning of a conversation; drop; error."""
    packing: bool = False
    """Examples of a micro-batch one after another in one sequence, without padding, each blind to the others."""
    row_order: Literal["shuffle", "gains"] = option("shuffle", added=True)
    """shuffle: every epoch is a permutation of all rows. gains, a curriculum: in every epoch tasks come one after
    another, the one with the largest gain in the mixture's tasks.csv first, and the rows of each are shuffled."""
    save_steps: Positive = option(100, role="free")
    """Optimiser steps between checkpoints."""
    eval_steps: Positive | None = option(None, role="free", hint="leave it null for the start and the end")
    """Optimiser steps between evaluations on the mixture's validation rows; None: at the start and the end."""
    gpu_memory: Gigabytes | None = option(None, role="free")
    """Bytes of a GPU, from 24GB: what plan=true recommends a setup for, and checkpoint_activations=auto goes by."""
    keep_checkpoints: Positive = option(2, role="free")
    keep_moments: bool = option(False, role="free")
    """Write Adam's moments beside the finished weights, as moments.safetensors."""
    merge: bool = option(False, role="free")
    """Write the merged model too, into the folder `merged`."""
    launch: Annotated[Literal["ddp", "fsdp"], BeforeValidator(_launched)] | None = option(None, role="free")
    """Start the processes here, one distributed job per run; ddp: each holds the whole model; fsdp: each holds a part
    of every weight, gradient and optimiser state."""
    num_processes: Positive | None = option(
        None, role="free", hint="leave it null for one process for each GPU"
    )
    """How many, with launch."""
    ddp_timeout: Positive = option(7200, role="free")
    """Seconds that processes wait for each other, such as for the first one to tokenise a large mixture."""

    def check_batches(self, world_size: int, problems: Problems) -> None:
        """Add a batch size that cannot be made of micro-batches of equally many examples on so many processes."""
        if self.tokens_per_micro_batch is not None:
            return
        if self.batch_size % (self.micro_batch_size * world_size):
            fitting = [n for n in range(1, self.batch_size + 1) if self.batch_size % (n * world_size) == 0]
            hint = (
                f"micro_batch_size can be {', '.join(map(str, fitting))}" if fitting else "change batch_size"
            )
            problems.add(
                "batch_size",
                self.batch_size,
                f"cannot be made of micro-batches of {self.micro_batch_size} on {counted(world_size, 'process')}",
                hint,
            )

    @property
    def models(self) -> Path:
        """Cache of base models that the hub does not have."""
        return self.output_root / "cache" / "models"

    @property
    def choices(self) -> dict[str, str]:
        """Which file of conf/model and conf/tuning was chosen, where any was."""
        known = self.composed.choices
        return {group: str(known[group]) for group in ("model", "tuning") if group in known}
