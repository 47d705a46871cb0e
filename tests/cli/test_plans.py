"""Plans where the hub cannot be reached: soon, with what is known, and without asking twice."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smart.runtime.hub import NotHere, from_cache_first, offline
from smart.runtime.manifest import write_manifest
from tests.commands import Command

HUB = huggingface_hub.constants


@pytest.fixture
def attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Hosts that were looked up, in vain; the cache of the hub is empty."""
    asked: list[str] = []

    def refuse(host: object, *_: object, **__: object) -> None:
        asked.append(str(host))
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(HUB, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HUB, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path / "hub"), raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    huggingface_hub.close_session()  # it has read the proxies
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"slept for {seconds} s"))
    yield asked
    huggingface_hub.close_session()


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    folder = tmp_path / "mixture"
    folder.mkdir()
    names = ("prompt", "response", "submixture", "task_name")
    rows = pa.table({name: [f"{name} {row}" for row in range(40)] for name in names})
    pq.write_table(rows, folder / "train.parquet")
    write_manifest(folder, {"kind": "mixture", "key": "a" * 32, "config": {}})
    return folder


@pytest.fixture
def cached(tmp_path: Path) -> str:
    """A model that lies in the cache of the hub; its weights do not."""
    from smart.model.tiny import tiny_config, train_tokenizer

    folder = tmp_path / "hub/models--some--model/snapshots" / ("c" * 40)
    tiny_config("llama").save_pretrained(folder)
    train_tokenizer("llama", ["the cat says meow"]).save_pretrained(folder)
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs/main").write_text("c" * 40)
    return "some/model"


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def test_a_training_whose_model_is_not_here_is_planned_from_its_rows(
    run: Command, attempts: list[str], mixture: Path
) -> None:
    done = run("train", f"mixture={mixture}", "model=mistral_7b", "batch_size=16", "epochs=2", "plan=true")
    assert done.code == 0, done.said
    assert "Plan: qlora of mistralai/Mistral-7B-v0.1 on mixture" in done.out
    assert "at most 5 of 16 examples" in done.out
    assert (
        "not known    tokens, parameters, memory: mistralai/Mistral-7B-v0.1 is not in the cache" in done.out
    )
    assert done.out.count("fetch_only=true") == 1
    assert not done.err
    assert len(attempts) == 1
    assert HUB.HF_HUB_OFFLINE is datasets.config.HF_HUB_OFFLINE is False


def test_a_model_in_the_cache_is_planned_without_the_hub(
    run: Command, attempts: list[str], mixture: Path, cached: str
) -> None:
    arguments = (f"mixture={mixture}", "model=auto", f"model.name={cached}", "tuning=lora", "plan=true")
    done = run("train", *arguments)
    assert done.code == 0, done.said
    assert "peak memory" in done.out
    assert "not known" not in done.out
    assert not attempts


@pytest.mark.parametrize("without", ["model", "tokenizer", "data"])
def test_an_evaluation_says_what_is_not_here(
    run: Command, attempts: list[str], tmp_path: Path, cached: str, without: str
) -> None:
    if without == "model":
        shutil.rmtree(tmp_path / "hub")
    if without == "tokenizer":
        for file in (tmp_path / "hub").rglob("tokenizer*"):
            file.unlink()
    done = run("evaluate", "model=auto", f"model.name={cached}", "suite=mmlu", "plan=true")
    assert done.code == 0, done.said
    assert f"Plan: suite mmlu on {cached}" in done.out
    assert "not known  items, tokens, time: " in done.out
    assert done.out.count("fetch_only=true") == 1
    assert len(attempts) == 1
    assert len(set(lines(done.said))) == len(lines(done.said))


def test_data_that_a_folder_lacks_are_not_asked_of_the_hub(
    run: Command, attempts: list[str], tmp_path: Path, cached: str
) -> None:
    (tmp_path / "data").mkdir()
    names = ("question", "subject", "answer", "split")
    rows: dict[str, list[object]] = {name: ["test"] for name in names[:3]}
    rows |= {"subject": ["anatomy"], "choices": [["a", "b", "c", "d"]], "answer": [0], "split": ["test"]}
    pq.write_table(pa.table(rows), tmp_path / "data/mmlu.parquet")
    model = ("model=auto", f"model.name={cached}")
    done = run("evaluate", *model, "suite=mmlu", f"benchmark_data={tmp_path / 'data'}", "plan=true")
    assert done.code == 1
    assert "benchmark_data=FOLDER" in done.err
    assert not attempts


def test_a_grid_is_planned_with_each_pool_tried_once(
    run: Command, attempts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smart.collection import Flan2022

    tried = []
    load = Flan2022._load

    def noted(self: Flan2022, name: str) -> object:
        tried.append(name)
        return load(self, name)

    monkeypatch.setattr(Flan2022, "_load", noted)
    pools = "select.collection.submixtures=[cot],[t0]"
    small = (
        "seeds=[1]",
        "select.budget=25k",
        "train.model=mistral_7b",
        "select.strategy=smart,examples_proportional",
    )
    done = run(
        "reproduce",
        "table=main",
        "tracker=none",
        "threads=1",
        "select.collection=flan2022",
        pools,
        *small,
        "plan=true",
    )
    assert done.code == 0, done.said
    assert tried == ["cot", "t0"]
    assert not attempts
    assert done.out.startswith("Plan: table main")
    for name in tried:
        assert done.out.count(f"kowndinya23/{name}-submix-4096: not on this machine") == 1
    assert not done.err
    assert not (tmp_path / "outputs").exists()


def test_a_selection_is_planned_without_the_hub(run: Command, select: Command, attempts: list[str]) -> None:
    done = select("encoder=minilm", "decontaminate=drop", "plan=true")
    assert done.code == 0, done.said
    assert "576 prompts to encode" in done.out
    assert "to be looked for in 576 rows" in done.out
    done = run("select", "collection=flan2022", "plan=true")
    assert done.code == 1
    assert len(lines(done.said)) == 1
    assert "fetch_only=true" in done.err
    done = select("tokenizer=some/model", "plan=true")
    assert done.code == 1
    assert "tokenizer=some/model is not in the cache" in done.err
    assert not attempts


def test_a_hub_that_answers_gives_what_is_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    def describe() -> str:
        modes.append(HUB.HF_HUB_OFFLINE)
        if HUB.HF_HUB_OFFLINE:
            raise NotHere("some/model is not in the cache")
        return "a plan"

    monkeypatch.setattr(HUB, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("smart.runtime.hub._hub_answers", lambda: True)
    assert from_cache_first(describe) == "a plan"
    assert modes == [True, False]


def test_offline_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    for before in (False, True):
        monkeypatch.setattr(HUB, "HF_HUB_OFFLINE", before)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", before)
        with contextlib.suppress(ValueError), offline():
            assert HUB.HF_HUB_OFFLINE is datasets.config.HF_HUB_OFFLINE is True
            raise ValueError
        assert HUB.HF_HUB_OFFLINE is datasets.config.HF_HUB_OFFLINE is before


def test_what_a_selection_fetches(select: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer that its rows are measured with, too."""
    asked = []
    monkeypatch.setattr("smart.selection.run.read_tokenizer", lambda name, source: asked.append(source))
    assert select("strategy=equal", "fetch_only=true").code == 0
    assert asked == []
    assert select("strategy=equal", "tokenizer=some/model", "fetch_only=true").code == 0
    assert asked == ["some/model"]
