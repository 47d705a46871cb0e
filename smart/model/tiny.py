"""Tiny models of three architectures for tests: random weights, and a tokenizer trained on the rows at hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

VOCABULARY = 768
ARCHITECTURES = ("llama", "falcon", "mistral")
CONTEXT = 2048
"""Tokens: the trained context that the tiny models claim."""


def tiny_config(architecture: str) -> PretrainedConfig:
    """Two layers of width 64, shaped like the 7B model of the architecture (Mistral with grouped queries)."""
    from transformers import FalconConfig, LlamaConfig, MistralConfig

    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
    }
    special: dict[str, Any]
    if architecture == "falcon":
        special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
        return FalconConfig(
            **common, **special, new_decoder_architecture=False, multi_query=True, alibi=False
        )
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    if architecture == "mistral":
        return MistralConfig(
            **common, **special, intermediate_size=128, num_key_value_heads=2, sliding_window=None
        )
    return LlamaConfig(**common, **special, intermediate_size=128)


def train_tokenizer(architecture: str, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """A tokenizer of the architecture's kind, trained on the texts; the same texts give the same tokenizer.

    llama and mistral: byte-pair encoding of whole sentences with byte fallback, which begin with `<s>`; the
    two ways in which published tokenizers put a space before a text. falcon: byte-level pairs, no beginning.
    """
    from transformers import PreTrainedTokenizerFast

    if architecture == "falcon":
        trained, special = _byte_level(texts), {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    else:
        trained = _sentence_pieces(texts, by_normalizer=architecture == "mistral")
        special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=trained, name_or_path=f"tiny_{architecture}", **special)


def _byte_level(texts: Iterable[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation(behavior="contiguous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            pre_tokenizers.Digits(),
            pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _sentence_pieces(texts: Iterable[str], by_normalizer: bool) -> Tokenizer:
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    # A fixed alphabet: among characters that are equally rare, the trainer would choose differently each
    # time.
    alphabet = ["▁", *(chr(code) for code in range(ord("!"), ord("~") + 1))]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 256,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    learnt = json.loads(learner.to_str())["model"]
    pieces = learnt["vocab"] | {f"<0x{byte:02X}>": len(learnt["vocab"]) + byte for byte in range(256)}
    merges = [tuple(merge) for merge in learnt["merges"]]
    # Pieces are learnt word by word, but applied to the whole text.
    tokenizer = Tokenizer(models.BPE(pieces, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if by_normalizer:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer
