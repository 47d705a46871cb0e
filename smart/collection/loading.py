"""From a source's options to a collection."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from smart.collection.check import Part, check
from smart.collection.conversations import Embed, one_shape
from smart.collection.schema import Collection
from smart.collection.tables import fingerprint, hash_texts, keep_rows, later_copies
from smart.config import Count, Problems, UserError, check_options, code_of, counted, parse_count
from smart.config.types import Name
from smart.runtime.files import hash_bytes

log = logging.getLogger(__name__)

_NUMBER = re.compile(r"[-+]?[\d.]+([eE][-+]?\d+)?[kKmMbB]?%?")


@dataclass(frozen=True)
class Reading:
    """What a source hands over: its rows in parts, unchecked, and where they come from."""

    name: str
    """Stem in the names of artifacts, where the user gives none: one path component, such as niv2."""
    train: list[Part]
    """The pool, at least one part; rows are numbered over all of them in this order."""
    origin: dict[str, Any]
    """What was read, for the manifest: values that JSON can hold. The key "splits" is taken by `load`."""
    validation: list[Part] | None = None
    """The source's own validation split; rows are numbered over it alone."""
    held_out: HeldOut | None = None
    """Rows to take out of the training rows for validation; only where `validation` is None."""


@dataclass(frozen=True)
class HeldOut:
    """A seeded random part of the training rows, kept for validation."""

    count: Count
    seed: int

    @classmethod
    def of(cls, value: object, seed: int) -> HeldOut | None:
        """None where `collection.validation` is no number, but null or names files.

        Raises:
            ConfigError: for a number that is no count, such as 0 or 0.02.
        """
        if value is None or not _NUMBER.fullmatch(str(value)):
            return None
        return cls(parse_count(value, "collection.validation"), seed)


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A collection's rows. A frozen dataclass whose fields are the options of conf/collection/NAME.yaml.

    An instance holds options alone. The calls come in this order, in one process:

    1. `validate`, before anything is read; the options have the types that they are annotated with.
    2. `fetch`, only with fetch_only=true, and then nothing else.
    3. `read`, once, by `load`: it returns a Reading, whose rows `load` checks, numbers and counts. Rows that
       cannot be used stop the run or are dropped, as `bad_rows` says; `read` leaves them in as nulls, so that
       row numbers stay those of the files.

    A UserError from any of them is shown to the user as one line; other exceptions are shown with their
    traceback. `check_source` tells an author which part of this contract a source breaks.

    A class that has these methods without inheriting works too, if it has the three options below. One with an option
    `embed` (user_turns, first_turn or conversation) says what of a conversation becomes its prompt.
    """

    name: Name | None = None
    """Stem in the names of artifacts; null = from what is read."""
    bad_rows: Literal["error", "drop"] = "error"
    """"error": rows that cannot be used stop the run; "drop": they are left out, and counted."""
    drop_duplicates: bool = False
    """Keep the first of rows equal in task, template and all text; they are counted in any case."""

    @abstractmethod
    def read(self, cache: Path | None) -> Reading:
        """Read or generate the rows, the same ones in the same order each time and in any process.

        A part's table has the columns submixture, task_name, template_type, and inputs and targets or conversation,
        in the types of CHAT_SCHEMA; `Part.of` makes it from columns of strings. template_type is one of zs_opt,
        zs_noopt, fs_opt and fs_noopt; `load` makes it chat in a collection with turns.

        Args:
            cache: a folder to keep what is slow to make, under a name that all options decide; None = nowhere.
                It need not exist. The rows don't depend on it.

        Raises:
            UserError: for what the user can fix, such as a file that cannot be read.
        """

    def validate(self, problems: Problems) -> None:  # noqa: B027
        """Add every wrong option with `problems.add("collection.NAME", value, what, hint)`; reads no rows.

        The values have the types that they are annotated with; see `smart.config.types` for bounds.
        """

    def fetch(self) -> None:  # noqa: B027
        """Download what `read` needs, if it is not there. It may be called again.

        Raises:
            UserError: where it cannot be had.
        """


def load(options: Source, *, cache: Path | None = None) -> Collection:
    """Read, check and number the rows of a source.

    Args:
        cache: a folder where generated rows are kept for the next time; null = nowhere.

    Raises:
        ConfigError: wrong options, all of them together.
        UserError: rows that cannot be used, or a source that cannot be read.
    """
    problems = Problems()
    check_options(options, problems, "collection.")
    problems.raise_if_any()
    if cache is not None and (
        code := code_of(type(options))
    ):  # other code makes other rows of the same options
        cache = cache / hash_bytes(part.encode() for item in code.items() for part in item)[:16]
    reading = options.read(cache)
    turns = any(part.has_turns for part in (*reading.train, *(reading.validation or ())))
    embed: Embed = getattr(options, "embed", "user_turns")
    train = _Split.of("train", one_shape(reading.train, turns, embed), options)
    validation = None
    if reading.validation is not None:
        validation = _Split.of("validation", one_shape(reading.validation, turns, embed), options)
    if reading.held_out is not None:
        train, validation = train.hold_out(reading.held_out)
    splits = [split for split in (train, validation) if split is not None]
    return Collection(
        name=options.name or reading.name,
        train=train.table,
        validation=None if validation is None else validation.table,
        source={**reading.origin, "splits": {split.name: split.counts for split in splits}},
        fingerprint=hash_bytes([fingerprint(split.table, split.hashes).encode() for split in splits]),
    )


def say_dropped(split: str, reason: str, count: int, total: int) -> None:
    """One line on the screen for one reason for which rows are left out; none for no rows."""
    if count:
        log.warning("Left out %s of %s: %s.", f"{count:,}", counted(total, f"{split} row"), reason)


@dataclass(frozen=True)
class _Split:
    name: str
    table: pa.Table
    hashes: tuple[np.ndarray, ...]
    counts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, parts: Sequence[Part], options: Source) -> _Split:
        table, dropped = check(parts, options.bad_rows)
        read = sum(len(part.table) for part in parts)
        for reason, count in dropped.items():
            say_dropped(name, reason, count, read)
        hashes = hash_texts(table)
        copies = later_copies(table, hashes)
        counts = {
            "rows_read": read,
            "dropped": dropped,
            "exact_duplicates": int(copies.sum()),
            "duplicates_dropped": options.drop_duplicates,
        }
        if cut := sum(part.cut for part in parts):
            counts["cut_behind_last_answer"] = cut
            log.info("Cut behind the last answer: %s of %s.", f"{cut:,}", counted(read, f"{name} row"))
        if options.drop_duplicates:
            say_dropped(name, "copies of an earlier row", int(copies.sum()), len(table))
        split = cls(name, table, hashes, counts)
        return split.rows(name, ~copies) if options.drop_duplicates else split

    def rows(self, name: str, keep: np.ndarray) -> _Split:
        hashes = tuple(array[keep] for array in self.hashes)
        return _Split(name, keep_rows(self.table, keep), hashes, self.counts)

    def hold_out(self, part: HeldOut) -> tuple[_Split, _Split]:
        total = len(self.table)
        count = part.count.of(total)
        if count >= total:
            raise UserError(
                f"collection.validation={part.count.text}: the collection has only {counted(total, 'row')}"
            )
        keep = np.ones(total, bool)
        keep[np.random.default_rng(part.seed).permutation(total)[:count]] = False
        held_out = self.rows("validation", ~keep)
        return self.rows("train", keep), _Split(
            "validation", held_out.table, held_out.hashes, {"taken_out_of": "train"}
        )
