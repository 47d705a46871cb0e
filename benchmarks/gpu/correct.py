"""Does a GPU compute what a CPU computes? Two layers at full width, through the code that trains.

- gradients: loss and gradients of a step against float32 on the CPU: in float32 and bfloat16, padded without a mask and
  with one, packed;
- four_bit: the gradients of a 4-bit model are the same, to the bit, before and after an evaluation;
- attention: which kernels computed it, by the profiler;
- resume: killed after a step and resumed, a run leaves the bytes of one that was not;
- launch: one process under each launch file of conf/accelerate.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from benchmarks.gpu import shapes
from benchmarks.gpu.jobs import around_steps, before_training, training_job
from benchmarks.gpu.options import Options
from benchmarks.gpu.results import Measurement
from benchmarks.gpu.runner import MissingError
from smart.config import UserError, conf_dir
from smart.runtime.files import atomic_folder
from smart.training.job import TrainingJob

if TYPE_CHECKING:
    import torch

REPEATS = 1
LAYERS = 2
EXACT = ("tuning.dtype=float32",)
VARIANTS = {
    "float32": EXACT,
    "float32 with a mask": EXACT,
    "float32 packed": (*EXACT, "packing=true"),
    "bfloat16": (),
    "bfloat16 packed": ("packing=true",),
}
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}
"""Of the gradients' length."""

INNER = "inner.json"
"""How a measurement inside a measurement ended."""

Gradients = dict[str, "torch.Tensor"]


class Killed(BaseException):
    """Ends a training as a kill does: nothing is written after it."""


def measurements(options: Options) -> list[Measurement]:
    short = 10.0 if options.tiny else 60.0
    cases = ["launch/ddp"] if options.tiny else [f"launch/{name}" for name in launch_files()]
    shown = [
        *(f"gradients/{shape}" for shape in shapes.SHAPES),
        *(f"attention/{shape}" for shape in shapes.SHAPES),
        *(f"four_bit/{shape}" for shape in shapes.SHAPES),
        "resume/mistral_7b",
        *cases,
    ]
    in_4_bits = ("four_bit", "resume", "launch")
    return [
        Measurement(
            *("correct", case),
            seconds=3 * short if "gradients" in case else short,
            needs=("bitsandbytes",) if case.startswith(in_4_bits) else (),
        )
        for case in shown
    ]


def launch_files() -> list[str]:
    return sorted(file.stem for file in (conf_dir() / "accelerate").glob("*.yaml"))


def measure(one: Measurement, options: Options) -> dict[str, Any]:
    check, shape = one.case.split("/")
    checks: dict[str, Callable[[str, Options], dict[str, Any]]] = {
        "gradients": compare_gradients,
        "reference": make_reference,
        "attention": attention_kernels,
        "four_bit": four_bit_after_evaluation,
        "resume": kill_and_resume,
        "killed": train_until_killed,
        "launch": launch,
    }
    return checks[check](shape, options)


def make_job(
    shape: str, options: Options, overrides: tuple[str, ...], *, validation: bool = False
) -> TrainingJob:
    """A few short steps of LoRA without dropout, so that only rounding may differ."""
    model = saved_model(shape, options)
    common = [
        "tuning=lora",
        "tuning.lora_r=8",
        "tuning.lora_dropout=0.0",
        "tuning.checkpoint_activations=false",
    ]
    common += [
        "tuning.max_grad_norm=0",
        "batch_size=8",
        "micro_batch_size=4",
        "max_steps=1",
        "max_length=512",
    ]
    rows = write_mixture(options, validation=validation)
    return training_job(model, shape, rows, options.scratch, [*common, *overrides], options.seed)


def write_mixture(options: Options, *, validation: bool) -> Path:
    folder = options.scratch / f"short{'-validated' if validation else ''}-{options.seed}"
    if not folder.exists():
        shapes.write_rows(folder / "train.parquet", 64, options.seed, vocabulary=700, shorter=2)
        if validation:
            shapes.write_rows(folder / "validation.parquet", 8, options.seed + 1, vocabulary=700, shorter=2)
    return folder


def compare_gradients(shape: str, options: Options) -> dict[str, Any]:
    """Every variant's distance from the CPU's float32: of the loss, relative, and of the gradients, of their length."""
    import torch

    loss, reference = torch.load(reference_file(shape, options), weights_only=True)
    found: dict[str, Any] = {}
    for name, overrides in VARIANTS.items():
        try:
            own_loss, own = step(
                make_job(shape, options, overrides), options.scratch / "run", masked="with a mask" in name
            )
        except UserError as error:
            found[name] = {"refused": str(error).splitlines()[0]}
            continue
        distance = distance_of(own, reference)
        bound = TOLERANCES[name.split()[0]]
        found[name] = {
            "loss": abs(own_loss - loss) / loss,
            "gradients": distance,
            "passed": bool(distance <= bound and abs(own_loss - loss) <= bound * loss),
        }
    return found


