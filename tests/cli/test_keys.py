"""A stage's VERSION is raised when its results change: stored results of a fixed selection notice it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from smart.runtime.files import hash_bytes
from smart.selection.keys import VERSION as SELECT
from smart.selection.orderings import VERSION as ORDERINGS
from tests.cli.test_select import folder_of, read_tasks
from tests.commands import Command

# (VERSION of select, of orderings): {fn: (key, hash of the chosen rows in their order and of the budgets)}
STORED = {
    (1, 1): {
        "graphcut": ("b409fcf70bbfd5766ef80d2c84380f9c", "396871db5cafe2e6b6a1f8aae5278c07"),
        "facility_location": ("63a594c5f532c9ba8c202cc5f37ed60d", "2635774bd8d6ebf254b3ce4433e2244c"),
        "logdet": ("4fa602c51b5083ca33e9300a50341f9b", "8404884a3586e3a592034fddeec5320c"),
        "random": ("89cf6087d65ace4f250b8f84a46fb30d", "ab715c1b06d3910b23505300fb0535e6"),
    },
}


@pytest.mark.parametrize("fn", ["graphcut", "facility_location", "logdet", "random"])
def test_results_change_only_with_the_version(
    select: Command, collection: Path, tmp_path: Path, fn: str
) -> None:
    vectors = np.random.default_rng(0).normal(size=(pq.read_metadata(collection).num_rows, 16))
    np.save(tmp_path / "E.npy", vectors.astype(np.float32))
    done = select("encoder=precomputed", f"encoder.path={tmp_path}/E.npy", f"fn={fn}", f"instance_fn={fn}")
    assert done.code == 0, done.said
    folder = tmp_path / folder_of(done.out)
    rows = pq.read_table(folder / "train.parquet")["row"].to_numpy().astype("<i8").tobytes()
    budgets = json.dumps([task["budget"] for task in read_tasks(folder)]).encode()
    key = json.loads((folder / "manifest.json").read_text())["key"]
    assert (SELECT, ORDERINGS) in STORED, "store the results of the new version here"
    assert STORED[SELECT, ORDERINGS].get(fn) == (key, hash_bytes([rows, budgets])), (
        "results or keys have changed: raise VERSION in smart/selection/keys.py or orderings.py"
    )
