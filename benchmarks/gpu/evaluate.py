"""How fast does evaluation answer: documents of MMLU's lengths, and 256 new tokens at 8, 32 and 64 prompts at once.

The model is a 7B shape with random weights and adapters, or --model FOLDER; the documents are random words, or those of
--data FOLDER/mmlu.parquet where a real model is given. lm-eval's own class gets the same requests: its answers must be
the same to the last digit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu import shapes
from benchmarks.gpu.options import Options
from benchmarks.gpu.results import Measurement
from benchmarks.gpu.runner import MissingError
from smart.config import compose, read_config
from smart.runtime.files import atomic_folder
from smart.runtime.gpu import tf32

REPEATS = 3
CONTENDERS: dict[str, tuple[str, ...]] = {
    "4-bit, adapters": ("four_bit=true",),
    "bfloat16, adapters": ("four_bit=false",),
    "bfloat16, merged": ("four_bit=null", "merged=true"),
    "4-bit, adapters in bfloat16": ("four_bit=true", "adapter_dtype=bfloat16"),
    "bfloat16, adapters in bfloat16": ("four_bit=false", "adapter_dtype=bfloat16"),
    "bfloat16, adapters in TF32": ("four_bit=false", "tf32=true"),
}
AT_ONCE = (8, 32, 64)
NEW_TOKENS = 256
DOCUMENTS = 256
NEVER = "\x1e\x1f"
"""A text at which no answer stops."""


def measurements(options: Options) -> list[Measurement]:
    cases = [f"{kind}/{size}" for kind in ("generate", "likelihood") for size in AT_ONCE]
    wanted = [("equality with lm_eval", next(iter(CONTENDERS)))]
    wanted += [(case, name) for case in cases for name in CONTENDERS]
    return [
        Measurement(
            *("evaluate", case, name),
            seconds=10 if options.tiny else 90,
            needs=("lm_eval", "bitsandbytes") if "4-bit" in name else ("lm_eval",),
        )
        for case, name in wanted
    ]


def measure(one: Measurement, options: Options) -> dict[str, Any]:
    import torch

    if one.case.startswith("equality"):
        return compare(*load(CONTENDERS[one.contender], 8, options), options)
    kind, size = one.case.split("/")
    lm, _ = load(CONTENDERS[one.contender], int(size), options)
    new = 8 if options.tiny else NEW_TOKENS
    count = (8 if options.tiny else DOCUMENTS) if kind == "likelihood" else max(int(size), 2 * AT_ONCE[0])
    texts = documents(count, options, seed=options.seed)
    with tf32("tf32=true" in CONTENDERS[one.contender]):
        ask(lm, kind, documents(int(size), options, seed=1), min(8, new))  # libraries set themselves up
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        started = time.perf_counter()
        ask(lm, kind, texts, new)
        seconds = time.perf_counter() - started
    rate = {"documents_per_second": round(count / seconds, 2)}
    if kind == "generate":
        rate["new_tokens_per_second"] = round(count * new / seconds, 1)
    from smart.runtime.memory import peak_memory

    return {**rate, "peak": peak_memory()}


def compare(lm: Any, inner: Any, options: Options) -> dict[str, Any]:
    """Our answers beside lm-eval's own to the same requests."""
    texts = documents(8 if options.tiny else 64, options, seed=options.seed)
    likelihoods = np.array([ask(who, "likelihood", texts, 0) for who in (lm, inner)])[..., 0]
    answers = [ask(who, "generate", texts[:16], 8 if options.tiny else 64) for who in (lm, inner)]
    apart = float(np.abs(likelihoods[0] - likelihoods[1]).max())
    same = answers[0] == answers[1]
    return {"likelihoods_apart": apart, "same_texts": same, "passed": apart == 0 and same}


def ask(lm: Any, kind: str, texts: Sequence[str], new: int) -> list[Any]:
    """Answers of lm-eval's interface: four choices of a letter, or so many new tokens."""
    from lm_eval.api.instance import Instance

    if kind == "likelihood":
        pairs = [(text, f" {letter}") for text in texts for letter in letters(lm)]
        return list(lm.loglikelihood([_instance(Instance, kind, n, pair) for n, pair in enumerate(pairs)]))
    until = {"until": [NEVER], "max_gen_toks": new, "min_new_tokens": new, "do_sample": False}
    return list(
        lm.generate_until([_instance(Instance, kind, n, (text, until)) for n, text in enumerate(texts)])
    )


