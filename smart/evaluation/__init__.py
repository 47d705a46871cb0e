"""Evaluation: lm-eval's tasks and scores, with statistics that say whether a difference is significant."""

from smart.evaluation.config import EvaluateConfig
from smart.evaluation.run import EvaluationScores, evaluate, fetch, plan

__all__ = ["EvaluateConfig", "EvaluationScores", "evaluate", "fetch", "plan"]
