"""From plain values to options, with every type checked.

pydantic checks the types, strictly: True is no 1, "8" is no 8, and "no" is not False. Lists are taken for tuples, and
text for paths, since YAML has neither.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from functools import cache, partial, reduce
from operator import or_
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    TypeAlias,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import AfterValidator, BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from smart.config.errors import Problems, nearest
from smart.config.options import Values, declared, default_of
from smart.config.types import as_path, as_tuple, describe

Options = TypeVar("Options")
Kind: TypeAlias = Any
"""A type as an annotation spells it, such as `int | None`; Python has no narrower type for these."""


def read_options(
    cls: type[Options],
    values: Values,
    problems: Problems,
    *,
    prefix: str = "",
    choices: Mapping[str, str] | None = None,
    extra: Values | None = None,
) -> Options | None:
    """Make a dataclass of options from a plain configuration, checking every type.

    Args:
        values: key → value; what is left out takes its default.
        problems: gets every wrong value, and every key that is none.
        prefix: what stands before the keys in messages, such as "model.".
        choices: name of a group → the file chosen, for options that are built.
        extra: fields that are no options, as they are.

    Returns:
        The options; None where anything is wrong.
    """
    before = len(problems.found)
    known = declared(cls)
    for name in values:
        if name not in known:
            problems.add(prefix + name, values[name], f"no such key. {nearest(name, known)}")
    made: dict[str, object] = dict(extra or {})
    # The caches want a Hashable, which a type variable is not known to be.
    nested, checkers = nested_options(cast("type", cls)), _checkers(cast("type", cls))
    for name, (one, info) in known.items():
        key = prefix + name
        value = values.get(name, default_of(one))
        if value is MISSING:
            problems.add(key, "", "is needed", info.hint)
        elif info.build is not None:
            made[name] = info.build(value, (choices or {}).get(name, name), key, problems)
        elif name in nested and isinstance(value, Mapping):
            made[name] = read_options(nested[name], value, problems, prefix=f"{key}.")
        else:
            made[name] = _checked(checkers[name], value, key, info.hint, problems)
    if any(name not in made for name in known):
        return None
    options = cls(**made)
    _validate(options, problems, before)
    return options if len(problems.found) == before else None


def check_options(options: object, problems: Problems, prefix: str = "") -> None:
    """Add what is wrong with options that are made already: their types, and what their `validate` finds.

    For objects behind `_target_` and for options made in Python; a class without annotations has no types to check.
    """
    before = len(problems.found)
    if dataclasses.is_dataclass(options) and not isinstance(options, type):
        checkers = _checkers(type(options))
        for name, (_, info) in declared(type(options)).items():
            value = getattr(options, name)
            if dataclasses.is_dataclass(value) and not isinstance(value, type) and info.build is None:
                check_options(value, problems, f"{prefix}{name}.")
            elif name in checkers:
                _checked(checkers[name], value, prefix + name, info.hint, problems)
    _validate(options, problems, before)


def _validate(options: object, problems: Problems, before: int) -> None:
    """Add what the options' own `validate` finds, beside wrong types since `before`, so that all come together."""
    validate = getattr(options, "validate", None)
    if validate is None:
        return
    own, wrong_types = Problems(), problems.found[before:]
    try:
        validate(own)
    except Exception:
        if not wrong_types:
            raise  # else a comparison of a wrong type, which has been told
    told = {line.partition("=")[0] for line in wrong_types}
    problems.found += [line for line in own.found if line.partition("=")[0] not in told]


def check_arguments(
    make: Callable[..., object], given: Values, problems: Problems, prefix: str, *, later: tuple[str, ...]
) -> None:
    """Add every argument that `make` does not take or still needs, or whose value is not of the annotated type.

    For what is built later, such as a set function that still waits for its vectors.

    Args:
        later: parameters that are given when it is built.
    """
    parameters = inspect.signature(make).parameters
    hints = _hints(getattr(make, "__init__", make) if isinstance(make, type) else make)
    options = [name for name in parameters if name not in later]
    for name, value in given.items():
        if name in parameters and name in hints:
            _checked(_make_checker(hints[name]), value, prefix + name, "", problems)
        elif name not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            problems.add(prefix + name, value, f"no such option. {nearest(name, options)}")
    for name in options:
        variable = parameters[name].kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        if name not in given and parameters[name].default is inspect.Parameter.empty and not variable:
            problems.add(prefix + name, "", "is needed")


