"""What a machine with one GPU can prove: `python -m benchmarks.gpu PART`, see __main__.py."""
