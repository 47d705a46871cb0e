"""Orders that submodlib returned on real embeddings: a part kept in fixtures/, all of them in the folder of real data.

python -m tests.submodular.golden ../shared      # makes fixtures/golden.npz again
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FIXTURE = Path(__file__).parent / "fixtures" / "golden.npz"


class Golden(NamedTuple):
    """An order that submodlib returned."""

    name: str
    fn: str
    X: np.ndarray
    """(n, d) float32."""
    order: np.ndarray
    gains: np.ndarray
    regret: float
    """Its largest relative regret, as published with it."""


def kept() -> Iterator[Golden]:
    with np.load(FIXTURE) as arrays:
        for name in [name for name in arrays.files if name.endswith("_order")]:
            stem = name.removesuffix("_order")
            over, fn, *_ = stem.split("_")
            X = arrays[over].astype(np.float32)
            yield Golden(stem, fn, X, arrays[name], arrays[f"{stem}_gains"], float(arrays[f"{stem}_regret"]))


def of_tasks(shared: Path) -> Iterator[Golden]:
    reference = json.loads((shared / "golden" / "reference.json").read_text())
    X = np.load(shared / "golden" / "task_embeddings.npy")
    for entry in reference["stage1"]:
        order = np.array([reference["tasks"].index(task) for task in entry["order"]])
        name = f"tasks_{entry['fn']}_{len(order)}"
        yield Golden(name, entry["fn"], X, order, np.array(entry["gains"]), entry["regret"])


def of_groups(shared: Path) -> Iterator[Golden]:
    """Orderings of n − 1 rows of a group of n."""
    import pyarrow.parquet as pq

    table = pq.read_table(shared / "golden" / "rows.parquet").to_pandas()
    embeddings = np.load(shared / "golden" / "embeddings.npy")
    names: list[tuple[str, str]] = []
    for entry in json.loads((shared / "golden" / "reference.json").read_text())["orderings"]:
        group = entry["task"], entry["template"]
        names += [group] if group not in names else []
        rows = np.flatnonzero((table.task_name == group[0]) & (table.template_type == group[1]))
        assert len(rows) == entry["group_size"] == len(entry["rows"]) + 1
        name = f"group{names.index(group)}_{entry['fn']}"
        order = np.searchsorted(rows, entry["rows"])
        yield Golden(name, entry["fn"], embeddings[rows], order, np.array(entry["gains"]), entry["regret"])


def make_fixture(shared: Path) -> None:
    arrays: dict[str, Any] = {}
    groups = [golden for golden in of_groups(shared) if len(golden.X) <= 58]  # the smallest five of twelve
    for golden in (*of_tasks(shared), *groups):
        stem = golden.name
        over = stem.split("_")[0]
        half = golden.X.astype(np.float16)
        arrays[over] = half if np.array_equal(half, golden.X) else golden.X
        arrays |= {f"{stem}_order": golden.order.astype(np.int16), f"{stem}_gains": golden.gains}
        arrays[f"{stem}_regret"] = golden.regret
    np.savez_compressed(FIXTURE, **arrays)


if __name__ == "__main__":
    make_fixture(Path(sys.argv[1]))
