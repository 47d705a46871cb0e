"""Suites: which of lm-eval's tasks, with how many shots."""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smart.config import Problems, UserError, option
from smart.config.types import Names, Positive, Whole
from smart.templates import SEPARATOR

if TYPE_CHECKING:
    from lm_eval.tasks.manager import TaskDict, TaskManager

SEEDS = {"python": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234}
"""The defaults of lm-eval's own command."""


@dataclass(frozen=True)
class Suite:
    """A list of lm-eval tasks or groups; none is changed but by its number of shots."""

    name: str
    tasks: Names = option((), hint="such as suite.tasks=[mmlu,bbh_zeroshot]")
    """Names as in lm-eval; a group stands for all its tasks."""
    shots: Whole | None = None
    """For tasks that leave the number of shots open, as MMLU does; the tasks of BBH fix their own."""
    collection: str | None = None
    """A Parquet file of unseen tasks in the columns of a collection; they become lm-eval tasks."""
    limit: Positive | None = None
    """Items of each task; the command's `limit` wins."""

    def validate(self, problems: Problems) -> None:
        """Add a suite that names no task."""
        if not self.tasks and not self.collection:
            problems.add(
                "suite.tasks",
                list(self.tasks),
                "names no task",
                "for suite=heldout give suite.collection=FILE.parquet",
            )


@dataclass(frozen=True)
class LoadedSuite:
    """A suite's tasks with their data."""

    loaded: TaskDict
    parts: dict[str, list[str]]
    """Name asked for → the tasks with items that it stands for."""


def load_suite(names: Sequence[str], shots: int | None, extra: Path | None = None) -> LoadedSuite:
    """Load tasks by name, as lm-eval does, and set the shots where they are left open.

    Args:
        extra: a folder of further task files.

    Raises:
        UserError: for an unknown task, with the nearest; for data that is not there.
    """
    manager = _manager(names, extra)
    for name in names:
        if name not in manager.all_tasks:
            raise UserError(f"suite.tasks: lm-eval has no task {name}. {_nearest_task(name, manager)}")
    try:
        loaded = manager.load(list(names))
    except (OSError, ValueError) as error:
        # ConnectionError and the data sets' own errors are of these kinds
        raise UserError(
            f"the data of {', '.join(names)} cannot be read ({str(error).strip().splitlines()[0]}); give it with"
            " benchmark_data=FOLDER, or run the same command with fetch_only=true where the hub can be reached"
        ) from error
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=SEEDS["fewshot"])
    return LoadedSuite(loaded, {name: _leaves(name, loaded, manager) for name in names})


def _manager(names: Sequence[str], extra: Path | None) -> TaskManager:
    # Reading every task that lm-eval has takes seconds, and these two folders hold what the suites name.
    import lm_eval
    from lm_eval.tasks import TaskManager

    for said in ("lm_eval.tasks", "lm_eval.api.task", "lm_eval.evaluator"):
        logging.getLogger(said).setLevel(logging.ERROR)
    root = Path(lm_eval.__file__).parent / "tasks"
    own = [extra] if extra else []
    quick = TaskManager(include_defaults=False, include_path=[root / "mmlu" / "default", root / "bbh", *own])
    if set(names) <= set(quick.all_tasks):
        return quick
    return TaskManager(include_path=own) if own else TaskManager()


def _leaves(name: str, loaded: TaskDict, manager: TaskManager) -> list[str]:
    if name in loaded.get("groups", {}):
        return [task.task_name for task in loaded["groups"][name].get_all_tasks()]
    if name in loaded["tasks"]:
        return [name]
    return sorted(set(manager.load([name])["tasks"]))  # a tag


def _nearest_task(name: str, manager: TaskManager) -> str:
    close = difflib.get_close_matches(name, manager.all_tasks, n=5)
    return f"Did you mean {', '.join(close)}?" if close else "lm-eval ls tasks lists them all."


def stock_texts() -> dict[str, list[str]]:
    """Name of each part of MMLU and BBH, such as bbh/navigate → the questions on which models are scored."""
    texts: dict[str, list[str]] = {}
    for task in load_suite(["mmlu", "bbh_zeroshot"], None).loaded["tasks"].values():
        name = f"{task.DATASET_PATH.rpartition('/')[2]}/{task.DATASET_NAME}"
        texts[name] = [doc.get("question") or doc["input"] for doc in task.eval_docs]
    return texts


def check_room(suite: LoadedSuite, max_length: int | None) -> None:
    """Refuse a length in which a task's answer leaves no room for its prompt, before a model is loaded.

    Raises:
        UserError: naming the first such task.
    """
    for name, task in suite.loaded["tasks"].items():
        new = (task.get_config("generation_kwargs") or {}).get("max_gen_toks", 0)
        if max_length is not None and new >= max_length:
            raise UserError(
                f"max_length={max_length}: {name} generates up to {new} tokens, which leaves no room for its prompts;"
                f" give at least {2 * new}, or null for what the model was trained on"
            )


def join_by(suite: LoadedSuite, separator: str) -> None:
    """Put what stood between prompt and response in training between the tasks' prompts and answers.

    Tasks with a delimiter of their own keep it.

    Raises:
        UserError: for a task that stops at the separator, since every answer begins with it.
    """
    for name, task in suite.loaded["tasks"].items() if separator != SEPARATOR else ():
        stops = (task.get_config("generation_kwargs") or {}).get("until", [])
        if any(stop and stop in separator for stop in stops):
            raise UserError(
                f"{name}: stops at {separator!r}, with which every answer of the model begins, since it was trained"
                f" with separator={separator!r}; leave the task out, or train with the default separator"
            )
        if task.config.target_delimiter == SEPARATOR:
            task.config.target_delimiter = task.fewshot_cfg.target_delimiter = separator


def chance(suite: LoadedSuite, limit: int | None = None) -> dict[str, float]:
    """Task → the accuracy of answers without thought: options at random, or where the answer is free, the commonest
    right answer every time.

    Args:
        limit: of how many items of each task, the first ones, as they are scored.
    """
    found = {}
    for name, task in suite.loaded["tasks"].items():
        docs = list(task.eval_docs)[:limit]
        if task.OUTPUT_TYPE == "multiple_choice":
            found[name] = sum(1 / len(task.doc_to_choice(doc)) for doc in docs) / len(docs)
        elif task.OUTPUT_TYPE == "generate_until":
            answers = Counter(str(task.doc_to_target(doc)) for doc in docs)
            found[name] = max(answers.values()) / len(docs)
    return found
