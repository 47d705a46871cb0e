"""Miniature benchmarks, models and adapters, made on the spot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SUBJECTS = ("abstract_algebra", "anatomy")
BBH_TASKS = ("navigate",)
WORDS = ("the of a to and in that is was for it with as his on be at by had not are but from or").split()  # noqa: SIM905


def write_benchmarks(folder: Path, items: int = 6) -> Path:
    """Two subjects of MMLU and two tasks of BBH in the form of their data sets."""
    rng = np.random.default_rng(0)

    def text(low: int, high: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(low, high))).capitalize()

    mmlu = [
        {
            "subject": subject,
            "question": f"{text(4, 20)}?",
            "choices": [text(1, 4) for _ in range(4)],
            "answer": int(rng.integers(4)),
            "split": split,
        }
        for subject in SUBJECTS
        for split, count in (("dev", 5), ("test", items))
        for _ in range(count)
    ]
    bbh = [
        {
            "task": task,
            "input": f"{text(4, 25)} is",
            "target": str(rng.choice(["True", "False", "Yes", "No"])),
        }
        for task in BBH_TASKS
        for _ in range(items)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("mmlu", mmlu), ("bbh", bbh)):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder


def texts() -> list[str]:
    rng = np.random.default_rng(1)
    return [
        " ".join(rng.choice(WORDS, 30)) + " Question: Answer: A B C D True False Q: A:" for _ in range(100)
    ]


CHATML = (
    "{{ bos_token }}{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe on it.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A template with a default system text, whose turns end with a token that is not the end of sequence."""


def save_model(folder: Path, architecture: str = "llama", template: str | None = None) -> Path:
    """A tiny model with weights large enough to tell answers apart, and its tokenizer.

    Args:
        template: of conversations; <|im_start|> and <|im_end|> are tokens then.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from smart.model.tiny import tiny_config, train_tokenizer

    tokenizer = train_tokenizer(architecture, texts())
    if template is not None:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = template
    config = tiny_config(architecture)
    config.vocab_size = len(
        tokenizer
    )  # lm-eval cuts off what a tokenizer does not have, but only under adapters
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_adapter(folder: Path, model: Path, seed: int = 1, std: float = 0.1) -> Path:
    """An adapter that changes the model, or does nothing at std=0."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    torch.manual_seed(seed)
    adapted = get_peft_model(
        base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])
    )
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=std)
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


TASKS = (
    *(f"mmlu_{subject}" for subject in SUBJECTS),
    *(f"bbh_zeroshot_{task}" for task in BBH_TASKS),
)


def make_job(model: Path | None, benchmarks: Path, root: Path, **changes: Any) -> Any:
    """An evaluation on the miniature benchmarks in float32.

    Args:
        root: the folder of artifacts and caches.
    """
    from smart.benchmarks.suites import Suite
    from smart.evaluation.config import EvaluateConfig
    from smart.evaluation.job import prepare
    from smart.model import ModelOptions

    settings: dict[str, Any] = {"dtype": "float32", "batch_size": 4, "suite": Suite("mini", TASKS, shots=0)}
    return prepare(
        EvaluateConfig(
            model=None if model is None else ModelOptions(str(model)),
            benchmark_data=benchmarks,
            output_root=root,
            **settings | changes,
        )
    )


def move(job: Any, root: Path) -> Any:
    """The same evaluation with its caches elsewhere."""
    return replace(job, config=replace(job.config, output_root=root))
