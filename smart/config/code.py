"""The user's own code as a part of keys: what stands behind `_target_` outside of smart.

One rule for set functions, weightings, encoders and sources. Of code in files, the hash of the file decides, and that
of every file that it imports, directly or through others, as far as they are the user's own: neither of smart, nor of
the standard library, nor of an installed distribution. Of a class in an installed distribution, name and version of
the distribution decide. Imports are read from the text of the files, inside functions too, so what is imported under
a computed name is not seen, nor are data files that code opens: make those options.

Our own code has no part in keys: the VERSION of its stage stands for it.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from weakref import WeakKeyDictionary

import xxhash

from smart.config.errors import UserError

OURS = "smart"
_INSTALLED = ("site-packages", "dist-packages")


def code_of_targets(part: object) -> dict[str, str]:
    """The code behind every `_target_` in a part of the configuration; {} where all of it is ours."""
    found: dict[str, str] = {}
    if isinstance(part, Mapping):
        for key, value in part.items():
            found |= (
                code_of(value) if key == "_target_" and isinstance(value, str) else code_of_targets(value)
            )
    elif isinstance(part, list | tuple):
        for value in part:
            found |= code_of_targets(value)
    return found


def code_of(target: str | type) -> dict[str, str]:
    """Name of each module that makes `target` work → hash of its file, or version of its distribution.

    Args:
        target: a class, or its dotted name.

    Returns:
        {} for what is ours or the standard library's.

    Raises:
        UserError: for code that lies in no file, such as a class that was typed into a session.
    """
    dotted = target if isinstance(target, str) else f"{target.__module__}.{target.__qualname__}"
    if dotted.partition(".")[0] == OURS:
        return {}
    listed = next((name for name in reversed(_with_parents(dotted)) if _spec(name)), dotted.partition(".")[0])
    found = _look_up(sys.modules.get(listed), dotted[len(listed) + 1 :])
    names = {listed, str(getattr(found, "__module__", None) or listed)}  # the second is where it is defined
    code: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        for name in _with_parents(waiting.pop()):
            if name in code or _is_not_the_users(name.partition(".")[0]):
                continue
            if distribution := _distribution(name.partition(".")[0]):
                if name in names or any(one.startswith(f"{name}.") for one in names):
                    code[distribution[0]] = distribution[1]
                continue
            file = _file(name)
            if file is None and name in names:
                raise UserError(
                    f"{dotted}: its code is in no file, so no key can name it; put it in a module"
                )
            if file is not None:
                code[name], imported = _read(name, file)
                waiting += imported
    return dict(sorted(code.items()))


def _look_up(value: object, path: str) -> object:
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def _with_parents(name: str) -> list[str]:
    """Importing a.b.c runs a and a.b too."""
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _is_not_the_users(top: str) -> bool:
    return top == OURS or (top in sys.stdlib_module_names and top != "__main__")


@cache
def _distribution(top: str) -> tuple[str, str] | None:
    """Name and version of the distribution that installed a top-level package; None for files that lie elsewhere."""
    spec = _spec(top)
    places = [spec.origin or "", *(spec.submodule_search_locations or [])] if spec else []
    if not any(folder in Path(place).parts for place in places for folder in _INSTALLED):
        return None
    owners = metadata.packages_distributions().get(top, [])
    return (owners[0], metadata.version(owners[0])) if owners else None


def _spec(name: str) -> ModuleSpec | None:
    """Where a module lies; nothing is imported."""
    module = sys.modules.get(name)
    if module is not None and getattr(module, "__spec__", None) is not None:
        return module.__spec__
    top, _, rest = name.partition(".")
    try:
        spec = _spec(top) if rest else PathFinder.find_spec(top)
        for part in rest.split(".") if rest else []:
            if spec is None or spec.submodule_search_locations is None:
                return None
            top = f"{top}.{part}"
            spec = PathFinder.find_spec(top, list(spec.submodule_search_locations))
    except (ImportError, ValueError):
        return None
    return spec


def _file(name: str) -> Path | None:
    spec = _spec(name)
    place = spec.origin if spec else getattr(sys.modules.get(name), "__file__", None)
    return Path(place) if place and Path(place).is_file() else None


_seen: WeakKeyDictionary[ModuleType, tuple[str, list[str]]] = WeakKeyDictionary()


def _read(name: str, file: Path) -> tuple[str, list[str]]:
    """Hash of a file and the modules that it imports.

    Read once for each import: what this process runs goes on under its own name when the file is edited meanwhile.
    """
    module = sys.modules.get(name)
    if isinstance(module, ModuleType) and module in _seen:
        return _seen[module]
    content = file.read_bytes()
    read = xxhash.xxh3_128_hexdigest(content), list(_imports(name, file, content))
    if isinstance(module, ModuleType):
        _seen[module] = read
    return read


def _imports(name: str, file: Path, content: bytes) -> Iterator[str]:
    if file.suffix != ".py":
        return
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # of something that a function may import, and this Python can't
        return
    package = name if file.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:  # more dots than packages
                continue
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
