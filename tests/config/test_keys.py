"""The rule of keys: an option that is added changes no stored key, one that decides changes it, a free one doesn't."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from smart.cli.errors import explain
from smart.config import Composition, ConfigError, asked, compose, deciding, declared, option, read_config
from smart.evaluation import EvaluateConfig
from smart.evaluation.job import prepare as prepare_evaluation
from smart.experiment import ReproduceConfig
from smart.experiment.results import table_config, table_inputs
from smart.experiment.stage_configs import compose_stage
from smart.mixture import Uniform
from smart.model import ModelOptions, find_base
from smart.model.fingerprint import adapter_key, text_key
from smart.model.tiny import tiny_config
from smart.runtime.manifest import make_key
from smart.selection import SelectConfig
from smart.selection.instances import make_orderer
from smart.selection.keys import mixture_key, pool_key, vectors_key
from smart.selection.orderings import orderings_key
from smart.selection.pool import read_pool
from smart.selection.tasks import resolve_sizes
from smart.selection.vectors import input_keys
from smart.submodular import GraphCut
from smart.training import TrainConfig
from smart.training.job import World
from smart.training.job import prepare as prepare_training
from tests.cli.tokenizers import word_tokenizer
from tests.pins.examples import write_inputs


def pretended(cls: type, **info: Any) -> Any:
    """The options of a command with one more, added today."""
    return dataclasses.make_dataclass(
        f"Pretended{cls.__name__}",
        [("pretended", bool, option(False, added=True, **info))],
        bases=(cls,),
        frozen=True,
        kw_only=True,
    )


def select_key(config: SelectConfig) -> str:
    pool = read_pool(config)
    return mixture_key(config, input_keys(config, pool), resolve_sizes(config, pool)[1])


def table_key(config: ReproduceConfig) -> str:
    return make_key(table_config(config, config.make_grid(None)), table_inputs(config), 1)


KEYS: dict[str, tuple[type, Callable[[Any], str], list[str]]] = {
    "select": (
        SelectConfig,
        select_key,
        [
            *("collection=files", "collection.path=small.parquet", "encoder=precomputed"),
            *("encoder.path=vectors.npy", "budget=100", "collection.validation=10%", "validation_rows=20"),
        ],
    ),
    "train": (
        TrainConfig,
        lambda config: prepare_training(config, World()).key,
        ["mixture=mixture", "model=tiny_llama", "tuning=lora", "max_steps=2", "batch_size=8"],
    ),
    "evaluate": (
        EvaluateConfig,
        lambda config: prepare_evaluation(config).key,
        ["model=tiny_llama", "suite.tasks=[mmlu_anatomy]", "benchmark_data=benchmarks"],
    ),
    "reproduce": (ReproduceConfig, table_key, ["table=budget", "seeds=[1,2]"]),
}


def key_of(command: str, *more: str, cls: Any = None) -> str:
    known, make, base = KEYS[command]
    config: Any = read_config(cls or known, compose(command, [*base, *more]))
    return make(config)


@pytest.fixture(autouse=True)
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the overrides name, in the folder where the configurations are read."""
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    small = pq.read_table("small.parquet")
    for name, text in (("other", "another question"), ("bad", " ")):
        rows = small.to_pylist()
        rows[3]["inputs"] = text
        pq.write_table(pa.Table.from_pylist(rows), f"{name}.parquet")
    pq.write_table(pa.concat_tables([small, small.slice(0, 3)]), "copies.parquet")
    vectors = np.load("vectors.npy")
    np.save("others.npy", vectors + 1)
    np.save("copies.npy", np.concatenate([vectors, vectors[:3]]))
    word_tokenizer(tmp_path / "tokenizer")
    other = tmp_path / "mixture2"
    other.mkdir()
    pq.write_table(pq.read_table("mixture/train.parquet").slice(0, 40), other / "train.parquet")
    train = pq.read_table("mixture/train.parquet")
    tasks = set(zip(train["submixture"].to_pylist(), train["task_name"].to_pylist(), strict=True))
    lines = [f"{submixture},{task},1,1" for submixture, task in sorted(tasks)]
    (tmp_path / "mixture/tasks.csv").write_text("\n".join(["submixture,task_name,order,gain", *lines]))
    (tmp_path / "benchmarks2").mkdir()
    for name in ("mmlu", "bbh"):
        table = pq.read_table(f"benchmarks/{name}.parquet")
        pq.write_table(table.slice(0, len(table) - 1), f"benchmarks2/{name}.parquet")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    lora = {"peft_type": "LORA", "base_model_name_or_path": "tiny_llama", "r": 64, "lora_alpha": 16}
    (adapter / "adapter_config.json").write_text(json.dumps(lora))
    save_file({"weights": np.zeros(1)}, adapter / "adapter_model.safetensors")
    chatty = word_tokenizer(tmp_path / "chatty")
    tiny_config("llama").save_pretrained(tmp_path / "chatty")
    chatty.chat_template = "{% for message in messages %}{{ message['content'] + eos_token }}{% endfor %}"
    chatty.save_pretrained(tmp_path / "chatty")
    (tmp_path / "published.csv").write_text("metric,value,source\nmmlu/acc,0.5,somewhere\n")


