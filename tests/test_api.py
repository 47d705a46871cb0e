"""The commands as functions: the same keys and folders as on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

import smart
from smart import api
from smart.config import ConfigError, Infeasible, UserError, compose
from smart.training import TrainConfig
from tests.commands import Command


def test_a_mixture_as_the_command_makes_it(select: Command, collection: Path, tmp_path: Path) -> None:
    made = smart.select(
        f"collection.path={collection}",
        collection="files",
        tracker="none",
        budget=100,
        fn="facility_location",
        output_root=tmp_path / "outputs",
    )
    assert made.path.name.startswith("small-100-facility_location-facility_location-")
    assert made.rows.num_rows == 100
    assert len(made.tasks) == 12
    assert made.manifest["counts"]["rows"] == 100
    done = select("fn=facility_location", "budget=100")
    assert "Made before" in done.out, "the same key as from Python"
    assert made.path.name in done.out


def test_mistakes_are_exceptions(collection: Path, tmp_path: Path) -> None:
    files: Callable[..., object] = lambda **more: smart.select(  # noqa: E731
        f"collection.path={collection}", collection="files", tracker="none", output_root=tmp_path, **more
    )
    with pytest.raises(ConfigError, match=r"2 values[^$]*budget=0[^$]*num_tasks=-1"):
        files(budget=0, num_tasks=-1)
    with pytest.raises(Infeasible, match="the pool holds 576 rows"):
        files(budget=577)
    with pytest.raises(UserError, match="is for the command line"):
        files(plan=True)
    with pytest.raises(UserError, match="is for the command line"):
        smart.select("plan=true", f"collection.path={collection}", collection="files")
    with pytest.raises(ConfigError, match="Did you mean graphcut"):
        files(fn="grafcut")
    with pytest.raises(ConfigError, match="no such key"):
        files(bugdet=5)


def test_text_stays_text(tmp_path: Path) -> None:
    for text in ("2024", "1e5", "true", "null", "it's", "back\\", "a b"):
        words = {"separator": text, "mixture": tmp_path, "model": "tiny_llama"}
        assert api._read("train", TrainConfig, [], words).separator == text


def test_beside_another_hydra_program(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("theirs: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert compose("select", ["budget=7"]).values["budget"] == 7
        assert hydra_compose("config").theirs == 1


def test_from_a_mixture_to_scores(collection: Path, tmp_path: Path) -> None:
    place = {"output_root": tmp_path / "outputs", "tracker": "none"}
    mixture = smart.select(
        f"collection.path={collection}", collection="files", budget=40, strategy="equal", **place
    )
    small = ["tuning.lora_r=4", "tuning.dtype=float32", "batch_size=8", "micro_batch_size=4"]
    adapter = smart.train(*small, mixture=mixture.path, model="tiny_llama", max_steps=2, **place)
    assert adapter.manifest["counts"]["steps"] == 2
    assert not adapter.found
    assert smart.train(*small, mixture=mixture.path, model="tiny_llama", max_steps=2, **place).found
    unseen = [{"task_name": "t", "inputs": f"Say {n}", "targets": f"word{n}"} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(unseen), tmp_path / "unseen.parquet")
    scores = smart.evaluate(
        f"suite.collection={tmp_path / 'unseen.parquet'}",
        adapter=adapter.path,
        suite="heldout",
        dtype="float32",
        **place,
    )
    assert "heldout_loss" in scores.summary
    assert scores.manifest["kind"] == "scores"
