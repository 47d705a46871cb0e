"""The hub's five data sets: a local copy, datasets' own cache, and a hub that refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from smart.collection import Flan2022, Groups, check_source, load
from smart.config import ConfigError, UserError
from tests.collection.examples import Row, content, rows

COMMIT = "a" * 40


def dataset(records: list[Row]) -> Any:
    """As on the hub: no submixture, an unused task_source, task_name as a ClassLabel with names not in order."""
    from datasets import ClassLabel, Dataset, Features, Value

    names = ["task2", "task0", "unused", "task1"]
    text = Value("string")
    features = Features(
        inputs=text, targets=text, task_source=text, task_name=ClassLabel(names=names), template_type=text
    )
    columns = [
        {**record, "task_source": "Flan", "task_name": names.index(record["task_name"])} for record in records
    ]
    for column in columns:
        del column["submixture"]
    return Dataset.from_list(columns, features=features)


def write_copy(folder: Path, submixture: str, validation: bool = True, seed: int = 0) -> None:
    target = folder / f"{submixture}-submix-4096" / "data"
    target.mkdir(parents=True, exist_ok=True)
    dataset(rows(40, submixture, seed=seed)).to_parquet(target / "train-00000-of-00001.parquet")
    if validation:
        dataset(rows(6, f"{submixture}", seed=99)).to_parquet(target / "validation-00000-of-00001.parquet")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for submixture in ("t0", "cot"):
        write_copy(tmp_path / "copy", submixture)
    return tmp_path / "copy"


def test_it_keeps_the_contract_of_a_source(copy: Path) -> None:
    check_source(Flan2022(path=str(copy), submixtures=["t0", "cot"]))


def test_a_local_copy(copy: Path) -> None:
    collection = load(Flan2022(path=str(copy), submixtures=["t0", "cot"]))
    assert content(collection.train) == [*rows(40, "cot"), *rows(40, "t0")]
    assert collection.train["row"].to_pylist() == list(range(80))
    assert collection.validation is not None
    assert content(collection.validation) == [*rows(6, "cot", seed=99), *rows(6, "t0", seed=99)]
    assert collection.validation["row"].to_pylist() == list(range(12))
    tasks = Groups.of(collection.train).tasks
    assert tasks == tuple((sub, f"task{i}") for sub in ("cot", "t0") for i in range(3))
    assert collection.source["datasets"]["t0"] == {"path": f"{copy}/t0-submix-4096"}
    json.dumps(collection.source)
    assert load(Flan2022(path=str(copy), submixtures=["t0"])).train["submixture"].unique().to_pylist() == [
        "t0"
    ]


def test_an_edited_copy_is_read_again(copy: Path) -> None:
    options = Flan2022(path=str(copy), submixtures=["cot"])
    before = load(options)
    write_copy(copy, "cot", seed=5)
    after = load(options)
    assert content(after.train) == rows(40, "cot", seed=5)
    assert after.fingerprint != before.fingerprint


def test_texts_stay_on_disk(tmp_path: Path) -> None:
    folder = tmp_path / "t0-submix-4096"
    folder.mkdir()
    records = [{**row, "inputs": row["inputs"] * 2000} for row in rows(200, "t0")]
    dataset(records).to_parquet(folder / "train.parquet")
    options = Flan2022(path=str(tmp_path), submixtures=["t0"])
    load(options)  # prepares datasets' cache
    before = pa.total_allocated_bytes()
    table = load(options).train
    assert table["inputs"].nbytes > 10_000_000
    assert pa.total_allocated_bytes() - before < 200_000
    assert table["inputs"].to_pylist() == [record["inputs"] for record in records]


def test_a_label_without_a_name_is_a_null(copy: Path) -> None:
    import pyarrow.parquet as pq

    path = copy / "cot-submix-4096" / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    place = table.column_names.index("task_name")
    labels = table["task_name"].to_pylist()
    labels[7] = -1
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(labels)), path)
    with pytest.raises(UserError, match=r"cot-submix-4096, split train: task_name: null in 1 row: 7"):
        load(Flan2022(path=str(copy), submixtures=["cot"]))


def test_missing_columns_and_folders(tmp_path: Path, copy: Path) -> None:
    (tmp_path / "t0-submix-4096").mkdir()
    dataset(rows(3)).remove_columns("targets").to_parquet(tmp_path / "t0-submix-4096" / "train.parquet")
    with pytest.raises(
        UserError, match="no column targets; it has: task_name, template_type, inputs, task_source"
    ):
        load(Flan2022(path=str(tmp_path), submixtures=["t0"]))
    with pytest.raises(ConfigError) as caught:
        load(Flan2022(path=str(copy), submixtures=["t0", "dialog", "flan2022"], revision={"flan": "main"}))
    message = str(caught.value)
    assert "there is no folder" in message
    assert message.count("Did you mean flan2021?") == 2


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """datasets' cache of a data set read at COMMIT; the tests run offline."""
    import datasets
    from datasets.arrow_writer import ArrowWriter

    folder = tmp_path / "kowndinya23___cot-submix-4096" / "default" / "0.0.0" / COMMIT
    folder.mkdir(parents=True)
    records = dataset(rows(20, "cot"))
    with ArrowWriter(features=records.features, path=str(folder / "cot-submix-4096-train.arrow")) as writer:
        for record in records:
            writer.write(record)
        writer.finalize()
    splits = datasets.SplitDict(dataset_name="cot-submix-4096")
    splits.add(datasets.SplitInfo("train", num_examples=20, dataset_name="cot-submix-4096"))
    datasets.DatasetInfo(
        builder_name="parquet",
        dataset_name="cot-submix-4096",
        config_name="default",
        version="0.0.0",
        features=records.features,
        splits=splits,
    ).write_to_directory(str(folder))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)


