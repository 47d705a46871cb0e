"""The default encoder: the bits of wordllama's own vectors, in bounded memory, on as many threads as it is given."""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from smart.config import UserError
from smart.embedding import Unencodable, WordLlama, embed
from smart.embedding.llama_kernels import LONGEST_WORD, new_scratch
from smart.embedding.llama_tokens import TokenizerError, read_vocabulary
from smart.embedding.wordllama import BLOCK, Compiled, Own, compiled_or_own
from smart.runtime.executor import Threads

from .examples import prompts

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = ("sni-xl", "cot", "t0", "flan2021", "dialog")
ODD = (
    *(" ", "  ", " " * 35, "▁", " ▁", "▁ ", "▁▁", "\n", "\t", " \n ", "\r\n", "\0", "\ufeff", "\xa0", "\x80"),
    *("<s>", "</s>", "<unk>", " <s> ", "<s> a", "a <s>", "<", "<s", "</", "<0x0A>"),
    *(
        "é",
        "e\u0301",
        "ß",
        "İ",
        "日本",
        "ก",
        "😀",
        "\U0001f468\u200d\U0001f469",
        "\ud7ff",
        "\U0010ffff",
        "====",
        "a" * 9,
    ),
)
WORDS = (
    "the",
    "cat",
    "x",
    "Output:",
    "12,345",
    "don't",
    "antidisestablishmentarianism",
    "Donaudampfschifffahrt",
)


@pytest.fixture(scope="module")
def model() -> Any:
    import wordllama

    package = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=package, dim=256, disable_download=True)


