"""Names of files: one component each, short enough, and keys that keep their parts apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smart.runtime.names import artifact_name, file_stem, joined

TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=300)


@given(TEXT)
def test_a_stem_is_one_component_that_fits(text: str) -> None:
    stem = file_stem(text)
    assert "/" not in stem
    assert "\0" not in stem
    assert len(stem.encode()) <= 160


@given(st.lists(TEXT, min_size=2, max_size=2), st.lists(TEXT, min_size=2, max_size=2))
def test_joined_names_tell_their_parts_apart(one: list[str], other: list[str]) -> None:
    assert (joined(*one) == joined(*other)) == (one == other)


def test_groups_with_slashes_stay_apart() -> None:
    assert joined("a", "b/c") != joined("a/b", "c")


@pytest.mark.parametrize("text", ["a b", "x" * 129, "ü/é", "a=b,c"])
def test_names_of_artifacts_are_taken(text: str) -> None:
    import wandb

    assert wandb.Artifact(artifact_name(text), type="mixture").name == artifact_name(text)
    assert artifact_name("fine-name_1.0") == "fine-name_1.0"
