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

from smart.collection.check import Part, check
from smart.collection.conversations import Embed, one_shape
from smart.collection.kept import Kept, index_key, owned_index, read_index, recorded, write_index
from smart.collection.schema import Collection
from smart.collection.tables import fingerprint, hash_texts, later_copies
from smart.config import Count, Problems, UserError, check_options, code_of, counted, parse_count
from smart.config.types import Name
from smart.reading import ArrowFile, RowView
from smart.runtime.content import ContentHashes
from smart.runtime.files import hash_bytes
from smart.runtime.plans import may_write

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
    3. `content`, where there is a cache.
    4. `read`, once, by `load`, unless the cache has its rows: it returns a Reading, whose rows `load` checks, numbers
       and counts. Rows that cannot be used stop the run or are dropped, as `bad_rows` says; `read` leaves them in as
       nulls, so that row numbers stay those of the files.

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

    def content(self, hashes: ContentHashes) -> Sequence[str] | None:
        """Names all that `read` would read, without reading it as rows; None where only `read` can tell.

        With it the rows are read and checked once: as long as options and content stay the same, they are found in
        the cache.

        Args:
            hashes: gives the hash of a file or folder, and remembers it while the file stays as it is.
        """
        return None

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
        cache: a folder where texts and what is learnt of them are kept for the next time; null = nowhere.

    Raises:
        ConfigError: wrong options, all of them together.
        UserError: rows that cannot be used, or a source that cannot be read.
    """
    problems = Problems()
    check_options(options, problems, "collection.")
    problems.raise_if_any()
    if cache is None:
        return _read(options, None)[0]
    code = code_of(type(options))  # other code makes other rows of the same options
    if code:
        cache = cache / hash_bytes(part.encode() for item in code.items() for part in item)[:16]
    kept = Kept.of(cache)
    describe = getattr(options, "content", None)
    content = describe(kept.hashes) if describe else None
    if content is None:
        return _read(options, kept)[0]
    key = index_key(f"{type(options).__module__}.{type(options).__qualname__}", vars(options), content)
    with owned_index(kept, key) as folder:
        found = read_index(kept, folder, key)
        if found is not None:
            return found
        with recorded() as messages:
            collection, files = _read(options, kept)
        if may_write():
            write_index(kept, folder, key, collection, files, messages)
    return collection


def _read(options: Source, kept: Kept | None) -> tuple[Collection, dict[str, list[ArrowFile]]]:
    """The collection; and for each split, whose texts lie on disk, where."""
    reading = options.read(kept.folder if kept else None)
    turns = any(part.has_turns for part in (*reading.train, *(reading.validation or ())))
    embed: Embed = getattr(options, "embed", "user_turns")
    parts = {"train": reading.train}
    if reading.validation is not None:
        parts["validation"] = reading.validation
    shaped = {name: one_shape(given, turns, embed, kept) for name, given in parts.items()}
    splits = {name: _Split.of(name, given, options) for name, given in shaped.items()}
    if reading.held_out is not None:
        splits["train"], splits["validation"] = splits["train"].hold_out(reading.held_out)
    files = {
        name: [file for part in given for file in part.files]
        for name, given in shaped.items()
        if all(part.files for part in given)
    }
    return Collection(
        name=options.name or reading.name,
        train_rows=splits["train"].rows,
        validation_rows=splits["validation"].rows if "validation" in splits else None,
        source={**reading.origin, "splits": {name: split.counts for name, split in splits.items()}},
        fingerprint=hash_bytes(
            fingerprint(split.rows.labels, split.hashes).encode() for split in splits.values()
        ),
    ), files


def say_dropped(split: str, reason: str, count: int, total: int) -> None:
    """One line on the screen for one reason for which rows are left out; none for no rows."""
    if count:
        log.warning("Left out %s of %s: %s.", f"{count:,}", counted(total, f"{split} row"), reason)


@dataclass(frozen=True)
class _Split:
    name: str
    rows: RowView
    hashes: tuple[np.ndarray, ...]
    """uint64 (n,) each: xxh3_64 of the inputs, the targets and, with turns, the conversations."""
    counts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, parts: Sequence[Part], options: Source) -> _Split:
        rows, dropped = check(parts, options.bad_rows)
        read = sum(len(part.table) for part in parts)
        for reason, count in dropped.items():
            say_dropped(name, reason, count, read)
        hashes = hash_texts(rows)
        copies = later_copies(rows.labels, hashes)
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
            say_dropped(name, "copies of an earlier row", int(copies.sum()), len(rows))
        split = cls(name, rows, hashes, counts)
        return split.keep(name, ~copies) if options.drop_duplicates else split

    def keep(self, name: str, mask: np.ndarray) -> _Split:
        hashes = tuple(array[mask] for array in self.hashes)
        return _Split(name, self.rows.keep(mask), hashes, self.counts)

    def hold_out(self, part: HeldOut) -> tuple[_Split, _Split]:
        total = len(self.rows)
        count = part.count.of(total)
        if count >= total:
            raise UserError(
                f"collection.validation={part.count.text}: the collection has only {counted(total, 'row')}"
            )
        keep = np.ones(total, bool)
        keep[np.random.default_rng(part.seed).permutation(total)[:count]] = False
        held_out = self.keep("validation", ~keep)
        return self.keep("train", keep), _Split(
            "validation", held_out.rows, held_out.hashes, {"taken_out_of": "train"}
        )
