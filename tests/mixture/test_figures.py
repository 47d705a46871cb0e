from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from smart.mixture.figures import draw_figures, project
from smart.runtime.plot_style import save_figure

from .examples import make_pool


@pytest.mark.parametrize(("tasks", "selected", "d"), [(1, 1, 4), (2, 1, 1), (64, 64, 16), (64, 8, 16)])
def test_figures_for_any_pool(tmp_path: Path, tasks: int, selected: int, d: int) -> None:
    table = make_pool(tasks, selected, budget=5).tasks
    names = draw_figures(tmp_path, table, np.random.default_rng(0).normal(size=(tasks, d)))
    assert names == ["budgets.png", "gains.png", "tasks.png"][: 2 + (tasks > 1)]
    for name in names:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_dollars_in_names_are_no_formula_and_axes_have_plain_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_pool(8, 8, budget=5).tasks
    names = [(rf"a$b \frac{{$_{number}^$", f"${number}") for number in range(8)]
    table = replace(table, tasks=tuple(names), gains=np.geomspace(1000, 1, 8))
    texts: list[str] = []

    def keep(figure: Figure, path: Path) -> None:
        save_figure(figure, path)
        texts.extend(text.get_text() for text in figure.findobj(Text))

    monkeypatch.setattr("smart.mixture.figures.save_figure", keep)
    draw_figures(tmp_path, table, np.random.default_rng(0).normal(size=(8, 4)))
    assert any(text.startswith("a$b") for text in texts)
    assert not any("mathdefault" in text for text in texts)
    assert "1000" in texts, "the logarithmic axis of gains"


def test_projection_keeps_distances_that_lie_in_a_plane() -> None:
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 2 * np.pi, 20)
    basis, _ = np.linalg.qr(rng.normal(size=(6, 2)))
    X = np.stack([np.cos(angles), np.sin(angles)], axis=1) @ basis.T
    plane, share = project(X * rng.uniform(1, 9, (20, 1)))
    np.testing.assert_allclose(share.sum(), 1)
    distances = np.linalg.norm(plane[:, :, None] - plane[:, None, :], axis=0)
    np.testing.assert_allclose(distances, np.linalg.norm(X[:, None] - X[None], axis=2), atol=1e-7)


def test_projection_has_fixed_signs() -> None:
    X = np.random.default_rng(1).normal(size=(20, 6))
    plane, share = project(X)
    np.testing.assert_allclose(project(-X)[0], plane, atol=1e-12)
    assert (plane[[0, 1], np.abs(plane).argmax(axis=1)] > 0).all()
    assert share[0] > share[1] > 0


def test_projection_of_tasks_that_are_all_alike() -> None:
    plane, share = project(np.ones((5, 3)))
    np.testing.assert_allclose(plane, 0, atol=1e-12)
    assert np.isfinite(share).all()
