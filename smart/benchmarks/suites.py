"""Suites: which of lm-eval's tasks, with how many shots."""

from __future__ import annotations

import difflib
import importlib.util
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smart.config import Problems, UserError, counted, option
from smart.config.types import Names, Positive, Whole
from smart.runtime.hub import refused
from smart.templates import SEPARATOR

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.tasks._index import Entry
    from lm_eval.tasks.manager import TaskDict, TaskManager

SEEDS = {"python": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234}
"""The defaults of lm-eval's own command."""
_QUICK = ("mmlu/default", "bbh")
"""Folders of lm-eval's tasks that the suites here name."""
_MESSAGE = 300
"""Characters of another's error."""


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


def load_suite(
    names: Sequence[str], shots: int | None, own: Mapping[str, Group] | None = None
) -> LoadedSuite:
    """Load tasks by name, as lm-eval does, and set the shots where they are left open.

    Args:
        own: further groups by name, which lm-eval does not have.

    Raises:
        ConfigError: with every task that is unknown, or cannot run here.
        NotHere: for data that is not cached, where the hub cannot be reached.
        UserError: for data that cannot be read.
    """
    own = own or {}
    theirs = [name for name in names if name not in own]
    manager = task_manager(theirs)
    check_tasks(theirs, manager)
    try:
        loaded = manager.load([own.get(name, name) for name in names])
    except (OSError, ValueError) as error:
        # ConnectionError and the data sets' own errors are of these kinds
        raise refused(
            f"the data of {', '.join(names)} cannot be read ({str(error).strip().splitlines()[0]}); give it with"
            " benchmark_data=FOLDER, or run the same command with fetch_only=true where the hub can be reached",
            error,
        ) from error
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=SEEDS["fewshot"])
    return LoadedSuite(loaded, {name: _leaves(name, loaded, manager) for name in names})


def task_manager(names: Sequence[str]) -> TaskManager:
    """lm-eval's index of tasks, of its own folders alone: MMLU and BBH, or all where `names` has others."""
    # Reading every task that lm-eval has takes seconds, and these two folders hold what the suites name.
    from lm_eval.tasks import TaskManager

    for said in ("lm_eval.tasks", "lm_eval.api.task", "lm_eval.evaluator"):
        logging.getLogger(said).setLevel(logging.ERROR)
    quick = TaskManager(include_defaults=False, include_path=[_root() / folder for folder in _QUICK])
    return quick if set(names) <= set(quick.all_tasks) else TaskManager()


def _root() -> Path:
    import lm_eval

    return Path(lm_eval.__file__).parent / "tasks"


def check_tasks(names: Sequence[str], manager: TaskManager | None = None) -> None:
    """Refuse what lm-eval does not have, and what cannot run here; loads no data.

    Raises:
        ConfigError: with each such task, and what to do about it.
    """
    if not names:
        return
    manager = manager or task_manager(names)
    problems = Problems()
    for name in names:
        if name not in manager.all_tasks:
            problems.add("suite.tasks", name, f"lm-eval has no task {name}. {_nearest_task(name, manager)}")
        elif obstacle := next(filter(None, (_obstacle(task) for task in _entries(name, manager))), None):
            problems.add("suite.tasks", name, *obstacle)
    problems.raise_if_any()


def _entries(name: str, manager: TaskManager) -> Iterator[Entry]:
    """The tasks that a name stands for, as lm-eval's index has them."""
    entry = manager.task_index.get(name)
    if entry is None:  # a group may describe tasks of its own in place
        return
    members = [*sorted(entry.tags)] if entry.kind.name == "TAG" else []
    if entry.kind.name == "GROUP":
        members = [_member(one) for one in (entry.cfg or {}).get("task") or [] if one]
    elif entry.kind.name != "TAG":
        yield entry
    for member in members:
        if member != name:
            yield from _entries(member, manager)


def _member(one: str | Mapping[str, Any]) -> str:
    return one if isinstance(one, str) else str(one.get("group") or one.get("task"))


def _obstacle(task: Entry) -> tuple[str, str] | None:
    """What keeps a task from running here, and a hint; None if nothing does."""
    from lm_eval.tasks._yaml_loader import load_yaml

    config = task.cfg or {}
    if config.get("unsafe_code"):
        return (
            "runs code that the model writes, which this command never does",
            f"score it in a sandbox with lm_eval run --tasks {task.name} --confirm_run_unsafe_code",
        )
    if config.get("doc_to_image") or config.get("doc_to_audio"):
        return "asks about images or sound, and models here read text alone", ""
    if task.yaml_path is None or any(_root() / folder in task.yaml_path.parents for folder in _QUICK):
        return None
    try:
        load_yaml(task.yaml_path)  # imports the functions that it names
    except ImportError as error:
        return _missing(task.name, error)
    except (Exception, SystemExit) as error:  # their modules load metrics, look for programs, download
        return f"its code cannot be imported ({_one_line(error)})", ""
    return None


def _missing(task: str, error: ImportError) -> tuple[str, str]:
    """What a task needs that is not installed, and how to get it."""
    module = (error.name or "").partition(".")[0]
    if not module or importlib.util.find_spec(module):
        return f"its code cannot be imported ({_one_line(error)})", ""
    extras = re.findall(
        rf'^{module}\b.*extra == "([\w-]+)"', "\n".join(metadata.requires("lm_eval") or []), re.M
    )
    extra = next((extra for extra in extras if task.startswith(extra)), None)
    package = f"'lm-eval[{extra}]'" if extra else module
    return f"needs the package {module}, which is not installed", f"pip install {package}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_MESSAGE] or type(error).__name__


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
                f"max_length={max_length}: {name} generates up to {counted(new, 'token')}, which leaves no room for its"
                f" prompts; give at least {2 * new}, or null for what the model was trained on"
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
        limit: items of each task that are scored, the first; None: all.
    """
    found = {}
    for name, task in suite.loaded["tasks"].items():
        docs = list(islice(task.eval_docs, limit))
        if task.OUTPUT_TYPE == "multiple_choice":
            found[name] = sum(1 / len(task.doc_to_choice(doc)) for doc in docs) / len(docs)
        elif task.OUTPUT_TYPE == "generate_until":
            answers = Counter(str(task.doc_to_target(doc)) for doc in docs)
            found[name] = max(answers.values()) / len(docs)
    return found
