"""A run from its first step, or from its last whole checkpoint, to a folder that others can load."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np

from smart.config import UserError, counted
from smart.model.adapters import add_adapters, begin_with, merge_adapters
from smart.model.base import weights_source
from smart.model.chat import MANIFEST_FIELD, ChatFormat, stop_at, stops_of
from smart.model.kernels import compile_layers, use_kernels
from smart.model.load import load_model
from smart.runtime.files import discard, make_folder, remove, sync, write_atomic
from smart.runtime.logs import log_so_far
from smart.runtime.manifest import (
    INTERRUPTED,
    DamagedError,
    cached_folder,
    is_made,
    read_manifest,
    versions,
    write_manifest,
)
from smart.runtime.memory import peak_memory
from smart.training import checkpoints
from smart.training.card import model_card
from smart.training.fitting import Demand, asked
from smart.training.job import TrainingJob, World, cached_tokens
from smart.training.moments import write_moments
from smart.training.tokens import TokenStore, count_losses, sample_text

if TYPE_CHECKING:
    from smart.training.trainer import SupervisedTrainer

RUN_FILE = "run.json"
"""Beside the checkpoints: what the unfinished run is."""
HISTORY = "history.jsonl"
"""Metrics of every step and evaluation, a line each."""
UNFINISHED = ("tokens", "checkpoints", RUN_FILE)
"""What only an unfinished run needs; it goes in this order, so that a run killed meanwhile is still known as one."""
LOG_FILE = "train.log"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """What a training left: its manifest, and the metrics of its steps."""

    manifest: dict[str, Any]
    history: list[dict[str, float]]
    """Metrics of every step and evaluation."""

    @property
    def interrupted(self) -> bool:
        return bool(self.manifest["status"] == INTERRUPTED)


def fit(
    job: TrainingJob, output: Path, watch: Callable[[dict[str, float], int], None] = lambda logs, step: None
) -> Fitted:
    """Train, on as many processes as call this; resumes by itself what lies in `output`.

    Args:
        output: gets the adapters or weights, the tokenizer, the model card, and last the manifest, which the main
        process writes when the others have returned.
        watch: called with the metrics of each step on the main process.

    Raises:
        UserError: if another run lies in `output`, or the loss is not finite.
    """
    from accelerate import PartialState
    from peft.helpers import disable_input_dtype_casting

    started = time.monotonic()
    state = PartialState(cpu=not job.world.gpu)
    with state.main_process_first():
        if state.is_main_process:
            if job.config.overwrite and not _is_begun(job, output):
                discard(output)
            _claim(job, output)
        store = cached_tokens(job, output / "tokens")
        source = weights_source(job.base, job.config.models)
        resumed = checkpoints.last_whole(output / "checkpoints", job.key)
    if state.is_main_process:
        _tell(job, store)
    trainer, preemption, rehearsal = _make_trainer(job, store, source, output, resumed, watch)
    # Autocast casts what the adapters read; peft's own cast would keep a float32 copy of it for the backward pass.
    autocast = job.config.tuning.dtype == "bfloat16"
    with checkpoints.writing(output):
        casting = disable_input_dtype_casting(trainer.model, active=autocast)
        with preemption.watched(), casting, rehearsal.explained(trainer.args.device):
            _run(trainer, resumed)
        interrupted = trainer.state.global_step < trainer.state.max_steps
        if not interrupted:
            _check_learnt(trainer)
            _save(job, trainer, output)
    history = trainer.state.log_history
    manifest = _manifest(job, store, trainer, interrupted, resumed)
    manifest |= {"choices": job.config.choices, "seconds": round(time.monotonic() - started, 2)}
    state.wait_for_everyone()  # the others are done here: none waits, with a timeout, while this one merges
    if state.is_main_process:
        if not interrupted and job.config.merge:
            manifest["merged"] = _merge(job, source, output)
        manifest = _finish(output, manifest, history)
    return Fitted(manifest, history)


def _tell(job: TrainingJob, store: TokenStore) -> None:
    for task, lost in count_losses(job.mixture.train, store).items():
        dropped = counted(lost["dropped"], "row")
        cut = counted(lost["cut"], "prompt" if job.form is None else "conversation")
        log.info("%s: %s dropped, %s cut to %s", task, dropped, cut, counted(job.max_length, "token"))
    if spelt := int(store.control.sum()):
        log.warning(
            "Control tokens, such as %s, are spelt in the text of %s of %s; they are read as those tokens, as lm-eval"
            " reads them.",
            job.tokenizer.eos_token,
            f"{spelt:,}",
            counted(len(store), "row"),
        )
    if job.form is not None:
        _tell_form(job.form, job, store)
    log.info("%s", sample_text(job.tokenizer, store))


def _tell_form(form: ChatFormat, job: TrainingJob, store: TokenStore) -> None:
    if store.split:
        log.info(
            "The template writes earlier turns otherwise than the last, so %s of %s are a row for each answer.",
            f"{store.split:,}",
            counted(len(np.unique(store.source)), "conversation"),
        )
    if marks := form.other_marks(job.tokenizer):
        log.info("%s", marks)


def _finish(output: Path, manifest: dict[str, Any], history: list[dict[str, float]]) -> dict[str, Any]:
    """Write what goes beside the weights, then the manifest, and remove what only an unfinished run needs."""
    write_atomic(output / LOG_FILE, log_so_far())
    if manifest["status"] == INTERRUPTED:
        return write_manifest(output, {**manifest, "files": {}})
    # The Trainer's own summary is of the last session alone, and what a checkpoint kept has its keys in order.
    lines = [json.dumps(entry, sort_keys=True) for entry in history if "train_runtime" not in entry]
    write_atomic(output / HISTORY, "".join(f"{line}\n" for line in lines))
    write_atomic(output / "README.md", model_card(manifest))
    written = write_manifest(output, manifest, besides=UNFINISHED)
    tidy(output)
    return written


def tidy(output: Path) -> None:
    """Remove what a finished run no longer needs, also where it was killed before it had."""
    for name in UNFINISHED:
        remove(output / name)
    sync(output)


def _is_begun(job: TrainingJob, output: Path) -> bool:
    """Whether this very run is under way in a folder, so that it has replaced already what was there."""
    return (output / RUN_FILE).exists() and not _has_ended(output) and _unfinished(output) == _identity(job)


def _identity(job: TrainingJob) -> dict[str, Any]:
    """What run.json says."""
    inputs = dict(zip(("mixture", "base", "adapter"), job.inputs, strict=False))
    found: dict[str, Any] = json.loads(json.dumps({"inputs": inputs, **job.deciding, "key": job.key}))
    return found


def _unfinished(output: Path) -> dict[str, Any] | None:
    """What run.json says; None where it cannot be read."""
    try:
        found = json.loads((output / RUN_FILE).read_bytes())
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _claim(job: TrainingJob, output: Path) -> None:
    """Begin or go on in a folder, unless it holds another run."""
    mine = _identity(job)
    if not (output / RUN_FILE).exists():
        make_folder(output)
        write_atomic(output / RUN_FILE, json.dumps(mine, indent=2) + "\n")
        return
    found = _unfinished(output)
    if found is None:
        raise UserError(
            f"{output / RUN_FILE}: is damaged, so nobody knows which run is unfinished here",
            "start anew with overwrite=true, or name another folder",
        )
    before, now = _flat(found), _flat(mine)
    changed = [key for key in sorted(before | now) if before.get(key) != now.get(key)]
    if changed:
        options = [key for key in changed if key != "key"]
        listed = "; ".join(f"{key}: was {before.get(key)}, is {now.get(key)}" for key in options)
        listed = listed or "the same options, of another version of smart"
        raise UserError(
            f"output={output}: holds the unfinished run of another configuration ({listed}). Go on with that"
            " one, name another folder, or start anew with overwrite=true"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _make_trainer(
    job: TrainingJob, store: TokenStore, source: str, output: Path, resumed: Path | None, watch: Any
) -> tuple[Any, Any, Any]:
    from transformers import set_seed

    from smart.model.attention import prepare_attention
    from smart.training.callbacks import PrecisionCallback, PreemptionCallback
    from smart.training.loss import check_packing
    from smart.training.rehearsal import Rehearsal, RehearsalCallback
    from smart.training.trainer import make_arguments

    order = job.order(store)
    demand = Demand.of(job, store)
    setup = asked(job, demand)
    arguments = make_arguments(job.config, order, output / "checkpoints", recompute=setup.recompute)
    set_seed(job.config.seed)
    full = job.config.tuning.method == "full"
    model: Any = load_model(
        job.base,
        source,
        dtype="float32" if full else job.config.tuning.dtype,
        four_bit=job.config.tuning.method == "qlora",
        device=arguments.device,
        sharded=job.world.sharded,
    )
    if job.config.tuning.kernels is not None:
        use_kernels(model, job.config.tuning.kernels)
    prepare_attention(model, job.config.packing)
    if job.config.packing:
        check_packing(model, job.config.tuning.dtype)
    if not full:
        model = add_adapters(job.base, model, job.config.tuning, job.config.seed)
        if job.start is not None:
            begin_with(model, job.start)
    if job.config.tuning.compile:
        _compile(job, model)
    validation = job.validation_tokens()
    arguments.eval_on_start = bool(validation) and resumed is None
    trainer = _trainer_class(job.world)(
        model,
        arguments,
        job.tokenizer,
        store,
        order,
        validation,
        eval_steps=job.config.eval_steps,
        keep_checkpoints=job.config.keep_checkpoints,
        key=job.key,
        watch=watch,
    )
    preemption = PreemptionCallback()
    trainer.add_callback(preemption)
    trainer.add_callback(PrecisionCallback())
    rehearsal = Rehearsal(order, demand, setup)
    trainer.add_callback(RehearsalCallback(rehearsal, trainer))
    return trainer, preemption, rehearsal


def _compile(job: TrainingJob, model: Any) -> None:
    base = model if job.config.tuning.method == "full" else model.get_base_model()
    if not compile_layers(base):
        raise UserError(
            f"tuning.compile=true: {base.config.model_type} does not say which of its layers repeat; leave it false"
        )


def _trainer_class(world: World) -> type[SupervisedTrainer]:
    if world.sharded:
        from smart.training.sharding import ShardedTrainer

        return ShardedTrainer
    from smart.training.trainer import SupervisedTrainer

    return SupervisedTrainer


def _run(trainer: Any, resumed: Path | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    except UnpicklingError as error:
        raise UserError(
            f"{resumed}: holds more than tensors, and what it holds could run code, so it is not read; remove this"
            " folder to go on from the checkpoint before"
        ) from error


def _check_learnt(trainer: Any) -> None:
    """Adapters begin as nothing at all, and must not end so."""
    begun_at_zero = [weight for name, weight in trainer.model.named_parameters() if "lora_B" in name]
    if begun_at_zero and not any(map(trainer.has_moved, begun_at_zero)):
        raise UserError(
            f"the adapters are as they began after {counted(trainer.state.global_step, 'step')}, so nothing was"
            " learnt: raise learning_rate"
        )


def _save(job: TrainingJob, trainer: Any, output: Path) -> None:
    import torch
    from transformers import GenerationConfig

    model = trainer.accelerator.unwrap_model(trainer.model)
    full = job.config.tuning.method == "full"
    for ours, theirs in zip(_configs(model.config), _configs(job.base.config), strict=True):
        if hasattr(theirs, "use_cache"):
            ours.use_cache = theirs.use_cache  # the Trainer has turned it off
    stop_at(model.generation_config, _stop_ids(job))
    trainer.save_finished(output, getattr(torch, job.config.tuning.dtype) if full else None)
    if job.config.keep_moments:
        write_moments(
            output,
            trainer.model,
            trainer.optimizer,
            trainer.state.global_step,
            trainer.is_world_process_zero(),
        )
    if trainer.is_world_process_zero():
        if not full:
            ends = {
                f"{name}_token_id": getattr(job.tokenizer, f"{name}_token_id")
                for name in ("bos", "eos", "pad")
            }
            generation = GenerationConfig(**ends)
            if job.form is not None:  # the base may stop at more, such as at the end of a call
                stop_at(generation, stops_of(model.generation_config))
            generation.save_pretrained(output)
        (output / "training_args.bin").unlink()  # a pickle, of what the manifest says in text


def _stop_ids(job: TrainingJob) -> list[int]:
    """At which generation stops, beside what stops it already."""
    return [] if job.form is None else job.form.stop_ids()


def _configs(config: Any) -> tuple[Any, Any]:
    return config, config.get_text_config()


def merge(job: TrainingJob, output: Path) -> None:
    """Merge the adapters of a finished run that has not been merged yet, or whose merged model is damaged.

    Args:
        output: the run's folder, whose lock is held; gets the folder `merged`, and a manifest that says so.
    """
    manifest = read_manifest(output) or {}
    merged = _merge(job, weights_source(job.base, job.config.models), output)
    if manifest.get("merged") != merged:
        write_manifest(output, {**manifest, "merged": merged})


def _merge(job: TrainingJob, source: str, output: Path) -> dict[str, Any]:
    """Merge into the folder `merged`, which has a manifest of its own, unless that is done."""

    def make(draft: Path) -> dict[str, Any]:
        difference = merge_adapters(
            job.base, source, output, draft, job.config.tuning.dtype, stop_ids=_stop_ids(job)
        )
        return {**_origin(job), "logit_difference": difference, "dtype": job.config.tuning.dtype}

    cached_folder(output / "merged", "model", job.key, make)
    said = read_manifest(output / "merged") or {}
    return {"folder": "merged", **{name: said.get(name) for name in ("dtype", "logit_difference")}}


def _origin(job: TrainingJob) -> dict[str, Any]:
    """What the weights were made from."""
    start = {} if job.start is None else {"adapter": {"path": str(job.start.folder), "key": job.start.key}}
    return {
        "inputs": job.inputs,
        **start,
        "base": {"name": job.config.model.name, "revision": job.config.model.revision, "key": job.base.key},
        "mixture": {
            "name": job.mixture.name,
            "key": job.mixture.key,
            "config": job.mixture.manifest.get("config", {}),
            "choices": job.mixture.manifest.get("choices", {}),
        },
        "config": job.deciding,
        MANIFEST_FIELD: {"kind": "plain"} if job.form is None else job.form.to_manifest(),
    }


def _manifest(
    job: TrainingJob, store: TokenStore, trainer: Any, interrupted: bool, resumed: Path | None
) -> dict[str, Any]:
    state = trainer.state
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    evaluations = [
        {key: value for key, value in entry.items() if key == "step" or key.startswith("eval_loss")}
        for entry in state.log_history
        if "eval_loss" in entry
    ]
    learnt = trainer.order.stream[: state.global_step * job.config.batch_size]
    conversations = {"conversations": len(np.unique(store.source)), "turns": int(store.turns[learnt].sum())}
    turns = {} if job.form is None else conversations
    return {
        "kind": "adapter" if job.config.tuning.method != "full" else "model",
        "status": INTERRUPTED if interrupted else "finished",
        "key": job.key,
        **_origin(job),
        "counts": {
            "rows": len(store),
            **turns,
            "examples": len(learnt),
            "steps": state.global_step,
            "tokens": int(store.lengths[learnt].sum()),
            "supervised_tokens": int(store.supervised[learnt].sum()),
            "rows_with_control_tokens": int(store.control.sum()),
            "trainable": sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad),
        },
        "drops": count_losses(job.mixture.train, store),
        "losses": {"first": losses[0] if losses else None, "last": losses[-1] if losses else None},
        "evaluations": evaluations,
        "processes": job.world.size,
        "resumed_from_step": None if resumed is None else checkpoints.step_of(resumed),
        "peak_memory": peak_memory(),
        "versions": versions("torch", "transformers", "peft", "accelerate", "bitsandbytes"),
    }


def is_finished(output: Path, key: str, overwrite: bool = False) -> bool:
    """True if this exact run has already finished; False for an unfinished one, which `fit` resumes.

    Raises:
        UserError: where something else does, unless it may be overwritten.
    """
    if (output / RUN_FILE).exists() and not _has_ended(output):
        return False
    return is_made(output, key, "run", overwrite)


def _has_ended(output: Path) -> bool:
    try:
        manifest = read_manifest(output)
    except DamagedError:
        return False  # of an interrupted run, which goes on
    return manifest is not None and manifest.get("status") != INTERRUPTED