@pytest.mark.usefixtures("hub_cache")
def test_what_was_downloaded_is_read_offline_and_its_commit_recorded() -> None:
    collection = load(Flan2022(submixtures=["cot"]))
    assert content(collection.train) == rows(20, "cot")
    assert collection.validation is None
    identity = {"id": "kowndinya23/cot-submix-4096", "asked": "main", "commit": COMMIT}
    assert collection.source["datasets"] == {"cot": identity}
    pinned = load(Flan2022(submixtures=["cot"], revision={"cot": COMMIT}))
    assert pinned.fingerprint == collection.fingerprint


@pytest.mark.usefixtures("hub_cache")
def test_another_commit_than_asked_is_refused() -> None:
    with pytest.raises(UserError, match=f"revision.cot=b+: .* only commit {COMMIT} is on this machine"):
        load(Flan2022(submixtures=["cot"], revision={"cot": "b" * 40}))


@pytest.mark.usefixtures("hub_cache")
def test_absent_and_offline() -> None:
    with pytest.raises(UserError) as caught:
        load(Flan2022(submixtures=["t0"]))
    assert "kowndinya23/t0-submix-4096: not on this machine" in str(caught.value)
    assert "fetch_only=true" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def refusing_hub() -> Iterator[str]:
    """Answers 401 for a gated data set, and 403 without a reason for any other."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            gated = "t0-submix" in self.path
            self.send_response(401 if gated else 403)
            if gated:
                self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_refusal_is_one_line_that_says_how_to_log_in(refusing_hub: str, tmp_path: Path) -> None:
    program = """
from smart.collection import Flan2022
from smart.config import UserError
for name in ("t0", "niv2"):
    try:
        Flan2022(submixtures=[name]).fetch()
    except UserError as error:
        print(error)
"""
    environment = {**os.environ, "HF_ENDPOINT": refusing_hub, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    gated, forbidden = done.stdout.splitlines()
    assert "https://huggingface.co/datasets/kowndinya23/t0-submix-4096" in gated
    for line in (gated, forbidden):
        assert "`hf auth login`" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"revision": "main"},
            r"collection\.revision=main: must be a mapping to texts; such as \{t0: NAME\}",
        ),
        (
            {"submixtures": "cot"},
            r"collection\.submixtures=cot: must be a list of texts or null; such as \[cot,t0\]",
        ),
    ],
)
def test_mappings_and_lists(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(Flan2022(**options))
