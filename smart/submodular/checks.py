"""A contract test for set functions, in the manner of scikit-learn's check_estimator.

from smart.submodular import check_set_function
check_set_function(MyFunction)
check_set_function(functools.partial(MyFunction, tradeoff=0.7))
"""

import inspect
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from smart.submodular.base import begin_state
from smart.submodular.maximize import maximize
from smart.submodular.regret import regret

ROUNDING = 1e-8
"""Gains may differ by this, relative to the largest first gain or 1, and count as equal."""
LIMIT = 1e-6
"""The largest relative regret of an exact order; see Regret.relative."""


class ContractError(AssertionError):
    """A set function that does not do what `maximize` relies on.

    Attributes:
        check: name of the check that failed.
        expected: what should have come.
        found: what came.
        hint: where to look.
    """

    def __init__(self, check: str, case: str, expected: str, found: str, hint: str) -> None:
        super().__init__(f"check '{check}' on {case}: expected {expected}; found {found}. {hint}")
        self.check, self.expected, self.found, self.hint = check, expected, found, hint


def check_set_function(make: Callable[..., Any], *, needs_vectors: bool | None = None, seed: int = 0) -> None:
    """Try a set function on small random and degenerate inputs, and raise at the first thing that is wrong.

    Takes a second or so. Passing says that `maximize` can rely on the function, not that its formula is right.

    Args:
        make: the class, or a callable, that makes the function from vectors X (n, d) float32, called as make(X); or,
            for a function without vectors, called as make(n=…, seed=…).
        needs_vectors: which of the two; None reads the class attribute of that name, True where there is none.
        seed: of the random inputs.

    Raises:
        ContractError: names the check, the input, what was expected, what came, and where to look.
    """
    if needs_vectors is None:
        needs_vectors = bool(getattr(getattr(make, "func", make), "needs_vectors", True))
    for case in _vector_cases(make, seed) if needs_vectors else _plain_cases(make, seed):
        for name, check in CHECKS.items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of zero vectors, for one
                    check(case)
            except _UnmetError as unmet:
                raise ContractError(name, case.name, *unmet.args) from None
            except _RefusedError:
                break
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
                raise ContractError(
                    name, case.name, "no error", found, "The traceback says where."
                ) from error


class _UnmetError(Exception):
    """Arguments: what was expected, what was found, and a hint."""


class _RefusedError(Exception):
    """The function may refuse this input, and does."""


@dataclass(frozen=True)
class _Case:
    """One input."""

    name: str
    n: int
    make: Callable[[np.ndarray | None], Any]
    """Vectors → a new function."""
    X: np.ndarray | None = None
    """None for a function without vectors."""
    seed: int = 0

    def function(self, X: np.ndarray | None = None) -> Any:
        """A new function over X, or else over a copy of the case's vectors, which it may refuse if one is zero."""
        if X is None and self.X is not None:
            X = self.X.copy()
        try:
            return self.make(X)
        except ValueError:
            if X is not None and not X.any(axis=1).all():
                raise _RefusedError from None
            raise

    def picks(self) -> list[int]:
        """Some rows in random order, at most eight and never all but where there is one."""
        rows = np.random.default_rng(self.seed).permutation(self.n)
        return [int(row) for row in rows[: max(1, min(8, self.n - 1))]]


def _vector_cases(make: Callable[..., Any], seed: int) -> list[_Case]:
    rng = np.random.default_rng(seed)
    positive, both = rng.random((24, 5)), rng.standard_normal((24, 5))
    with_zero = both[:12].copy()
    with_zero[4] = 0
    inputs = {
        "24 vectors with positive cosines": positive,
        "24 vectors with cosines of both signs": both,
        "20 vectors, four copies of each of five": np.tile(positive[:5], (4, 1)),
        "12 vectors, one of them zero": with_zero,
        "a single vector": positive[:1],
    }
    return [_Case(name, len(X), lambda X: make(X), X.astype(np.float32), seed) for name, X in inputs.items()]


def _plain_cases(make: Callable[..., Any], seed: int) -> list[_Case]:
    def case(n: int) -> _Case:
        return _Case(f"n = {n}", n, lambda _: make(n=n, seed=seed), seed=seed)

    return [case(n) for n in (24, 2, 1)]


def _scale(gains: np.ndarray) -> float:
    return max(1.0, float(np.abs(gains).max()))