@pytest.fixture(scope="module")
def tokenizer(model: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(model.tokenizer.to_str())
    return content


@pytest.fixture(scope="module")
def compiled(model: Any, tokenizer: dict[str, Any]) -> Callable[[bool], Compiled]:
    vocabulary = read_vocabulary(tokenizer, len(model.embedding))
    return lambda normalize=True: Compiled(vocabulary, model.embedding, normalize)


def odd_texts(count: int, seed: int = 0) -> list[str]:
    """Half of them begin as another one does."""
    rng = np.random.default_rng(seed)
    parts = np.array([*ODD, *WORDS, *[word + " " for word in WORDS], *[" " + word for word in WORDS]], object)
    texts = ["".join(rng.choice(parts, int(rng.integers(1, 80)))) for _ in range(count // 2)]
    heads = [text[: int(rng.integers(0, len(text) + 1))] for text in texts]
    return texts + [head + text for head, text in zip(heads, texts[1:] + texts[:1], strict=True)]


def require_same_bits(vectors: np.ndarray, wanted: np.ndarray, texts: list[str]) -> None:
    assert vectors.dtype == wanted.dtype == np.float32
    wrong = np.flatnonzero((vectors.view(np.uint32) != wanted.view(np.uint32)).any(axis=1))
    assert not len(wrong), texts[wrong[0]]


@pytest.mark.parametrize("normalize", [True, False])
def test_odd_texts_have_the_bits_of_wordllama(
    model: Any, compiled: Callable[[bool], Compiled], normalize: bool
) -> None:
    texts = odd_texts(2000, seed=normalize)
    require_same_bits(compiled(normalize)(texts), model.embed(texts, norm=normalize), texts)


def test_every_order_of_spaces_marks_letters_and_added_tokens(
    model: Any, compiled: Callable[[], Compiled]
) -> None:
    """Where a text may be cut hangs on these."""
    texts = ["".join(parts) for n in range(1, 7) for parts in product((" ", "▁", "a", "<s>"), repeat=n)]
    require_same_bits(compiled()(texts), model.embed(texts, norm=True), texts)


def test_words_that_give_way_to_others_in_a_full_table(model: Any, compiled: Callable[[], Compiled]) -> None:
    encode, scratch = compiled(), new_scratch(256, words=8)
    encode.spare.append(scratch)
    texts = odd_texts(200)
    require_same_bits(encode(texts), model.embed(texts, norm=True), texts)
    assert list(encode.spare) == [scratch]
    assert (scratch.words[:, 0] > 0).all()  # it was full


def test_long_texts_and_long_words(model: Any, compiled: Callable[[], Compiled]) -> None:
    rng = np.random.default_rng(0)
    letters = "".join(rng.choice(list("abcdefgh"), 5000))
    texts = [
        "one more word " * 5000,
        "x" * 3000,
        letters,
        f"a{' ' * 3000}b",
        f"{letters} {letters}",
        "▁ " * 999,
    ]
    require_same_bits(compiled()(texts), Own(model, True)(texts), texts)


def test_real_prompts_have_the_bits_of_wordllama(
    model: Any, compiled: Callable[[], Compiled], shared: Path
) -> None:
    encode = compiled()
    for name in COLLECTION:
        column = pq.read_table(shared / f"data/{name}.parquet", columns=["inputs"])["inputs"]
        texts = column.take(np.random.default_rng(0).permutation(len(column))[:600]).to_pylist()
        require_same_bits(encode(texts), model.embed(texts, norm=True), texts)


@pytest.mark.full
def test_all_real_prompts_have_the_bits_of_wordllama(
    model: Any, compiled: Callable[[], Compiled], shared: Path
) -> None:
    encode = compiled()
    for name in COLLECTION:
        column = pq.read_table(shared / f"data/{name}.parquet", columns=["inputs"])["inputs"]
        texts = sorted(column.to_pylist(), key=len)
        for start in range(0, len(texts), BLOCK):
            block = texts[start : start + BLOCK]
            require_same_bits(encode(block), model.embed(block, norm=True), block)


def test_threads_get_a_table_each_and_give_it_back(model: Any, compiled: Callable[[], Compiled]) -> None:
    encode, texts = compiled(), odd_texts(600)
    wanted = model.embed(texts, norm=True)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda start: encode(texts[start : start + 20]), range(0, 600, 20)))
    require_same_bits(np.concatenate(found), wanted, texts)
    assert 1 <= len(encode.spare) <= 3


def test_words_of_a_megabyte_are_encoded_and_longer_ones_refused_by_row(
    compiled: Callable[[], Compiled], tmp_path: Path
) -> None:
    longest = "x" * LONGEST_WORD
    texts = ["fine", longest + "x", f"a {longest}", f"{longest} {longest}x and more", "</s>" + longest]
    encode = compiled()
    with pytest.raises(Unencodable, match="a word of over 1,048,576 bytes; break it with spaces") as caught:
        encode(texts)
    assert caught.value.texts == [1, 3]
    assert np.isfinite(encode([longest])).all()
    with pytest.raises(UserError, match=r"^Prompts of rows 2, 6 of the collection: each has a word of over"):
        embed(prompts([*texts[:2], "fine too", texts[3]]), WordLlama(), tmp_path, executor=Threads(2))


def change(tokenizer: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        tokenizer = tokenizer[int(parent) if parent.isdigit() else parent]
    tokenizer[last] = value


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("normalizer", {"type": "NFC"}, "normalizer"),
        ("normalizer.normalizers.0.prepend", " ", "normalizer"),
        ("pre_tokenizer", {"type": "Whitespace"}, "pre-tokenizer"),
        ("model.type", "Unigram", "Unigram"),
        ("model.byte_fallback", False, "byte_fallback"),
        ("model.ignore_merges", True, "ignore_merges"),
        ("model.dropout", 0.1, "dropout"),
        ("model.vocab.far", 70_000, "without a vector"),
        ("model.vocab.twice", 300, "of one number"),
        ("added_tokens.1.lstrip", True, "takes in"),
        ("added_tokens.1.normalized", True, "takes in"),
        ("added_tokens.1.content", "<s >", "with a space"),
        ("model.merges", ["a ▁b"], "no token"),
        ("model.merges", ["a b", "a b"], "twice"),
        ("model.merges", ["a b c"], "two tokens"),
        ("model.merges", ["<0x0A> <0x0B>"], "no token"),
    ],
)
def test_a_tokenizer_that_is_not_known_to_allow_cuts_is_not_cut(
    tokenizer: dict[str, Any], path: str, value: Any, said: str
) -> None:
    other = {**tokenizer, "model": {**tokenizer["model"], "vocab": dict(tokenizer["model"]["vocab"])}}
    other["added_tokens"], other["normalizer"] = map(
        copy.deepcopy, (other["added_tokens"], other["normalizer"])
    )
    change(other, path, value)
    with pytest.raises(TokenizerError, match=said):
        read_vocabulary(other, 32_000)


