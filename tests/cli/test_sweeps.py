"""Sweeps: one result each, shared caches, failures that stay their own, on every launcher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra.core.utils import setup_globals
from omegaconf import OmegaConf

from smart.config import conf_dir
from tests.commands import Command

LAUNCHERS = {
    "basic": ("hydra/launcher=basic",),
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit_local": ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"),
}


def mixtures(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.glob("outputs/mixtures/*/manifest.json"))


def test_a_sweep_pays_once_for_vectors_and_orderings(select: Command, tmp_path: Path) -> None:
    done = select("-m", "fn=graphcut,facility_location,logdet", "budget=50,60,20%")
    assert done.code == 0, done.said
    assert "9 done, 0 failed." in done.out
    assert len(mixtures(tmp_path)) == 9
    caches = tmp_path / "outputs/cache"
    assert len(list(caches.glob("embeddings/*/manifest.json"))) == 1
    assert len(list(caches.glob("orderings/*/manifest.json"))) == 1
    seconds = [json.loads((folder / "manifest.json").read_text())["seconds"] for folder in mixtures(tmp_path)]
    assert all("embeddings" in stage for stage in seconds)
    assert len(list(tmp_path.glob("outputs/logs/*/*/select.log"))) == 9


@pytest.mark.parametrize(
    "launcher", ["basic", "joblib", pytest.param("submitit_local", marks=pytest.mark.full)]
)
def test_a_failed_job_leaves_the_others_alone(select: Command, tmp_path: Path, launcher: str) -> None:
    pytest.importorskip("submitit" if launcher == "submitit_local" else "joblib")
    done = select("-m", *LAUNCHERS[launcher], "num_tasks=2,4,13,6", "budget=30")
    assert done.code == 1, done.said
    assert "3 done, 1 failed." in done.out
    assert "num_tasks=13: the pool has 12 tasks" in done.out
    assert "Traceback" not in done.said
    assert len(mixtures(tmp_path)) == 3
    again = select("-m", *LAUNCHERS["basic"], "num_tasks=2,4,6", "budget=30")
    assert again.code == 0
    assert again.out.count("Made before") == 3


def test_a_choice_that_does_not_exist_stops_the_sweep_before_it_starts(
    select: Command, tmp_path: Path
) -> None:
    done = select("-m", "fn=graphcut,grafcut")
    assert done.code == 1
    assert "Did you mean graphcut?" in done.err
    assert mixtures(tmp_path) == []


def test_one_output_for_many_jobs_is_refused(select: Command, tmp_path: Path) -> None:
    refused = select("-m", "output=mine", "budget=50,60")
    assert refused.code == 1
    assert "cannot share one folder" in refused.err
    assert select("-m", "output=a,b", "budget=50").code == 0
    assert (tmp_path / "a/manifest.json").exists()
    assert (tmp_path / "b/manifest.json").exists()


def test_slurm_composes(run: Command) -> None:
    pytest.importorskip("submitit")
    done = run(
        *("select", "--cfg", "hydra", "hydra/launcher=submitit_slurm", "hydra.launcher.array_parallelism=8"),
        "hydra.launcher.gpus_per_node=4",
    )
    assert done.code == 0, done.said
    assert "SlurmLauncher" in done.out
    assert "gpus_per_node: 4" in done.out


def test_sweeps_that_start_at_once_have_folders_of_their_own() -> None:
    """Names hold the time to the microsecond: Hydra makes the folder, and takes one that is there."""
    setup_globals()  # Hydra's ${now:…}
    folder = OmegaConf.load(conf_dir() / "base.yaml").hydra._get_node("sweep")._get_node("dir")._value()
    now = folder[folder.index("${now:") : folder.rindex("}") + 1]
    assert len({str(OmegaConf.create({"dir": now}).dir) for _ in range(20)}) == 20
