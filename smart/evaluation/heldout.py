"""Unseen tasks of a collection file, as lm-eval tasks.

Each task of the file becomes up to three: `heldout_text_*` (an answer is generated: exact match and ROUGE-L),
`heldout_loss_*` (loss per supervised token of the reference answer) and `heldout_options_*` (the likeliest option,
for rows that have options). Conversations, and all rows of a model that was trained on conversations, go through its
template (`heldout_turns`).

They are made in memory, and lm-eval takes each prompt, target and option from a column by its name: no text of the
file is read as YAML or as a template, and nothing in a cache can become code.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from smart.benchmarks.heldout import read_heldout
from smart.config import UserError
from smart.evaluation.text_metrics import exact_match, rouge_l
from smart.model.chat import ChatFormat
from smart.model.tokens import encode
from smart.runtime.files import hash_bytes
from smart.templates import SEPARATOR

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

LONGEST_ANSWER = 256
"""Tokens; the longest reference of a task decides, up to so many."""
_LONGEST_STEM = 100
METRICS: dict[str, tuple[str, ...]] = {
    "heldout_text": ("exact_match", "rougeL"),
    "heldout_loss": ("loss",),
    "heldout_options": ("acc", "acc_norm"),
}
"""Group → its metrics."""


def heldout_groups(
    file: Path,
    tokenizer: PreTrainedTokenizerBase,
    separator: str = SEPARATOR,
    form: ChatFormat | None = None,
) -> dict[str, Group]:
    """Groups of lm-eval tasks for the tasks of a collection file: a file without options has no heldout_options.

    The file has the columns inputs, targets, task_name, and may have task_source (the category), references and
    options (lists of text). A row's supervised tokens are those of training: the answer and the end of sequence.

    Args:
        form: how conversations become prompts; None: rows are plain text, joined by `separator`.

    Raises:
        UserError: where the file cannot be used, or holds conversations and the model has no format for them.
    """
    from lm_eval.api.group import Group
    from lm_eval.config.group import AggMetricConfig

    table = read_heldout(file, "suite.collection")
    if form is None and "conversation" in table.column_names:
        raise UserError(
            f"suite.collection={file}: holds conversations, and the model is asked in plain text",
            "format=chat asks it through its tokenizer's template",
        )
    logging.getLogger("lm_eval.api.task").addFilter(_no_advice)  # once, however often it is added
    groups = {
        name: Group(name, aggregate_metric_list=[AggMetricConfig(m, weight_by_size=False) for m in metrics])
        for name, metrics in METRICS.items()
    }
    make = _plain_tasks(tokenizer, separator) if form is None else _turn_tasks(tokenizer, form)
    by_name: dict[str, list[dict[str, Any]]] = {}
    for name, document in zip(table["task_name"].to_pylist(), make.documents(table), strict=True):
        by_name.setdefault(name, []).append(document)
    without = 0
    for name, stem in task_stems(sorted(by_name)).items():
        rows = by_name[name]
        without += sum(bool(row["options"]) and row["label"] is None for row in rows)
        for group in groups.values():
            wanted = [row for row in rows if group.name != "heldout_options" or row["label"] is not None]
            if wanted:
                group.add(make.task(_task(group.name, f"{group.name}_{stem}", wanted, make.score_text)))
    if without:
        log.warning(
            "%s: rows whose target is none of their options: %d; heldout_options leaves them out.",
            file,
            without,
        )
    return {name: group for name, group in groups.items() if len(group)}


@dataclass(frozen=True)
class _Maker:
    """How rows become documents, and documents tasks."""

    documents: Callable[[pa.Table], list[dict[str, Any]]]
    task: Callable[[dict[str, Any]], Any]
    score_text: Callable[[dict[str, Any], list[str]], dict[str, float]]


def _no_advice(record: logging.LogRecord) -> bool:
    # lm-eval tells the users of a task made in memory about an option of its own command line.
    return "Custom kwargs can be passed to" not in record.getMessage()


def _plain_tasks(tokenizer: PreTrainedTokenizerBase, separator: str) -> _Maker:
    from lm_eval.api.task import ConfigurableTask

    return _Maker(
        lambda table: _documents(table, tokenizer, separator),
        lambda config: ConfigurableTask(config=config),
        score_text,
    )


def _turn_tasks(tokenizer: PreTrainedTokenizerBase, form: ChatFormat) -> _Maker:
    from smart.evaluation.heldout_turns import TurnsTask, score_answer, turn_documents

    return _Maker(
        lambda table: turn_documents(table, tokenizer, form),
        lambda config: TurnsTask(config, tokenizer),
        score_answer,
    )


def task_stems(names: Sequence[str]) -> dict[str, str]:
    """Name of each task → what it is called in lm-eval: its letters and digits, with a hash where these don't tell
    it from another.

    >>> task_stems(["a b", "c"])
    {'a b': 'a_b', 'c': 'c'}
    """
    plain = {name: re.sub(r"\W+", "_", name) for name in names}
    count = Counter(plain.values())
    return {
        name: stem
        if count[stem] == 1 and len(stem) <= _LONGEST_STEM
        else f"{stem[:_LONGEST_STEM]}_{hash_bytes([name.encode()])[:8]}"
        for name, stem in plain.items()
    }


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
                "category": row.get("task_source") or "",
            }
        )
    return documents


def _task(
    group: str, task: str, rows: Sequence[Mapping[str, Any]], score: Callable[..., dict[str, float]]
) -> dict[str, Any]:
    """lm-eval's configuration of a task; doc_to_… name columns of the rows."""
    content: dict[str, Any] = {
        "task": task,
        "custom_dataset": _splits(rows),
        "test_split": "test",
        "doc_to_text": "prompt",
        "num_fewshot": 0,
        "metadata": {"version": 1.0, "category": rows[0]["category"]},
        "metric_list": [
            {
                "metric": metric,
                "aggregation": per_token if metric == "loss" else "mean",
                "higher_is_better": metric != "loss",
            }
            for metric in METRICS[group]
        ],
    }
    if group == "heldout_options":
        choice = {"output_type": "multiple_choice", "doc_to_target": "label", "doc_to_choice": "options"}
        return content | choice
    if group == "heldout_loss":
        loss = {"output_type": "loglikelihood", "doc_to_target": "continuation"}
        return content | loss | {"process_results": score_loss}
    longest = min(LONGEST_ANSWER, max(map(_answer_tokens, rows)))
    return content | {
        "output_type": "generate_until",
        "doc_to_target": "target",
        "process_results": score,
        # No stop at a blank line: a model that begins with one would have given no answer at all.
        "generation_kwargs": {"until": [], "max_gen_toks": longest, "do_sample": False},
    }