@pytest.mark.parametrize(("token", "parts"), [("a▁b", "a ▁b"), ("<0x0A><0x0B>", "<0x0A> <0x0B>")])
def test_merges_across_a_space_or_of_bytes_are_not_known(
    tokenizer: dict[str, Any], token: str, parts: str
) -> None:
    vocabulary = {name: number for name, number in tokenizer["model"]["vocab"].items() if number < 31_998}
    vocabulary |= {token: 31_998, "▁b": vocabulary["▁b"]}
    other = {**tokenizer, "model": {**tokenizer["model"], "vocab": vocabulary, "merges": [parts]}}
    with pytest.raises(TokenizerError, match=r"with a space inside|of bytes"):
        read_vocabulary(other, 32_000)


def test_another_version_of_the_package_encodes_by_its_own_code_with_a_warning(
    model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wordllama

    other = copy.copy(model)
    other.avg_pool = lambda x, mask: (x * mask[..., np.newaxis]).max(axis=1)
    texts = odd_texts(20)
    monkeypatch.setattr(wordllama.WordLlama, "load", lambda **options: other)
    with caplog.at_level(logging.WARNING), WordLlama(normalize=False).open() as session:
        assert not session.parallel
        vectors = session.encode(texts).vectors
        with pytest.raises(Unencodable, match="262,144 bytes") as caught:
            session.encode(["fine", "word " * 60_000])
    assert caught.value.texts == [1]
    require_same_bits(vectors, np.concatenate([other.embed([text]) for text in texts]), texts)
    (message,) = (record.message for record in caplog.records if "wordllama" in record.message)
    assert re.fullmatch(
        r"wordllama [\d.]+\S* is not as .* \(other vectors\), so .* its own, slow code\.", message
    )


def test_the_installed_version_is_known(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(compiled_or_own(model, True), Compiled)
    assert caplog.messages == []


PROCESS = """
import os, re, sys, threading, time
from pathlib import Path

import numpy as np

from smart.embedding import WordLlama

megabytes, word = int(sys.argv[1]), int(sys.argv[2])
def held():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000
letters = "".join(np.random.default_rng(0).choice(list("abcdefghijklmnop"), word))
text = " ".join([letters] * (megabytes * 10**6 // word // 10) + ["and more words "] * (megabytes * 60_000))
threads = lambda: len(os.listdir("/proc/self/task"))
before = threads()
with WordLlama().open() as session:
    session.encode(["first"])
    assert threads() == before, (threads(), before)
    start, most, done = held(), 0, False
    def watch():
        global most
        while not done:
            most = max(most, held())
            time.sleep(0.005)
    watcher = threading.Thread(target=watch)
    watcher.start()
    session.encode([text, "short"])
    done = True
    watcher.join()
print(len(text), most - start)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("megabytes", "word", "most"),
    [(10, 20_000, 100), pytest.param(100, 1_000_000, 1000, marks=pytest.mark.full)],
)
def test_memory_is_bounded_and_no_thread_is_started(megabytes: int, word: int, most: int) -> None:
    """A process of its own, whose tokenizers library nobody told to start no threads."""
    environment = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    environment["OMP_NUM_THREADS"] = "1"  # BLAS has threads, too
    run = [sys.executable, "-c", PROCESS, str(megabytes), str(word)]
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    size, more = map(float, done.stdout.split())
    assert size > 0.95e6 * megabytes
    assert more < most


def test_kernels_run_without_being_compiled(model: Any) -> None:
    texts = ["A short text,  with ▁ and\n<s> 日本 😀", "A short text,  with antidisestablishmentarianism"]
    code = f"""
import numpy as np
from smart.embedding import WordLlama
with WordLlama().open() as session:
    assert session.parallel
    print(session.encode({texts!r}).vectors.tobytes().hex())
"""
    run = [sys.executable, "-W", "error::RuntimeWarning", "-c", code]
    done = subprocess.run(
        run, cwd=ROOT, env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    vectors = np.frombuffer(bytes.fromhex(done.stdout), np.float32).reshape(2, -1)
    require_same_bits(vectors, model.embed(texts, norm=True), texts)
