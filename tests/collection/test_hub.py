"""Data sets of the hub as collections, on folders laid out as they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra.utils import instantiate

from smart.collection import Collection, Hub, check_source, load
from smart.config import ConfigError, UserError, compose
from smart.conversation import from_json
from smart.runtime.hub import NotHere
from smart.training.data import read_mixture
from tests.collection.test_conversations import turns

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
TOOL = {"name": "weather", "parameters": {"type": "object"}}


@pytest.fixture(autouse=True)
def _prepared_files_stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "prepared")


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def tulu(folder: Path) -> None:
    rows = [{"id": f"r{n}", **turns(f"u{n}", f"a{n}"), "source": f"ai2/s{n % 3}"} for n in range(30)]
    for shard, part in enumerate((rows[:20], rows[20:])):
        parquet(folder / "data" / f"train-0000{shard}-of-00002.parquet", part)


def smoltalk(folder: Path) -> None:
    splits = {"a_think": True, "b_no_think": False}
    for name, thinks in splits.items():
        kwargs = {
            "custom_instructions": "c",
            "enable_thinking": thinks,
            "python_tools": [],
            "xml_tools": ["<t>"],
        }
        rows = [
            {**turns(f"{name} {n}", "a"), "chat_template_kwargs": kwargs, "source": name} for n in range(10)
        ]
        parquet(folder / "SFT" / f"{name}-00000-of-00001.parquet", rows)
    parquet(folder / "Mid" / "other-00000-of-00001.parquet", [{"text": "none of ours"}])
    files = "\n".join(f"  - split: {name}\n    path: SFT/{name}-*" for name in splits)
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: SFT\n  data_files:\n{files}\n"
        "- config_name: Mid\n  data_files:\n  - split: other\n    path: Mid/other-*\n---\n"
    )


def openhermes(folder: Path) -> None:
    rows = [
        {
            "custom_instruction": None,
            "category": None if n % 2 else "orca",
            "conversations": [
                {"from": "human", "value": f"u{n}", "weight": None},
                {"from": "gpt", "value": "a", "weight": None},
            ],
            "system_prompt": "s" if n == 0 else None,
            "source": f"s{n % 2}",
        }
        for n in range(20)
    ]  # fmt: skip
    folder.mkdir()
    (folder / "openhermes2_5.json").write_text(json.dumps(rows))


def dolci(folder: Path) -> None:
    def message(role: str, content: str | None = None, **more: str) -> dict[str, Any]:
        return {"content": content, "function_calls": None, "functions": None, "role": role, **more}

    rows = [
        {
            "id": str(n),
            "messages": [
                message("system", "s", functions=json.dumps([TOOL])),
                message("user", f"u{n}"),
                message("assistant", function_calls='weather(city="Bern")'),
                message("environment", "12"),
                message("assistant", "a"),
            ],
            "source_dataset": f"s{n % 2}",
            "domain": "tools",
        }
        for n in range(20)
    ]
    parquet(folder / "data" / "train-00000-of-00001.parquet", rows)


def is_dolci(one: dict[str, Any]) -> bool:
    call, result = one["messages"][2:4]
    return one["tools"] == [TOOL] and call["tool_calls"] == [CALL] and result["role"] == "tool"


def is_smoltalk(one: dict[str, Any]) -> bool:
    thinks = one["messages"][0]["content"].startswith("a_")
    return one["chat_template_kwargs"]["enable_thinking"] == thinks


PRESETS: dict[str, tuple[Callable[[Path], None], set[str], Callable[[dict[str, Any]], bool]]] = {
    "tulu3": (tulu, {"ai2/s0", "ai2/s1", "ai2/s2"}, lambda one: list(one) == ["messages"]),
    "smoltalk2": (smoltalk, {"a_think", "b_no_think"}, is_smoltalk),
    "openhermes": (openhermes, {"s0", "s1"}, lambda one: one["messages"][-1]["role"] == "assistant"),
    "dolci": (dolci, {"s0", "s1"}, is_dolci),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_read_copies_of_their_data_sets(tmp_path: Path, name: str) -> None:
    make, tasks, fits = PRESETS[name]
    make(tmp_path / "copy")
    values = compose("select", [f"collection={name}"]).values["collection"]
    assert "/" in values["dataset"]
    options = instantiate({**values, "dataset": str(tmp_path / "copy"), "validation": "10%"})
    collection = load(options)
    assert collection.validation is not None
    rows = len(collection.train) + len(collection.validation)
    assert (rows, len(collection.validation)) == ((30, 3) if name == "tulu3" else (20, 2))
    assert set(collection.train["task_name"].to_pylist()) == tasks
    assert set(collection.train["submixture"].to_pylist()) == {"copy"}
    assert all(fits(from_json(text)) for text in collection.train["conversation"].to_pylist())  # type: ignore[arg-type]
    assert (collection.name, collection.source["kind"], collection.source["config"]) == (
        "copy",
        "hub",
        values["config"],
    )
    if name == "openhermes":
        mixture = read_mixture(str(tmp_path / "copy"))
        assert from_json(mixture.train["conversation"][0].as_py())["messages"][0] == {
            "role": "system",
            "content": "s",
        }


def two_splits(folder: Path) -> Path:
    for split, count in (("train", 12), ("validation", 4), ("test", 2)):
        rows = [{"prompt": f"{split} {n}", "response": "a", "label": n % 2} for n in range(count)]
        parquet(folder / "data" / f"{split}-00000-of-00001.parquet", rows)
    return folder


def sizes(collection: Collection) -> tuple[int, int]:
    return len(collection.train), 0 if collection.validation is None else len(collection.validation)


def test_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = str(two_splits(tmp_path / "copy"))
    check_source(Hub(dataset=folder))
    collection = load(Hub(dataset=folder))
    assert sizes(collection) == (12, 4), "what is for tests is left out"
    assert "All rows are of one task" in caplog.text
    assert set(collection.train["task_name"].to_pylist()) == {"train"}
    assert collection.train["template_type"].to_pylist() == ["zs_noopt"] * 12
    assert sizes(load(Hub(dataset=folder, splits=["train", "validation"]))) == (16, 0)
    assert sizes(load(Hub(dataset=folder, splits=["train"], validation="test"))) == (12, 2)
    assert sizes(load(Hub(dataset=folder, validation=3))) == (9, 3)
    excluded = Hub(dataset=folder, columns={"submixture": "prompt"}, exclude={"submixture": ["train 1*"]})
    assert sizes(load(excluded)) == (9, 4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"splits": ["trian"]}, r"collection\.splits=trian: .* has no such split; Did you mean train\?"),
        ({"splits": ["train"], "validation": "train"}, r"validation=train: the split is in collection\.splits too"),
        ({"columns": {"inputs": "question"}}, r"train: no column question \(collection\.columns\.inputs\); it has"),
        ({"columns": {"inputs": "label"}}, r"inputs: int64 instead of text in 12 rows"),
        ({"config": "other"}, "could not be loaded"),
        ({"task": "nothing"}, r"no column nothing \(collection\.task\)"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_told(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(Hub(dataset=str(two_splits(tmp_path / "copy")), **options))


def test_a_data_set_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"collection\.dataset=null: no data set given; set collection\.dataset"
    ):
        load(Hub())
    with pytest.raises(NotHere, match=r"collection\.dataset=nobody/nothing@v1: "):
        Hub(dataset="nobody/nothing@v1").fetch()
    asked: list[tuple[Any, ...]] = []

    def load_dataset(*args: Any, **options: Any) -> None:
        asked.append((*args, options))
        raise ConnectionError("away")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(NotHere):
        Hub(dataset="nobody/nothing@v1", config="c").fetch()
    assert asked == [("nobody/nothing", "c", {"revision": "v1"})]
