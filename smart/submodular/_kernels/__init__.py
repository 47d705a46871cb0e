"""Compiled arithmetic: dot products, norms of projections, products by a matrix unit, and how code is compiled.

Each kernel comes twice: written in LLVM's own terms (the modules named `*_llvm`), and in plain Python that numba
compiles or that runs as it is. `compilation.py` says which of the two is used. Sums that decide between candidates
have the same bits in both, so that orders are the same.
"""
