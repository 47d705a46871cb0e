"""Evaluation: lm-eval's tasks and scores, with statistics that say whether a difference is one."""
