"""check_source, tried as an author does: a module outside the repository, right once and wrong in each way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from smart.collection import ContractError, Groups, check_source, load
from smart.mixture import Proportional, distribute
from tests.mixture.outside import import_from, replaced

RIGHT = '''
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from smart.collection import Fault, HeldOut, Part, Reading, Source


@dataclass(frozen=True, kw_only=True)
class Sums(Source):
    """Sums of two numbers, in two tasks."""

    count: int = 40
    seed: int = 0

    def validate(self, problems):
        super().validate(problems)
        if self.count < 1:
            problems.add("collection.count", self.count, "must be at least 1")

    def read(self, cache):
        pairs = np.random.default_rng(self.seed).integers(100, size=(self.count, 2)).tolist()
        columns = {
            "submixture": "sums",
            "task_name": pa.chunked_array([["odd" if a % 2 else "even" for a, b in pairs]]),
            "template_type": "zs_noopt",
            "inputs": pa.chunked_array([[f"{a} + {b} =" for a, b in pairs]]),
            "targets": pa.chunked_array([[str(a + b) for a, b in pairs]]),
        }
        faults = []
        return Reading("sums", [Part.of("sums", columns, faults)], {"kind": "sums", "seed": self.seed})
'''

OPTIONS = """    name: str | None = None
    bad_rows: str = "error"
    drop_duplicates: bool = False
"""
NOT_INHERITED = (
    replaced(replaced(RIGHT, "(Source)", ""), "super().validate(problems)", "pass").replace(
        "    count: int", OPTIONS + "    count: int"
    )
    + """
    def fetch(self):
        pass
"""
)


@pytest.mark.parametrize("source", [RIGHT, NOT_INHERITED], ids=["inherits", "has the methods"])
def test_a_right_source_passes_and_is_selected_from(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = import_from(tmp_path, source, monkeypatch).Sums(count=60, name="mine")
    check_source(options)
    collection = load(options)
    assert (collection.name, len(collection.train)) == ("mine", 60)
    groups = Groups.of(collection.train)
    assert groups.tasks == (("sums", "even"), ("sums", "odd"))
    table = distribute(groups.tasks, groups.sizes, np.array([1, 0]), None, Proportional(), 30)
    assert table.budgets.sum() == 30
    np.testing.assert_allclose(table.weights, groups.sizes.sum(1) / 60)


READING = 'return Reading("sums", [Part.of("sums", columns, faults)], '
TEXTS = '"submixture": ["x"], "task_name": ["x"], "template_type": ["zs_noopt"], "inputs": ["x"]'
TWICE = "validation=[Part.of('v', columns)], held_out=HeldOut.of(5, 0), train=[Part.of('t', columns)], "


@pytest.mark.parametrize(
    ("old", "new", "check", "said"),
    [
        ("if self.count < 1", "if self.count < 99", "validate", "must be at least 1"),
        ("    def read", "    def fetch(self):\n        1 / 0\n\n    def read", "fetch", "ZeroDivisionError"),
        ("return Reading", "return", "read", "a Reading from read"),
        (READING, f"return Reading('sums', {TWICE} origin=", "read", "validation or held_out, but found both"),
        ('Reading("sums"', 'Reading("my/sums"', "name", "one path component, but found 'my/sums'"),
        ('Reading("sums"', 'Reading(" "', "name", "use letters, digits and hyphens"),
        ('"seed": self.seed}', '"seed": np.int64(0)}', "origin", "int64 is not JSON"),
        ('"seed": self.seed}', '"splits": 2}', "origin", "load\\(\\) puts the counts"),
        ('"seed": self.seed}', '7: 7}', "origin", "JSON"),
        ('[Part.of("sums", columns, faults)]', "[]", "parts", "at least one Part"),
        ('[Part.of("sums", columns, faults)]', "[3]", "parts", "at least one Part"),
        ('Part.of("sums", columns, faults)', f'Part("sums", pa.table({{{TEXTS}}}))', "parts", "the columns .*targets"),
        (
            'Part.of("sums", columns, faults)',
            f'Part("sums", pa.table({{{TEXTS}, "targets": ["x"]}}))',
            "parts",
            "submixture as dictionary",
        ),
        ("faults = []", 'faults = [Fault("inputs", "odd", np.array([40]))]', "parts", "rows 0 to 39, ascending"),
        ('"template_type": "zs_noopt"', '"template_type": "zs"', "load", "template_type: none of zs_opt"),
        ("default_rng(self.seed)", "default_rng()", "same_rows", "seed what you draw"),
        ("        columns = {", "        pairs = pairs[bool(cache) :]\n        columns = {", "cache", "empty cache"),
    ],
)  # fmt: skip
def test_a_wrong_source_is_told_what_is_wrong(
    old: str, new: str, check: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = import_from(tmp_path, replaced(RIGHT, old, new), monkeypatch).Sums()
    with pytest.raises(ContractError, match=said) as caught:
        check_source(source)
    assert caught.value.check == check
    assert str(caught.value).startswith(f"check_source(Sums): {check}: expected ")


KEEPING = """
        from pathlib import Path
        kept = Path(cache or "nowhere", "sums")
        if cache and kept.exists():
            pairs = pairs[1:] if {stale} else pairs
        elif cache:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.touch()
        columns = {{"""


def test_a_cache_that_gives_other_rows_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stale in (False, True):
        folder = tmp_path / f"{tmp_path.name}_{stale}"
        folder.mkdir()
        source = replaced(RIGHT, "\n        columns = {", KEEPING.format(stale=stale))
        options = import_from(folder, source, monkeypatch).Sums()
        if stale:
            with pytest.raises(ContractError, match=r"the same rows from the cache: 40 .* but found 39"):
                check_source(options)
        else:
            check_source(options)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_from(tmp_path, replaced(NOT_INHERITED, "drop_duplicates", "duplicates"), monkeypatch)
    with pytest.raises(ContractError, match="no drop_duplicates; inherit from Source"):
        check_source(module.Sums())
    other = tmp_path / f"{tmp_path.name}_other"
    other.mkdir()
    with pytest.raises(TypeError, match=r"abstract method '?read"):
        import_from(other, replaced(RIGHT, "def read", "def rows"), monkeypatch).Sums()
