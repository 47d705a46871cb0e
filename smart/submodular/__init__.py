"""Submodular set functions and greedy maximisers: arrays in, arrays out; depends on nothing else of ours."""

from smart.submodular.functions import (
    FacilityLocation,
    GraphCut,
    GreedyState,
    LogDeterminant,
    Random,
    SetFunction,
)
from smart.submodular.maximize import Chosen, maximize
from smart.submodular.partition import quality
from smart.submodular.regret import Regret, regret
from smart.submodular.resources import MemoryLimitError, single_threaded_blas

__all__ = [
    "Chosen",
    "FacilityLocation",
    "GraphCut",
    "GreedyState",
    "LogDeterminant",
    "MemoryLimitError",
    "Random",
    "Regret",
    "SetFunction",
    "maximize",
    "quality",
    "regret",
    "single_threaded_blas",
]
