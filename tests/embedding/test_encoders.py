import socket
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import wordllama
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from smart.config import Problems
from smart.embedding import Precomputed, Prompts, SentenceTransformers, WordLlama, check_encoder, embed

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*arguments: Any) -> None:
        raise AssertionError("reaches for the network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)


@pytest.mark.usefixtures("no_network")
def test_wordllama_needs_no_network_and_sees_the_whole_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # nothing cached there
    with WordLlama().open() as session:
        head = "one and the same head " * 5000
        vectors, truncated = session.encode([head + "Paris", head + "Rome", "Paris"])
    assert truncated == 0
    assert vectors.shape == (3, WordLlama().width())
    assert not np.array_equal(vectors[0], vectors[1])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    with WordLlama(normalize=False).open() as session:
        raw = session.encode(["Paris"]).vectors
    assert np.linalg.norm(raw) > 1.01
    np.testing.assert_allclose(raw / np.linalg.norm(raw), vectors[2:], rtol=1e-5)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("options", [{}, {"normalize": False, "dtype": "float32"}])
def test_wordllama_keeps_the_contract_of_an_encoder(options: dict[str, Any]) -> None:
    check_encoder(WordLlama(**options), tolerance=1e-5)


TEXTS = ["Paris", "What is the capital of France?", "Add 17 and 25.\n\nAnswer:", "größer als ∑ x"] * 2


def test_wordllama_is_the_mean_of_its_token_embeddings(tmp_path: Path) -> None:
    """Computed from the package's files alone: its weights, and its tokenizer without special tokens."""
    package = Path(wordllama.__file__).parent
    weights = package / "weights/l2_supercat_256.safetensors"
    tokens = package / "tokenizers/l2_supercat_tokenizer_config.json"
    embedding = next(iter(load_file(weights).values())).astype(np.float64)
    ids = [Tokenizer.from_file(str(tokens)).encode(text, add_special_tokens=False).ids for text in TEXTS]
    means = np.stack([embedding[row].mean(axis=0) for row in ids])
    wanted = means / np.linalg.norm(means, axis=1, keepdims=True)
    order = np.array([3, 1, 0, 2, 7, 5, 6, 4])
    pool = Prompts(pa.chunked_array([TEXTS]), order, np.arange(8), 8)
    vectors = embed(pool, WordLlama(dtype="float32"), tmp_path, 3)
    np.testing.assert_allclose(vectors[:], wanted[order], atol=1e-6)


def test_wordllama_gives_the_vectors_of_the_reference(shared: Path, tmp_path: Path) -> None:
    texts = pq.read_table(shared / "data/sni-small.parquet")["inputs"]
    order = np.random.default_rng(0).permutation(len(texts))
    vectors = embed(Prompts(texts, order, np.arange(len(texts)), len(texts)), WordLlama(), tmp_path, 1000)
    reference = np.load(shared / "golden/embeddings.npy")[order]
    np.testing.assert_allclose(vectors[:], reference, atol=1e-3)  # one step of float16
    assert np.mean(vectors[:] == reference) > 0.99


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "encoder").glob("*.yaml")))
def test_every_config_builds_an_encoder_without_problems(name: str, tmp_path: Path) -> None:
    (tmp_path / "E.npy").touch()
    needed = {
        "precomputed": [f"+encoder.path={tmp_path}/E.npy"],
        "sentence_transformers": ["+encoder.name=some/model"],
    }
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(f"encoder/{name}", needed.get(name, []))
    encoder, problems = instantiate(config.encoder), Problems()
    encoder.validate(problems)
    assert problems.found == []
    assert type(encoder) in (WordLlama, SentenceTransformers, Precomputed)
    if name == "gte_large":
        assert (encoder.max_length, encoder.truncation) == (512, "right")
    elif isinstance(encoder, SentenceTransformers):
        assert encoder.truncation == "left"


def test_all_wrong_options_are_told_at_once() -> None:
    problems = Problems()
    SentenceTransformers("no such/folder/", None, 0, "rigth", batch_size=-1, dtype="float15").validate(
        problems
    )
    assert [problem.split("=")[0] for problem in problems.found] == [
        "encoder.dtype",
        "encoder.name",
        "encoder.truncation",
        "encoder.max_length",
        "encoder.batch_size",
    ]
    assert "Did you mean right?" in problems.found[2]
