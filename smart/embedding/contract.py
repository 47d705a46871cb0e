"""check_encoder: whether an encoder keeps the contract of `Encoder`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

import numpy as np

from smart.config import counted
from smart.embedding.encoders import DTYPES, Encoded, Encoder, Session
from smart.embedding.precomputed import Precomputed
from smart.runtime.contracts import require, require_json, require_members, require_valid, run_checks

TEXTS = (
    "Paris",
    "What is the capital of France?",
    "Translate to German: the cat sleeps.",
    "Premise: all birds can fly. Hypothesis: some penguins swim well. Does it follow?",
    "Add 17 and 25, then multiply the sum by three and give the last digit alone.",
    "Summarize in one line: the committee met on Monday, heard two reports, and put off the vote until spring.",
    "Is this review positive?\nThe plot drags and the jokes fall flat, but the two leads are so good that one "
    "forgives it nearly everything.",
)
"""Seven different texts of 1 to 25 words."""

UNUSUAL = (
    "a",
    "?",
    "42",
    "\tTabs,\nlines and  spaces \n",
    "Wie heißt die größte Stadt Österreichs?",
    "日本の首都はどこですか。",
    "ما هي عاصمة فرنسا؟",
    "🎉🎉 ∑ xᵢ² ≤ 1",
    "one more word " * 3000,
)
"""Very short and very long texts, and several scripts."""

SPEED_OPTIONS: dict[str, tuple[object, object]] = {
    "device": ("cpu", "cuda"),
    **dict.fromkeys(("batch_size", "devices", "threads", "workers", "num_workers"), (1, 3)),
}
"""Options that must not change the identity, and two values for each."""

TOLERANCE = 0.02
THREADS = 4
"""Threads that encode at once, where a session says that they may."""


def check_encoder(encoder: Encoder, *, texts: Sequence[str] = TEXTS, tolerance: float = TOLERANCE) -> None:
    """Run the checks of the `Encoder` contract, and stop at the first that fails.

    It calls `fetch` once, which may download, opens the encoder twice, and encodes a few dozen texts.

    Args:
        encoder: an instance with valid options.
        texts: at least two texts that the encoder must tell apart; give some of its own domain where it has one.
        tolerance: how far two vectors of the same text may lie apart, relative to their length. The default leaves
            room for bfloat16; 1e-4 suits an encoder that computes in float32.

    Raises:
        ContractError: names the check, what was expected, what came, and a hint.
        TypeError: for Precomputed, which encodes no texts; `embed` checks its file against the collection.

    >>> from smart.embedding import WordLlama
    >>> check_encoder(WordLlama())
    """
    if isinstance(encoder, Precomputed):
        raise TypeError(
            "Precomputed encodes no texts, so this contract is not its own; embed() checks its file"
        )
    if len(texts) < 2 or len(set(texts)) < len(texts):
        raise ValueError("check_encoder needs at least two texts, all different")
    with ExitStack() as opened:
        run_checks("check_encoder", encoder, CHECKS, _Trial(encoder, list(texts), tolerance, opened))


@dataclass
class _Trial:
    """An encoder under test, and what earlier checks got from it."""

    encoder: Encoder
    texts: list[str]
    tolerance: float
    opened: ExitStack
    """Closes the open session in the end."""
    session: Session = field(init=False)
    vectors: np.ndarray = field(init=False)
    """(n, d) of `texts`, from the first session."""

    def encode(self, texts: list[str], session: Session | None = None) -> np.ndarray:
        """Vectors of the texts, block by block as `embed` asks for them; each block's shape is checked."""
        session = session or self.session
        parts = []
        for start in range(0, len(texts), session.block):
            part = texts[start : start + session.block]
            encoded = session.encode(list(part))
            _require_encoded(encoded, len(part))
            parts.append(encoded[0])
        return np.concatenate(parts)

    def require_same(self, vectors: np.ndarray, wanted: np.ndarray, expected: str, hint: str) -> None:
        """Each row lies within the tolerance of the wanted one."""
        require(vectors.shape == wanted.shape, f"{expected}, shape {wanted.shape}", vectors.shape, hint)
        a, b = vectors.astype(np.float64), wanted.astype(np.float64)
        apart = np.linalg.norm(a - b, axis=1) / np.maximum(np.linalg.norm(b, axis=1), 1e-12)
        worst = int(apart.argmax())
        require(
            bool(apart[worst] <= self.tolerance),
            f"{expected} (within {self.tolerance:g} of its length)",
            f"text {worst} {apart[worst]:.3g} of its length away",
            hint,
        )


