"""Options: declared once as the fields of dataclasses, with their types, hints and what they decide.

A field says with `option(...)` whether it decides a result, and a key is made from that declaration alone (`deciding`,
`asked`). The rule that keeps stored results findable: an option that is added later is `added=True`, and is absent
from every key while at its default; an option that takes another's place is stored under the old name and value.

pydantic checks the types, strictly: True is no 1, "8" is no 8, and "no" is not False.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
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

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from smart.config.errors import Problems, nearest
from smart.config.types import describe

Options = TypeVar("Options")
Role = Literal["decides", "input", "free"]
"""decides: its value stands in the key. input: the content that it names does. free: no result depends on it."""
Kind: TypeAlias = Any
"""A type as an annotation spells it, such as `int | None`; Python has no narrower type for these."""
Values: TypeAlias = Mapping[str, Any]
"""Key → plain value of YAML."""
_OPTION = "option"
INTERNAL = "internal"
"""In the metadata of a field that is no option."""


@dataclass(frozen=True)
class OptionInfo:
    """What a field declares beside its type and default."""

    role: Role = "decides"
    through: str | None = None
    """The input by which it decides: "pool" or "vectors". Options with the same value make the same input."""
    added: bool = False
    """Added after results had been stored: absent from keys while at its default."""
    only_with: str | None = None
    """The option without which this one decides nothing and is absent from the key; it may name itself."""
    in_run_names: bool = True
    """Whether it stands in the names of a grid's runs; free options don't, but for a few that always did."""
    hint: str = ""
    """Added to the message about a wrong value."""
    build: Callable[[Values, str, str, Problems], object] | None = None
    """Makes the value from its part of the configuration: build(part, name of the choice, key, problems)."""
    replaces: str | None = None
    """The option whose place it took."""
    stored_as: Mapping[Any, Any] | None = None
    """Its value → the value of the replaced option, which goes on standing in the key."""


def option(
    default: Any = MISSING,
    *,
    default_factory: Any = MISSING,
    role: Role = "decides",
    in_run_names: bool | None = None,
    **info: Any,
) -> Any:
    """A dataclass field with an OptionInfo.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Training:
    ...     epochs: float = 1.0
    ...     threads: int | None = option(None, role="free")
    ...     dropout: float = option(0.0, added=True)
    >>> deciding(Training())
    {'epochs': 1.0}
    >>> deciding(Training(threads=2, dropout=0.1))
    {'epochs': 1.0, 'dropout': 0.1}
    """
    named = role != "free" if in_run_names is None else in_run_names
    metadata = {_OPTION: OptionInfo(role=role, in_run_names=named, **info)}
    if default_factory is not MISSING:
        return field(default_factory=default_factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def info_of(declared: dataclasses.Field[object]) -> OptionInfo:
    """What a field declares; a plain one decides."""
    return declared.metadata.get(_OPTION) or OptionInfo()


def declared(cls: type) -> dict[str, tuple[dataclasses.Field[object], OptionInfo]]:
    """Name → field and OptionInfo of every option of a dataclass."""
    return {one.name: (one, info_of(one)) for one in dataclasses.fields(cls) if INTERNAL not in one.metadata}


def default_of(one: dataclasses.Field[object]) -> Any:
    """The default of a field; MISSING where it has none."""
    return one.default_factory() if one.default_factory is not MISSING else one.default


# Keys


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
        if info.stored_as is not None and value in info.stored_as:
            assert info.replaces is not None
            found[info.replaces] = info.stored_as[value]
        elif info.build is not None and parts is not None:
            found[name] = _without_added(parts[name])
        else:
            found[name] = _plain(value)
    return found


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return deciding(value)
    return str(value) if isinstance(value, Path) else value


def asked(cls: type, values: Values) -> dict[str, object]:
    """The part of a composed configuration that names a run of a grid: what was asked for, before it is read.

    Args:
        cls: the dataclass of options that the configuration fills.
        values: the configuration, as composed.
    """
    kept: dict[str, object] = {}
    known = declared(cls)
    kinds = _kinds(cls)
    for name, value in values.items():
        one, info = known.get(name, (None, OptionInfo()))
        if not info.in_run_names or (one is not None and info.added and value == default_of(one)):
            continue
        if one is not None and info.stored_as is not None and value in info.stored_as:
            assert info.replaces is not None
            kept[info.replaces] = info.stored_as[value]
            continue
        nested = kinds.get(name)
        if isinstance(value, Mapping) and nested is not None:
            kept[name] = asked(nested, value)
        else:
            kept[name] = _without_added(value)
    return kept


def _without_added(part: object) -> object:
    """A part of the configuration without the options that were added to its class and are at their default."""
    if not isinstance(part, Mapping) or "_target_" not in part:
        return part
    from hydra.utils import get_object

    target = get_object(str(part["_target_"]))
    if isinstance(target, type) and dataclasses.is_dataclass(target):
        added = {name: default_of(one) for name, (one, info) in declared(target).items() if info.added}
    else:
        names: Sequence[str] = getattr(target, "added_options", ())
        given = inspect.signature(target).parameters
        added = {name: given[name].default for name in names}
    return {name: value for name, value in part.items() if name not in added or value != added[name]}


# Reading


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
    # The cache wants a Hashable, which a type variable is not known to be.
    kinds, adapters = _kinds(cast("type", cls)), _adapters(cast("type", cls))
    for name, (one, info) in known.items():
        if name in made:
            continue
        key = prefix + name
        value = values.get(name, default_of(one))
        if value is MISSING:
            problems.add(key, "", "is needed", info.hint)
        elif info.build is not None:
            made[name] = info.build(value, (choices or {}).get(name, name), key, problems)
        elif (nested := kinds.get(name)) is not None and isinstance(value, Mapping):
            made[name] = read_options(nested, value, problems, prefix=f"{key}.")
        else:
            made[name] = _checked(adapters[name], value, key, info.hint, problems)
    if any(one.default is MISSING and name not in made for name, (one, _) in known.items()):
        return None
    options = cls(**made)
    _validate(options, problems, before)
    return options if len(problems.found) == before else None


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


def check_options(options: object, problems: Problems, prefix: str = "") -> None:
    """Add what is wrong with options that are made already: types first, then what their `validate` finds.

    For objects behind `_target_` and for options made in Python; a class without annotations has no types to check.
    """
    before = len(problems.found)
    if dataclasses.is_dataclass(options) and not isinstance(options, type):
        adapters = _adapters(type(options))
        for name, (_, info) in declared(type(options)).items():
            value = getattr(options, name)
            if name not in adapters:
                continue
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                check_options(value, problems, f"{prefix}{name}.")
            else:
                _checked(adapters[name], value, prefix + name, info.hint, problems)
    _validate(options, problems, before)


@dataclass(frozen=True)
class _Adapter:
    kind: Kind
    adapter: TypeAdapter[Any]


@cache
def _adapters(cls: type) -> dict[str, _Adapter]:
    hints = get_type_hints(cls, include_extras=True)
    return {
        name: make_adapter(hints[name]) for name, (_, info) in declared(cls).items() if info.build is None
    }


def make_adapter(kind: Kind) -> _Adapter:
    """A strict checker of one type."""
    config = ConfigDict(strict=True, arbitrary_types_allowed=True)
    return _Adapter(kind, TypeAdapter(_with_instances(kind), config=config))


def _with_instances(kind: Kind) -> Any:
    """Options inside options are checked when they are made, so that here an instance is enough."""
    if get_origin(kind) in (Union, types.UnionType):
        return reduce(or_, (_with_instances(one) for one in get_args(kind)))
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return kind
    return Annotated[Any, AfterValidator(partial(_must_be, kind))]


def _must_be(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError("must be a mapping of options")
    return value


def _checked(checker: _Adapter, value: object, key: str, hint: str, problems: Problems) -> Any:
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
    close = difflib.get_close_matches(str(value), [str(one) for one in _literals(kind)], n=1)
    if isinstance(value, str) and close:
        return f"did you mean {close[0]}?"
    if isinstance(value, str) and bool in _members(kind) and value.lower() in _SPOKEN:
        return f"did you mean {_SPOKEN[value.lower()]}?"
    return hint


def _members(kind: Kind) -> tuple[Kind, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _literals(kind: Kind) -> list[object]:
    return [value for one in _members(kind) if get_origin(one) is Literal for value in get_args(one)]


@cache
def _kinds(cls: type) -> dict[str, type]:
    """Name → dataclass, of the options that are dataclasses themselves."""
    found = {}
    for name, kind in get_type_hints(cls).items():
        nested = [one for one in _members(kind) if isinstance(one, type) and dataclasses.is_dataclass(one)]
        if nested:
            found[name] = nested[0]
    return found


def check_arguments(make: Callable[..., Any], given: Values, problems: Problems, prefix: str) -> None:
    """Add every argument that `make` does not take, or whose value is not of the annotated type.

    For what is built later, such as a set function that still waits for its vectors.
    """
    parameters = inspect.signature(make).parameters
    annotated: Any = make if not isinstance(make, type) else vars(make).get("__init__", make)
    hints = get_type_hints(annotated, include_extras=True)
    for name, value in given.items():
        if name in parameters and name in hints:
            _checked(make_adapter(hints[name]), value, prefix + name, "", problems)
        elif name not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            optional = [one.name for one in parameters.values() if one.default is not one.empty]
            problems.add(prefix + name, value, f"no such option. {nearest(name, optional)}")
