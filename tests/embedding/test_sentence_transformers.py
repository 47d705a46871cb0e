"""A tiny model with random weights stands in for those of the hub."""

from __future__ import annotations

import copy
import dataclasses
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from smart.config import UserError
from smart.embedding import Encoded, SentenceTransformers, check_encoder, embed, plan_embedding
from smart.embedding.sentence_transformers import batches, compute_in, encode_batches
from smart.embedding.window import Seen

from .examples import prompts

WORDS = [f"w{i}" for i in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    bert, model = tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    (bert / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    config = BertConfig(
        vocab_size=65,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(bert)
    BertTokenizerFast(str(bert / "vocab.txt"), model_max_length=32).save_pretrained(bert)
    transformer = Transformer(str(bert))
    SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu").save(str(model))
    return model


def encode(encoder: SentenceTransformers, *texts: str) -> Encoded:
    with encoder.open() as session:
        return session.encode(list(texts))


def text(*numbers: int) -> str:
    return " ".join(WORDS[number] for number in numbers)


def test_truncation_keeps_the_side_that_was_asked_for_and_is_counted(folder: Path) -> None:
    long, head, tail = text(*range(12)), text(*range(5)), text(*range(7, 12))
    options = SentenceTransformers(str(folder), max_length=7)  # five words between [CLS] and [SEP]
    for side, kept in (("left", tail), ("right", head)):
        vectors, truncated = encode(dataclasses.replace(options, truncation=side), long, head, tail)
        assert truncated == 1  # exactly max_length tokens are not cut
        wanted = encode(SentenceTransformers(str(folder)), kept).vectors[0]
        np.testing.assert_allclose(vectors[0], wanted, atol=1e-5)
        assert np.abs(vectors[1] - vectors[2]).max() > 0.1
    assert (
        encode(SentenceTransformers(str(folder)), long, text(*range(40))).truncated == 1
    )  # its own limit, 32
    with pytest.raises(UserError, match=r"encoder.max_length=33: .* sees at most 32 tokens"):
        encode(SentenceTransformers(str(folder), max_length=33), long)


@pytest.mark.parametrize("options", [{}, {"normalize": True, "dtype": "float32"}, {"max_length": 30}])
def test_it_keeps_the_contract_of_an_encoder(folder: Path, options: dict) -> None:
    texts = [
        text(*range(0, 6 * count, count)) for count in range(1, 8)
    ]  # unlike the default's, in its vocabulary
    check_encoder(SentenceTransformers(str(folder), **options), texts=texts, tolerance=1e-4)


def test_prefix_stands_before_the_prompt_and_counts(folder: Path) -> None:
    encoder = SentenceTransformers(str(folder), max_length=7, prefix=text(50) + " ")
    vectors, truncated = encode(encoder, text(1, 2), text(1, 2, 3, 4, 5))
    assert truncated == 1
    plain = encode(SentenceTransformers(str(folder)), text(50, 1, 2), text(1, 2)).vectors
    np.testing.assert_allclose(vectors[0], plain[0], atol=1e-5)
    assert np.abs(vectors[0] - plain[1]).max() > 0.1


def test_normalize_scales_to_unit_length(folder: Path) -> None:
    raw = encode(SentenceTransformers(str(folder)), text(1, 2)).vectors
    unit = encode(SentenceTransformers(str(folder), normalize=True), text(1, 2)).vectors
    assert np.linalg.norm(raw) > 1.1
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw), atol=1e-6)


def test_batches_by_length_bring_each_vector_back_to_its_prompt(folder: Path, tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 90)
    texts = [text(*np.random.default_rng(i).integers(0, 60, length)) for i, length in enumerate(lengths)]
    encoder, pool = SentenceTransformers(str(folder), batch_size=2, dtype="float32"), prompts(texts)
    assert plan_embedding(pool, encoder, tmp_path).bytes == 90 * 16 * 4
    vectors = embed(pool, encoder, tmp_path, shard_rows=40)
    assert vectors.truncated == np.sum(lengths > 30)
    alone = encode(dataclasses.replace(encoder, batch_size=1), *[texts[i] for i in pool.order]).vectors
    np.testing.assert_allclose(vectors[:], alone, atol=1e-5)


def test_identity_is_the_content_of_a_folder_and_the_options(folder: Path, tmp_path: Path) -> None:
    base = SentenceTransformers(str(folder))
    copied = tmp_path / "elsewhere"
    shutil.copytree(folder, copied)
    same = [dataclasses.replace(base, name=str(copied)), dataclasses.replace(base, batch_size=3)]
    assert all(encoder.identity() == base.identity() for encoder in same)
    changes = {"max_length": 7, "truncation": "right", "prefix": "", "normalize": True}
    others = [dataclasses.replace(base, **{name: value}) for name, value in changes.items()]
    assert all(encoder.identity() != base.identity() for encoder in others)
    with (copied / "config.json").open("a") as file:
        file.write(" ")
    assert same[0].identity() != base.identity()


def test_a_model_of_the_hub_is_known_by_its_commit_and_loads_from_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path))
    encoder, commit = SentenceTransformers("some/model", max_length=7), "0123456789" * 4
    assert encoder.identity() is None
    assert plan_embedding(prompts(), encoder, tmp_path).key is None
    repository = tmp_path / "models--some--model"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    identity = encoder.identity()
    assert identity is not None
    assert identity["model"] == {"name": "some/model", "revision": commit}
    assert identity == dataclasses.replace(encoder, revision=commit).identity()
    vectors, truncated = encode(encoder, text(*range(12)))
    assert truncated == 1
    np.testing.assert_array_equal(
        vectors, encode(dataclasses.replace(encoder, name=str(folder)), text(*range(12))).vectors
    )


