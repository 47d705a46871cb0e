"""What a selection is asked for: the options of select.py, typed and checked before any work."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt, Le
from pydantic import AfterValidator, AllowInfNan

from smart.collection import Source
from smart.config import Count, Problems, UserError, check_options, code_of_targets, deciding, option
from smart.config.reading import check_arguments
from smart.config.types import Folder, Positive, RowCount, Rows
from smart.embedding import Encoder, Precomputed
from smart.mixture import Weighting
from smart.mixture.exports import Export
from smart.runtime.cluster import RayCluster
from smart.runtime.common_config import CommonConfig
from smart.runtime.executor import Executor, Threads
from smart.submodular import SetFunction
from smart.submodular.maximize import Optimizer
from smart.submodular.resources import parse_memory
from smart.templates import SEPARATOR


def _memory_limit(value: str | float | None) -> str | float | None:
    if isinstance(value, float) and not value.is_integer():
        raise ValueError("write whole bytes, or a size such as 512MB or 4GB")
    try:
        parse_memory(int(value) if isinstance(value, float) else value)
    except ValueError as error:
        raise ValueError(str(error).partition(": ")[2]) from error
    return value


Similarity = Annotated[float, Gt(0), Le(1), AllowInfNan(False)]
MemoryLimit = Annotated[str | int | float | None, AfterValidator(_memory_limit)]
GROUPS = ("collection", "encoder", "fn", "weighting", "instance_fn", "strategy")


@dataclass(frozen=True)
class FunctionChoice:
    """A set function that decides tasks (fn) or rows (instance_fn), still without its vectors."""

    name: str
    """Name of the file that was chosen: graphcut."""
    config: Mapping[str, Any]
    """`_target_` and its options."""
    make: Callable[..., SetFunction]
    """Makes the function from vectors X (n, d); from n and seed where it needs none."""

    @property
    def needs_vectors(self) -> bool:
        return self._says("needs_vectors", True)

    @property
    def single_threaded(self) -> bool:
        return self._says("single_threaded", False)

    @contextmanager
    def explained(self, key: str) -> Iterator[None]:
        """Turn what a function of the user's own raises into one line; an error of ours stays a traceback."""
        try:
            yield
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            if str(self.config.get("_target_", "")).startswith("smart."):
                raise
            raise UserError(
                f"{key}={self.name}: {type(error).__name__}: {error}",
                "smart.submodular.check_set_function tells what is wrong with a function",
            ) from error

    def _says(self, name: str, otherwise: bool) -> bool:
        return bool(getattr(getattr(self.make, "func", self.make), name, otherwise))


def _build_part(part: Mapping[str, Any], name: str, key: str, problems: Problems) -> object:
    """A source, an encoder or a weighting, behind `_target_`."""
    made = _instantiate(part, key, problems)
    if made is not None:
        check_options(made, problems, f"{key}.")
    return made


def _build_function(
    part: Mapping[str, Any], name: str, key: str, problems: Problems
) -> FunctionChoice | None:
    make = _instantiate({**part, "_partial_": True} if isinstance(part, Mapping) else part, key, problems)
    if make is None:
        return None
    target = make.func
    before = len(problems.found)
    parameters = tuple(inspect.signature(target).parameters)
    needs_vectors = getattr(target, "needs_vectors", True)
    later = parameters[:1] if needs_vectors else ("n", "seed")
    check_arguments(target, make.keywords, problems, f"{key}.", later=later)
    check = getattr(target, "check_options", None)
    if check is not None and len(problems.found) == before:
        try:
            check(**make.keywords)
        except (ValueError, TypeError) as error:
            problems.found.append(f"{key}.{error}")
    return FunctionChoice(name, part, make)


def _instantiate(part: Any, key: str, problems: Problems) -> Any:
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    if not isinstance(part, Mapping) or "_target_" not in part:
        problems.add(key, part, "must be a mapping with _target_", f"choose a file of conf/{key}")
        return None
    missing = [name for name, value in part.items() if value == "???"]
    for name in missing:
        problems.add(f"{key}.{name}", "???", "is needed", f"set {key}.{name}=…")
    if missing:
        return None
    try:
        made = instantiate({"_convert_": "all", **part})
        code_of_targets(part)  # remembers the code as it is imported, whatever is edited meanwhile
        return made
    except InstantiationException as error:
        cause = error.__cause__ or error
        said = " ".join(line.strip() for line in str(cause).splitlines()[:3])
        problems.found.append(f"{key}: {part['_target_']} cannot be made ({said})")
        return None