def _members(trial: _Trial) -> None:
    methods = ("identity", "width", "validate", "fetch", "open")
    require_members(trial.encoder, Encoder, ["dtype"], methods)


def _dtype(trial: _Trial) -> None:
    dtype = trial.encoder.dtype
    require(
        dtype in DTYPES, "dtype float16 or float32, as a string", repr(dtype), "set dtype: str = 'float16'"
    )


def _validate(trial: _Trial) -> None:
    require_valid(trial.encoder)


def _identity(trial: _Trial) -> None:
    first, second = trial.encoder.identity(), trial.encoder.identity()
    if first is not None:
        require(isinstance(first, dict), "identity() to return a dictionary or None", type(first).__name__)
        require_json(first, "an identity")
    hint = "leave out what changes from call to call, such as times and random numbers"
    require(first == second, f"the same identity twice, {first}", second, hint)


def _fetch(trial: _Trial) -> None:
    before = trial.encoder.identity()
    trial.encoder.fetch()
    after = trial.encoder.identity()
    hint = "the vectors are stored under the identity, so find the revision at the latest in fetch()"
    require(after is not None, "an identity after fetch()", None, hint)
    require(before in (None, after), f"the same identity after fetch(), {before}", after, hint)
    _identity(trial)


def _identity_without_speed(trial: _Trial) -> None:
    for name, (one, other) in SPEED_OPTIONS.items():
        if name in getattr(trial.encoder, "__dict__", {}):
            changed = copy.copy(trial.encoder)
            value = other if getattr(changed, name) == one else one
            object.__setattr__(changed, name, value)  # the dataclass may be frozen
            require(
                changed.identity() == trial.encoder.identity(),
                f"an identity that does not depend on {name}",
                changed.identity(),
                "leave it out: it does not decide the vectors, and a change would encode everything again",
            )


def _open(trial: _Trial) -> None:
    context = trial.encoder.open()
    hint = "decorate open() with contextlib.contextmanager and yield Session(encode, block)"
    require(isinstance(context, AbstractContextManager), "a context manager from open()", context, hint)
    session = trial.opened.enter_context(context)
    fits = callable(getattr(session, "encode", None)) and hasattr(session, "block")
    require(fits, "a Session with encode and block", session, hint)
    block = session.block
    whole = isinstance(block, int) and not isinstance(block, bool) and block >= 1
    require(whole, "Session.block to be a whole number, at least 1", repr(block), hint)
    parallel = session.parallel
    require(isinstance(parallel, bool), "Session.parallel to be True or False", repr(parallel), hint)
    trial.session = session


def _encode(trial: _Trial) -> None:
    for count in (1, 2, 7):
        texts = (trial.texts * 7)[: min(count, trial.session.block)]
        _require_encoded(trial.session.encode(list(texts)), len(texts))
    trial.vectors = trial.encode(trial.texts)


def _require_encoded(encoded: Encoded, count: int) -> None:
    pair = isinstance(encoded, tuple) and len(encoded) == 2
    require(pair, "Encoded(vectors, truncated)", type(encoded).__name__, "return Encoded(vectors, truncated)")
    vectors, truncated = encoded
    hint = "convert tensors with .float().cpu().numpy()"
    require(isinstance(vectors, np.ndarray), "vectors as a numpy array", type(vectors).__name__, hint)
    what = f"float vectors of shape ({count}, d) for {counted(count, 'text')}"
    fits = vectors.dtype.kind == "f" and vectors.ndim == 2 and len(vectors) == count and vectors.shape[1] > 0
    require(fits, what, f"{vectors.dtype} {vectors.shape}", "return one row for each text, in their order")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
    hint = "look for a division by a zero length or an overflow"
    require(not bad, "finite vectors", f"NaN or infinity in rows {bad}", hint)
    number = isinstance(truncated, int | np.integer) and not isinstance(truncated, bool)
    hint = "count the texts that were cut; 0 where nothing is cut"
    require(number and 0 <= truncated <= count, f"truncated from 0 to {count}", repr(truncated), hint)