CHATTY = ("model=auto", "model.name=chatty")
COPIES = ("collection.path=copies.parquet", "encoder.path=copies.npy")
FIND = ("decontaminate=report", "benchmark_data=benchmarks")
DECIDE: dict[str, dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "select": {
        "collection": ((), ("collection.path=other.parquet",)),
        "encoder": ((), ("encoder.path=others.npy",)),
        "fn": ((), ("fn.tradeoff=0.3",)),
        "weighting": ((), ("weighting=uniform",)),
        "instance_fn": ((), ("instance_fn=logdet",)),
        "budget": ((), ("budget=101",)),
        "num_tasks": ((), ("num_tasks=5",)),
        "validation_rows": ((), ("validation_rows=21",)),
        "seed": ((), ("seed=24",)),
        "bad_rows": ((), ("collection.path=bad.parquet", "bad_rows=drop")),
        "drop_duplicates": (
            COPIES,
            (*COPIES, "drop_duplicates=true"),
        ),
        "deduplicate": ((), ("deduplicate=near",)),
        "deduplicate_threshold": (("deduplicate=near",), ("deduplicate=near", "deduplicate_threshold=0.7")),
        "tokenizer": ((), ("tokenizer=tokenizer",)),
        "max_length": (("tokenizer=tokenizer",), ("tokenizer=tokenizer", "max_length=64")),
        "separator": ((), ("separator='|'",)),
        "decontaminate": ((), FIND),
        "benchmark_data": (FIND, ("decontaminate=report", "benchmark_data=benchmarks2")),
        "heldout_data": (FIND, (*FIND, "heldout_data=unseen.parquet")),
        "optimizer": ((), ("optimizer=partition",)),
    },
    "train": {
        "mixture": ((), ("mixture=mixture2",)),
        "bad_rows": ((), ("bad_rows=drop",)),
        "model": ((), ("model=tiny_mistral",)),
        "tuning": ((), ("tuning.lora_r=8",)),
        "batch_size": ((), ("batch_size=16",)),
        "micro_batch_size": ((), ("micro_batch_size=4",)),
        "tokens_per_micro_batch": ((), ("tokens_per_micro_batch=4096",)),
        "epochs": ((), ("epochs=2",)),
        "max_steps": ((), ("max_steps=3",)),
        "learning_rate": ((), ("learning_rate=0.1",)),
        "max_length": ((), ("max_length=100",)),
        "separator": ((), ("separator='|'",)),
        "format": (CHATTY, (*CHATTY, "format=chat")),
        "chat": ((*CHATTY, "format=chat"), (*CHATTY, "format=chat", "chat.system=x")),
        "overlength": ((), ("overlength=drop",)),
        "packing": ((), ("packing=true",)),
        "row_order": ((), ("row_order=gains",)),
        "adapter": ((), ("adapter=adapter",)),
        "seed": ((), ("seed=24",)),
    },
    "evaluate": {
        "suite": ((), ("suite.shots=2",)),
        "model": ((), ("model=tiny_mistral",)),
        "adapter": ((), ("adapter=adapter",)),
        "dtype": ((), ("dtype=float32",)),
        "four_bit": ((), ("four_bit=true",)),
        "batch_size": ((), ("batch_size=4",)),
        "max_length": ((), ("max_length=512",)),
        "format": (CHATTY, (*CHATTY, "format=chat")),
        "chat": ((*CHATTY, "format=chat"), (*CHATTY, "format=chat", "chat.system=x")),
        "limit": ((), ("limit=3",)),
        "adapter_dtype": (("adapter=adapter",), ("adapter=adapter", "adapter_dtype=bfloat16")),
        "merged": (("adapter=adapter",), ("adapter=adapter", "merged=true")),
        "tf32": ((), ("tf32=true",)),
        "generation": ((), ("generation.batch_size=16",)),
        "benchmark_data": ((), ("benchmark_data=benchmarks2",)),
    },
    "reproduce": {
        "title": ((), ("title=Mine",)),
        "grid": ((), ("grid={select.budget: [5k]}",)),
        "seeds": ((), ("seeds=[1,2,3]",)),
        "baseline": ((), ("baseline={select.strategy: equal}",)),
        "base_model": ((), ("base_model=false",)),
        "metrics": ((), ("metrics=[mmlu/acc]",)),
        "reference": ((), ("reference=published.csv",)),
        "overrides": ((), ("overrides=['select.seed=2']",)),
    },
}
FREE_EVERYWHERE = {
    "output": "output=x",
    "output_root": "output_root=y",
    "threads": "threads=1",
    "plan": "plan=true",
    "fetch_only": "fetch_only=true",
    "overwrite": "overwrite=true",
    "tracker": "tracker.project=mine",
}
FREE: dict[str, dict[str, str]] = {
    "select": {"memory_limit": "memory_limit=4GB", "export": "export=[swift]", "executor": "executor=ray"},
    "train": {
        "save_steps": "save_steps=1",
        "eval_steps": "eval_steps=1",
        "keep_checkpoints": "keep_checkpoints=1",
        "keep_moments": "keep_moments=true",
        "gpu_memory": "gpu_memory=24GB",
        "merge": "merge=true",
        "launch": "launch=ddp",
        "num_processes": "num_processes=2",
        "ddp_timeout": "ddp_timeout=60",
    },
    "evaluate": {},
    "reproduce": {"run": "run=x", "seed": "seed=5"},
}
ELSEWHERE = {
    "evaluate": {"compare", "seed"},  # of a comparison, not of scores
    "reproduce": {"heldout"},  # decides through the file that it makes, which the evaluations read
}