def test_an_absent_model_without_a_network_is_one_line_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^encoder.name=no/model: .*fetch_only=true[^\n]*$"):
        embed(prompts(), SentenceTransformers("no/model"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            "GatedRepoError",
            r"^encoder.name=some/model: accept its terms at https.*some/model, then log in.*$",
        ),
        (
            "RepositoryNotFoundError",
            r"^encoder.name=some/model: is neither a folder nor a public model; .*log in",
        ),
        ("RevisionNotFoundError", r"^encoder.name=some/model: has no such revision; set encoder.revision$"),
    ],
)
def test_what_the_hub_refuses_is_one_line_with_a_hint(
    monkeypatch: pytest.MonkeyPatch, error: str, message: str
) -> None:
    import sentence_transformers
    from huggingface_hub import errors

    def refuse(*arguments: object, **options: object) -> None:
        response = SimpleNamespace(status_code=401, headers={}, request=None)
        try:
            raise getattr(errors, error)("401 Client Error\nmore lines", response=response)
        except errors.HfHubHTTPError as cause:
            raise OSError("You are trying to access a gated repo.\nmore lines") from cause

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", refuse)
    with pytest.raises(UserError, match=message):
        SentenceTransformers("some/model").fetch()


def test_a_folder_without_a_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^encoder.name={tmp_path}: cannot be loaded: [^\n]+$"):
        SentenceTransformers(str(tmp_path)).fetch()


def test_bfloat16_is_for_the_transformer_alone(folder: Path) -> None:
    import torch
    from sentence_transformers import SentenceTransformer

    model, texts = SentenceTransformer(str(folder), device="cpu"), [text(*range(i, i + 9)) for i in range(20)]
    exact = model.encode(texts)
    compute_in(model, torch.bfloat16)
    vectors = model.encode(texts)
    assert model[0].auto_model.dtype == torch.bfloat16
    assert vectors.dtype == np.float32
    assert np.any(vectors != torch.tensor(vectors).bfloat16().float().numpy())  # pooled in more than bfloat16
    np.testing.assert_allclose(vectors, exact, atol=0.05 * np.abs(exact).max())


