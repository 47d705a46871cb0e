"""What README says about adding one's own: a class and a YAML, outside the package too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_select import folder_of, read_tasks
from tests.commands import Command

FUNCTION = '''
import numpy as np


class Longest:
    """f(A) = sum of the vectors' first coordinates: modular, so that its order is known."""

    needs_vectors = True

    def __init__(self, X):
        self.X, self.n = X, len(X)

    def begin(self):
        return self

    def gains(self):
        return self.X[:, 0].astype(np.float64)

    def add(self, i):
        pass


class ByName:
    def __call__(self, tasks):
        weights = np.array([1.0 + (name == "task11") for name in tasks.names])
        return weights / weights.sum()

    def validate(self, problems):
        pass
'''


def test_a_function_and_a_weighting_of_ones_own(
    run: Command, collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_functions.py").write_text(FUNCTION)
    for group, target, more in (("fn", "Longest", "_partial_: true\n"), ("weighting", "ByName", "")):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / f"conf/{group}/mine.yaml").write_text(f"_target_: my_functions.{target}\n{more}")
    monkeypatch.syspath_prepend(str(tmp_path))
    done = run(
        *(
            "select",
            "--config-dir",
            str(tmp_path / "conf"),
            "fn=mine",
            "weighting=mine",
            "instance_fn=random",
        ),
        *("collection=files", f"collection.path={collection}", "tracker=none", "budget=130"),
    )
    assert done.code == 0, done.said
    tasks = read_tasks(tmp_path / folder_of(done.out))
    gains = [float(task["gain"]) for task in tasks]
    assert gains == sorted(gains, reverse=True)
    assert {task["budget"] for task in tasks if task["task_name"] == "task11"} == {"20"}
    assert {task["budget"] for task in tasks if task["task_name"] != "task11"} == {"10"}
