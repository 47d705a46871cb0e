"""What submodlib returned on real embeddings, where the folder of real data is at hand."""

import json

import numpy as np
import pytest

from smart.submodular import FacilityLocation, GraphCut, LogDeterminant, maximize, regret

FUNCTIONS = {
    "fl": FacilityLocation,
    "gc": lambda X: GraphCut(X, tradeoff=0.4),
    "logdet": lambda X: LogDeterminant(X, regularizer=1.0),
}
LIMIT = 1e-6


def same(chosen, entry, order):
    """Graph cut agrees index by index where theirs is exact; elsewhere exact ties are structural."""
    if entry["fn"] == "gc" and entry["regret"] <= LIMIT:
        np.testing.assert_array_equal(chosen.order, order)
        np.testing.assert_allclose(chosen.gains, entry["gains"], rtol=2e-5, atol=2e-5)


@pytest.fixture(scope="module")
def reference(shared):
    return json.loads((shared / "golden" / "reference.json").read_text())


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_task_orders(shared, reference, fn):
    f = FUNCTIONS[fn](np.load(shared / "golden" / "task_embeddings.npy"))
    entries = [entry for entry in reference["stage1"] if entry["fn"] == fn and entry["order"]]
    assert entries
    for entry in entries:
        chosen = maximize(f, len(entry["order"]))
        assert regret(f, chosen.order).maximum <= LIMIT
        same(chosen, entry, [reference["tasks"].index(task) for task in entry["order"]])


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_instance_orders(shared, reference, fn):
    embeddings = np.load(shared / "golden" / "embeddings.npy")
    for entry in (entry for entry in reference["orderings"] if entry["fn"] == fn):
        rows = np.sort([*entry["rows"], *missing(entry, shared)])
        f = FUNCTIONS[fn](embeddings[rows])
        chosen = maximize(f, len(entry["rows"]))
        assert regret(f, chosen.order).maximum <= LIMIT
        same(type(chosen)(rows[chosen.order], chosen.gains), entry, entry["rows"])


def missing(entry, shared):
    """The one row of a group that an ordering of length n-1 leaves out."""
    import pyarrow.parquet as pq

    table = pq.read_table(shared / "golden" / "rows.parquet").to_pandas()
    group = np.flatnonzero((table.task_name == entry["task"]) & (table.template_type == entry["template"]))
    assert len(group) == entry["group_size"]
    return sorted(set(group) - set(entry["rows"]))
