"""Compiled kernels written in LLVM's own terms, and the decorators by which this room compiles."""
