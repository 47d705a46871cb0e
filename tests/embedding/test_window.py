"""A cut text shows a model the tokens that the whole one did, for every kind of tokenizer that is known to allow it."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from smart.embedding.window import CHARACTERS, Window, cuts_at_spaces

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ODD = [
    "a  b",
    "\n\n",
    "\t",
    "don't",
    "…",
    "naïve",
    "e\u0301",
    "ﬁ",
    "ͺ",
    "中文字",
    "か゛",
    "🙂",
    "x" * 90,
    "3.14",
    "<mask>",
]
ODD += ["１２", "\u00a0", "İ", "Σς", "--", " ", "▁▁", "\u200b", "</s>", "한국어", "ﹰ"]
WORDS = ["the", "of", "model", "a", "question", "answer", "about", "tokens", "seen", "by", "it", "12", "2024"]


def corpus(seed: int, count: int, longest: int) -> list[str]:
    generator = random.Random(seed)
    texts = []
    for _ in range(count):
        words = generator.choices(
            [*WORDS, *ODD], [8] * len(WORDS) + [1] * len(ODD), k=generator.randint(1, longest)
        )
        texts.append("".join(word + generator.choice([" ", " ", " ", " ", "  ", "\n", ""]) for word in words))
    return texts


def trained(
    model: models.Model,
    trainer: trainers.Trainer,
    pre: Any,
    norm: Any = None,
    start: str = "<s>",
    end: str = "</s>",
) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre
    if norm is not None:
        tokenizer.normalizer = norm
    tokenizer.train_from_iterator(corpus(7, 200, 60), trainer)
    tokenizer.decoder = decoders.ByteLevel()
    known = {token: tokenizer.token_to_id(token) for token in (start, end)}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=list(known.items())
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=end, mask_token="<mask>", model_max_length=24
    )


SPECIAL = ["<s>", "</s>", "<unk>", "<mask>"]


def wordpiece(norm: Any, pre: Any) -> PreTrainedTokenizerFast:
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL)
    return trained(models.WordPiece(unk_token="<unk>"), trainer, pre, norm)


def byte_level(pre: Any, norm: Any = None) -> PreTrainedTokenizerFast:
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    return trained(models.BPE(), trainer, pre, norm)


def unigram(pre: Any, norm: Any) -> PreTrainedTokenizerFast:
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>")
    return trained(models.Unigram(), trainer, pre, norm)


KNOWN: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "BERT": lambda: wordpiece(normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()),
    "MPNet": lambda: wordpiece(
        normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()]),
        pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits()]),
    ),
    "RoBERTa": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "with a space in front": lambda: byte_level(
        pre_tokenizers.ByteLevel(add_prefix_space=True), normalizers.NFC()
    ),
    "Llama 3": lambda: byte_level(
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    ),
    "XLM-R": lambda: unigram(
        pre_tokenizers.Metaspace(),
        normalizers.Sequence(
            [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
        ),
    ),
    "T5": lambda: unigram(
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
        normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(left=False, right=True)]),
    ),
}


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    return KNOWN[kind]()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KNOWN)
def test_the_model_sees_the_same_tokens(kind: str, side: str) -> None:
    tokenizer = tokenizer_of(kind)
    tokenizer.truncation_side = side
    assert cuts_at_spaces(tokenizer)
    texts = [
        *corpus(1, 150, 150),
        "x" * 3000,
        "中" * 3000,
        "a b " * 500,
        "a  b" * 500,
        " ".join(["x" * 290] * 20),
    ]
    for prefix in ("", "query: ", "query"):
        seen = Window(tokenizer, prefix, side).look(texts)

        def ids(texts: list[str], truncation: bool = True, prefix: str = prefix) -> list[list[int]]:
            return list(tokenizer([prefix + text for text in texts], truncation=truncation)["input_ids"])

        whole = ids(texts, truncation=False)
        assert ids(seen.texts) == ids(texts)
        assert seen.tokens.tolist() == [min(len(tokens), 24) for tokens in whole]
        assert seen.truncated == sum(len(tokens) > 24 for tokens in whole)
        cut = sum(map(len, seen.texts)) / sum(map(len, texts))
        assert cut < 0.75, "else nothing was tried"


def test_a_long_text_is_never_tokenised_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_of("RoBERTa")
    window, given = Window(tokenizer, "", "left"), []
    inner = window._tokenizer

    def spy(texts: list[str], **options: Any) -> Any:
        given.extend(map(len, texts))
        return inner(texts, **options)

    monkeypatch.setattr(window, "_tokenizer", spy)
    texts = ["the question about tokens " * 12_000, "short"]
    seen = window.look(texts)
    assert max(given) < CHARACTERS * 24 + 1_000
    assert seen.texts[1] == "short"
    assert seen.truncated == 1


SPLIT, NORMALIZE = "pre_tokenizer", "normalizer"


@pytest.mark.parametrize(
    ("why", "part", "change"),
    [
        ("no splitting into words", SPLIT, None),
        ("another pattern", SPLIT, pre_tokenizers.Split(Regex("q"), "isolated")),
        ("the pattern is thrown away", SPLIT, pre_tokenizers.Split(Regex(LLAMA3), "removed")),
        ("one word with ▁", SPLIT, pre_tokenizers.Metaspace(split=False)),
        ("spaces that vanish", NORMALIZE, normalizers.Replace(" ", "")),
        ("a text in front", NORMALIZE, normalizers.Prepend("▁")),
        ("a lost space", NORMALIZE, normalizers.Strip()),
    ],
)
def test_other_tokenizers_read_the_whole_text(why: str, part: str, change: Any) -> None:
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    assert cuts_at_spaces(tokenizer)
    setattr(tokenizer.backend_tokenizer, part, change)
    assert not cuts_at_spaces(tokenizer), why
    text = "the question about tokens " * 100
    seen = Window(tokenizer, "", "left").look([text])
    assert seen.texts == [text]


def test_an_added_token_with_a_space_inside_is_not_cut() -> None:
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.add_tokens(["    "])  # as those of code have
    assert cuts_at_spaces(tokenizer)
    tokenizer.add_tokens(["of the"])
    assert not cuts_at_spaces(tokenizer)
    assert not cuts_at_spaces(object())