def reference_file(shape: str, options: Options) -> Path:
    """Loss and gradients of float32 on the CPU; made in a process that sees no GPU, where this one does."""
    import torch

    file = options.scratch / f"reference-{shape}-{options.seed}.pt"
    if file.exists():
        return file
    if options.here or not torch.cuda.is_available():
        make_reference(shape, options)
    else:
        code = again(f"reference/{shape}", options, {"CUDA_VISIBLE_DEVICES": ""})
        if not file.exists():
            said = options.scratch / INNER
            raise RuntimeError(
                f"no reference (exit code {code}): {said.read_text() if said.exists() else ''}"
            )
    return file


def make_reference(shape: str, options: Options) -> dict[str, Any]:
    import torch

    found = step(make_job(shape, options, EXACT), options.scratch / "reference-run")
    file = options.scratch / f"reference-{shape}-{options.seed}.pt"
    torch.save(found, file.with_suffix(".part"))
    file.with_suffix(".part").replace(file)
    return {}


def again(case: str, options: Options, environment: dict[str, str]) -> int:
    """Measure a case of this part in another process; returns its exit code."""
    command = [sys.executable, "-m", "benchmarks.gpu", "correct", *(["--tiny"] if options.tiny else [])]
    command += ["--scratch", str(options.scratch), "--seed", str(options.seed)]
    command += ["--child", case, "smart", "0", "--answer", str(options.scratch / INNER)]
    return subprocess.run(command, env={**os.environ, **environment}).returncode


def step(job: TrainingJob, folder: Path, *, masked: bool = False) -> tuple[float, Gradients]:
    """Loss and gradients of a run's first step, of adapters that begin at random and not as nothing.

    Args:
        masked: tell the model which tokens are padding; right-padded rows need no mask.
    """
    from smart.training.fit import fit

    gradients: Gradients = {}
    losses: list[float] = []

    def prepare(trainer: Any) -> None:
        disturb(trainer.model)
        trainer.add_callback(_watcher(gradients))
        if masked:
            pad = job.tokenizer.pad_token_id
            trainer.model.register_forward_pre_hook(
                lambda _, words, named: (words, mask_padding(named, pad)), with_kwargs=True
            )

    shutil.rmtree(folder, ignore_errors=True)
    with before_training(prepare):
        fit(job, folder, lambda logs, step: losses.append(logs["loss"]) if "loss" in logs else None)
    return losses[0], gradients


def disturb(model: Any) -> None:
    """Give B of each adapter the same random values everywhere: it begins at zero, where A has no gradient."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if "lora_B" in name:
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))


def _watcher(gradients: Gradients) -> Any:
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, model: Any = None, **__: Any) -> None:
            for name, weight in model.named_parameters():
                if weight.grad is not None and name not in gradients:
                    gradients[name] = weight.grad.detach().float().cpu().clone()

    return Watcher()


def mask_padding(batch: dict[str, Any], pad: int) -> dict[str, Any]:
    """The arguments of a model with a mask of right-padded rows, whose last token is a padding token itself."""
    import torch

    ids = batch["input_ids"]
    places = torch.arange(ids.shape[1], device=ids.device)
    last = torch.where(ids == pad, 0, places).amax(1) + 1
    return {**batch, "attention_mask": (places[None] <= last[:, None]).long()}


def distance_of(own: Gradients, reference: Gradients) -> float:
    """Length of the difference of all gradients, as a share of the reference's length."""
    if set(own) != set(reference):
        raise ValueError(f"gradients of {len(own)} weights, not of {len(reference)}")
    between = sum(float((own[name] - reference[name]).double().pow(2).sum()) for name in reference)
    whole = sum(float(reference[name].double().pow(2).sum()) for name in reference)
    return float((between / whole) ** 0.5)


def four_bit_after_evaluation(shape: str, options: Options) -> dict[str, Any]:
    """An evaluation before the first step must leave its gradients as they are."""
    runs = [
        step(make_job(shape, options, ("tuning=qlora",), validation=validation), options.scratch / "run")
        for validation in (False, True)
    ]
    (loss, before), (loss_after, after) = runs
    return {
        "loss": abs(loss - loss_after) / loss,
        "gradients": distance_of(after, before),
        "passed": loss == loss_after and distance_of(after, before) == 0,
    }


def attention_kernels(shape: str, options: Options) -> dict[str, Any]:
    """Names of the operations and kernels that compute attention in a step, padded and packed."""
    found: dict[str, Any] = {}
    for name, overrides in (("padded", ()), ("packed", ("packing=true",))):
        try:
            names = profiled(make_job(shape, options, overrides), options.scratch / "run")
        except UserError as error:
            found[name] = {"refused": str(error).splitlines()[0]}
            continue
        marks = ("attention", "attn", "flash", "fmha", "mha")
        shown = sorted(one for one in names if any(mark in one.lower() for mark in marks))
        found[name] = {"fused": is_fused(shown), "kernels": [one[:100] for one in shown][:8]}
    return found