@pytest.mark.parametrize("command", KEYS)
def test_every_option_is_in_one_of_the_tables(command: str) -> None:
    tables = [set(DECIDE[command]), set(FREE[command]) | set(FREE_EVERYWHERE), ELSEWHERE.get(command, set())]
    assert set.union(*tables) == set(declared(KEYS[command][0]))
    assert sum(map(len, tables)) == len(set.union(*tables))
    free = {name for name, (_, info) in declared(KEYS[command][0]).items() if info.role == "free"}
    assert free == tables[1]


@pytest.mark.parametrize(("command", "name"), [(c, name) for c, table in DECIDE.items() for name in table])
def test_an_option_that_decides_changes_the_key(command: str, name: str) -> None:
    before, after = DECIDE[command][name]
    assert key_of(command, *before) != key_of(command, *after)


@pytest.mark.parametrize("command", KEYS)
def test_a_free_option_does_not(command: str) -> None:
    plain = key_of(command)
    for word in [*FREE[command].values(), *FREE_EVERYWHERE.values()]:
        if command == "reproduce":  # its key has the command line, so that only what is typed may be compared
            config = read_config(ReproduceConfig, compose(command, [*KEYS[command][2], word]))
            config = dataclasses.replace(config, composed=compose(command, KEYS[command][2]))
            assert table_key(config) == plain, word
        else:
            assert key_of(command, word) == plain, word


@pytest.mark.parametrize("command", KEYS)
def test_an_added_option_leaves_stored_keys_as_they_are(command: str) -> None:
    cls = pretended(KEYS[command][0])
    assert key_of(command, cls=cls) == key_of(command)
    if command != "reproduce":
        assert key_of(command, "+pretended=false", cls=cls) == key_of(command)
        assert key_of(command, "+pretended=true", cls=cls) != key_of(command)
    else:  # whose key has the command line
        config = read_config(cls, compose(command, [*KEYS[command][2], "+pretended=true"]))
        plain: Any = dataclasses.replace(config, composed=compose(command, KEYS[command][2]))
        assert table_key(plain) != key_of(command)


