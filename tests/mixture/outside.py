"""A user's module: written to a folder that is no part of the repository, and imported from there."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

import smart


def import_from(folder: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import FOLDER/NAME.py with this source; NAME is new for every test, so that none finds another's."""
    assert Path(smart.__file__).parents[1] not in folder.resolve().parents
    name = f"extension_{folder.name.replace('-', '_')}"
    (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(folder)
    importlib.invalidate_caches()
    return importlib.import_module(name)


def replaced(source: str, old: str, new: str) -> str:
    """The source with one passage changed, which must stand there once."""
    assert source.count(old) == 1, f"{old!r} stands there {source.count(old)} times"
    return source.replace(old, new)
