import threading
from pathlib import Path

import numpy as np
import pytest

from smart.embedding import Vectors, task_statistics
from smart.runtime.locks import locked

OFFSETS = np.array([0, 5, 5, 9, 20, 20, 21, 21, 30])  # two tasks of four groups, some empty


def matrix() -> np.ndarray:
    X = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)
    X[3] = X[1]  # twice in group 0
    X[9:20] = X[9]  # group 3 all equal
    X[21] = X[20]  # equal, but in different groups
    return X


def vectors(folder: Path, X: np.ndarray) -> Vectors:
    return Vectors("key", folder, *X.shape, truncated=0, read=lambda start, stop: X[start:stop])


@pytest.mark.parametrize("block", [2, 1000])
def test_means_over_all_templates_and_distinct_vectors_per_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("smart.embedding.vectors.BLOCK", block)
    X = matrix()
    statistics = task_statistics(vectors(tmp_path, X), OFFSETS)
    wanted = np.stack([X[:20].astype(np.float64).mean(0), X[20:].astype(np.float64).mean(0)])
    np.testing.assert_allclose(statistics.task_means, wanted, rtol=1e-6)
    assert statistics.distinct.tolist() == [4, 0, 4, 1, 0, 1, 0, 9]


def test_the_pass_is_made_once_for_the_same_groups(tmp_path: Path) -> None:
    first = task_statistics(vectors(tmp_path, matrix()), OFFSETS)

    def read(start: int, stop: int) -> np.ndarray:
        raise AssertionError("read again")

    unread = Vectors("key", tmp_path, 30, 6, 0, read)
    again = task_statistics(unread, OFFSETS)
    np.testing.assert_array_equal(again.task_means, first.task_means)
    np.testing.assert_array_equal(again.distinct, first.distinct)
    with pytest.raises(AssertionError, match="read again"):
        task_statistics(unread, np.array([0, 6, 6, 9, 20, 20, 21, 21, 30]))


def test_the_summary_is_written_under_the_lock_of_the_store(tmp_path: Path) -> None:
    """Its holder clears temporary files away, and another process's half-written summary is one."""
    made = vectors(tmp_path, matrix())
    done = threading.Event()

    def work() -> None:
        task_statistics(made, OFFSETS)
        done.set()

    with locked(tmp_path.with_name(f".{tmp_path.name}.lock")):
        thread = threading.Thread(target=work)
        thread.start()
        assert not done.wait(0.5)
    thread.join(10)
    assert done.is_set()


def test_a_damaged_summary_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = task_statistics(vectors(tmp_path, matrix()), OFFSETS)
    (path,) = tmp_path.glob("summary-*.sealed")
    content = bytearray(path.read_bytes())
    for damaged in (content[:100], b"", content.replace(first.task_means.tobytes()[:8], b"\0" * 8)):
        assert bytes(damaged) != bytes(content)
        path.write_bytes(damaged)
        np.testing.assert_array_equal(
            task_statistics(vectors(tmp_path, matrix()), OFFSETS).task_means, first.task_means
        )
        assert f"{path} is damaged: made again." in caplog.messages
        caplog.clear()


@pytest.mark.parametrize(
    "offsets", [OFFSETS[:-1], OFFSETS - 1, OFFSETS + 1, [0, 10, 10, 20, 30, 30, 30, 30, 30]]
)
def test_groups_that_do_not_fit_the_vectors_are_refused(tmp_path: Path, offsets: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"do not cover|holds no vectors"):
        task_statistics(vectors(tmp_path, matrix()), np.asarray(offsets))
