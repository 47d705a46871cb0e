"""Executors keep one contract; Ray's workers may die, and their machines too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from smart.config import UserError
from smart.runtime.cluster import LOST, RayCluster
from smart.runtime.executor import Executor, Threads
from tests.cli.test_select import folder_of
from tests.commands import Command
from tests.mixture.outside import import_from, replaced
from tests.runtime.tasks import Square
from tests.selection.test_extensions import MIXED, MODULE, WRONG, write_choices


@pytest.fixture(scope="module")
def local() -> Iterator[Executor]:
    """Two workers on this machine."""
    ray = pytest.importorskip("ray")
    os.environ.pop("RAY_ADDRESS", None)
    yield RayCluster(2)
    ray.shutdown()


@pytest.fixture(params=["threads", pytest.param("ray", marks=pytest.mark.full)])
def executor(request: pytest.FixtureRequest) -> Executor:
    return Threads(2) if request.param == "threads" else request.getfixturevalue("local")


def begun(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("begun-*"))


def test_each_item_is_done_and_a_worker_is_opened_once(executor: Executor, tmp_path: Path) -> None:
    assert dict(executor.map(Square(tmp_path, table=np.arange(20) ** 2), range(20))) == {
        i: i * i for i in range(20)
    }
    opened = [path.name.split("-")[1:3] for path in tmp_path.glob("opened-*")]
    assert len(opened) == (1 if isinstance(executor, Threads) else 2)
    assert {threads for _, threads in opened} == {"1"}
    assert list(executor.map(Square(tmp_path / "absent"), [])) == [], "without items nothing is opened"


def test_a_wide_task_has_all_threads(executor: Executor, tmp_path: Path) -> None:
    assert dict(executor.map(Square(tmp_path, wide=True), range(3))) == {0: 0, 1: 1, 2: 4}
    assert [path.name.split("-")[2] for path in tmp_path.glob("opened-*")] == ["2"]


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ("user error", UserError, "3: is odd"),
        ("bug", ValueError, "3 is not what was expected"),
        ("opening", UserError, "the model does not load"),
    ],
)
def test_the_first_error_is_the_callers_and_stops_the_rest(
    executor: Executor, tmp_path: Path, how: str, kind: type[Exception], said: str
) -> None:
    found = executor.map(Square(tmp_path, (3,), how, seconds=0.02), range(60))
    with pytest.raises(kind) as caught:
        list(found)
    assert (type(caught.value), str(caught.value)) == (kind, said)
    assert len(begun(tmp_path)) < 30
    if how == "bug" and not isinstance(executor, Threads):
        assert "tests/runtime/tasks.py" in caught.value.__notes__[0], "an internal error has its traceback"


def test_items_are_asked_for_as_there_is_room_and_closing_stops(executor: Executor, tmp_path: Path) -> None:
    asked = 0

    def items() -> Iterator[int]:
        nonlocal asked
        for item in range(1000):
            asked += 1
            yield item

    with closing(executor.map(Square(tmp_path, seconds=0.005), items())) as found:
        for count, _ in enumerate(found, 1):
            assert asked - count <= 4, "two for each worker"
            if count == 40:
                break
    assert len(begun(tmp_path)) < 50


@pytest.mark.full
def test_an_error_that_cannot_travel_comes_as_text(local: Executor, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Picky: 1 and 2"):
        list(local.map(Square(tmp_path, (1,), "picky"), range(3)))


@pytest.mark.full
def test_what_a_killed_worker_had_is_done_by_others(local: Executor, tmp_path: Path) -> None:
    found = list(local.map(Square(tmp_path, (2, 7), "dies once"), range(12)))
    assert sorted(found) == [(i, i * i) for i in range(12)], "each once"
    assert len(list(tmp_path.glob("opened-*"))) >= 3


@pytest.mark.full
def test_an_item_that_kills_its_workers_ends_the_run(local: Executor, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{LOST} workers have died .* at the same work"):
        list(local.map(Square(tmp_path, (2,), "always dies"), range(4)))


@pytest.mark.full
def test_a_node_may_go_in_the_middle(tmp_path: Path) -> None:
    """Two machines of one processor each; the second is taken away when both have begun."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        found = []
        with closing(RayCluster().map(Square(tmp_path, seconds=0.2), range(60))) as results:
            for result in results:
                found.append(result)
                if second and len(list(tmp_path.glob("opened-*"))) == 2:
                    cluster.remove_node(second, allow_graceful=False)
                    second = None
        assert second is None
        assert sorted(found) == [(i, i * i) for i in range(60)], "each once"
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_without_ray_the_configuration_is_refused(
    run: Command, collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smart.selection.config.find_spec", lambda name: None)
    refused = run(
        "select", "executor=ray", "budget=nought", f"collection.path={collection}", "collection=files"
    )
    assert refused.code == 1
    assert "executor=ray: Ray is not installed; pip install 'smart-instruct[ray]'" in refused.err
    assert "budget=nought" in refused.err, "with all else that is wrong, before anything is read"


def test_a_cluster_that_is_not_there_is_one_line(
    run: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ray = pytest.importorskip("ray")

    def init(address: str, **options: object) -> None:
        raise ConnectionError(f"Could not find any running Ray instance at {address}\nmore")

    monkeypatch.setenv("RAY_ADDRESS", "nowhere:6379")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UserError) as caught:
        list(RayCluster().map(Square(tmp_path), range(2)))
    said = "RAY_ADDRESS=nowhere:6379: no Ray cluster: Could not find any running Ray instance at nowhere:6379"
    assert str(caught.value) == said


def test_a_selection_has_the_same_bytes_and_its_users_errors_are_one_line(
    local: Executor, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an encoder and set functions of the user's own, from a folder that only the driver's path names."""
    own = write_choices(tmp_path)
    import_from(tmp_path, MODULE, monkeypatch)
    bytes_of = {}
    for executor in ("threads", "ray"):
        done = run("select", *own, *MIXED, f"executor={executor}", f"output_root={executor}", "threads=2")
        assert done.code == 0, done.said
        bytes_of[executor] = (tmp_path / folder_of(done.out) / "train.parquet").read_bytes()
    assert bytes_of["threads"] == bytes_of["ray"]
    shards = [sorted((tmp_path / e).glob("cache/embeddings/*/*.npy")) for e in ("threads", "ray")]
    assert [path.read_bytes() for path in shards[0]] == [path.read_bytes() for path in shards[1]] != []
    right, wrong, said = WRONG[0]
    (tmp_path / "wrong_functions.py").write_text(replaced(MODULE, right, wrong))
    failed = run(
        *("select", *own, *MIXED, "executor=ray", "output_root=ray", "threads=2"),
        "instance_fn._target_=wrong_functions.Coverage",
    )
    assert failed.code == 1
    assert f"instance_{said}" in failed.err
    assert "Traceback" not in failed.said
