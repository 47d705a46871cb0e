"""Given the gains, the published scripts' splits, budgets and template budgets, to the last integer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smart.config import UserError
from smart.mixture import TaylorSoftmax, allocate, distribute, split_templates, taylor_softmax

# What the published scripts returned on 64 tasks; null budgets where the selected tasks hold too few rows.
PUBLISHED = json.loads((Path(__file__).parent / "fixtures" / "stage1.json").read_text())
SIZES = np.array(PUBLISHED["sizes"])
ENTRIES = PUBLISHED["stage1"]
NAMES = [f"{entry['fn']}-{len(entry['order'])}-{entry['num_instances']}" for entry in ENTRIES]


@pytest.mark.parametrize("entry", ENTRIES, ids=NAMES)
def test_the_published_budgets(entry: dict[str, Any]) -> None:
    weights = taylor_softmax(np.array(entry["gains"]))
    np.testing.assert_allclose(weights, entry["probabilities"], rtol=1e-14)

    unlimited = np.full(len(weights), entry["num_instances"])
    assert allocate(weights, unlimited, entry["num_instances"]).tolist() == entry["split"]

    tasks = [("niv2", name) for name in PUBLISHED["tasks"]]
    arguments = (tasks, SIZES, np.array(entry["order"]), np.array(entry["gains"]), TaylorSoftmax())
    if entry["budgets"] is None:
        held = SIZES[entry["order"]].sum()
        with pytest.raises(UserError, match=f"{len(weights)} selected tasks can give {held:,} rows"):
            distribute(*arguments, budget=entry["num_instances"])
        return
    table = distribute(*arguments, budget=entry["num_instances"])
    assert table.budgets.sum(axis=1).tolist() == entry["budgets"]
    assert table.budgets.tolist() == entry["template_budgets"]
    assert split_templates(np.array(entry["budgets"]), SIZES).tolist() == entry["template_budgets"]


def test_entries_of_both_kinds_are_there() -> None:
    assert len(ENTRIES) == 18
    assert sum(entry["budgets"] is None for entry in ENTRIES) == 6