def _require(holds: bool, expected: str, found: object, hint: str) -> None:
    if not holds:
        raise _UnmetError(expected, str(found), hint)


def _read(state: Any, n: int) -> np.ndarray:
    """A copy of all gains."""
    return np.array(state.gains(), np.float64).reshape(n)


def _differing(found: np.ndarray, expected: np.ndarray) -> str:
    row = int(np.abs(found - expected).argmax())
    return f"{found[row]:.9g} instead of {expected[row]:.9g} at place {row}"


def _check_rows(case: _Case) -> None:
    n = getattr(case.function(), "n", None)
    whole = hasattr(n, "__index__") and not isinstance(n, bool)
    _require(
        whole and operator.index(n) == case.n,  # type: ignore[arg-type]
        f"n = {case.n}, an int",
        f"n = {n!r}",
        "n is the number of rows to choose from, an attribute or a property.",
    )


def _check_vectors(case: _Case) -> None:
    if case.X is None:
        return
    X = case.X.copy()
    state = begin_state(case.function(X))
    for i in case.picks():
        state.gains()
        state.add(i)
    hint = "Copy X before you write to it: X / norms makes a new array, X /= norms does not."
    _require(np.array_equal(X, case.X), "X as it was", "other numbers in it", hint)


def _check_gains(case: _Case) -> None:
    state = begin_state(case.function())
    alive = np.ones(case.n, np.bool_)
    for i in [*case.picks(), None]:
        gains = state.gains()
        kind = f"{type(gains).__name__}, shape {np.shape(gains)}, dtype {getattr(gains, 'dtype', None)}"
        _require(
            isinstance(gains, np.ndarray) and gains.shape == (case.n,) and gains.dtype.kind == "f",
            f"gains() to return an array of shape ({case.n},), dtype float64",
            kind,
            "One gain for every row, in row order, those already chosen included.",
        )
        wrong = np.flatnonzero(alive & ~np.isfinite(gains))
        _require(
            not wrong.size,
            "a finite gain for every row that is not chosen",
            f"{gains[wrong[0]]} at row {wrong[0]} after {case.n - alive.sum()} picks" if wrong.size else "",
            "Look for 0/0 and log(0): zero vectors and copies of chosen rows are common.",
        )
        if i is not None:
            state.add(i)
            alive[i] = False


def _check_states(case: _Case) -> None:
    f = case.function()
    one, other = begin_state(f), begin_state(f)
    first = _read(one, case.n)
    for i in case.picks():
        one.add(i)
        one.gains()
    hint = (
        "begin() has to make a new state, and add() to change nothing but it: copy arrays that states share."
    )
    for name, state in {"a second state": other, "a state begun afterwards": begin_state(f)}.items():
        found = _read(state, case.n)
        same = np.allclose(found, first, rtol=0, atol=ROUNDING * _scale(first))
        _require(same, f"the gains of {name} not to change with the first", _differing(found, first), hint)


def _check_deterministic(case: _Case) -> None:
    runs = []
    for _ in range(2):
        state = begin_state(case.function())
        gains = [_read(state, case.n)]
        for i in case.picks():
            state.add(i)
            gains.append(_read(state, case.n))
        runs.append(gains)
    chosen = np.zeros(case.n, np.bool_)
    for step, (one, other) in enumerate(zip(*runs, strict=True)):
        same = np.array_equal(one[~chosen], other[~chosen])
        found = _differing(np.where(chosen, 0, other), np.where(chosen, 0, one))
        hint = "Draw at random from a seed only, and in the constructor."
        _require(same, f"the same gains in a second run, after {step} picks", found, hint)
        chosen[case.picks()[: step + 1]] = True


