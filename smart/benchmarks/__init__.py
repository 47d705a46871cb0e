"""Benchmarks: which documents a suite has, and lm-eval's data from local files."""
