"""Names of what a selection reads and makes: equal keys, equal contents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smart.config import Composition, declared
from smart.config.reading import is_default
from smart.runtime.manifest import make_key
from smart.selection.config import SelectConfig

VERSION = 1
"""Raised whenever the same configuration and pool give another mixture."""


def pool_key(composed: Composition) -> str:
    """Names the pool that a configuration asks for, before it is read.

    Two selections with equal keys read the same rows: fetching, plans and grids do it once for both.
    """
    asked = _asked_through("pool", composed)
    if composed.values.get("deduplicate") == "semantic":  # by the vectors
        asked |= _asked_through("vectors", composed)
    return make_key(asked, [], 1)


def vectors_key(composed: Composition) -> str | None:
    """Names the vectors that a configuration asks for; None where nothing needs any."""
    semantic = composed.values.get("deduplicate") == "semantic"
    if not semantic and not any(needs_vectors(composed.values[axis]) for axis in ("fn", "instance_fn")):
        return None
    return make_key(_asked_through("vectors", composed), [pool_key(composed)], 1)


def ordering_request_key(composed: Composition) -> str | None:
    """Names the orderings of groups that a configuration asks for; None where rows are drawn without vectors."""
    vectors = vectors_key(composed)
    if vectors is None or not needs_vectors(composed.values["instance_fn"]):
        return None
    asked = {name: composed.values[name] for name in ("instance_fn", "optimizer")}
    return make_key(asked, [vectors], 1)


def needs_vectors(function: Mapping[str, Any]) -> bool:
    """Whether the set function of a part of the configuration is made from vectors."""
    from hydra.utils import get_object

    return bool(getattr(get_object(str(function["_target_"])), "needs_vectors", True))


def mixture_key(config: SelectConfig, inputs: Sequence[str], budget: int) -> str:
    """Names a mixture.

    Args:
        inputs: keys of the collection's rows and of the vectors.
        budget: rows.
    """
    return make_key({**config.deciding(), "budget": budget}, inputs, VERSION)


def _asked_through(which: str, composed: Composition) -> dict[str, Any]:
    return {
        name: composed.values.get(name)
        for name, (_, info) in declared(SelectConfig).items()
        if info.through == which
        and not (info.added and is_default(SelectConfig, name, composed.values.get(name)))
    }
