"""How fast is fine-tuning of a 7B model on this GPU, and how much memory does it take: ours beside TRL.

Random weights of three real shapes, rows of real lengths. Each contender trains the same rows with the same adapters
and, where it doesn't pack them, the same examples a step; the first steps, in which libraries set themselves up, are
left out.
Tokens are counted as they pass: real ones without padding, supervised ones, and all that are computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.gpu import shapes
from benchmarks.gpu.jobs import around_steps, training_job
from benchmarks.gpu.options import Options
from benchmarks.gpu.results import Measurement
from smart.model.adapters import target_layers
from smart.training.fitting import Demand, asked
from smart.training.job import TrainingJob

REPEATS = 3
METHODS = ("qlora", "lora")
WARM = 2
"""Steps that are not timed."""
TIMED = 6
EXAMPLES = 64
"""A step."""
LONGEST = 2048
"""Tokens of a row."""
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "A40": 150e12,
    "A30": 165e12,
    "RTX 6000 Ada": 364e12,
    "RTX 5090": 209e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Dense bfloat16 operations per second, by the makers' data sheets; the first name that is part of the GPU's counts."""


@dataclass(frozen=True)
class Contender:
    """Who trains, and with which options beside those that all have."""

    library: str
    """smart or trl."""
    options: tuple[str, ...] = ()
    """Of smart: as on the command line. Of trl: fields of SFTConfig."""
    loading: tuple[str, ...] = ()
    """Options of from_pretrained."""
    needs: tuple[str, ...] = ()
    """Packages."""


_PACKED = (
    "packing=true",
    "packing_strategy=bfd",
    "per_device_train_batch_size=4",
    "gradient_accumulation_steps=2",
)
_KEPT = ("gradient_checkpointing=false",)
_BY_TOKENS = ("tokens_per_micro_batch=8192",)
_ALL_KEPT = ("tuning.checkpoint_activations=false",)
CONTENDERS = {
    "smart": Contender("smart"),
    "trl": Contender("trl"),
    "smart, by tokens, activations kept": Contender("smart", (*_BY_TOKENS, *_ALL_KEPT)),
    "trl, packed": Contender("trl", _PACKED),
    "trl, packed, activations kept": Contender("trl", (*_PACKED, *_KEPT)),
    "trl, by length, activations kept": Contender("trl", ("train_sampling_strategy=group_by_length", *_KEPT)),
    "trl, packed, FA2": Contender(
        "trl", (*_PACKED, *_KEPT), ("attn_implementation=flash_attention_2",), ("flash_attn",)
    ),
    "trl, packed, FA3": Contender(
        "trl", (*_PACKED, *_KEPT), ("attn_implementation=kernels-community/flash-attn3",), ("kernels",)
    ),
    "trl, packed, hub kernels": Contender("trl", (*_PACKED, *_KEPT), ("use_kernels=true",), ("kernels",)),
    "trl, packed, liger": Contender(
        "trl", (*_PACKED, *_KEPT, "use_liger_kernel=true"), (), ("liger_kernel",)
    ),
    "smart, packed, activations kept": Contender("smart", (*_BY_TOKENS, "packing=true", *_ALL_KEPT)),
    "smart, by tokens, activations kept, compiled": Contender(
        "smart", (*_BY_TOKENS, *_ALL_KEPT, "tuning.compile=true")
    ),
    "smart, by tokens, activations kept, liger": Contender(
        "smart", (*_BY_TOKENS, *_ALL_KEPT, "tuning.kernels=liger"), needs=("liger_kernel",)
    ),
    "smart, by tokens, activations kept, hub kernels": Contender(
        "smart", (*_BY_TOKENS, *_ALL_KEPT, "tuning.kernels=hub"), needs=("kernels",)
    ),
    "smart, by tokens": Contender("smart", _BY_TOKENS),
}
"""TRL's best is the best of its variants."""


_NEEDS: dict[str, tuple[str, ...]] = {
    "smart": (),
    "trl": ("trl", "datasets"),
    "qlora": ("bitsandbytes",),
    "lora": (),
}


