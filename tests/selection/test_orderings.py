"""How groups share the threads, and what of the cache is used again."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from smart.runtime.executor import Threads
from smart.selection import orderings
from smart.selection.config import FunctionChoice
from smart.selection.orderings import Orderer, order_groups, orderings_key
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
    orders = order_groups(watched, Rows(clustered(130)), offsets, [0, 1, 2], tmp_path, Threads(2))
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


OFFSETS = np.array([0, 30, 50, 90])


def order(root: Path, seed: int = 0) -> tuple[dict[int, list[int]], list[int], Path]:
    """Orders of three groups, the sizes of those that were computed, and the shard of this key."""
    vectors = Rows(clustered(90))
    vectors.key = f"rows {seed}"
    watched = Watched(GraphCut, {"fn": "graphcut"}, 2**30)
    orders = order_groups(watched, vectors, OFFSETS, [0, 1, 2], root, Threads(1))
    shard = min((root / orderings_key(watched, vectors.key, OFFSETS)).glob("*.sealed"))
    return (
        {g: order.tolist() for g, order in orders.items()},
        sorted(rows for rows, *_ in watched.seen),
        shard,
    )


def test_orders_are_computed_once_and_again_where_their_shard_is_harmed(tmp_path: Path) -> None:
    orders, computed, shard = order(tmp_path)
    assert computed == [20, 30, 40]
    assert order(tmp_path)[:2] == (orders, [])
    whole = shard.read_bytes()
    for place in range(0, len(whole), 97):
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert order(tmp_path)[:2] == (orders, [20, 30, 40]), place
        assert shard.read_bytes() == whole
    shard.write_bytes(whole[: len(whole) // 2])
    assert order(tmp_path)[:2] == (orders, [20, 30, 40])


def test_what_a_killed_run_left_goes_and_the_manifest_comes(tmp_path: Path) -> None:
    _, _, shard = order(tmp_path)
    whole = {path.name for path in shard.parent.iterdir()}
    (shard.parent / "manifest.json").rename(shard.with_name(".manifest.json.partial-x"))
    assert order(tmp_path)[1] == []
    assert {path.name for path in shard.parent.iterdir()} == whole


def test_a_shard_of_another_key_or_under_another_name_is_not_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    orders, _, shard = order(tmp_path)
    other = order(tmp_path, seed=1)[2]
    shard.write_bytes(other.read_bytes())
    assert order(tmp_path)[:2] == (orders, [20, 30, 40])
    assert caplog.messages == [f"{shard} is damaged: made again."]


def test_an_order_that_is_no_permutation_is_made_again(tmp_path: Path) -> None:
    """As an earlier version or a wrong function may have left it."""
    orders, _, shard = order(tmp_path)
    wrong = {0: np.arange(30, dtype=np.int32), 1: np.zeros(20, np.int32), 2: np.arange(39, dtype=np.int32)}
    orderings.save_shard(shard.parent, shard.parent.name, wrong)
    found, computed, _ = order(tmp_path)
    assert computed == [20, 40]
    assert found[1] == orders[1]


def test_a_function_that_gives_no_permutation_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Orderer, "order", lambda self, X, threads, share: np.zeros(len(X), np.int64))
    orderer = Orderer(GraphCut, {"fn": "stuck"}, 2**30)
    with pytest.raises(ValueError, match="is no permutation of its 30 rows"):
        order_groups(orderer, Rows(clustered(90)), OFFSETS, [0], tmp_path, Threads(1))
    assert not list(tmp_path.rglob("*.sealed"))
