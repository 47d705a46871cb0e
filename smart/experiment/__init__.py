"""Grids, plans, runs (each stage its own process, by its command), tables, report."""