def _answer_tokens(row: Mapping[str, Any]) -> int:
    """Of what is generated, which is the last answer where there are several."""
    return len(row["answers"][-1]) if "answers" in row else int(row["tokens"])


def _splits(rows: Sequence[Mapping[str, Any]]) -> Callable[..., dict[str, Any]]:
    """What lm-eval calls in the place of load_dataset; it hands over a task's metadata, too."""
    from datasets import Dataset

    def splits(**_: Any) -> dict[str, Any]:
        return {"test": Dataset.from_list([dict(row) for row in rows])}

    return splits


def score_text(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Against the best of the references.

    The answer is the first paragraph that is not empty, unless a reference itself has several.
    """
    references = doc["references"]
    answer = results[0].strip()
    if not any("\n\n" in reference.strip() for reference in references):
        answer = answer.partition("\n\n")[0]
    return {
        "exact_match": float(any(exact_match(answer, reference) for reference in references)),
        "rougeL": max(rouge_l(answer, reference) for reference in references),
    }


def score_loss(doc: dict[str, Any], results: list[Any]) -> dict[str, tuple[float, int]]:
    """Negative log-likelihood of the reference, of all turns where there are several, and how many tokens it has."""
    pairs = results if isinstance(results[0], tuple | list) else [results]
    return {"loss": (-sum(likelihood for likelihood, _ in pairs), doc["tokens"])}


def per_token(items: list[tuple[float, int]]) -> float:
    """Loss per supervised token over all items, whatever their lengths."""
    return sum(loss for loss, _ in items) / sum(tokens for _, tokens in items)