def _check_gains_of(case: _Case) -> None:
    state = begin_state(case.function())
    if not hasattr(state, "gains_of"):
        return
    rng = np.random.default_rng(case.seed)
    left = list(range(case.n))
    for i in [None, *case.picks()]:
        if i is not None:
            state.add(i)
            left.remove(i)
        if not left:
            return
        rows = rng.permutation(left)[: 1 + len(left) // 2].astype(np.int64)
        some = state.gains_of(rows.copy())
        expected = _read(state, case.n)[rows]
        hint = "gains_of(rows) gives the gains of those rows, in the order of `rows`; the default is gains()[rows]."
        _require(
            np.shape(some) == rows.shape,
            f"gains_of(rows) of shape {rows.shape}",
            f"shape {np.shape(some)}",
            hint,
        )
        same = np.allclose(some, expected, rtol=0, atol=ROUNDING * _scale(expected))
        _require(same, "gains_of(rows) to equal gains()[rows]", _differing(np.asarray(some), expected), hint)


def _check_diminishing(case: _Case) -> None:
    f = case.function()
    if not getattr(f, "submodular", True):
        return
    state = begin_state(f)
    least = _read(state, case.n)
    slack, left = ROUNDING * _scale(least), np.ones(case.n, np.bool_)
    for i in case.picks():
        state.add(i)
        left[i] = False
        gains = _read(state, case.n)
        rising = np.flatnonzero(left & (gains > least + slack))
        _require(
            not rising.size,
            "no gain to rise as rows are added, since submodular is True",
            f"row {rising[0]} rose from {least[rising[0]]:.9g} to {gains[rising[0]]:.9g}"
            if rising.size
            else "",
            "If the formula is right, set submodular = False in the class: 'lazy' then works as 'naive'.",
        )
        least = np.minimum(least, gains)


def _check_take(case: _Case) -> None:
    f = case.function()
    if not hasattr(f, "take"):
        return
    rows = np.sort(np.random.default_rng(case.seed).permutation(case.n)[: 1 + case.n // 2])
    part = f.take(rows)
    hint = "take(rows) is the same function over those rows alone, whose row j is rows[j]."
    _require(part.n == rows.size, f"take(rows).n = {rows.size}", f"n = {part.n}", hint)
    order = maximize(part, int(rows.size), "naive").order
    _require(
        sorted(order) == list(range(rows.size)), "naive greedy on take(rows) to order them all", order, hint
    )
    everything, found = _read(begin_state(f), case.n), _read(begin_state(f.take(np.arange(case.n))), case.n)
    same = np.allclose(found, everything, rtol=0, atol=ROUNDING * _scale(everything))
    _require(same, "the same gains from take(all rows)", _differing(found, everything), hint)


def _check_exact(case: _Case) -> None:
    f = case.function()
    if not hasattr(f, "exact"):
        return
    chosen = maximize(f, case.n, "exact")
    hint = "exact() has to give naive greedy's order and gains; leave it out where there is no quicker way."
    _require(
        sorted(chosen.order) == list(range(case.n)), "exact() to order every row once", chosen.order, hint
    )
    replayed = regret(f, chosen.order)
    _require(
        replayed.maximum <= LIMIT,
        f"a regret of at most {LIMIT:g}",
        f"a regret of {replayed.maximum:.3g}",
        hint,
    )
    same = np.allclose(chosen.gains, replayed.gains, rtol=0, atol=LIMIT * _scale(replayed.gains))
    _require(same, "the gains of exact()'s picks", _differing(chosen.gains, replayed.gains), hint)
    few = maximize(f, max(1, case.n // 2), "exact").order
    _require(
        np.array_equal(few, chosen.order[: few.size]),
        "a smaller budget to choose the first rows of a larger one",
        few,
        hint,
    )


def _check_lazy(case: _Case) -> None:
    f = case.function()
    lazy, naive = (maximize(f, case.n, optimizer).order for optimizer in ("lazy", "naive"))
    hint = "Lazy greedy relies on gains that never rise, and on gains_of()."
    _require(np.array_equal(lazy, naive), f"lazy greedy's order to be naive greedy's, {naive}", lazy, hint)


def _check_options(case: _Case) -> None:
    kind = type(case.function())
    if hasattr(kind, "check_options"):
        kind.check_options()
    added = getattr(kind, "added_options", ())
    known = inspect.signature(kind).parameters
    unknown = [name for name in added if name not in known or known[name].default is inspect.Parameter.empty]
    _require(
        isinstance(added, tuple) and not unknown,
        "added_options to be a tuple of constructor options that have defaults",
        unknown or repr(added),
        "Write ('name',) with the comma.",
    )


CHECKS: dict[str, Callable[[_Case], None]] = {
    "number of rows": _check_rows,
    "vectors unchanged": _check_vectors,
    "gains": _check_gains,
    "independent states": _check_states,
    "deterministic": _check_deterministic,
    "gains of some rows": _check_gains_of,
    "diminishing gains": _check_diminishing,
    "take": _check_take,
    "exact": _check_exact,
    "lazy": _check_lazy,
    "options": _check_options,
}
"""The checks by name, in the order in which they run."""
