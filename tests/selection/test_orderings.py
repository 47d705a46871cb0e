"""How groups share the threads."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from smart.selection import orderings
from smart.selection.config import FunctionChoice
from smart.selection.orderings import Orderer, order_groups
from smart.submodular import FacilityLocation, GraphCut
from tests.submodular.examples import clustered


@dataclass(frozen=True)
class Watched(Orderer):
    seen: list[tuple[int, int, int]] = field(default_factory=list)
    """(rows, threads, share of the memory) of each group."""

    def order(self, X, threads, share):
        self.seen.append((len(X), threads, share))
        return super().order(X, threads, share)


class Rows:
    key = "rows"

    def __init__(self, X):
        self.X = X

    def __getitem__(self, part):
        return self.X[part]


@pytest.mark.parametrize("single_threaded", [False, True])
def test_large_groups_get_all_threads_unless_their_function_has_no_use_for_them(
    single_threaded, monkeypatch, tmp_path
):
    monkeypatch.setattr(orderings, "ALONE", 50)
    offsets = np.array([0, 60, 70, 130])
    watched = Watched(GraphCut, {"fn": "graphcut"}, 2**30, single_threaded=single_threaded)
    orders = order_groups(watched, Rows(clustered(130)), offsets, [0, 1, 2], tmp_path, threads=2)
    assert {group: sorted(order) for group, order in orders.items()} == {
        0: list(range(60)),
        1: list(range(10)),
        2: list(range(60)),
    }
    large = (60, 1, 2) if single_threaded else (60, 2, 1)
    assert sorted(watched.seen) == [(10, 1, 2), large, large]


def test_graph_cut_is_the_function_that_has_no_use_for_them():
    assert FunctionChoice("graphcut", {}, GraphCut).single_threaded
    assert not FunctionChoice("facility_location", {}, FacilityLocation).single_threaded
