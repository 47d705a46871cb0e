"""Named checks that an extension keeps the contract of its base class, as in scikit-learn's check_estimator."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TypeVar

from smart.config import Problems, check_options

Subject = TypeVar("Subject")


class ContractError(AssertionError):
    """An extension breaks its contract.

    Attributes:
        expected: what the contract says.
        found: what came instead.
        hint: what the author can do about it; may be empty.
        check: name of the check that failed.
        contract: the function that ran the checks, such as check_encoder.
        subject: class of the extension.
    """

    def __init__(self, expected: str, found: str, hint: str = "") -> None:
        super().__init__(expected, found, hint)
        self.expected, self.found, self.hint = expected, found, hint
        self.check = self.contract = self.subject = ""

    def __str__(self) -> str:
        where = f"{self.contract}({self.subject}): {self.check}: " if self.check else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{where}expected {self.expected}, but found {self.found}{hint}"


def require(holds: bool, expected: str, found: object, hint: str = "") -> None:
    """Raise a ContractError unless the condition holds.

    >>> require(1 < 2, "an order", "none")
    >>> require(False, "float16 or float32", "float15", "set dtype")
    Traceback (most recent call last):
    ...
    smart.runtime.contracts.ContractError: expected float16 or float32, but found float15; set dtype
    """
    if not holds:
        raise ContractError(expected, str(found), hint)


def run_checks(
    contract: str, extension: object, checks: Iterable[Callable[[Subject], None]], subject: Subject
) -> None:
    """Call each check with the subject, in order; the first that fails ends it.

    Args:
        contract: the public function that runs the checks, for messages.
        extension: what is checked, for messages.
        checks: functions that raise ContractError through `require`; their names are the checks' names.
        subject: what the checks take.

    Raises:
        ContractError: with the check's name. Other exceptions of the extension become one, too.
    """
    for check in checks:
        try:
            try:
                check(subject)
            except ContractError:
                raise
            except Exception as error:
                came = f"{type(error).__name__}: {error}"
                raise ContractError("no exception", came, "the traceback above shows where") from error
        except ContractError as error:
            error.check, error.contract = check.__name__.strip("_"), contract
            error.subject = type(extension).__name__
            raise


def require_members(extension: object, base: type, attributes: Iterable[str], methods: Iterable[str]) -> None:
    """An extension has what its base class promises, whether it inherits from it or not."""
    instance = not isinstance(extension, type)
    require(instance, f"an instance of a {base.__name__}", "a class", "call it with good options")
    missing = [name for name in attributes if not hasattr(extension, name)]
    missing += [f"{name}()" for name in methods if not callable(getattr(extension, name, None))]
    hint = f"inherit from {base.__name__}, which has defaults for most of them, or add what is missing"
    require(not missing, "all members of the contract", f"no {', '.join(missing)}", hint)


def require_valid(extension: object) -> None:
    """The options have the types that they are annotated with, and `validate` accepts them."""
    problems = Problems()
    check_options(extension, problems)
    found = "; ".join(problems.found)
    require(
        not problems.found, "options that validate() accepts", found, "check an instance with good options"
    )


def require_json(value: object, what: str) -> None:
    """A value can be written to a manifest, and is the same when read again."""
    hint = "use str, int, float, bool, None, and lists and dictionaries of them"
    try:
        text = json.dumps(value, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ContractError(f"{what} that JSON can hold", str(error), hint) from error
    require(json.loads(text) == _lists(value), f"{what} that JSON gives back unchanged", value, hint)


def _lists(value: object) -> object:
    """Tuples as lists, which is how JSON gives them back."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value
