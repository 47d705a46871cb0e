"""How many documents a second does an encoder of gte-large's shape read: through the class that select.py uses."""

from __future__ import annotations

import importlib
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu import shapes
from benchmarks.gpu.options import Options
from benchmarks.gpu.results import Measurement
from smart.runtime.files import atomic_folder

REPEATS = 3
LONGEST = 512


def measurements(options: Options) -> list[Measurement]:
    needs = ("sentence_transformers",)
    return [
        Measurement(
            "encode", "gte_large", f"batch_size={size}", needs=needs, seconds=10 if options.tiny else 60
        )
        for size in (64, 256)
    ]


def measure(one: Measurement, options: Options) -> dict[str, Any]:
    from smart.embedding import SentenceTransformers
    from smart.runtime.memory import peak_memory

    size = int(one.contender.partition("=")[2])
    encoder = SentenceTransformers(str(encoder_folder(options)), max_length=LONGEST, batch_size=size)
    with encoder.open() as session:
        texts = prompts(16 if options.tiny else 8 * session.block, options.seed)
        session.encode(texts[: min(len(texts), session.block)])  # libraries set themselves up
        started = time.perf_counter()
        for first in range(0, len(texts), session.block):
            session.encode(texts[first : first + session.block])
        seconds = time.perf_counter() - started
    words = sum(min(LONGEST, len(text.split())) for text in texts)
    return {
        "documents_per_second": round(len(texts) / seconds, 1),
        "tokens_per_second": round(words / seconds),
        "peak": peak_memory(),
    }


def prompts(count: int, seed: int) -> list[str]:
    """Random words, of the lengths of real prompts."""
    rng, real = np.random.default_rng(seed), shapes.lengths()
    chosen = [real[number][0] for number in rng.integers(0, len(real), count)]
    return [" ".join(map(shapes.word_of, rng.integers(3, 700, length))) for length in chosen]


def encoder_folder(options: Options) -> Path:
    """BERT-large with random weights and the mean of its outputs, as sentence-transformers saves them."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel

    folder = options.scratch / f"encoder{'-tiny' if options.tiny else ''}"
    if folder.exists():
        return folder
    large: dict[str, Any] = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    }
    tiny: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
    }
    config = BertConfig(
        **(tiny if options.tiny else large), vocab_size=30522, max_position_embeddings=LONGEST
    )
    models: Any = importlib.import_module("sentence_transformers.models")
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = BertModel(config)
    with atomic_folder(folder) as draft:
        model.save_pretrained(draft / "bert")
        shapes.word_tokenizer(config.vocab_size).save_pretrained(draft / "bert")
        transformer = models.Transformer(str(draft / "bert"), max_seq_length=LONGEST)
        pooling = models.Pooling(config.hidden_size, pooling_mode="mean")
        SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(draft))
        shutil.rmtree(draft / "bert")
    return folder