def test_an_overflow_of_float16_is_computed_in_float32(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import torch
    from sentence_transformers import SentenceTransformer

    model, texts = SentenceTransformer(str(folder), device="cpu"), [text(*range(i, i + 9)) for i in range(20)]
    exact = model.encode(texts)
    compute_in(model, torch.float16)
    np.testing.assert_allclose(model.encode(texts), exact, atol=0.01 * np.abs(exact).max())
    assert model[0].auto_model.dtype == torch.float16
    with torch.no_grad():
        layer = model[0].auto_model.encoder.layer[0]
        for parameter in (layer.intermediate.dense.weight, layer.output.dense.weight):
            parameter.mul_(1_000)
    large = copy.deepcopy(model)
    large[0]._forward_hooks.clear()
    assert np.isnan(large.encode(texts)).any()
    found = model.encode(texts)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, large.float().encode(texts))
    assert [record.getMessage() for record in caplog.records].count(
        "The model overflows float16: it computes in float32 from now on."
    ) == 1


def test_a_batch_is_of_so_many_tokens_and_of_like_length() -> None:
    generator = np.random.default_rng(0)
    lengths = [np.sort(generator.integers(1, 513, 1024))[::-1], generator.integers(1, 513, 700)]
    names = [[f"{number}-{row}" for row in range(len(part))] for number, part in enumerate(lengths)]
    flat = [name for part in names for name in part]
    known = dict(zip(flat, np.concatenate(lengths).tolist(), strict=True))
    parts = [Seen(texts, tokens, 0) for texts, tokens in zip(names, lengths, strict=True)]
    made = list(batches(parts, 64 * 512))
    assert sorted(row for batch in made for row in batch.rows) == list(range(1724))
    assert all(batch.texts == [flat[row] for row in batch.rows] for batch in made)
    padded = [max(known[name] for name in batch.texts) * len(batch.texts) for batch in made]
    assert max(padded) <= 64 * 512
    assert sum(padded) < 1.25 * sum(known.values())  # in batches of 64 rows as they come: 1.99
    assert max(len(batch.texts) for batch in made) > 3 * 64
    assert [batch.rows for batch in batches([Seen(["a", "b"], np.array([9, 9]), 0)], 5)] == [[0], [1]]


def test_batches_go_to_whichever_device_is_free() -> None:
    texts = [str(number) for number in range(60)]
    parts = [Seen(texts[start : start + 20], np.full(20, 4), 1) for start in range(0, 60, 20)]
    calls: dict[str, list[str]] = {"slow": [], "quick": []}
    both = threading.Barrier(2)

    def device(name: str) -> Callable[[list[str]], np.ndarray]:
        def encode(batch: list[str]) -> np.ndarray:
            if not calls[name]:
                both.wait(timeout=30)  # both work at the same time
            calls[name] += batch
            if name == "slow":
                while len(calls["quick"]) < 40:
                    time.sleep(0.001)
            return np.array([[float(one)] for one in batch], np.float32)

        return encode

    encoded = encode_batches(parts, 16, [device("slow"), device("quick")])
    assert encoded.vectors[:, 0].tolist() == list(range(60))
    assert encoded.truncated == 3
    assert len(calls["quick"]) >= 40  # while the slow one still has its first batch


@pytest.mark.full
def test_several_devices_give_the_vectors_of_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = SentenceTransformers(str(folder), max_length=7, batch_size=2)
    texts = [text(*range(i, i + 3 + i % 9)) for i in range(40)]
    one = encode(encoder, *texts)
    monkeypatch.setattr("smart.embedding.sentence_transformers.gpus", lambda: ["cpu", "cpu"])
    several = encode(encoder, *texts)
    assert several.truncated == one.truncated > 0
    np.testing.assert_allclose(several.vectors, one.vectors, atol=1e-5)
