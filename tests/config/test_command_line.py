"""What is printed can be pasted: a shell and Hydra read the same value from it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from smart.config import compose
from smart.config.command_line import literal, shell_line, spell
from smart.config.types import as_path

PARSER = OverridesParser.create()
ODD = st.text(st.sampled_from("ab/. =,ü\"'$()[]{}\\:#*~%!&|;<>?`@^+-_\n\t5e😀"), min_size=1, max_size=12)
ANY = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=12)


def read_back(line: str) -> object:
    """The value of the last word of a line, as a command gets it."""
    override = PARSER.parse_override(shlex.split(line)[-1])
    config = OmegaConf.create({override.key_or_group: None})
    OmegaConf.update(config, override.key_or_group, override.value())
    return OmegaConf.to_container(config, resolve=True)[override.key_or_group]  # type: ignore[index, call-overload]


@settings(max_examples=60, deadline=None)
@given(ODD | ANY)
@example("${oc.env:HOME}")
@example("a\\${b}")
@example("$\\{")
@example("null")
@example("TRUE")
@example("1_000")
@example("1e5")
@example("-inf")
@example("end\\")
@example("it's")
@example("'")
@example("=")
def test_text_of_a_printed_line_is_read_back(text: str) -> None:
    assert read_back(shell_line("python train.py", mixture=text)) == text
    both = [text, "OTHER_SCORES"]
    assert read_back(shell_line("python evaluate.py", compare=both)) == both
    words = shlex.split(shell_line("python evaluate.py", "-m", adapter=text))
    assert words[:3] == ["python", "evaluate.py", "-m"]
    assert len(words) == 4


@pytest.mark.parametrize(
    "name", ["~/x", "~nobody-known", "a b/c=d,e", "ü", "5", "${x}", "007", "it's [1] $HOME"]
)
def test_a_printed_path_is_found_again(name: str) -> None:
    line = shell_line("python train.py", mixture=Path(name), model="tiny_llama")
    composed = compose("train", shlex.split(line)[2:])
    assert as_path(composed.values["mixture"]) == Path(name)
    assert composed.choices["model"] == "tiny_llama"


@pytest.mark.parametrize(
    "value", [3, 0.5, True, False, None, ["a", "b c", 1], {"inputs": "question"}, [[], ["x"]]]
)
def test_a_value_keeps_its_type(value: object) -> None:
    assert read_back(f"key={shlex.quote(spell(value))}") == value


def test_an_interpolation_stays_one_unless_the_text_is_literal() -> None:
    assert spell("${a}") == "'${a}'"
    assert literal("${a}") == r"'\${a}'"
