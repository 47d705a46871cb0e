"""check_encoder, tried as an author does: a module outside the repository, right once and wrong in each way."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from smart.embedding import ContractError, Precomputed, check_encoder, embed, task_statistics
from tests.embedding.examples import Fake, prompts
from tests.mixture.outside import import_from, replaced

RIGHT = '''
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from smart.embedding import Encoded, Encoder, Session


@dataclass(frozen=True)
class Letters(Encoder):
    """Counts of letters by their places."""

    size: int = 64
    most: int = 2000
    batch_size: int = 4
    dtype: str = "float16"

    def identity(self):
        return {"encoder": "letters", "size": self.size, "most": self.most}

    @contextmanager
    def open(self):
        yield Session(self._encode, block=self.batch_size)

    def _encode(self, texts):
        vectors = np.zeros((len(texts), self.size), np.float32)
        for row, text in enumerate(texts):
            for place, letter in enumerate(text[: self.most]):
                vectors[row, (31 * ord(letter) + place) % self.size] += 1
        return Encoded(vectors, sum(len(text) > self.most for text in texts))
'''

NOT_INHERITED = (
    replaced(replaced(RIGHT, "(Encoder)", ""), "Encoded, Encoder,", "Encoded,")
    + """
    def width(self):
        return self.size

    def validate(self, problems):
        pass

    def fetch(self):
        pass