def is_fused(names: list[str]) -> bool:
    """True if none of the operations is plain attention, which keeps the matrix of all pairs."""
    joined = " ".join(names).lower()
    return any(mark in joined for mark in ("flash", "efficient", "cudnn", "fmha", "varlen")) and (
        "_scaled_dot_product_attention_math" not in joined
    )


def profiled(job: TrainingJob, folder: Path) -> set[str]:
    """Names of everything that the first micro-batch runs, backward pass included."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from smart.training.fit import fit

    names: set[str] = set()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]

    def watch(call: Callable[[], Any], batch: dict[str, Any]) -> Any:
        if names:
            return call()
        with profile(activities=activities) as recorded:
            result = call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
        names.update(str(event.name) for event in recorded.events() or [])
        return result

    shutil.rmtree(folder, ignore_errors=True)
    with around_steps(watch):
        fit(job, folder)
    return names


LONG = ("max_steps=6", "save_steps=2", "tuning=qlora", "tuning.lora_dropout=0.1")
KILLED_AFTER = 5


def kill_and_resume(shape: str, options: Options) -> dict[str, Any]:
    """Killed between two checkpoints, the run must end as one that was never killed: the same bytes and losses."""
    killed, whole = options.scratch / "killed", options.scratch / "whole"
    for folder in (killed, whole):
        shutil.rmtree(folder, ignore_errors=True)
    if options.here:
        try:
            train_until_killed(shape, options)
        except Killed:
            code = -signal.SIGKILL
    else:
        code = again(f"killed/{shape}", options, {})
    if code != -signal.SIGKILL or not list((killed / "checkpoints").glob("checkpoint-*")):
        raise RuntimeError(f"the run was not killed after a checkpoint (exit code {code})")
    losses = [_losses(make_job(shape, options, LONG), folder) for folder in (killed, whole)]
    same = [(folder / "adapter_model.safetensors").read_bytes() for folder in (killed, whole)]
    apart = max(abs(one - other) for one, other in zip(*losses, strict=True))
    return {
        "same_bytes": same[0] == same[1],
        "losses_apart": apart,
        "passed": same[0] == same[1] and apart == 0,
    }


def _losses(job: TrainingJob, folder: Path) -> list[float]:
    from smart.training.fit import fit

    return [entry["loss"] for entry in fit(job, folder).history if "loss" in entry]


def train_until_killed(shape: str, options: Options) -> dict[str, Any]:
    """Train, and die after a few steps."""
    from smart.training.fit import fit

    def watch(logs: dict[str, float], step: int) -> None:
        if "loss" in logs and step == KILLED_AFTER:
            if options.here:
                raise Killed
            os.kill(os.getpid(), signal.SIGKILL)

    fit(make_job(shape, options, LONG), options.scratch / "killed", watch)
    raise RuntimeError("the run went on to its end")


def launch(name: str, options: Options) -> dict[str, Any]:
    """train.py in one process under a launch file, by NCCL on a GPU and by gloo elsewhere."""
    model = saved_model("llama2_7b", options)
    output = options.scratch / f"launched-{name}"
    shutil.rmtree(output, ignore_errors=True)
    words = [f"mixture={write_mixture(options, validation=False)}", f"model.name={model}", "model=llama2_7b"]
    words += [
        "model.gguf_package=null",
        "model.context=null",
        "max_length=512",
        "max_steps=3",
        "batch_size=4",
    ]
    words += ["micro_batch_size=2", "tuning.lora_r=8", "tracker=none", f"output={output}"]
    words += [f"output_root={options.scratch}", *(["tuning.dtype=float32"] if options.tiny else [])]
    if options.tiny:
        launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node=1"]
    else:
        config = conf_dir() / "accelerate" / f"{name}.yaml"
        launcher = ["accelerate.commands.launch", f"--config_file={config}", "--num_processes=1"]
    command = [sys.executable, "-m", *launcher, "-m", "smart.cli.train", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not (output / "manifest.json").exists():
        raise RuntimeError(f"exit code {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    losses = yaml.safe_load((output / "manifest.json").read_text())["losses"]
    return {"first_loss": losses["first"], "last_loss": losses["last"], "passed": True}


def saved_model(shape: str, options: Options) -> Path:
    """A model of two layers with its weights in files, so that CPU, GPU and every process read the same."""
    import torch
    from transformers import AutoModelForCausalLM

    plain = shapes.model_folder(options.scratch, shape, layers=LAYERS, tiny=options.tiny)
    folder = plain.with_name(f"{plain.name}-saved")
    if not folder.exists():
        if shutil.disk_usage(options.scratch).free < 4e9:
            raise MissingError("4 GB of free disk for a model's files")
        with shapes.random_weights(), atomic_folder(folder) as draft:
            model = AutoModelForCausalLM.from_pretrained(str(plain), dtype=torch.bfloat16)
            model.save_pretrained(draft)
            for file in plain.glob("*token*"):
                shutil.copy(file, draft)
    return folder
