"""Grids, plans, runs (each stage its own process, by its command), tables, report."""

from smart.experiment.config import ReproduceConfig
from smart.experiment.run import fetch, plan, reproduce, run_one

__all__ = ["ReproduceConfig", "fetch", "plan", "reproduce", "run_one"]
