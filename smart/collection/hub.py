"""Any data set of the hub as a collection, or a folder laid out like one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from smart.collection.check import Part
from smart.collection.loading import HeldOut, Reading
from smart.collection.readers import table_columns
from smart.collection.row_source import Rows, RowSource
from smart.config import ConfigError, Problems, UserError, nearest, option
from smart.reading import SPLITS
from smart.reading.hub import columns_of, commit_of, content_of, load_splits
from smart.runtime.content import ContentHashes

if TYPE_CHECKING:
    from datasets import DatasetDict

_FIRST_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Hub(RowSource):
    """A data set of the hub. Texts of plain rows stay on disk, mapped into memory; conversations don't.

    Shapes and tasks are those of RowSource; without a column of tasks a split is one task, named by the split.
    """

    dataset: str | None = None
    """ORG/NAME, or ORG/NAME@REVISION: a branch, tag or commit; or a folder. The commit that was read is recorded."""
    config: str | None = None
    """Name of the configuration, for a data set that has several."""
    splits: Sequence[str] | None = option(None, hint="such as [train]")
    """Splits whose rows are the pool; null: all whose names don't say that they are for validation or tests."""
    submixture: str | None = None
    """The submixture of rows that have no such column; null: the name of the data set."""
    validation: str | int | float | Sequence[str] | None = None
    """Splits; or a number of rows or a share (2000, 2%) to take out of the pool at random; null: the splits whose names
    say so, where there are any."""

    def validate(self, problems: Problems) -> None:
        super().validate(problems)
        if not self.dataset:
            problems.add(
                "collection.dataset", self.dataset, "no data set given", "set collection.dataset=ORG/NAME"
            )
        if self.splits is not None and not self.splits:
            problems.add("collection.splits", "[]", "nothing to read", "leave it null for all")
        try:
            HeldOut.of(self.validation, self.seed)
        except ConfigError as error:
            problems.found.append(str(error))

    def fetch(self) -> None:
        """Download the data set and prepare it for reading."""
        self._load()

    def content(self, hashes: ContentHashes) -> list[str] | None:
        splits = self._load()
        found = content_of(splits, hashes)
        return None if found is None else [json.dumps(self._identity(splits)), *found]

    def read(self, cache: Path | None = None) -> Reading:
        splits, rows = self._load(), Rows(self)
        held_out = HeldOut.of(self.validation, self.seed)
        names, apart = self._names(splits, held_out)
        train, validation = ([self._part(rows, splits, name) for name in these if len(splits[name])]
                             for these in (names, apart))  # fmt: skip
        if not train:
            raise UserError(
                f"collection.dataset={self.dataset}: splits {', '.join(names) or 'to train on'}: no rows"
            )
        rows.say(train, lambda: _first_rows(splits, names))
        return Reading(
            name=self._stem,
            train=train,
            validation=validation or None,
            held_out=held_out,
            origin={"kind": "hub", **self._identity(splits), "train": names, "validation": apart},
        )

    @property
    def _place(self) -> tuple[str, str | None]:
        """Name or folder, and revision."""
        asked = str(self.dataset)
        folder = Path(asked).expanduser()
        if folder.is_dir():
            return str(folder), None
        name, _, revision = asked.partition("@")
        return name, revision or None

    @property
    def _stem(self) -> str:
        return Path(self._place[0]).name or "hub"

    def _load(self) -> DatasetDict:
        name, revision = self._place
        return load_splits(f"collection.dataset={self.dataset}", name, self.config, revision)

    def _identity(self, splits: DatasetDict) -> dict[str, Any]:
        name, revision = self._place
        where = (
            {"path": name}
            if Path(name).is_dir()
            else {"id": name, "asked": revision, "commit": commit_of(splits)}
        )
        return {**where, "config": self.config}

    def _names(self, splits: Mapping[str, Any], held_out: HeldOut | None) -> tuple[list[str], list[str]]:
        """Splits of the pool, and of validation."""
        known = sorted(splits)
        apart: list[str] = []
        if held_out is None:
            asked = [self.validation] if isinstance(self.validation, str) else self.validation
            apart = [name for name in known if _is_for("validation", name)] if asked is None else list(asked)  # type: ignore[arg-type]
        if self.splits is None:
            names = [name for name in known if name not in apart and not _is_for("test", name)]
            names = [name for name in names if not _is_for("validation", name)]
        else:
            names = list(self.splits)
            apart = [name for name in apart if self.validation is not None or name not in names]
        for key, these in (("splits", names), ("validation", apart)):
            for name in these:
                if name not in splits:
                    raise UserError(
                        f"collection.{key}={name}: {self.dataset} has no such split", nearest(name, known)
                    )
        if both := set(names) & set(apart):
            raise UserError(f"collection.validation={min(both)}: the split is in collection.splits too")
        return names, apart

    def _part(self, rows: Rows, splits: DatasetDict, name: str) -> Part:
        where = f"{self.dataset}, split {name}"
        columns = table_columns(where, columns_of(splits[name]), self.names)
        return rows.part(where, self.submixture or self._stem, name, columns)


def _is_for(use: str, split: str) -> bool:
    return bool(SPLITS[use] & set(re.findall(r"[a-z]+", split.lower())))


def _first_rows(splits: DatasetDict, names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    columns = columns_of(splits[next(name for name in names if len(splits[name]))])
    return {name: column.slice(0, _FIRST_ROWS) for name, column in columns.items()}