"""
)


@pytest.mark.parametrize("source", [RIGHT, NOT_INHERITED], ids=["inherits", "has the methods"])
@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"batch_size": 100, "dtype": "float32"}])
def test_a_right_encoder_passes_and_embeds_a_pool(
    source: str, options: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = import_from(tmp_path, source, monkeypatch).Letters(**options)
    check_encoder(encoder, tolerance=1e-6)
    pool = prompts()
    vectors = embed(pool, encoder, tmp_path / "cache", 8)
    with encoder.open() as session:
        wanted = np.concatenate([session.encode([text]).vectors for text in pool.take(0, 50).to_pylist()])
    np.testing.assert_array_equal(vectors[:], wanted)
    means = task_statistics(vectors, np.array([0, 5, 5, 9, 20, 20, 21, 21, 50])).task_means
    np.testing.assert_allclose(means, [wanted[:20].mean(0), wanted[20:].mean(0)], rtol=1e-6)


SESSION = "yield Session(self._encode, block=self.batch_size)"
ENCODE = "    def _encode(self, texts):\n"
RESULT = "return Encoded(vectors, "
SHARED = """buffer = globals().setdefault("buffer", np.ones((4, self.size), np.float32))[: len(texts)]
        buffer[:] = vectors
        return Encoded(buffer, """
LONG = """assert len(texts[0]) < 9000, "long"
        vectors = np.zeros"""
ONCE = """assert "opened" not in globals(), "open"
        globals()["opened"] = True
        yield Session("""
PARALLEL = """yield Session(self._encode, block=self.batch_size, parallel=True)

    def _encode(self, texts):
        import time
        self.__dict__["first"] = texts[0]
        time.sleep(0.001)
        texts = [self.__dict__["first"], *texts[1:]]
"""
WIDTH = """    def width(self):
        return 65

    @contextmanager"""


@pytest.mark.parametrize(
    ("old", "new", "check", "said"),
    [
        ('dtype: str = "float16"', 'dtype: str = "bfloat16"', "dtype", "'bfloat16'"),
        ("size: int = 64", "size: int = 64.5", "validate", "must be a whole number"),
        ('"most": self.most}', '"most": np.float32(1)}', "identity", "float32 is not JSON"),
        ('"most": self.most}', '"most": float("nan")}', "identity", "JSON can hold"),
        ('"most": self.most}', '"most": np.random.rand()}', "identity", "the same identity twice"),
        ('return {"encoder": "letters"', 'return None and {"encoder": "letters"', "fetch", "an identity after"),
        ('"most": self.most}', '"block": self.batch_size}', "identity_without_speed", "on batch_size"),
        ("@contextmanager\n", "\n", "open", "contextlib.contextmanager"),
        ("yield Session(self._encode, block=self.batch_size)", "yield self._encode", "open", "a Session"),
        ("block=self.batch_size", "block=0", "open", "at least 1"),
        ("self.size), np.float32", "self.size), np.int64", "encode", r"float vectors .* int64 \(1, 64\)"),
        (RESULT, "return Encoded(vectors[:1], ", "encode", r"shape \(2, d\) for 2 texts, but .* \(1, 64\)"),
        (RESULT, "return Encoded(vectors.tolist(), ", "encode", "a numpy array"),
        (RESULT, "return (vectors / (vectors.sum(1, keepdims=True) - 5), ", "encode", r"in rows \[0\]"),
        ("sum(len(text) > self.most for text in texts)", "None", "encode", "truncated from 0 to 1, .* None"),
        (RESULT, "return vectors, vectors, (", "encode", "tuple; return Encoded"),
        (RESULT, SHARED, "own_arrays", "a new array"),
        ("    @contextmanager", WIDTH, "width", "to be 64, .* 65"),
        (RESULT, "return Encoded(vectors * 1e5, ", "storage", "float32"),
        ("text[: self.most]", "text[:1]", "different_texts", "cut before they differ"),
        (RESULT, "return Encoded(vectors * 1e-9, ", "different_texts", "too small for dtype"),
        (RESULT, "vectors += np.random.rand(*vectors.shape); return Encoded(vectors, ", "same_texts", "dropout"),
        ("enumerate(texts)", "enumerate(sorted(texts, key=len))", "order", "back to the order"),
        (RESULT, "return Encoded(vectors - vectors.mean(0) / 2, ", "company", "nothing over the batch"),
        (f"{SESSION}\n\n{ENCODE}", PARALLEL, "several_threads", "parallel False"),
        (SESSION, f"{SESSION[:-1]}, parallel=1)", "open", "True or False, but found 1"),
        ("vectors = np.zeros", LONG, "unusual_texts", "AssertionError: long"),
        ("yield Session(", ONCE, "open_again", "AssertionError: open"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:divide by zero|invalid value:RuntimeWarning")
def test_a_wrong_encoder_is_told_what_is_wrong(
    old: str, new: str, check: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_from(tmp_path, replaced(RIGHT, old, new), monkeypatch)
    with pytest.raises(ContractError, match=said) as caught:
        check_encoder(module.Letters())
    assert caught.value.check == check
    assert str(caught.value).startswith(f"check_encoder(Letters): {check}: expected ")
    assert all((caught.value.expected, caught.value.found))


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_from(tmp_path, replaced(NOT_INHERITED, "def width", "def dimensions"), monkeypatch)
    with pytest.raises(ContractError, match=r"no width\(\); inherit from Encoder"):
        check_encoder(module.Letters())
    unfinished = import_from(_folder(tmp_path), replaced(RIGHT, "def identity", "def name"), monkeypatch)
    with pytest.raises(TypeError, match=r"abstract method '?identity"):
        unfinished.Letters()


def _folder(folder: Path) -> Path:
    other = folder / f"{folder.name}_other"
    other.mkdir()
    return other


CLOSING = """try:
            yield Session(self._encode, 4)
        finally:
            globals()["closed"] = True"""


def test_the_session_is_closed_when_a_check_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = replaced(RIGHT, "yield Session(self._encode, block=self.batch_size)", CLOSING)
    module = import_from(tmp_path, replaced(source, "text[: self.most]", "text[:1]"), monkeypatch)
    with pytest.raises(ContractError, match="different_texts"):
        check_encoder(module.Letters())
    assert module.closed


def test_texts_of_its_own_and_its_tolerance() -> None:
    check_encoder(Fake(), texts=["a", "b"], tolerance=0)
    for texts in (["a"], ["a", "a"]):
        with pytest.raises(ValueError, match="at least two texts, all different"):
            check_encoder(Fake(), texts=texts)


def test_precomputed_vectors_have_another_contract() -> None:
    with pytest.raises(TypeError, match=re.escape("Precomputed encodes no texts")):
        check_encoder(Precomputed("E.npy"))  # type: ignore[arg-type]