def measurements(options: Options) -> list[Measurement]:
    shown = shapes.SHAPES[1:2] if options.tiny else shapes.SHAPES
    return [
        Measurement(
            *("train", f"{shape}/{method}", name),
            seconds=10 if options.tiny else 90,
            needs=(*_NEEDS[who.library], *_NEEDS[method], *who.needs),
        )
        for method in METHODS
        for shape in shown
        for name, who in CONTENDERS.items()
    ]


def measure(one: Measurement, options: Options) -> dict[str, Any]:
    who = CONTENDERS[one.contender]
    job = make_job(one.case, options, who.options if who.library == "smart" else ())
    watch = StepWatch(*((1, 2) if options.tiny else (WARM, TIMED)))
    folder = options.scratch / "run"
    with shapes.random_weights(**read(who.loading)), around_steps(watch.micro_batch):
        if who.library == "smart":
            train_ours(job, folder, watch)
        else:
            train_trl(job, folder, watch, read(who.options))
    return watch.result(job, ours=who.library == "smart")


def make_job(case: str, options: Options, overrides: tuple[str, ...]) -> TrainingJob:
    """The training of a case, such as mistral_7b/qlora: conf's own tuning, but for the size of its batches."""
    shape, method = case.split("/")
    model = shapes.model_folder(options.scratch, shape, tiny=options.tiny)
    steps, examples, micro, longest = (WARM + TIMED, EXAMPLES, 8, LONGEST)
    if options.tiny:
        steps, examples, micro, longest = (3, 8, 4, 256)
    rows = options.scratch / f"rows-{longest}-{options.seed}" / "train.parquet"
    if not rows.exists():
        vocabulary = 700 if options.tiny else 30_000
        shapes.write_rows(
            rows, 2 * steps * examples, options.seed, vocabulary=vocabulary, shorter=LONGEST // longest
        )
    common = [
        f"tuning={method}",
        f"batch_size={examples}",
        f"micro_batch_size={micro}",
        f"max_length={longest}",
    ]
    common += [f"max_steps={steps}"] + (["tuning.lora_r=4"] if options.tiny else [])
    return training_job(model, shape, rows, options.scratch, [*common, *overrides], options.seed)


def read(fields: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE as Python values."""
    pairs = (field.split("=", 1) for field in fields)
    return {name: yaml.safe_load(value) for name, value in pairs}


def train_ours(job: TrainingJob, folder: Path, watch: StepWatch) -> None:
    """As train.py does."""
    import shutil

    from smart.training.fit import fit

    shutil.rmtree(folder, ignore_errors=True)
    fit(job, folder, lambda logs, step: watch.step() if "loss" in logs else None)


def train_trl(job: TrainingJob, folder: Path, watch: StepWatch, fields: dict[str, Any]) -> None:
    """TRL's SFTTrainer with its own adapters, on the same model, rows and optimiser."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Tick(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step()

    config, tuning = job.config, job.config.tuning
    train = job.mixture.train
    rows = {"prompt": train["prompt"], "completion": [f" {text}" for text in train["response"].to_pylist()]}
    asked = {
        "output_dir": str(folder),
        "per_device_train_batch_size": config.micro_batch_size,
        "gradient_accumulation_steps": config.batch_size // config.micro_batch_size,
        "max_steps": config.max_steps,
        "learning_rate": config.learning_rate,
        "optim": tuning.optimizer,
        "max_length": job.max_length,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not job.world.gpu,
        "seed": config.seed,
        **fields,
    }
    names = {name.rpartition(".")[2] for name in target_layers(job.base)}
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=tuning.lora_r,
        lora_alpha=tuning.lora_alpha,
        lora_dropout=tuning.lora_dropout,
        target_modules=sorted(names),
    )
    dataset = Dataset.from_dict({name: list(map(str, column)) for name, column in rows.items()})
    SFTTrainer(
        load(job),
        SFTConfig(**asked),
        train_dataset=dataset,
        processing_class=job.tokenizer,
        peft_config=lora,
        callbacks=[Tick()],
    ).train()