@pytest.mark.parametrize("command", ["select", "train", "evaluate"])
def test_an_added_option_leaves_the_runs_of_grids_as_they_are(command: str) -> None:
    raw = dict(compose(command, KEYS[command][2]).raw)
    known = KEYS[command][0]
    cls = pretended(known)
    assert asked(cls, raw) == asked(cls, {**raw, "pretended": False}) == asked(known, raw)
    assert asked(cls, {**raw, "pretended": True}) == {**asked(known, raw), "pretended": True}
    free = pretended(known, role="free")
    assert asked(free, {**raw, "pretended": True}) == asked(known, raw)


def test_an_option_added_to_a_part_leaves_keys_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """To nested options, to a weighting behind `_target_`, and to a set function, which is no dataclass."""
    model: Any = pretended(ModelOptions)
    assert deciding(model("x")) == deciding(ModelOptions("x"))
    assert deciding(model("x", pretended=True)) == {**deciding(ModelOptions("x")), "pretended": True}

    @dataclass(frozen=True)
    class Gentle(Uniform):
        floor: int = option(0, added=True)

    class Wider(GraphCut):
        added_options = ("power",)

        def __init__(self, X: np.ndarray, tradeoff: float = 0.4, power: int = 1) -> None:
            super().__init__(X, tradeoff)

    monkeypatch.setattr("smart.mixture.Uniform", Gentle)
    monkeypatch.setattr("smart.submodular.GraphCut", Wider)
    plain = key_of("select", "weighting=uniform")
    assert key_of("select", "weighting=uniform", "+weighting.floor=0", "+fn.power=1") == plain
    assert key_of("select", "weighting=uniform", "+weighting.floor=2") != plain
    assert key_of("select", "weighting=uniform", "+fn.power=2") != plain


def test_an_option_that_takes_anothers_place_keeps_its_field_in_the_key() -> None:
    @dataclass(frozen=True)
    class Before:
        chat_template: bool = False

    @dataclass(frozen=True)
    class After:
        format: Literal["plain", "chat", "new"] = option(
            "plain", replaces="chat_template", stored_as={"plain": False, "chat": True}
        )

    assert deciding(After()) == deciding(Before())
    assert deciding(After("chat")) == deciding(Before(chat_template=True))
    assert deciding(After("new")) == {"format": "new"}
    assert asked(After, {"format": "plain"}) == asked(Before, {"chat_template": False})
    stored = option("plain", replaces="pretended", stored_as={"plain": False, "chat": True})
    old: Any = dataclasses.make_dataclass("Old", [("format", str, stored)])
    with pytest.raises(ConfigError) as caught:
        compose("evaluate", ["pretended=true"], old)
    said = "pretended: is now format (pretended=false is format=plain, pretended=true is format=chat)"
    assert str(caught.value) == said
    assert explain(cast("Exception", caught.value.__cause__), old) == said, "the frame says the same"


def test_defaults_of_the_options_are_those_of_conf() -> None:
    """An option that is absent from a key at its default must have the same default everywhere."""
    for command, (cls, _, base) in KEYS.items():
        composed = compose(command, base)
        named = {word.partition("=")[0].split(".")[0] for word in base} | {
            "tuning",
            "tracker",
            "suite",
            "grid",
        }
        config: Any = read_config(cls, composed)
        for name, (one, info) in declared(cls).items():
            if name in named or info.build is not None or one.default is dataclasses.MISSING:
                continue
            if command == "reproduce" and name in ("title", "baseline"):
                continue  # of the table
            assert getattr(config, name) == one.default, (command, name)


def test_pools_and_vectors_have_one_name_each() -> None:
    """What grids share, and what is fetched: by what is read, not by how it was typed."""

    def names(*more: str) -> tuple[str, str | None]:
        composed: Composition = compose("select", [*KEYS["select"][2], *more])
        return pool_key(composed), vectors_key(composed)

    pool, vectors = names()
    assert names("budget=5", "fn=logdet", "num_tasks=3", "seed=9", "threads=1") == (pool, vectors)
    assert names("strategy=equal") == (pool, None)
    assert names("encoder.path=others.npy")[0] == pool
    assert names("encoder.path=others.npy")[1] != vectors
    for changed in (
        "collection.seed=5",
        "bad_rows=drop",
        "tokenizer=x",
        "decontaminate=report",
        "max_length=7",
    ):
        assert names(changed)[0] != pool
        assert names(changed)[1] != vectors


