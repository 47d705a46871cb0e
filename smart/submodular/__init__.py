"""Submodular set functions and greedy maximisers: arrays in, arrays out; depends on nothing else of ours."""

from smart.submodular.base import GreedyState, SetFunction
from smart.submodular.checks import ContractError, check_set_function
from smart.submodular.functions import FacilityLocation, GraphCut, LogDeterminant, Random
from smart.submodular.maximize import Chosen, maximize
from smart.submodular.partition import quality
from smart.submodular.regret import Regret, regret
from smart.submodular.resources import MemoryLimitError, single_threaded_blas

__all__ = [
    "Chosen",
    "ContractError",
    "FacilityLocation",
    "GraphCut",
    "GreedyState",
    "LogDeterminant",
    "MemoryLimitError",
    "Random",
    "Regret",
    "SetFunction",
    "check_set_function",
    "maximize",
    "quality",
    "regret",
    "single_threaded_blas",
]
