"""How the code is laid out: what ARCHITECTURE.md promises and no other tool checks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "smart").rglob("*.py"))

SLOW = {
    *("accelerate", "bitsandbytes", "datasets", "datasketch", "hydra", "lm_eval", "matplotlib", "omegaconf"),
    *("peft", "rouge_score", "scipy", "sentence_transformers", "torch", "transformers", "wandb", "wordllama"),
}
"""Packages that take over 0.2 s to import."""
EXTRAS = {"gguf", "ray", "reasoning_gym"}
"""Packages that may be missing."""
OURS_THAT_LOAD_THEM = {
    *(
        "smart.evaluation.cached_lm",
        "smart.evaluation.heldout_turns",
        "smart.model.attention",
        "smart.training.callbacks",
        "smart.training.loss",
        "smart.training.rehearsal",
        "smart.training.schedule",
        "smart.training.sharding",
        "smart.training.trainer",
    ),
}
"""Our own modules that subclass what a slow package defines."""
LAZY = {("smart/__init__.py", "smart")}
"""`from smart import select` loads the rooms when it is asked for."""


def local_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module of every import inside a function or class."""
    for scope in ast.walk(ast.parse(path.read_text())):
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for node in ast.walk(scope):
                if isinstance(node, ast.ImportFrom) and node.module:
                    yield node.lineno, node.module
                elif isinstance(node, ast.Import):
                    yield from ((node.lineno, alias.name) for alias in node.names)


def test_imports_inside_functions_are_of_slow_or_optional_modules_alone() -> None:
    wrong = []
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        for line, module in local_imports(path):
            allowed = module.partition(".")[0] in SLOW | EXTRAS or module in OURS_THAT_LOAD_THEM
            if not allowed and (name, module) not in LAZY:
                wrong.append(f"{name}:{line} {module}")
    assert wrong == []


NOUN = re.compile(r" (?:(?!with\b)[a-z]+ )?(?!as\b|has\b|is\b|its\b|was\b)[a-z]+s\b")
NUMBER = re.compile(r"len\(|sum\(|.*\.(sum|count)\([^()]*\)$")


def miscounted(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every number before a noun that is written as if it could not be one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            for value, text in pairwise(node.values):
                if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                    as_number = value.format_spec is not None and ast.unparse(value.format_spec) in (
                        "f','",
                        "f',d'",
                    )
                    shown = ast.unparse(value.value)
                    if NOUN.match(text.value) and (as_number or NUMBER.match(shown)):
                        yield node.lineno, shown + text.value
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (
                (node.lineno, found[0]) for found in re.finditer(r"%d [a-z]+s\b|\w\(e?s\)", node.value)
            )


def test_one_row_is_not_one_rows(tmp_path: Path) -> None:
    """Messages count with `counted`."""
    # The engine has none of our own helpers.
    ours = [path for path in SOURCES if "submodular" not in path.parts]
    assert [(path.name, *found) for path in ours for found in miscounted(path)] == []
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "[f'{n:,} rows', f'{len(x)} long rows', '%d rows', f'{n} process(es)', 'a row(s)', f'{n:,} is']"
    )
    assert len(list(miscounted(wrong))) == 5


def test_no_slow_module_is_loaded_by_the_rooms() -> None:
    """The top of a file loads none of the packages that functions load."""
    wrong = []
    for path in SOURCES:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if module in OURS_THAT_LOAD_THEM or "submodular" in module:
            continue
        for node in ast.parse(path.read_text()).body:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            slow = {name for name in names if name.partition(".")[0] in SLOW | EXTRAS}
            wrong += [f"{module}: {name}" for name in slow if module != "smart.cli.sweep"]
    assert wrong == []


def test_no_private_name_crosses_a_file() -> None:
    wrong = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("smart"):
                if (node.module or "").split(".")[-1].startswith("_") and not node.module.startswith(  # type: ignore[union-attr]
                    "smart.submodular._kernels"
                ):
                    wrong.append(f"{path.name}:{node.lineno} {node.module}")
                wrong += [
                    f"{path.name}:{node.lineno} {alias.name}"
                    for alias in node.names
                    if re.match(r"_(?!kernels$|_)", alias.name)
                ]
    assert wrong == []
    named = [line for path in (ROOT / "conf").rglob("*.yaml") for line in path.read_text().splitlines()]
    assert [line for line in named if re.search(r"_target_:.*\._", line)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "smart/cli").glob("*.py")), ids=lambda path: path.name)
def test_a_file_of_the_command_line_is_thin(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 135
