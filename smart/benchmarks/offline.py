"""Benchmark data from local Parquet files, under lm-eval's own tasks: only the source of the data changes.

A folder in the form of the data sets' cache is built from the files, so that what a stock task loads from the hub by
name is found there instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smart.config import UserError
from smart.runtime.content import check_unchanged, state_of
from smart.runtime.files import hash_bytes, hash_file
from smart.runtime.hub import NotHere, offline
from smart.runtime.locks import owned
from smart.runtime.manifest import cached_folder

if TYPE_CHECKING:
    from datasets import Features

_SPLITS = {"test": "test", "val": "validation", "validation": "validation", "dev": "dev"}
"""Value of the column `split` → name on the hub; without that column, all rows are the split `test`."""
_VERSION = "1"
"""Raised whenever the same files give another folder."""


@dataclass(frozen=True)
class Benchmark:
    """A data set of the hub, and the Parquet file that stands for it."""

    hub_name: str
    file: str
    config: str
    """Column whose values are the data set's configurations."""
    columns: tuple[str, ...]
    text: str
    """Column of the question, which a training row must not hold."""

    @property
    def features(self) -> Features:
        from datasets import ClassLabel, Features, List, Value

        kinds = {"choices": List(Value("string")), "answer": ClassLabel(names=["A", "B", "C", "D"])}
        return Features({name: kinds.get(name, Value("string")) for name in self.columns})


BENCHMARKS = (
    Benchmark(
        hub_name="cais/mmlu",
        file="mmlu.parquet",
        config="subject",
        columns=("question", "subject", "choices", "answer"),
        text="question",
    ),
    Benchmark(
        hub_name="SaylorTwift/bbh",
        file="bbh.parquet",
        config="task",
        columns=("input", "target"),
        text="input",
    ),
)


def benchmark_tables(folder: Path) -> dict[Benchmark, pa.Table]:
    """The files of `folder` that stand for benchmarks.

    Raises:
        UserError: where there is none, or one lacks a column.
    """
    if not folder.is_dir():
        raise UserError(f"benchmark_data={folder}: no such folder; leave it out to read the hub")
    tables = {
        benchmark: pq.read_table(folder / benchmark.file)
        for benchmark in BENCHMARKS
        if (folder / benchmark.file).is_file()
    }
    if not tables:
        known = ", ".join(benchmark.file for benchmark in BENCHMARKS)
        raise UserError(f"benchmark_data={folder}: holds none of {known}; leave it out to read the hub")
    for benchmark, table in tables.items():
        needed = {benchmark.config, *benchmark.columns}
        if missing := sorted(needed - set(table.column_names)):
            raise UserError(
                f"{folder / benchmark.file}: lacks {', '.join(missing)} (needs {', '.join(sorted(needed))})"
            )
    return tables


def benchmark_texts(folder: Path) -> dict[str, list[str]]:
    """Name of each benchmark's part, such as bbh/disambiguation_qa → the questions on which models are scored."""
    texts: dict[str, list[str]] = {}
    for benchmark, table in benchmark_tables(folder).items():
        if "split" in table.column_names:
            table = table.filter(pc.equal(table["split"], "test"))
        parts = (table[name].to_pylist() for name in (benchmark.config, benchmark.text))
        for part, text in zip(*parts, strict=True):
            texts.setdefault(f"{benchmark.hub_name.rpartition('/')[2]}/{part}", []).append(text)
    return texts


def content_key(folder: Path) -> str:
    """Hash of the files that stand for benchmarks."""
    files = [folder / benchmark.file for benchmark in benchmark_tables(folder)]
    return hash_bytes([_VERSION.encode(), *(hash_file(file).encode() for file in files)])


def build_cache(folder: Path, cache: Path) -> Path:
    """Write the data sets' cache for `folder` below `cache`, once for each content; returns its own folder."""
    before = {file: state_of(file) for file in folder.glob("*.parquet")}
    key = content_key(folder)
    built = cache / key[:16]

    def make(draft: Path) -> None:
        for benchmark, table in benchmark_tables(folder).items():
            _write(benchmark, table, draft)
        check_unchanged(before)

    with owned(built):
        cached_folder(built, "benchmarks", key, make)
    return built.resolve()


def _write(benchmark: Benchmark, table: pa.Table, cache: Path) -> None:
    name = benchmark.hub_name.rpartition("/")[2]
    for part in pc.unique(table[benchmark.config]).to_pylist():
        rows = table.filter(pc.equal(table[benchmark.config], part))
        target = cache / benchmark.hub_name.replace("/", "___") / part / "0.0.0" / "local"
        target.mkdir(parents=True)
        if "split" not in rows.column_names:
            rows = rows.append_column("split", pa.array(["test"] * len(rows)))
        _write_part(benchmark, rows, name, part, target)


def _write_part(benchmark: Benchmark, rows: pa.Table, name: str, part: str, target: Path) -> None:
    from datasets import DatasetInfo, SplitDict, SplitInfo
    from datasets.arrow_writer import ArrowWriter

    splits = SplitDict(dataset_name=name)
    for value in pc.unique(rows["split"]).to_pylist():
        if value not in _SPLITS:
            raise UserError(f"{benchmark.file}: split {value} is none of {', '.join(_SPLITS)}")
        split = _SPLITS[value]
        wanted = rows.filter(pc.equal(rows["split"], value)).select(benchmark.columns)
        with ArrowWriter(path=str(target / f"{name}-{split}.arrow"), features=benchmark.features) as writer:
            writer.write_table(wanted.cast(benchmark.features.arrow_schema))
            count, size = writer.finalize()
        splits[split] = SplitInfo(split, num_examples=count, num_bytes=size, dataset_name=name)
    info = DatasetInfo(
        features=benchmark.features, splits=splits, config_name=part, dataset_name=name, version="0.0.0"
    )
    info.write_to_directory(str(target))


@contextlib.contextmanager
def data_from(cache: Path | None) -> Iterator[None]:
    """Let data sets be loaded from `cache` alone, without the hub; None leaves everything as it is."""
    if cache is None:
        yield
        return
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    said, verbosity = datasets.utils.logging, datasets.utils.logging.get_verbosity()
    said.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        datasets.config.HF_DATASETS_CACHE = cache
        with offline():
            yield
    except NotHere as error:  # nor anywhere else, since nothing else is looked at
        raise UserError(str(error)) from error
    finally:
        said.set_verbosity(verbosity)
        datasets.enable_progress_bars()
        datasets.config.HF_DATASETS_CACHE = before
