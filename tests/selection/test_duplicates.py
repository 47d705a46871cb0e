"""deduplicate=near|semantic, from the option to the written mixture."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import smart
from smart.config import ConfigError, compose, read_config
from smart.config.command_line import literal
from smart.selection import SelectConfig, plan
from smart.selection.keys import mixture_key, pool_key, vectors_key
from smart.selection.pool import Pool, read_pool
from smart.selection.vectors import input_keys, make_vectors
from tests.collection.test_conversations import turns

ROWS, D = 240, 12
NEAR = {100: 7, 150: 7, 151: 30, 239: 238}
"""Rows that repeat another with a word more."""
ALIKE = {60: 20, 101: 7, 200: 60}
"""Rows that have the vector of another, of the same task."""


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """A collection of 4 tasks in two template types, with vectors; a row and its vector say nothing of each other."""
    generator = np.random.default_rng(0)
    words = [f"w{number}" for number in range(2_000)]
    rows = [
        {
            "inputs": " ".join(generator.choice(words, generator.integers(20, 60))),
            "targets": str(generator.choice(words)),
            "task_name": f"t{number // 60}" if number < 120 else "t0",
            "template_type": ("zs_opt", "zs_noopt")[number % 2],
        }
        for number in range(ROWS)
    ]
    vectors = generator.normal(size=(ROWS, D)).astype(np.float32)
    for row, first in NEAR.items():
        rows[row]["inputs"] = rows[first]["inputs"] + " again"
        rows[row]["targets"] = rows[first]["targets"]
    for row, first in ALIKE.items():
        rows[row]["task_name"] = rows[first]["task_name"]
        vectors[row] = 1.5 * vectors[first]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    np.save(tmp_path / "vectors.npy", vectors)
    return {
        "collection": "files",
        "collection.path": str(tmp_path / "rows.parquet"),
        "encoder": "precomputed",
        "encoder.path": str(tmp_path / "vectors.npy"),
        "tracker": "none",
        "output_root": str(tmp_path / "outputs"),
        "budget": "100%",
    }


def config_of(options: dict[str, Any], **more: Any) -> SelectConfig:
    words = [
        f"{key}={literal(value) if isinstance(value, str) else value}"
        for key, value in {**options, **more}.items()
    ]
    return read_config(SelectConfig, compose("select", words))


def left_out(pool: Pool) -> list[int]:
    return sorted(set(range(ROWS)) - set(pool.rows.rows.tolist()))


@pytest.mark.parametrize(("kind", "repeats"), [("near", NEAR), ("semantic", ALIKE)])
def test_repeats_are_left_out_told_and_looked_for_once(
    options: dict[str, Any],
    kind: str,
    repeats: dict[int, int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    planned = plan(config_of(options, deduplicate=kind, plan=True))
    assert "duplicates  to be looked for in 240 rows" in planned
    assert not Path(options["output_root"], "cache/duplicates").exists()
    caplog.clear()
    made = smart.select(**options, deduplicate=kind)
    assert sorted(set(range(ROWS)) - set(made.rows["row"].to_pylist())) == sorted(repeats)
    told = f"Left out {len(repeats)} of 240 train rows: they are near an earlier row."
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING].count(
        told
    ) == 1
    assert made.manifest["drops"]["train"][f"{kind}_duplicates"] == len(repeats)
    assert made.manifest["duplicates"]["rows"] == 240
    assert made.manifest["duplicates"]["dropped"] == len(repeats)
    card = (made.path / "README.md").read_text()
    assert (
        f"Of 240 rows {len(repeats)} were left out before the selection, among them all rows of 0 tasks"
        in card
    )
    assert made.manifest["counts"]["pool_rows"] == 240 - len(repeats)

    def refuse(*arguments: object) -> None:
        raise AssertionError("looked twice")

    monkeypatch.setattr(f"smart.selection.duplicates.{kind}_duplicates", refuse)
    other = smart.select(**{**options, "budget": 50}, deduplicate=kind, threads=2)
    assert not set(other.rows["row"].to_pylist()) & set(repeats)
    assert f"{len(repeats)} rows near an earlier one, left out" in plan(
        config_of(options, deduplicate=kind, plan=True)
    )


def test_the_name_says_what_was_looked_for(options: dict[str, Any]) -> None:
    def key(**more: Any) -> str:
        config = config_of(options, **more)
        pool = read_pool(config)
        return mixture_key(config, input_keys(config, pool), 100)

    drawn = {"strategy": "equal"}  # no vectors in the name
    plain = key(**drawn)
    near = key(**drawn, deduplicate="near")
    assert key(**drawn, deduplicate="near", deduplicate_threshold=0.8) == near
    others = [
        key(**drawn, deduplicate="near", deduplicate_threshold=0.99),
        key(**drawn, deduplicate="semantic"),
    ]
    assert len({plain, near, *others}) == 4


def test_vectors_are_those_of_the_rows_that_stay(options: dict[str, Any]) -> None:
    for kind in ("near", "semantic"):
        config = config_of(options, deduplicate=kind)
        pool = read_pool(config)
        made = make_vectors(config, pool)
        assert made is not None
        rows = pool.rows.rows[pool.groups.order]
        vectors = np.load(options["encoder.path"])[rows]
        np.testing.assert_array_equal(made[0][:], vectors)
        np.testing.assert_array_equal(made[0][17:55], vectors[17:55])
        assert made[0][5:5].shape == (0, D)
        assert pool.prompts.take(0, 3).to_pylist() == [
            pool.rows.take(pool.groups.order[place : place + 1])["inputs"][0].as_py() for place in range(3)
        ]
        assert input_keys(config, pool)[-1] == made[0].key


def test_semantic_pools_are_named_by_their_encoder(options: dict[str, Any]) -> None:
    def names(**more: Any) -> tuple[str, str | None]:
        words = [f"{key}={literal(value)}" for key, value in {**options, **more}.items()]
        composed = compose("select", words)
        return pool_key(composed), vectors_key(composed)

    other = {"encoder.path": options["collection.path"]}
    assert names(deduplicate="near")[0] == names(deduplicate="near", **other)[0] != names()[0]
    assert names(deduplicate="semantic")[0] != names(deduplicate="semantic", **other)[0]
    assert names(strategy="equal")[1] is None
    assert names(strategy="equal", deduplicate="semantic")[1] is not None


def test_it_comes_after_all_else_that_is_left_out(options: dict[str, Any], tmp_path: Path) -> None:
    """A row that is not in the pool anyway does not stand for a later one; exact copies go first."""
    rows = pq.read_table(options["collection.path"]).to_pylist()
    question = "the tall lighthouse keeper wrote eleven letters to his sister before the first snow of winter"
    rows[7]["inputs"] += f" {question}"  # 100 and 150 are near it
    rows.append(rows[50])
    pq.write_table(pa.Table.from_pylist(rows), options["collection.path"])
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    asked = {"task": "letters", "input": question, "target": "(A)"}
    pq.write_table(pa.Table.from_pylist([asked]), folder / "bbh.parquet")
    more = {
        "decontaminate": "drop",
        "benchmark_data": str(folder),
        "deduplicate": "near",
        "strategy": "equal",
    }
    pool = read_pool(config_of(options, **more))
    assert left_out(pool) == [7, 150, 151, 239]
    assert pool.drops["train"]["benchmark_questions"] == 1
    assert pool.drops["train"]["near_duplicates"] == 4, "with the exact copy at the end"
    pool = read_pool(config_of(options, **more, drop_duplicates=True))
    assert left_out(pool) == [7, 150, 151, 239]
    assert (pool.drops["train"]["exact_duplicates"], pool.drops["train"]["near_duplicates"]) == (1, 3)


def test_a_task_may_lose_all_of_its_rows(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    rows = pq.read_table(options["collection.path"]).to_pylist()
    rows += [{**row, "task_name": "again", "inputs": f"Please: {row['inputs']}"} for row in rows[:40]]
    pq.write_table(pa.Table.from_pylist(rows), options["collection.path"])
    pool = read_pool(config_of(options, deduplicate="near", strategy="equal"))
    assert [task for _, task in pool.groups.tasks] == ["t0", "t1"]
    assert pool.duplicates is not None
    assert pool.duplicates.describe()["tasks_dropped"] == 1
    assert "they are near an earlier row, among them all rows of 1 task." in caplog.text


def test_validation_rows_stay_as_they_are(options: dict[str, Any]) -> None:
    other = Path(options["collection.path"]).with_name("validation.parquet")
    shutil.copy(options["collection.path"], other)
    apart = {"collection.validation": str(other), "strategy": "equal"}
    plain = read_pool(config_of(options, **apart))
    pool = read_pool(config_of(options, **apart, deduplicate="near"))
    assert left_out(pool) == sorted(NEAR)
    assert pool.validation is not None
    assert plain.validation is not None
    assert len(pool.validation) == len(plain.validation) == 240


def test_conversations_are_compared_by_all_that_is_said(tmp_path: Path) -> None:
    asked = "what is there to say about the moons of a planet that nobody has seen"
    answers = ["they are far away", "they are far away", "well", "they are far away"]
    lines = [json.dumps(turns(f"{asked} {n // 2}", answer, source="s")) for n, answer in enumerate(answers)]
    lines[1] = lines[0].replace("far away", "far away!")
    (tmp_path / "chat.jsonl").write_text("\n".join(lines))
    options = {"collection": "files", "collection.path": str(tmp_path / "chat.jsonl"), "strategy": "equal"}
    options |= {"output_root": str(tmp_path / "outputs"), "budget": "100%", "tracker": "none"}
    pool = read_pool(config_of(options, deduplicate="near"))
    assert pool.rows.rows.tolist() == [0, 2, 3]


def test_a_threshold_alone_and_a_wrong_one_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"deduplicate_threshold=0.7: is used only with deduplicate="):
        config_of(options, deduplicate_threshold=0.7)
    with pytest.raises(
        ConfigError, match=r"deduplicate_threshold=1.5: must be a number, above 0, at most 1, or null"
    ):
        config_of(options, deduplicate="near", deduplicate_threshold=1.5)
    with pytest.raises(ConfigError, match=r"deduplicate=exact: must be one of near, semantic, or null"):
        config_of(options, deduplicate="exact")