def test_a_grid_fetches_what_each_of_its_cells_needs() -> None:
    """A last cell that needs no vectors must not hide the encoder of the others."""
    from smart.experiment.grid import Grid
    from smart.experiment.run import runs_to_fetch
    from smart.experiment.run_graph import build

    settings = {"select.collection": "flan2022", "train.model": "tiny_llama"}
    settings |= {"select.strategy": ["smart", "smart_random_instances", "equal"]}  # type: ignore[dict-item]
    settings |= {"select.encoder": ["gte_large", "minilm"], "evaluate.suite": "mmlu"}  # type: ignore[dict-item]
    study = build(
        Grid.of("mine", settings, seeds=[1, 2], base_model=True), compose_stage, Path("outputs"), {}
    )
    fetched = runs_to_fetch(study)
    selections = [run for run in fetched if run.stage == "select"]
    encoders = {study.config(run)["encoder"]["name"] for run in selections}
    assert encoders == {"thenlper/gte-large", "sentence-transformers/all-MiniLM-L6-v2"}
    assert len(selections) == 2
    assert all(study.configs[run.id].vectors for run in selections)


def test_an_option_added_to_a_part_leaves_the_runs_of_grids_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = dict(compose("select", ["encoder=wordllama", "weighting=uniform"]).raw)
    before = asked(SelectConfig, raw)
    for group, place in {
        "collection": "smart.collection.ReasoningGym",
        "encoder": "smart.embedding.WordLlama",
        "weighting": "smart.mixture.Uniform",
    }.items():
        module, _, name = place.rpartition(".")
        target: Any = pretended(getattr(importlib.import_module(module), name))
        monkeypatch.setattr(place, target)
        part = {**raw[group], "pretended": False}
        assert asked(SelectConfig, {**raw, group: part}) == before, group
        assert asked(SelectConfig, {**raw, group: {**part, "pretended": True}}) != before, group


@dataclass(frozen=True)
class Part:
    size: int = 1


@dataclass(frozen=True)
class Added:
    names: tuple[str, ...] = option((), added=True)
    folder: Path | None = option(Path("x"), added=True)
    part: Part = option(default_factory=Part, added=True)


def test_an_added_option_is_at_its_default_however_yaml_writes_it() -> None:
    assert asked(Added, {"names": [], "folder": "x", "part": {"size": 1}}) == {}
    assert asked(Added, {"names": ["a"], "folder": "y", "part": {"size": 2}}) != {}
    assert deciding(Added(names=("a",), folder=Path("y"))) == {"names": ["a"], "folder": "y"}


TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")
MORE_TEXT_FILES = (
    *(
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "spiece.model",
    ),
    *("additional_chat_templates/tools.jinja", "preprocessor_config.json", "model.safetensors.index.json"),
)
FREE_FILES = ("README.md", ".gitattributes", "train.log", "history.jsonl", "manifest.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in a folder of the user's, all of whose files decide."""
    from tests.evaluation.examples import save_model

    made = save_model(tmp_path / "model")
    (made / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    return made


def test_each_file_of_a_models_folder_that_decides_ids_or_answers_is_in_the_keys(folder: Path) -> None:
    own = ("model=auto", "model.name=model")

    def keys() -> tuple[str, str]:
        return key_of("train", *own), key_of("evaluate", *own)

    known = [keys()]
    for name in ("config.json", *TEXT_FILES):
        with (folder / name).open("a") as file:
            file.write("\n")
        known.append(keys())
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    known.append(keys())
    for stage in zip(*known, strict=True):
        assert len(set(stage)) == len(known)
    for name in FREE_FILES:
        (folder / name).write_text("{}")
    assert keys() == known[-1]


@pytest.mark.parametrize("with_adapter", [False, True])
def test_further_files_of_models_and_adapters_are_in_their_keys(tmp_path: Path, with_adapter: bool) -> None:
    """Of tokenizers of every kind, without loading one."""
    folder = tmp_path / "adapter"
    (folder / "config.json").write_text("{}")
    key = adapter_key if with_adapter else text_key
    known = [key(folder)]
    for name in (*TEXT_FILES, *MORE_TEXT_FILES):
        for text in ("{}", "{ }"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
            known.append(key(folder))
    assert len(set(known)) == len(known)
    for name in FREE_FILES:
        (folder / name).write_text("{}")
    assert key(folder) == known[-1]
    save_file({"weights": np.ones(1)}, folder / "adapter_model.safetensors")
    assert (key(folder) == known[-1]) != with_adapter


def test_a_hub_model_is_named_by_the_commit_in_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub/models--some--model"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path / "hub"), raising=False)
    names = []
    for commit in ("a" * 40, "b" * 40):
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs/main").write_text(commit)
        shutil.copytree(folder, repository / "snapshots" / commit)
        names.append(find_base(ModelOptions("some/model")).key)
    assert names == [f"some/model@{commit}" for commit in ("a" * 40, "b" * 40)]
    assert find_base(ModelOptions("some/model", revision="a" * 40)).key == names[0]


DATA_FILES = {
    "select": (
        "small.parquet",
        "vectors.npy",
        "benchmarks/mmlu.parquet",
        "unseen.parquet",
        "tokenizer/tokenizer.json",
    ),
    "evaluate": ("benchmarks/mmlu.parquet", "benchmarks/bbh.parquet", "unseen.parquet"),
    "reproduce": ("published.csv",),
}
READING: dict[str, tuple[str, ...]] = {
    "select": (*FIND, "heldout_data=unseen.parquet", "tokenizer=tokenizer"),
    "evaluate": ("suite=heldout", "suite.collection=unseen.parquet"),
    "reproduce": ("reference=published.csv",),
}
CHANGES: dict[str, Callable[[Path], object]] = {
    ".parquet": lambda path: pq.write_table(pq.read_table(path)[:-1], path),
    ".npy": lambda path: np.save(path, np.load(path)[::-1]),
    ".json": lambda path: path.write_text(path.read_text() + "\n"),
    ".csv": lambda path: path.write_text(path.read_text().replace("0.5", "0.6")),
}


@pytest.mark.parametrize(
    ("command", "name"), [(c, name) for c, names in DATA_FILES.items() for name in names]
)
def test_another_content_of_a_file_under_the_same_name_is_another_key(command: str, name: str) -> None:
    before = key_of(command, *READING[command])
    if name == "small.parquet":  # the vectors are of its rows, as many as there are
        rows = pq.read_table(name).to_pylist()
        rows[3]["targets"] = "another answer"
        pq.write_table(pa.Table.from_pylist(rows), name)
    else:
        CHANGES[Path(name).suffix](Path(name))
    assert key_of(command, *READING[command]) != before


def test_what_decides_orderings_is_in_their_key_and_nothing_else() -> None:
    def key(*more: str) -> str:
        config = read_config(SelectConfig, compose("select", [*KEYS["select"][2], *more]))
        return orderings_key(make_orderer(config), "vectors", np.array([0, 3, 7]))

    plain = key()
    for free in ("budget=7", "fn=logdet", "weighting=uniform", "num_tasks=3", "seed=9", "threads=1"):
        assert key(free) == plain, free
    others = [key("instance_fn=logdet"), key("optimizer=lazy"), key("optimizer=partition")]
    others += [key("optimizer=partition", "seed=9"), key("instance_fn=logdet", "instance_fn.regularizer=3")]
    config = read_config(SelectConfig, compose("select", KEYS["select"][2]))
    orderer = make_orderer(config)
    others += [orderings_key(orderer, "others", np.array([0, 3, 7]))]
    others += [orderings_key(orderer, "vectors", np.array([0, 4, 7]))]
    assert len({plain, *others}) == 8


def test_what_decides_the_search_for_benchmarks_names_its_file() -> None:
    """Rows and questions do; what is done with the rows that are found does not."""

    def kept(*more: str) -> set[str]:
        read_pool(read_config(SelectConfig, compose("select", [*KEYS["select"][2], *FIND, *more])))
        return {path.name for path in Path("outputs/cache/contamination").glob("*.json")}

    first = kept()
    assert len(first) == 1
    assert kept("decontaminate=drop", "budget=7", "threads=1", "fn=logdet") == first
    more = [
        ("benchmark_data=benchmarks2",),
        ("heldout_data=unseen.parquet",),
        ("collection.path=other.parquet",),
    ]
    for count, words in enumerate(more):
        assert len(kept(*words)) == 2 + count, words
