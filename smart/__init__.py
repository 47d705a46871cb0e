"""SMART: submodular data mixtures for instruction tuning, from selection to benchmark tables."""

__version__ = "0.1.0"
