"""SMART: submodular data mixtures for instruction tuning, from selection to benchmark tables.

from smart import evaluate, select, train
mixture = select(collection="reasoning_gym", budget="5k", fn="graphcut")
adapter = train(mixture=mixture.path, model="smollm2_135m")
scores = evaluate(adapter=adapter.path, suite="smoke")
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smart.api import evaluate, reproduce, select, train

__version__ = "0.1.0"
__all__ = ["evaluate", "reproduce", "select", "train"]


def __getattr__(name: str) -> object:
    """The functions of smart.api, loaded when they are first asked for."""
    if name in __all__:
        from smart import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
