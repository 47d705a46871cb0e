"""Inputs on which a greedy can go wrong, made from a seed."""

import numpy as np


def clustered(n: int, d: int = 32, seed: int = 0, mean: float = 0.8) -> np.ndarray:
    """Gaussian clusters about a common mean, as sentence embeddings lie; mean=0: cosines of both signs."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(2, n // 20), d))
    x = centres[rng.integers(0, len(centres), n)] + 0.7 * rng.standard_normal((n, d)) + mean
    return x.astype(np.float32)


def uniform(n: int, d: int = 16, seed: int = 0) -> np.ndarray:
    """Uniform in the positive cube."""
    return np.random.default_rng(seed).random((n, d)).astype(np.float32)


def duplicated(n: int, d: int = 16, seed: int = 0) -> np.ndarray:
    """Every row about six times, in random places."""
    rng = np.random.default_rng(seed)
    return clustered(max(1, n // 6), d, seed)[rng.integers(0, max(1, n // 6), n)]


def with_zeros(n: int, d: int = 16, seed: int = 0) -> np.ndarray:
    """One row in seven is zero, and cosines of either sign."""
    x = clustered(n, d, seed, mean=0.0)
    x[::7] = 0
    return x


EXAMPLES = {
    "clustered": lambda n: clustered(n),
    "negative": lambda n: clustered(n, mean=0.0),
    "uniform": uniform,
    "duplicated": duplicated,
    "zeros": with_zeros,
    "identical": lambda n: np.ones((n, 8), np.float32),
    "one-hot": lambda n: np.eye(8, dtype=np.float32)[np.arange(n) % 8],
    "narrow": lambda n: clustered(n, 1),
    "wide": lambda n: clustered(n, 300),
}
