"""Unseen tasks of a collection file, written as lm-eval tasks that its own command can run too.

Each task of the file becomes up to three: `heldout_text_*` (an answer is generated: exact match and ROUGE-L),
`heldout_loss_*` (loss per supervised token of the reference answer) and `heldout_options_*` (the likeliest option,
for rows that have options).
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smart.benchmarks.heldout import read_heldout
from smart.model.tokens import encode
from smart.runtime.content import check_unchanged, state_of
from smart.runtime.files import hash_bytes, hash_file
from smart.runtime.locks import owned
from smart.runtime.manifest import cached_folder
from smart.templates import SEPARATOR

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from transformers import PreTrainedTokenizerBase

LONGEST_ANSWER = 256
"""Tokens; the longest reference of a task decides, up to so many."""
_VERSION = "2"
_KINDS: dict[str, dict[str, Any]] = {
    "heldout_text": {
        "output_type": "generate_until",
        "doc_to_target": "{{target}}",
        "metrics": ("exact_match", "rougeL"),
        "process": "text",
    },
    "heldout_loss": {
        "output_type": "loglikelihood",
        "doc_to_target": "{{continuation}}",
        "metrics": ("loss",),
        "process": "loss",
    },
    "heldout_options": {
        "output_type": "multiple_choice",
        "doc_to_target": "{{label}}",
        "doc_to_choice": "{{options}}",
        "metrics": ("acc", "acc_norm"),
        "process": None,
    },
}
METRICS: dict[str, tuple[str, ...]] = {group: kind["metrics"] for group, kind in _KINDS.items()}
"""Group → its metrics."""


def write_tasks(
    file: Path, tokenizer: PreTrainedTokenizerBase, cache: Path, separator: str = SEPARATOR
) -> Path:
    """Write lm-eval task files for the tasks of a collection file; returns their folder.

    The file has the columns inputs, targets, task_name, and may have task_source (the category), references and
    options (lists of text). A row's supervised tokens are those of training: the answer and the end of sequence.

    Raises:
        UserError: where the file cannot be used.
    """
    before = {file: state_of(file)} if file.is_file() else {}
    table = read_heldout(file, "suite.collection")
    said = tokenizer.backend_tokenizer.to_str() + str(tokenizer.eos_token)
    parts = [_VERSION, hash_file(file), said, *([] if separator == SEPARATOR else [separator])]
    key = hash_bytes([part.encode() for part in parts])
    check_unchanged(before)
    folder = cache / key[:16]

    def make(draft: Path) -> None:
        _write(table, tokenizer, separator, draft, folder.resolve())

    with owned(folder):
        cached_folder(folder, "tasks", key, make)
    return folder.resolve()


def _write(
    table: pa.Table, tokenizer: PreTrainedTokenizerBase, separator: str, draft: Path, final: Path
) -> None:
    (draft / "heldout_metrics.py").write_text(
        "from smart.evaluation.heldout import per_token, score_loss, score_text\n", encoding="utf-8"
    )
    members: dict[str, list[str]] = {group: [] for group in _KINDS}
    names = np.array(table["task_name"].to_pylist())
    for name in np.unique(names):
        rows = _documents(table.filter(pa.array(names == name)), tokenizer, separator)
        stem = re.sub(r"\W+", "_", str(name))
        for group in _KINDS:
            wanted = [row for row in rows if group != "heldout_options" or row["label"] is not None]
            if wanted:
                task = f"{group}_{stem}"
                pq.write_table(pa.Table.from_pylist(wanted), draft / f"{task}.parquet")
                _write_yaml(draft, task, _task(group, task, wanted, final / f"{task}.parquet"))
                members[group].append(task)
    for group, tasks in members.items():
        metrics = [{"metric": metric, "weight_by_size": False} for metric in _KINDS[group]["metrics"]]
        if tasks:
            _write_yaml(draft, group, {"group": group, "task": tasks, "aggregate_metric_list": metrics})


@contextlib.contextmanager
def rows_without_copies() -> Iterator[None]:
    """Read the rows of tasks in Parquet files as they are: the copies that datasets keeps of them have no hashes."""
    import datasets

    whole = datasets.load_dataset

    def load(path: str, name: str | None = None, **options: Any) -> Any:
        if path != "parquet":
            return whole(path, name, **options)
        tables = {split: pq.read_table(file) for split, file in options["data_files"].items()}
        return datasets.DatasetDict(
            {split: datasets.Dataset(datasets.table.InMemoryTable(rows)) for split, rows in tables.items()}
        )

    datasets.load_dataset = load
    try:
        yield
    finally:
        datasets.load_dataset = whole


def groups_in(folder: Path) -> list[str]:
    """The groups that `write_tasks` has written: a file without options has no heldout_options."""
    return [group for group in _KINDS if (folder / f"{group}.yaml").is_file()]


def _documents(table: pa.Table, tokenizer: PreTrainedTokenizerBase, separator: str) -> list[dict[str, Any]]:
    rows = table.to_pylist()
    prompts, targets = ([row[key] for row in rows] for key in ("inputs", "targets"))
    documents = []
    end = str(tokenizer.eos_token)
    encoded = encode(tokenizer, prompts, targets, separator=separator)
    for row, tokens in zip(rows, encoded, strict=True):
        assert tokens is not None  # nothing is too long without a bound
        options = row.get("options") or []
        documents.append(
            {
                "prompt": row["inputs"],
                "target": row["targets"],
                # as training reads it; lm-eval puts no delimiter before what it scores by likelihood
                "continuation": separator + row["targets"].removesuffix(end) + end,
                "tokens": len(tokens.response),
                "references": row.get("references") or [row["targets"]],
                "options": options,
                "label": options.index(row["targets"]) if row["targets"] in options else None,
                "category": str(row.get("task_source") or ""),
            }
        )
    return documents


def _task(group: str, task: str, rows: list[dict[str, Any]], data: Path) -> dict[str, Any]:
    kind = _KINDS[group]
    content: dict[str, Any] = {
        "task": task,
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": kind["output_type"],
        "doc_to_text": "{{prompt}}",
        "doc_to_target": kind["doc_to_target"],
        "num_fewshot": 0,
        "metric_list": [
            {"metric": metric, "higher_is_better": metric != "loss"} for metric in kind["metrics"]
        ],
        "metadata": {"version": 1.0, "category": rows[0]["category"]},
    }
    for metric in content["metric_list"]:
        metric["aggregation"] = (
            "!function heldout_metrics.per_token" if metric["metric"] == "loss" else "mean"
        )
    if kind["process"]:
        content["process_results"] = f"!function heldout_metrics.score_{kind['process']}"
    if "doc_to_choice" in kind:
        content["doc_to_choice"] = kind["doc_to_choice"]
    if group == "heldout_text":
        longest = min(LONGEST_ANSWER, max(row["tokens"] for row in rows))
        # No stop at a blank line: a model that begins with one would have given no answer at all.
        content["generation_kwargs"] = {"until": [], "max_gen_toks": longest, "do_sample": False}
    return content


def _write_yaml(folder: Path, name: str, content: dict[str, Any]) -> None:
    # JSON is YAML, but for the tag that names a function.
    text = re.sub(r'"(!function [\w.]+)"', r"\1", json.dumps(content, indent=2, ensure_ascii=False))
    (folder / f"{name}.yaml").write_text(text + "\n", encoding="utf-8")


def score_text(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Against the best of the references; as in Super-NaturalInstructions, case and punctuation do not count.

    The answer is the first paragraph that is not empty, unless a reference itself has several.
    """
    references = doc["references"]
    answer = results[0].strip()
    if not any("\n\n" in reference.strip() for reference in references):
        answer = answer.partition("\n\n")[0]
    return {
        "exact_match": float(any(_plain(answer) == _plain(reference) for reference in references)),
        "rougeL": max(_rouge(reference, answer) for reference in references),
    }


def score_loss(doc: dict[str, Any], results: list[Any]) -> dict[str, tuple[float, int]]:
    """Negative log-likelihood of the reference, and how many tokens it has."""
    ((likelihood, _),) = results if isinstance(results[0], tuple | list) else [results]
    return {"loss": (-likelihood, doc["tokens"])}


def per_token(items: list[tuple[float, int]]) -> float:
    """Loss per supervised token over all items, whatever their lengths."""
    return sum(loss for loss, _ in items) / sum(tokens for _, tokens in items)


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"[^\w\s]", "", text.lower())).strip()


def _rouge(reference: str, answer: str) -> float:
    return float(_scorer().score(reference, answer)["rougeL"].fmeasure)


@cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    logging.getLogger("absl").setLevel(logging.WARNING)  # it says that it takes its default tokenizer
    return RougeScorer(["rougeL"], use_stemmer=True)
