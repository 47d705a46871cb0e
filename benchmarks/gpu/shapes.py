"""Models of real shapes with random weights: a folder without weights, which are made as they are loaded.

SMART loads them as it loads any other model: all that is replaced is where transformers gets a tensor from.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from smart.runtime.files import atomic_folder

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

SHAPES = ("mistral_7b", "llama2_7b", "falcon_7b")
"""As conf/model names them, the most important first."""
SPREAD = 0.02
"""Standard deviation of random weights, as models begin."""


def config_of(shape: str, *, layers: int | None = None, tiny: bool = False) -> PretrainedConfig:
    """A published model's configuration.

    Args:
        layers: that many layers instead of its own, at full width.
    """
    from transformers import FalconConfig, LlamaConfig, MistralConfig

    from smart.model.tiny import tiny_config

    if tiny:
        return tiny_config(shape.partition("_")[0].rstrip("2"))
    common: dict[str, Any] = {"num_hidden_layers": layers or 32, "tie_word_embeddings": False}
    llama: dict[str, Any] = {
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "vocab_size": 32000,
        "rms_norm_eps": 1e-5,
    }
    if shape == "llama2_7b":
        return LlamaConfig(**common, **llama, intermediate_size=11008, max_position_embeddings=4096)
    if shape == "mistral_7b":
        return MistralConfig(
            **common,
            **llama,
            intermediate_size=14336,
            num_key_value_heads=8,
            max_position_embeddings=32768,
            sliding_window=4096,
        )
    assert shape == "falcon_7b"
    return FalconConfig(
        num_hidden_layers=layers or 32,
        hidden_size=4544,
        num_attention_heads=71,
        vocab_size=65024,
        multi_query=True,
        parallel_attn=True,
        new_decoder_architecture=False,
        bias=False,
        alibi=False,
        bos_token_id=2,
        eos_token_id=2,
        max_position_embeddings=2048,
    )


def model_folder(scratch: Path, shape: str, *, layers: int | None = None, tiny: bool = False) -> Path:
    """A folder with the configuration and a tokenizer, in which word number n is token n; without weights."""
    folder = scratch / f"{shape}{'' if layers is None else f'-{layers}'}{'-tiny' if tiny else ''}"
    if folder.exists():
        return folder
    config = config_of(shape, layers=layers, tiny=tiny)
    with atomic_folder(folder) as draft:
        config.architectures = [_class_of(config).__name__]
        config.save_pretrained(draft)
        word_tokenizer(config.vocab_size).save_pretrained(draft)
    return folder


def word_tokenizer(vocabulary: int) -> Any:
    """A tokenizer with a token for each of the words w3, w4, …; no beginning, and </s> at the end."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>"]
    words = {word: number for number, word in enumerate([*special, *map(word_of, range(3, vocabulary))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="</s>"
    )


def word_of(token: int) -> str:
    return f"w{token}"


class RandomWeight:
    """Stands for a tensor of a file: made on the device when it is asked for, the same every time."""

    def __init__(self, name: str, weight: torch.Tensor, device: str) -> None:
        self.shape, self.dtype = weight.shape, weight.dtype
        self._name, self._device = name, device

    def get_shape(self) -> list[int]:
        return list(self.shape)

    def __getitem__(self, _: object) -> torch.Tensor:
        """Values of bfloat16, so that they are the same in float32."""
        import torch

        if len(self.shape) == 1:  # of a norm
            made = torch.zeros if self._name.endswith("bias") else torch.ones
            return made(self.shape, dtype=torch.bfloat16, device=self._device)
        generator = torch.Generator(self._device).manual_seed(zlib.crc32(self._name.encode()))
        weight = torch.empty(self.shape, dtype=torch.bfloat16, device=self._device)
        return weight.normal_(0, SPREAD, generator=generator)


@contextlib.contextmanager
def random_weights(device: str | None = None, **besides: Any) -> Iterator[None]:
    """Inside, folders without weights load with random ones.

    Args:
        device: where they are made, layer by layer; None: on the GPU, where there is one. GPUs make other numbers than
            CPUs, so what is compared with a CPU is made on one.
        besides: more options of from_pretrained, such as use_kernels.
    """
    import torch
    from transformers import AutoModelForCausalLM

    made_on = device or ("cuda" if torch.cuda.is_available() else "cpu")
    plain = AutoModelForCausalLM.from_pretrained

    def from_pretrained(source: str, **options: Any) -> Any:
        if any(Path(source).glob("*.safetensors")):
            return plain(source, **options, **besides)
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(source)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config)
        weights = {name: RandomWeight(name, weight, made_on) for name, weight in skeleton.named_parameters()}
        options.pop("revision", None)
        loaded = _class_of(config).from_pretrained(
            None, config=config, state_dict=weights, **options, **besides
        )
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.config.name_or_path = model.name_or_path = str(source)
        return loaded

    with patch.object(AutoModelForCausalLM, "from_pretrained", from_pretrained):
        yield


def _class_of(config: PretrainedConfig) -> Any:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def lengths() -> list[tuple[int, int]]:
    """Tokens of prompt and response of 512 real rows, from short to long."""
    rows = json.loads((Path(__file__).parent / "lengths.json").read_text(encoding="utf-8"))["rows"]
    return [(int(prompt), int(response)) for prompt, response in rows]


def write_rows(file: Path, rows: int, seed: int, *, vocabulary: int, shorter: int = 1) -> Path:
    """Rows of random words with real lengths, as a file that train.py takes.

    Args:
        shorter: divides the lengths, for tests.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, real = np.random.default_rng(seed), lengths()

    def text(words: int) -> str:
        return " ".join(map(word_of, rng.integers(3, vocabulary, max(1, words))))

    # The end of sequence is one of a response's tokens.
    pairs = [real[number] for number in rng.integers(0, len(real), rows)]
    table = {
        "prompt": [text(prompt // shorter) for prompt, _ in pairs],
        "response": [text((response - 1) // shorter) for _, response in pairs],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), file)
    return file
