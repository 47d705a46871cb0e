"""The FLAN 2022 collection in five data sets of the Hugging Face hub, or in a local copy of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smart.collection.check import Part
from smart.collection.kept import Kept
from smart.collection.loading import Reading, Source
from smart.collection.schema import LABELS, TEXTS
from smart.config import Problems, UserError, nearest, option
from smart.reading import class_names
from smart.reading.hub import arrow_files, commit_of, content_of
from smart.runtime.content import ContentHashes

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SUBMIXTURES = ("cot", "dialog", "flan2021", "niv2", "t0")

_COMMIT = re.compile(r"[0-9a-f]{40}")


_HUB_IDS = {name: f"kowndinya23/{name}-submix-4096" for name in SUBMIXTURES}


@dataclass(frozen=True, kw_only=True)
class Flan2022(Source):
    """17.6 million rows, 1,840 tasks (Longpre et al. 2023). Texts stay on disk, mapped into memory."""

    datasets: Mapping[str, str] = option(default_factory=_HUB_IDS.copy, hint="such as {t0: NAME}")
    """Submixture to data set on the hub; columns inputs, targets, task_name, template_type."""
    revision: Mapping[str, str] = option(
        default_factory=lambda: dict.fromkeys(SUBMIXTURES, "main"), hint="such as {t0: NAME}"
    )
    """Submixture to the commit, tag or branch to read; main where nothing is said. The commit is recorded."""
    submixtures: Sequence[str] | None = option(None, hint="such as [cot,t0]")
    """Which to read; null = all."""
    path: str | None = None
    """A folder with one folder per data set, named as on the hub, instead of the hub."""

    def validate(self, problems: Problems) -> None:
        super().validate(problems)
        for key, names in (("submixtures", self.submixtures or ()), ("revision", self.revision)):
            for name in names:
                if name not in self.datasets:
                    problems.add(
                        f"collection.{key}", name, "no such submixture", nearest(name, self.datasets)
                    )
        if self.submixtures is not None and not self.submixtures:
            problems.add("collection.submixtures", "[]", "nothing to read", "leave it null for all")
        for name in self._names if self.path else ():
            if name in self.datasets and not self._folder(name).is_dir():
                problems.add("collection.path", self.path, f"there is no folder {self._folder(name)}")

    @property
    def _names(self) -> list[str]:
        return sorted(self.datasets if self.submixtures is None else set(self.submixtures))

    def _folder(self, name: str) -> Path:
        assert self.path is not None
        return Path(self.path).expanduser() / self.datasets[name].rpartition("/")[2]

    def fetch(self) -> None:
        """Download the data sets and prepare them for reading."""
        for name in self._names:
            self._load(name)

    def content(self, hashes: ContentHashes) -> list[str] | None:
        parts: list[str] = []
        for name in self._names:
            splits = self._load(name)
            found = content_of(splits, hashes)
            if found is None:
                return None
            parts += [json.dumps(self._identity(name, splits)), *found]
        return parts

    def read(self, cache: Path | None = None) -> Reading:
        hashes = Kept.of(cache).hashes if cache else None
        loaded = {name: self._load(name) for name in self._names}
        parts = {
            split: [
                _part(name, self._where(name, split), splits[split], hashes)
                for name, splits in loaded.items()
                if split in splits
            ]
            for split in ("train", "validation")
        }
        if not parts["train"]:
            raise UserError(f"{self._where(self._names[0], 'train')}: there is no train split")
        return Reading(
            name="flan2022" if self.submixtures is None else "-".join(self._names),
            train=parts["train"],
            validation=parts["validation"] or None,
            origin={
                "kind": "flan2022",
                "datasets": {name: self._identity(name, splits) for name, splits in loaded.items()},
            },
        )

    def _where(self, name: str, split: str) -> str:
        return f"{self._folder(name) if self.path else self.datasets[name]}, split {split}"

    def _load(self, name: str) -> DatasetDict:
        from datasets import load_dataset

        if self.path:
            return load_dataset(str(self._folder(name)))
        hub_id, revision = self.datasets[name], self.revision.get(name, "main")
        try:
            splits = load_dataset(hub_id, revision=revision)
        except OSError as error:  # what datasets and huggingface_hub raise derives from it
            if error.errno and not isinstance(error, ConnectionError):
                raise  # a full disk, say
            raise _refusal(hub_id, revision, error) from error
        commit = commit_of(splits)
        if (
            _COMMIT.fullmatch(revision) and commit != revision
        ):  # offline, datasets takes any commit in its cache
            raise UserError(
                f"collection.revision.{name}={revision}: the hub cannot be reached and only commit {commit} "
                "is on this machine; download yours with fetch_only=true where there is a network"
            )
        return splits

    def _identity(self, name: str, splits: DatasetDict) -> dict[str, Any]:
        if self.path:
            return {"path": str(self._folder(name))}
        return {
            "id": self.datasets[name],
            "asked": self.revision.get(name, "main"),
            "commit": commit_of(splits),
        }


def _refusal(hub_id: str, revision: str, error: OSError) -> UserError:
    from datasets.exceptions import DatasetNotFoundError

    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, DatasetNotFoundError) and said.startswith("Revision"):
        return UserError(f"collection.revision: {hub_id} has no revision {revision}")
    if isinstance(error, DatasetNotFoundError) or status in (401, 403):
        return UserError(
            f"{hub_id}: the hub refuses access or has no such data set. Accept its conditions at "
            f"https://huggingface.co/datasets/{hub_id}, then log in with `hf auth login` or set HF_TOKEN ({said})"
        )
    return UserError(
        f"{hub_id}: not on this machine, and the hub cannot be reached, refuses access, or was not asked (by a plan). "
        "Where there is a network and a login (`hf auth login`), run the same command with fetch_only=true; or give a "
        f"local copy with collection.path=FOLDER ({said})"
    )


def _part(name: str, where: str, rows: Dataset, hashes: ContentHashes | None) -> Part:
    missing = [column for column in ("task_name", "template_type", *TEXTS) if column not in rows.column_names]
    if missing:
        raise UserError(f"{where}: no column {', '.join(missing)}; it has: {', '.join(rows.column_names)}")
    table = rows.data.table
    columns = {column: table[column] for column in TEXTS}
    classes = {column: getattr(rows.features[column], "names", None) for column in LABELS[1:]}
    labels = {
        column: class_names(table[column], names) if names else table[column]
        for column, names in classes.items()
    }
    files = arrow_files(rows, {column: column for column in TEXTS}, hashes) if hashes else []
    return Part.of(where, {"submixture": name, **labels, **columns}, files=files)