@dataclass(frozen=True, kw_only=True)
class SelectConfig(CommonConfig):
    """The options of `python select.py`. conf/select.yaml has the defaults."""

    collection: Source = option(role="input", through="pool", build=_build_part)
    encoder: Encoder | Precomputed = option(role="input", through="vectors", build=_build_part)
    fn: FunctionChoice = option(build=_build_function)
    """Which tasks, in what order."""
    weighting: Weighting = option(build=_build_part)
    """How many rows each task gets."""
    instance_fn: FunctionChoice = option(build=_build_function)
    """Which rows of each (task, template type)."""
    budget: RowCount = option(Count("25k", 25_000), role="input", through="rows")
    """Rows of the mixture: a Count. The number of rows stands in the key, however it was written."""
    num_tasks: Positive | None = option(None, hint="leave it null for all tasks")
    """How many tasks fn keeps, whatever the strategy; None: all."""
    validation_rows: Rows = option(2000, hint="such as 2000, or 0 for none")
    """Rows of the pool's validation split, the same for every strategy."""
    bad_rows: Literal["error", "drop"] = option("error", role="input", through="pool")
    """Read by the source."""
    drop_duplicates: bool = option(False, role="input", through="pool")
    """Read by the source."""
    tokenizer: str | None = option(None, through="pool", only_with="tokenizer")
    """Leave out rows whose response is longer than max_length tokens of this tokenizer."""
    max_length: Positive = option(4096, through="pool", only_with="tokenizer")
    separator: str = option(SEPARATOR, through="pool", added=True)
    """Between prompt and response: measured with them, in the column completion, and what train.py takes."""
    decontaminate: Literal["report", "drop"] | None = option(None, through="pool", only_with="decontaminate")
    """List rows that hold a question of MMLU or BBH, or leave them out."""
    heldout_data: Folder | None = option(None, role="input", through="pool")
    """A collection file of unseen tasks, whose texts are looked for beside MMLU and BBH."""
    benchmark_data: Folder | None = option(None, role="input", through="pool")
    """A folder with mmlu.parquet and bbh.parquet to look for, instead of the hub."""
    deduplicate: Literal["near", "semantic"] | None = option(None, role="input", through="pool", added=True)
    """Leave out rows that nearly repeat an earlier one: near, by words of prompt and response; semantic, by vectors."""
    deduplicate_threshold: Similarity | None = option(None, role="input", through="pool", added=True)
    """The least similarity of such rows; None: 0.8 for near (Jaccard), 0.95 for semantic (cosine)."""
    export: Sequence[Export] = option(
        default_factory=list, role="free", added=True, hint="such as [axolotl,llamafactory]"
    )
    """Trainers for which the folder `exports` gets a file; may be added to a mixture that is made."""
    optimizer: Optimizer = "exact"
    """How orderings of instances are made."""
    memory_limit: MemoryLimit = option(None, role="free", in_run_names=True)
    """Bytes above the vectors, as a number or 4GB; None: 80 % of free memory."""

    executor: Literal["threads", "ray"] = option("threads", role="free", added=True)
    """Where embeddings and orderings are computed: on this machine, or on the workers of Ray."""

    def validate(self, problems: Problems) -> None:
        """Add what is wrong between options."""
        if self.executor == "ray" and find_spec("ray") is None:
            problems.add(
                "executor", "ray", "Ray is not installed", f"pip install {shlex.quote('smart-instruct[ray]')}"
            )
        if self.heldout_data and not self.decontaminate:
            problems.add(
                "heldout_data", self.heldout_data, "is looked for only with decontaminate=report or drop"
            )
        if self.deduplicate_threshold is not None and not self.deduplicate:
            problems.add(
                "deduplicate_threshold",
                self.deduplicate_threshold,
                "is used only with deduplicate=near or semantic",
            )
        if self.tokenizer and self.max_length < 2:
            problems.add("max_length", self.max_length, "must be a whole number of tokens, at least 2")

    @property
    def needs_vectors(self) -> bool:
        return self.fn.needs_vectors or self.instance_fn.needs_vectors or self.deduplicate == "semantic"

    @property
    def strategy(self) -> str:
        return self.composed.choices["strategy"]

    @property
    def choices(self) -> dict[str, str]:
        """Which file of each group was chosen."""
        return {group: str(self.composed.choices[group]) for group in GROUPS}

    @property
    def cache(self) -> Path:
        return self.output_root / "cache"

    def workers(self) -> Executor:
        """Where embeddings and orderings are computed."""
        return RayCluster(self.threads) if self.executor == "ray" else Threads(self.cores())

    def memory(self) -> int:
        """Bytes that orderings may use above the vectors."""
        limit = self.memory_limit
        return parse_memory(int(limit) if isinstance(limit, float) else limit)

    def deciding(self) -> dict[str, Any]:
        """The options that stand in the mixture's key."""
        return deciding(self, self.composed.values)
