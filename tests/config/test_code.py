"""The user's own code in keys: of every kind of extension, by one rule."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smart.collection import load
from smart.config import UserError, asked, code_of, code_of_targets, compose, read_config
from smart.runtime.manifest import make_key
from smart.selection import SelectConfig
from smart.selection.instances import make_orderer
from smart.selection.keys import mixture_key
from smart.selection.orderings import orderings_key
from smart.selection.pool import read_pool
from smart.selection.vectors import input_keys
from tests.mixture.outside import replaced
from tests.selection.test_extensions import MODULE


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """write({"mine/fn.py": "…"}): modules of a user, to be imported anew."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def forget() -> None:  # as in a process that starts
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
                del sys.modules[name]
        importlib.invalidate_caches()

    def call(files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        forget()

    yield call
    forget()


FILES = {
    "mine/__init__.py": "from .fn import F\n",
    "mine/fn.py": "import numpy\nimport helper\nfrom . import parts\nclass F: ...\n",
    "mine/parts/__init__.py": "",
    "mine/parts/deep.py": "y = 1\n",
    "mine/idle.py": "z = 1\n",
    "helper.py": "def f():\n    from mine.parts.deep import y\n    from ..above import no\n",
    "other.py": "import mine\n",
}


@pytest.mark.parametrize("imported", [False, True])
def test_what_is_imported_decides_and_nothing_else(write: Callable[..., None], imported: bool) -> None:
    def keys() -> list[dict[str, str]]:
        if imported:
            importlib.import_module("mine.parts.deep")
        return [code_of(name) for name in ("mine.F", "mine.fn.F")]

    write(FILES)
    plain, same = keys()
    assert plain == same
    assert list(plain) == ["helper", "mine", "mine.fn", "mine.parts", "mine.parts.deep"]
    for file in ("mine/idle.py", "other.py"):
        write({file: "changed = 1\n"})
        assert keys() == [plain, plain], file
    for file in (
        "mine/__init__.py",
        "mine/fn.py",
        "mine/parts/__init__.py",
        "mine/parts/deep.py",
        "helper.py",
    ):
        write({file: FILES[file] + "# changed\n"})
        assert keys()[0] != plain, file
        plain = keys()[0]


def test_code_is_what_the_process_has_imported(write: Callable[..., None], tmp_path: Path) -> None:
    """Edited while a process runs, the process goes on under the name of the code that it runs."""
    write({"mine.py": "class F: ...\n"})
    importlib.import_module("mine")
    first = code_of("mine.F")
    (tmp_path / "mine.py").write_text("class F:\n    changed = True\n")
    assert code_of("mine.F") == first
    write({})
    assert code_of("mine.F") != first


def test_ours_and_the_standard_library_have_no_part_and_a_distribution_has_its_version() -> None:
    assert code_of("smart.submodular.GraphCut") == {}
    assert code_of("collections.abc.Mapping") == {}
    assert list(code_of("hydra.utils.instantiate")) == ["hydra-core"]
    nested = {"_target_": "smart.mixture.Uniform", "inner": [{"of": {"_target_": "hydra.utils.instantiate"}}]}
    assert list(code_of_targets(nested)) == ["hydra-core"]


def test_a_class_without_a_file_is_refused() -> None:
    typed = type("Typed", (), {"__module__": "no_such_module"})
    with pytest.raises(UserError, match="is in no file"):
        code_of(typed)


PLACES = {
    "fn": "return np.maximum(self.X - self.covered, 0).sum(axis=1)",
    "encoder": 'return {"encoder": "letters", "version": 1}',
    "collection": "What is {a} and {b}?",
    "weighting": "self.base ** -np.arange(len(tasks.names), dtype=float)",
}
CHANGED = {
    "fn": "return np.minimum(self.X, 3).sum(axis=1)",
    "encoder": 'return {"encoder": "letters", "version": 1}  # its code has changed, and it does not say so',
    "collection": "How much is {a} plus {b}?",
    "weighting": "self.base ** -(np.arange(len(tasks.names), dtype=float) / 2)",
}


GROUPS = {"fn": "Coverage", "encoder": "Letters", "collection": "Sums", "weighting": "ByPlace"}


def keys_of(tmp_path: Path) -> dict[str, str]:
    """Name → key of all that a selection by the four extensions makes, and of its run in a grid."""
    composed = compose("select", [f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "budget=60", *MINE])
    config = read_config(SelectConfig, composed)
    pool = read_pool(config)
    inputs = input_keys(config, pool)
    return {
        "vectors": inputs[-1],
        "orderings": orderings_key(make_orderer(config), inputs[-1], pool.groups.offsets),
        "mixture": mixture_key(config, inputs, 60),
        "run": make_key(asked(SelectConfig, composed.raw), [], 1),
    }


MINE = [f"{group}=mine" for group in (*GROUPS, "instance_fn")]
DEPENDENT = {
    "fn": {"orderings", "mixture", "run"},
    "encoder": {"vectors", "orderings", "mixture", "run"},
    "collection": {"vectors", "orderings", "mixture", "run"},
    "weighting": {"mixture", "run"},
}


def test_changed_code_is_another_key_of_all_that_depends_on_it(
    tmp_path: Path, write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the four kinds of extension, each in a module of its own."""
    monkeypatch.chdir(tmp_path)
    for group, target in {**GROUPS, "instance_fn": "Coverage"}.items():
        (tmp_path / "conf" / group).mkdir(parents=True)
        lines = [f"_target_: own_{'fn' if 'fn' in group else group}.{target}"]
        lines += ["bad_rows: error", "drop_duplicates: false"] if group == "collection" else []
        (tmp_path / f"conf/{group}/mine.yaml").write_text("\n".join(lines) + "\n")
    modules = {f"own_{group}.py": MODULE for group in GROUPS}
    write(modules)
    plain = keys_of(tmp_path)
    assert keys_of(tmp_path) == plain
    for group in GROUPS:
        write({**modules, f"own_{group}.py": replaced(MODULE, PLACES[group], CHANGED[group])})
        found = keys_of(tmp_path)
        assert {name for name in found if found[name] != plain[name]} == DEPENDENT[group], group
    write({**modules, "idle.py": "x = 1\n"})
    assert keys_of(tmp_path) == plain


def test_a_source_keeps_its_rows_under_the_name_of_its_code(
    tmp_path: Path, write: Callable[..., None]
) -> None:
    """Other code makes other rows of the same options."""
    telling = (
        replaced(MODULE, "        rows = [(f", "        SEEN.append(cache)\n        rows = [(f")
        + "\nSEEN = []\n"
    )
    folders: list[Path] = []
    for asked_for in (PLACES["collection"], PLACES["collection"], CHANGED["collection"]):
        write({"own.py": replaced(telling, PLACES["collection"], asked_for)})
        module = importlib.import_module("own")
        load(module.Sums(), cache=tmp_path)
        folders += module.SEEN
    assert folders[0] == folders[1] != folders[2]
    assert {folder.parent for folder in folders} == {tmp_path}