def load(job: TrainingJob) -> Any:
    """The base model of a job, on its device."""
    from smart.model import weights_source
    from smart.model.load import load_model

    tuning, device = job.config.tuning, "cuda" if job.world.gpu else "cpu"
    model: Any = load_model(
        job.base,
        weights_source(job.base, job.config.models),
        dtype=tuning.dtype,
        four_bit=tuning.method == "qlora",
        device=device,
    )
    return model if tuning.method == "qlora" else model.to(device)


class StepWatch:
    """Times the steps after the first few, and counts the tokens of theirs.

    Args:
        warm: steps before the clock starts.
        timed: steps after.
        clock: seconds.
    """

    def __init__(self, warm: int, timed: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.warm, self.timed = warm, timed
        self._clock = clock
        self._steps = 0
        self._marks: dict[int, float] = {}
        self._counts: list[tuple[Any, Any, int]] = []

    def micro_batch(self, call: Callable[[], Any], batch: dict[str, Any]) -> Any:
        """Count a micro-batch's tokens, without waiting for the GPU, and run it."""
        if self.warm <= self._steps < self.warm + self.timed:
            ids, mask = batch["input_ids"], batch.get("attention_mask")
            real = ids.numel() if mask is None else mask.sum()
            supervised = batch["targets"].numel() if "targets" in batch else (batch["labels"] != -100).sum()
            self._counts.append((real, supervised, ids.numel()))
        return call()

    def step(self) -> None:
        """A step has ended."""
        import torch

        self._steps += 1
        if self._steps in (self.warm, self.warm + self.timed):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self._marks[self._steps] = self._clock()

    @property
    def seconds(self) -> float:
        return self._marks[self.warm + self.timed] - self._marks[self.warm]

    def result(self, job: TrainingJob, *, ours: bool) -> dict[str, Any]:
        """Rates and memory; ours may have padding without a mask, so its rows say what is real."""
        store = job.train_tokens()
        lengths = np.asarray(store.lengths)
        real, supervised, computed = (sum(float(count[part]) for count in self._counts) for part in range(3))
        if ours:
            size = job.config.batch_size
            rows = job.order(store).stream[self.warm * size : (self.warm + self.timed) * size]
            real, supervised = float(lengths[rows].sum()), float(np.asarray(store.supervised)[rows].sum())
        flops = model_flops(job, real, supervised, lengths)
        peak, planned = peak_memory(), planned_memory(job) if ours and job.world.gpu else None
        best = peak_flops()
        return {
            "tokens_per_second": round(real / self.seconds, 1),
            "supervised_per_second": round(supervised / self.seconds, 1),
            "padding": round(computed / real, 3),
            "mfu": None if best is None else round(flops / self.seconds / best, 4),
            "seconds_per_step": round(self.seconds / self.timed, 4),
            "peak": peak,
            **({} if planned is None else {"planned": planned, "peak_over_plan": round(peak / planned, 3)}),
        }


def model_flops(job: TrainingJob, tokens: float, supervised: float, lengths: np.ndarray) -> float:
    """Operations that a step of adapters on frozen weights needs, whoever makes it and however.

    Forward and backward once, 4 operations a weight and token, since frozen weights need no gradient; the head at
    supervised positions alone; causal attention, 6 · layers · width · length² a row (2 forward, 4 backward), by the
    mean of all rows. Recomputation and padding are not needed, so they lower the share.
    """
    text = job.base.config.get_text_config()
    linear = sum(inputs * outputs for inputs, outputs in job.base.linear_layers.values())
    attention = 6 * text.num_hidden_layers * text.hidden_size * float((lengths**2).sum() / lengths.sum())
    return float((4 * linear + attention) * tokens + 4 * text.hidden_size * text.vocab_size * supervised)


def peak_flops() -> float | None:
    """Of the GPU in bfloat16; None for one that is not in the table."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def peak_memory() -> int:
    """Bytes at most, of the GPU where there is one."""
    from smart.runtime.memory import peak_memory as peak

    return peak()


def planned_memory(job: TrainingJob) -> int:
    """Bytes of tensors that plan=true counts, without its allowances for CUDA and the allocator."""
    demand = Demand.of(job, job.train_tokens())
    return int(demand.memory(asked(job, demand)).tensors)