def _own_arrays(trial: _Trial) -> None:
    first = trial.session.encode(trial.texts[:1])[0]
    kept = first.copy()
    trial.session.encode(trial.texts[-1:])
    hint = "return a new array from each call: blocks are put together later"
    require(np.array_equal(first, kept), "vectors that stay as returned", "an array that changed later", hint)


def _width(trial: _Trial) -> None:
    width = trial.encoder.width()
    if width is not None:
        d = trial.vectors.shape[1]
        hint = "return the number of columns that encode() gives, or None"
        require(width == d, f"width() to be {d}, the width of the vectors, or None", width, hint)


def _storage(trial: _Trial) -> None:
    dtype = trial.encoder.dtype
    largest, most = float(np.abs(trial.vectors).max()), float(np.finfo(dtype).max)
    require(largest <= most, f"values up to {most:g}, the largest {dtype}", largest, "set dtype to float32")


def _different_texts(trial: _Trial) -> None:
    stored = trial.vectors.astype(trial.encoder.dtype)
    _, first = np.unique(stored, axis=0, return_index=True)
    hint = (
        "texts may be cut before they differ, or values be too small for dtype; or pass texts= of its domain"
    )
    copies = sorted(set(range(len(stored))) - set(first.tolist()))
    shown = [trial.texts[number][:40] for number in copies[:3]]
    require(not copies, "different vectors for different texts", f"copies for {shown}", hint)


def _same_texts(trial: _Trial) -> None:
    again = trial.encode(trial.texts)
    hint = "switch off dropout and sampling; seed what is random by the text"
    trial.require_same(again, trial.vectors, "the same vector for the same text", hint)


def _order(trial: _Trial) -> None:
    texts = trial.texts[: trial.session.block]  # one block, so that each text keeps its company
    turned = trial.encode(texts[::-1])[::-1]
    hint = "where encode() sorts its texts, bring the vectors back to the order of the texts"
    trial.require_same(turned, trial.vectors[: len(texts)], "row i to be the vector of text i", hint)


def _company(trial: _Trial) -> None:
    alone = np.concatenate([trial.encode([text]) for text in trial.texts])
    hint = "mask padding, and compute nothing over the batch, such as a mean that is taken off"
    trial.require_same(alone, trial.vectors, "a text's vector not to depend on the texts beside it", hint)


def _several_threads(trial: _Trial) -> None:
    if not trial.session.parallel:
        return
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda _: trial.encode(trial.texts), range(4 * THREADS)))
    hint = "give each call a state of its own, or leave Session.parallel False"
    for vectors in found:
        trial.require_same(vectors, trial.vectors, "the same vectors when threads encode at once", hint)


def _unusual_texts(trial: _Trial) -> None:
    for text in UNUSUAL:
        encoded = trial.session.encode([text])
        _require_encoded(encoded, 1)
        d, wanted = encoded[0].shape[1], trial.vectors.shape[1]
        require(
            d == wanted,
            f"{counted(wanted, 'dimension')} for {text[:40]!r} too",
            d,
            "return one width for all texts",
        )


def _open_again(trial: _Trial) -> None:
    trial.opened.close()
    with trial.encoder.open() as session:
        again = trial.encode(trial.texts, session)
    hint = "load the encoder in open(), and leave the options as they are when it is closed"
    trial.require_same(again, trial.vectors, "the same vectors when opened again", hint)


CHECKS = (
    _members,
    _dtype,
    _validate,
    _identity,
    _fetch,
    _identity_without_speed,
    _open,
    _encode,
    _own_arrays,
    _width,
    _storage,
    _different_texts,
    _same_texts,
    _order,
    _company,
    _several_threads,
    _unusual_texts,
    _open_again,
)
