"""decontaminate=report|drop: which rows of a collection hold questions of the benchmarks, or of unseen tasks."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smart.benchmarks.heldout import heldout_texts
from smart.benchmarks.offline import benchmark_texts
from smart.benchmarks.suites import stock_texts
from smart.collection import Collection
from smart.collection.contamination import SIMILARITY, N, Overlap, Report, row_overlaps
from smart.config import counted
from smart.reading import RowView
from smart.runtime.files import hash_bytes
from smart.runtime.hub import NotHere
from smart.runtime.locks import owned
from smart.runtime.sealed import read_sealed, write_sealed

VERSION = 1
"""Raised whenever other rows are found in the same texts."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contamination:
    """What was found in the splits of a collection."""

    mode: str
    key: str
    """Key of the benchmarks' questions and of how they are looked for."""
    questions: dict[str, int]
    """Part of a benchmark → its questions."""
    reports: dict[str, Report]
    """Split → what was found in it."""

    def keep(self, split: str, rows: RowView) -> RowView:
        """The rows of a split that go on: all of them, unless overlapping rows are dropped."""
        return rows.keep(~self.reports[split].mask) if self.mode == "drop" else rows

    def describe(self, collection: Collection, mixture: Mapping[str, RowView | None]) -> dict[str, Any]:
        """For the manifest: what the collection holds, and which of the mixture's rows are among it.

        Args:
            collection: whose splits were looked at.
            mixture: the chosen rows of each split.
        """
        numbers = {split: rows.rows for split, rows in collection.splits.items()}
        chosen: dict[str, list[int]] = {}
        for split, report in self.reports.items():
            rows = mixture.get(split)
            held = set() if rows is None else set(rows.rows.tolist())
            chosen[split] = sorted(held & set(numbers[split][report.mask].tolist()))
        return {
            "mode": self.mode,
            "sign": f"{N} words in a row, or a Jaccard similarity of {SIMILARITY:g}",
            "questions": self.questions,
            "collection": {split: report.as_dict(numbers[split]) for split, report in self.reports.items()},
            "mixture": chosen,
        }


def look_for_benchmarks(
    collection: Collection,
    mode: str,
    benchmark_data: Path | None,
    heldout_data: Path | None,
    cache: Path,
    plan: bool = False,
) -> Contamination | None:
    """Find the rows of all splits that hold a question of MMLU, BBH, or a file of unseen tasks.

    Args:
        mode: `report`, or `drop`.
        benchmark_data: a folder of Parquet files instead of the hub.
        heldout_data: a collection file of unseen tasks.
        cache: the folder cache/contamination. A sweep looks once.
        plan: only read caches; None where they have no answer.

    Raises:
        UserError: where the benchmarks cannot be read.
    """
    try:
        benchmarks = questions(benchmark_data, heldout_data)
    except NotHere:
        if plan:
            return None
        raise
    texts = (text.encode() for part in benchmarks.items() for text in (part[0], *part[1]))
    key = hash_bytes([f"{VERSION} {N} {SIMILARITY}".encode(), *texts])
    found_under = f"{collection.fingerprint}-{key}"
    file = cache / f"{collection.fingerprint[:16]}-{key[:16]}.json"
    if plan:
        reports = _kept(file, found_under)
        if reports is None:
            return None
    else:
        with owned(file):
            reports = _kept(file, found_under)
            if reports is None:
                reports = {name: row_overlaps(rows, benchmarks) for name, rows in collection.splits.items()}
                plain = {name: _plain(report) for name, report in reports.items()}
                write_sealed(file, found_under, json.dumps(plain).encode())
    for name, report in reports.items():
        log.info(
            "%s: a benchmark's question is in %s of %s.",
            name,
            f"{report.mask.sum():,}",
            counted(report.rows, "row"),
        )
    return Contamination(mode, key, {name: len(asked) for name, asked in benchmarks.items()}, reports)


def questions(benchmark_data: Path | None, heldout_data: Path | None = None) -> dict[str, list[str]]:
    """Part of a benchmark, such as bbh/navigate → the questions on which models are scored."""
    texts = stock_texts() if benchmark_data is None else benchmark_texts(benchmark_data)
    return texts if heldout_data is None else texts | heldout_texts(heldout_data)


def _kept(file: Path, key: str) -> dict[str, Report] | None:
    content = read_sealed(file, key)
    return None if content is None else {name: _report(plain) for name, plain in json.loads(content).items()}


def _plain(report: Report) -> dict[str, Any]:
    return {"rows": report.rows, "overlaps": [vars(overlap) for overlap in report.overlaps]}


def _report(plain: dict[str, Any]) -> Report:
    return Report(plain["rows"], [Overlap(**overlap) for overlap in plain["overlaps"]])
