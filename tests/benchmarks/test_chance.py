"""The score of chance is that of the items that are scored."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from smart.benchmarks.suites import LoadedSuite, chance


def test_chance_is_of_the_first_items_where_only_these_are_scored() -> None:
    options = SimpleNamespace(
        OUTPUT_TYPE="multiple_choice", eval_docs=[2, 2, 4, 4], doc_to_choice=lambda doc: [""] * doc
    )
    free = SimpleNamespace(
        OUTPUT_TYPE="generate_until", eval_docs=["a", "b", "b", "b"], doc_to_target=lambda doc: doc
    )
    tasks: dict[str, Any] = {"options": options, "free": free}
    suite = LoadedSuite({"tasks": tasks}, {"all": list(tasks)})
    assert chance(suite) == pytest.approx({"options": 3 / 8, "free": 3 / 4})
    assert chance(suite, 2) == pytest.approx({"options": 1 / 2, "free": 1 / 2})
