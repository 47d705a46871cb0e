"""The parts of keys that options decide, made from what the options declare."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path

from smart.config.code import code_of_targets
from smart.config.options import OptionInfo, Values, declared, default_of
from smart.config.reading import is_default, nested_options

CODE = "_code_"
"""Beside `_target_` in keys: the user's own code behind it."""


def deciding(options: object, parts: Values | None = None) -> dict[str, object]:
    """The part of a result's key that its options decide.

    Args:
        options: an instance of a dataclass of options.
        parts: name → configuration, of the options that are built from their part of the configuration.
    """
    found: dict[str, object] = {}
    for name, (one, info) in declared(type(options)).items():
        value = getattr(options, name)
        if info.role != "decides" or (info.only_with and not getattr(options, info.only_with)):
            continue
        if info.added and value == default_of(one):
            continue
        if (stored := info.stored(value)) is not None:
            found |= stored
        elif info.build is not None and parts is not None:
            found[name] = _part(parts[name])
        else:
            found[name] = _plain(value)
    return found


def _plain(value: object) -> object:
    """As JSON can hold it."""
    if dataclasses.is_dataclass(value):
        return deciding(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def asked(cls: type, values: Values) -> dict[str, object]:
    """The part of a composed configuration that names a run of a grid: what was asked for, before it is read.

    Args:
        cls: the dataclass of options that the configuration fills.
        values: the configuration, as composed.
    """
    kept: dict[str, object] = {}
    known, nested = declared(cls), nested_options(cls)
    for name, value in values.items():
        _, info = known.get(name, (None, OptionInfo()))
        if not info.in_run_names or (info.added and is_default(cls, name, value)):
            continue
        if (stored := info.stored(value)) is not None:
            kept |= stored
        elif isinstance(value, Mapping) and name in nested and info.build is None:
            kept[name] = asked(nested[name], value)
        else:
            kept[name] = _part(value)
    return kept


def _part(part: object) -> object:
    """A part behind `_target_`, without what its class declares free, or added and at its default.

    Code of the user's own stands beside its options.
    """
    if not isinstance(part, Mapping) or "_target_" not in part:
        return part
    from hydra.utils import get_object

    target = get_object(str(part["_target_"]))
    if not (isinstance(target, type) and dataclasses.is_dataclass(target)):
        added = getattr(target, "added_options", ())
        defaults = {name: inspect.signature(target).parameters[name].default for name in added}
        kept = {name: value for name, value in part.items() if name not in added or value != defaults[name]}
        return kept | _code(part)
    known = declared(target)

    def stays(name: str, value: object) -> bool:
        _, info = known.get(name, (None, OptionInfo()))
        return info.in_run_names and not (info.added and is_default(target, name, value))

    return {name: value for name, value in part.items() if stays(name, value)} | _code(part)


def _code(part: Mapping[str, object]) -> dict[str, object]:
    code = code_of_targets(part)
    return {CODE: code} if code else {}