def _instance(made: Any, kind: str, number: int, arguments: tuple[Any, ...]) -> Any:
    name = {"likelihood": "loglikelihood", "generate": "generate_until"}[kind]
    return made(name, {}, arguments, number, metadata=("kit", number, 1))


def letters(lm: Any) -> Sequence[str]:
    """MMLU's four, or four words of the tokenizer that knows no letters."""
    inner = getattr(lm, "inner", lm)
    known = inner.tokenizer.get_vocab()
    return [shapes.word_of(number) for number in range(3, 7)] if shapes.word_of(3) in known else "ABCD"


def load(overrides: tuple[str, ...], size: int, options: Options) -> tuple[Any, Any]:
    """The model as evaluate.py loads it, with our batches around it and without; no answers are kept."""
    import torch

    from smart.evaluation import EvaluateConfig
    from smart.evaluation.cached_lm import CachedLM
    from smart.evaluation.job import prepare
    from smart.evaluation.model_under_test import load_lm
    from smart.evaluation.scoring import check_device

    folder = options.model or shapes.model_folder(options.scratch, "mistral_7b", tiny=options.tiny)
    words = [f"adapter={adapter_folder(folder, options)}", f"model.name={folder}", "model=mistral_7b"]
    words += ["model.context=null", f"batch_size={size}", f"output_root={options.scratch}", "suite=mmlu"]
    job = prepare(read_config(EvaluateConfig, compose("evaluate", [*words, *overrides])))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_device(job, device)
    with shapes.random_weights():
        inner = load_lm(job.model, job.model.tokenizer(list), options.scratch / "models", device)
    return CachedLM(inner, form=job.model.chat), inner


def adapter_folder(model: Path, options: Options) -> Path:
    """Adapters of conf's size with random values, made from the shapes of the layers."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    from smart.model import ModelOptions, TuningOptions
    from smart.model.base import find_base

    folder = options.scratch / f"adapter-of-{model.name}"
    if folder.exists():
        return folder
    tuning = TuningOptions(lora_r=4 if options.tiny else 64)
    layers = find_base(ModelOptions(str(model))).linear_layers
    generator, weights = torch.Generator().manual_seed(0), {}
    for name, (inputs, outputs) in layers.items():
        for part, shape in (("A", (tuning.lora_r, inputs)), ("B", (outputs, tuning.lora_r))):
            values = 0.02 * torch.randn(shape, generator=generator)
            weights[f"base_model.model.{name}.lora_{part}.weight"] = values
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=tuning.lora_r,
        lora_alpha=tuning.lora_alpha,
        target_modules=sorted({name.rpartition(".")[2] for name in layers}),
        base_model_name_or_path=str(model),
    )
    with atomic_folder(folder) as draft:
        config.save_pretrained(str(draft))
        save_file(weights, draft / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def documents(count: int, options: Options, seed: int) -> list[str]:
    """Questions of MMLU's lengths; its own where the model can read them and the data are there."""
    rng = np.random.default_rng(seed)
    if options.model is not None and options.data is not None:
        return real_documents(options.data, count, rng)
    lengths = json.loads((Path(__file__).parent / "lengths.json").read_text(encoding="utf-8"))["mmlu"]
    chosen = rng.choice(lengths, count) // (8 if options.tiny else 1)
    return [" ".join(map(shapes.word_of, rng.integers(3, 700, length))) for length in chosen]


def real_documents(data: Path, count: int, rng: np.random.Generator) -> list[str]:
    """Questions of the test split, as lm-eval asks them without shots."""
    import pyarrow.parquet as pq

    file = data / "mmlu.parquet"
    if not file.is_file():
        raise MissingError(str(file))
    rows = [row for row in pq.read_table(file).to_pylist() if row["split"] == "test"]
    texts = []
    for number in rng.permutation(len(rows))[:count]:
        row = rows[number]
        subject = row["subject"].replace("_", " ")
        choices = "".join(f"{letter}. {text}\n" for letter, text in zip("ABCD", row["choices"], strict=True))
        head = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
        texts.append(f"{head}{row['question'].strip()}\n{choices}Answer:")
    return texts
