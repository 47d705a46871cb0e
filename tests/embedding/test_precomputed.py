from pathlib import Path

import numpy as np
import pytest

from smart.config import Problems, UserError
from smart.embedding import EmbeddingPlan, Precomputed, embed, plan_embedding

from .examples import ROWS, prompts


def saved(path: Path, X: np.ndarray) -> Precomputed:
    np.save(path, X)
    return Precomputed(str(path))


def matrix(dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2 * ROWS, 5)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_vectors_are_taken_at_the_rows_of_the_collection_as_read(tmp_path: Path, dtype: str) -> None:
    X, pool = matrix(dtype), prompts()
    encoder = saved(tmp_path / "E.npy", X)
    vectors = embed(pool, encoder, tmp_path / "cache")
    wanted = X[2 * pool.order].astype(np.float32)
    np.testing.assert_array_equal(vectors[:], wanted)
    np.testing.assert_array_equal(vectors[7:9], wanted[7:9])
    assert vectors[7:9].dtype == np.float32
    assert plan_embedding(pool, encoder, tmp_path / "cache") == EmbeddingPlan(vectors.key, 0, 0)
    assert list(tmp_path.iterdir()) == [tmp_path / "E.npy"]  # nothing is copied


def test_key_follows_the_bytes_and_the_rows_but_not_the_name(tmp_path: Path) -> None:
    X = matrix()
    base = saved(tmp_path / "E.npy", X).key(prompts())
    assert base == saved(tmp_path / "F.npy", X).key(prompts())
    assert base != saved(tmp_path / "G.npy", X).key(prompts(seed=1))
    X[0, 0] += 1
    assert base != saved(tmp_path / "E.npy", X).key(prompts())


def test_only_vectors_that_are_used_must_be_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smart.embedding.precomputed.BLOCK", 7)
    X = matrix("float64")
    X[[1, 51]] = np.nan  # odd rows were dropped from the pool
    assert np.isfinite(embed(prompts(), saved(tmp_path / "E.npy", X), tmp_path)[:]).all()
    X[50, 3] = 1e300  # no float32
    with pytest.raises(UserError, match=r"E.npy: vectors of rows 50 … are not finite"):
        embed(prompts(), saved(tmp_path / "E.npy", X), tmp_path)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (matrix()[1:], "holds 99 vectors, but the collection has 100 rows as read"),
        (matrix()[0], r"holds float32 \(5,\), not floats of shape"),
        (matrix()[None], r"holds float32 \(1, 100, 5\), not"),
        (matrix()[:, :0], r"holds float32 \(100, 0\), not"),
        (np.ones((100, 5), int), r"holds int64 \(100, 5\), not"),
        (np.full((100, 5), "x", object), "cannot be read as a .npy"),
    ],
)
def test_a_shape_that_does_not_fit_is_an_error_with_both_numbers(
    tmp_path: Path, X: np.ndarray, message: str
) -> None:
    with pytest.raises(UserError, match=f"^encoder.path={tmp_path}/E.npy: {message}"):
        embed(prompts(), saved(tmp_path / "E.npy", X), tmp_path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "E.npz", X=matrix())
    with pytest.raises(UserError, match="is an archive"):
        embed(prompts(), Precomputed(str(tmp_path / "E.npz")), tmp_path)
    for content in (b"", b"text"):
        (tmp_path / "E.npy").write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as a"):
            embed(prompts(), Precomputed(str(tmp_path / "E.npy")), tmp_path)
    problems = Problems()
    Precomputed(str(tmp_path / "absent.npy")).validate(problems)
    Precomputed().validate(problems)
    assert [problem.split(":")[0] for problem in problems.found] == [
        f"encoder.path={tmp_path}/absent.npy",
        "encoder.path=null",
    ]


def test_a_file_that_is_replaced_while_its_vectors_are_read_is_refused(tmp_path: Path) -> None:
    X, pool = matrix(), prompts()
    vectors = embed(pool, saved(tmp_path / "E.npy", X), tmp_path)
    assert len(vectors[0:3]) == 3
    np.save(tmp_path / "other.npy", X + 1)
    (tmp_path / "other.npy").replace(tmp_path / "E.npy")
    with pytest.raises(UserError, match=r"E.npy: has changed while it was read"):
        vectors[0:3]