def is_default(cls: type, name: str, value: object) -> bool:
    """Whether a plain value reads as the default of an option."""
    one, _ = declared(cls)[name]
    nested, scratch = nested_options(cls), Problems()
    read = value
    if name in nested and isinstance(value, Mapping):
        read = read_options(nested[name], value, scratch)
    elif name in (checkers := _checkers(cls)):
        read = _checked(checkers[name], value, name, "", scratch)
    return not scratch.found and bool(read == default_of(one))


@cache
def nested_options(cls: type) -> dict[str, type]:
    """Name → dataclass, of the options that are dataclasses themselves."""
    found = {}
    for name, kind in _hints(cls).items():
        inner = [one for one in _members(kind) if isinstance(one, type) and dataclasses.is_dataclass(one)]
        if inner:
            found[name] = inner[0]
    return found


@dataclass(frozen=True)
class _Checker:
    kind: Kind
    adapter: TypeAdapter[Any]


@cache
def _checkers(cls: type) -> dict[str, _Checker]:
    hints = _hints(cls)
    return {
        name: _make_checker(hints[name])
        for name, (_, info) in declared(cls).items()
        if info.build is None and name in hints
    }


def _hints(annotated: Any) -> dict[str, Kind]:
    """Annotations with their bounds; none where they name what only a type checker imports."""
    try:
        return get_type_hints(annotated, include_extras=True)
    except NameError:
        return {}


def _make_checker(kind: Kind) -> _Checker:
    config = ConfigDict(strict=True, arbitrary_types_allowed=True)
    return _Checker(kind, TypeAdapter(_as_yaml_has_it(kind), config=config))


def _as_yaml_has_it(kind: Kind) -> Kind:
    """Takes lists for tuples and text for paths; options inside options are checked where they are made."""
    if get_origin(kind) in (Union, types.UnionType):
        return reduce(or_, (_as_yaml_has_it(one) for one in get_args(kind)))
    if get_origin(kind) is tuple:
        return Annotated[kind, BeforeValidator(as_tuple)]
    if kind is Path:
        return Annotated[kind, BeforeValidator(as_path)]
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return Annotated[Any, AfterValidator(partial(_must_be, kind))]
    return kind


def _must_be(kind: type, value: object) -> object:
    if not isinstance(value, kind):
        raise ValueError("must be a mapping of options")
    return value


def _checked(checker: _Checker, value: object, key: str, hint: str, problems: Problems) -> object:
    try:
        read = checker.adapter.validate_python(value)
    except ValidationError as error:
        said = [str(one["ctx"]["error"]) for one in error.errors() if one["type"] == "value_error"]
        what = said[0] if said else f"must be {describe(checker.kind)}"
        problems.add(key, value, what, _hint_for(value, checker.kind, hint))
        return value
    return value if read == value and not isinstance(value, list) else read  # 1 stays 1 where 1.0 is as good


_SPOKEN = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}


def _hint_for(value: object, kind: Kind, hint: str) -> str:
    literals = [str(one) for part in _members(kind) if get_origin(part) is Literal for one in get_args(part)]
    close = difflib.get_close_matches(str(value), literals, n=1)
    if isinstance(value, str) and close:
        return f"did you mean {close[0]}?"
    if isinstance(value, str) and bool in _members(kind) and value.lower() in _SPOKEN:
        return f"did you mean {_SPOKEN[value.lower()]}?"
    return hint


def _members(kind: Kind) -> tuple[Kind, ...]:
    parts = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return tuple(get_args(part)[0] if get_origin(part) is Annotated else part for part in parts)
