"""Root scripts that are named like other modules give way to them.

`python select.py` puts the clone's folder first on Python's path, where select.py hides the standard library's
select, and evaluate.py hides Hugging Face's evaluate, from every module imported later. Each script therefore
replaces itself by the module it hides when it is imported under that module's name.
"""

import sys
from importlib.machinery import BuiltinImporter, PathFinder
from importlib.util import module_from_spec
from os.path import abspath, dirname, isfile, join


def give_way(name: str, file: str) -> None:
    """Make `import name` mean the module that `file` hides.

    Raises:
        ModuleNotFoundError: when there is no other module of that name, as without our file.
    """
    placeholder = sys.modules[name]
    here = dirname(abspath(file))
    elsewhere = [entry for entry in sys.path if abspath(entry) != here and not _is_clone(entry, name)]
    spec = BuiltinImporter.find_spec(name) or PathFinder.find_spec(name, elsewhere)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = module_from_spec(spec)
    sys.modules[name] = module  # before it runs, since a package imports its own parts
    spec.loader.exec_module(module)
    # A thread that waited for this import was handed the placeholder already: let it hold the same names.
    vars(placeholder).update({key: value for key, value in vars(module).items() if not key.startswith("__")})


def _is_clone(folder: str, name: str) -> bool:
    """Whether another clone lies there, whose script would give way in turn."""
    return isfile(join(folder, f"{name}.py")) and isfile(join(folder, "smart", "_shadow.py"))
