"""Options: declared once as the fields of dataclasses, with their types, hints and what they decide.

A field says with `option(...)` whether it decides a result; keys are made from that declaration alone (keys.py). The
rule that keeps stored results findable: an option that is added later is `added=True`, and is absent from every key
while at its default; an option that takes another's place is stored under the old name and value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal, TypeAlias

from smart.config.errors import Problems

Values: TypeAlias = Mapping[str, Any]
"""Key → plain value of YAML."""
Role = Literal["decides", "input", "free"]
"""decides: its value stands in the key. input: the content that it names does. free: no result depends on it."""
_OPTION = "option"
INTERNAL = "internal"
"""In the metadata of a field that is no option."""


@dataclass(frozen=True)
class OptionInfo:
    """What a field declares beside its type and default."""

    role: Role = "decides"
    through: str | None = None
    """Name of the input by which it decides. Options through "pool" make pool_key, those through "vectors"
    vectors_key; other names say what the input is."""
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

    def stored(self, value: object) -> dict[str, object] | None:
        """Field and value of the replaced option that stand in keys for `value`; None where none do."""
        for new, old in (self.stored_as or {}).items():
            if new == value:
                return {str(self.replaces): old}
        return None


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
    >>> from smart.config import deciding
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


def declared(cls: Any) -> dict[str, tuple[dataclasses.Field[Any], OptionInfo]]:
    """Name → field and OptionInfo of every option of a dataclass; a plain field decides."""
    return {
        one.name: (one, one.metadata.get(_OPTION) or OptionInfo())
        for one in dataclasses.fields(cls)
        if INTERNAL not in one.metadata
    }


def default_of(one: dataclasses.Field[Any]) -> Any:
    """The default of a field; MISSING where it has none."""
    return one.default_factory() if one.default_factory is not MISSING else one.default
