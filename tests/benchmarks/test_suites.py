"""Tasks of lm-eval that are unknown or cannot run here are refused together, before any data is read."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest

from smart.benchmarks import suites
from smart.benchmarks.suites import check_tasks
from smart.config import ConfigError


def test_what_cannot_run_here_is_said_with_what_to_do(monkeypatch):
    import lm_eval
    from lm_eval.tasks import TaskManager

    root = Path(lm_eval.__file__).parent / "tasks"
    folders = [root / name for name in ("ifeval", "humaneval", "chartqa", "arc")]  # all of them take seconds
    manager = TaskManager(include_defaults=False, include_path=folders)
    plain = builtins.__import__

    def without_langdetect(name, *args, **kwargs):
        if name == "langdetect":
            raise ModuleNotFoundError("No module named 'langdetect'", name=name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_langdetect)
    monkeypatch.setattr(suites.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as raised:
        check_tasks(["ifeval", "humaneval", "chartqa", "arc_easy", "ai2_arc", "arc_esy"], manager)
    told = {line.partition(": ")[0].strip(" -"): line for line in str(raised.value).splitlines()[1:]}
    assert list(told) == [f"suite.tasks={name}" for name in ("ifeval", "humaneval", "chartqa", "arc_esy")]
    assert (
        "needs the package langdetect, which is not installed; pip install 'lm-eval[ifeval]'"
        in told["suite.tasks=ifeval"]
    )
    assert "runs code that the model writes" in told["suite.tasks=humaneval"]
    assert "images or sound" in told["suite.tasks=chartqa"]
    assert "Did you mean arc_easy" in told["suite.tasks=arc_esy"]


def test_the_suites_here_can_run():
    check_tasks(["mmlu", "bbh_zeroshot", "bbh_cot_fewshot", "mmlu_anatomy"])
    check_tasks([])
