"""Gains, sizes and orders become weights, whole rows, and a written data set."""

from smart.mixture.allocation import allocate, split_templates
from smart.mixture.budgets import TaskBudgets, distribute
from smart.mixture.contract import check_weighting
from smart.mixture.rows import sample_validation
from smart.mixture.summary import render_summary
from smart.mixture.turns import Turns, describe_turns
from smart.mixture.weighting import (
    Proportional,
    Softmax,
    TaskTable,
    TaylorSoftmax,
    Temperature,
    Uniform,
    Weighting,
    softmax,
    taylor_softmax,
)
from smart.mixture.write import write_mixture
from smart.runtime.contracts import ContractError

__all__ = [
    "ContractError",
    "Proportional",
    "Softmax",
    "TaskBudgets",
    "TaskTable",
    "TaylorSoftmax",
    "Temperature",
    "Turns",
    "Uniform",
    "Weighting",
    "allocate",
    "check_weighting",
    "describe_turns",
    "distribute",
    "render_summary",
    "sample_validation",
    "softmax",
    "split_templates",
    "taylor_softmax",
    "write_mixture",
]
