"""From training to evaluation: what a model was trained on in its template is what it is asked, and costs the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from smart.benchmarks.suites import Suite
from smart.evaluation import scoring
from smart.model import ChatOptions, ModelOptions, TuningOptions
from smart.runtime.processes import Processes
from smart.training.config import TrainConfig
from smart.training.fit import fit
from smart.training.job import World, prepare
from tests.evaluation.examples import CHATML, make_job, save_model


def rows(count: int) -> list[dict[str, Any]]:
    """Conversations of one and of two answers."""
    made = []
    for number in range(count):
        turns = [
            {"role": "user", "content": f"the of {number}"},
            {"role": "assistant", "content": "to and" * (1 + number % 3)},
        ]
        more = [{"role": "user", "content": "in that"}, {"role": "assistant", "content": f"is {number}"}]
        made.append({"messages": turns + more * (number % 2)})
    return made


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_loss_of_held_out_conversations_is_that_of_the_training(tmp_path: Path, method: str) -> None:
    model = save_model(tmp_path / "tiny", template=CHATML)
    mixture = tmp_path / "mixture"
    mixture.mkdir()
    for split, count in (("train", 16), ("validation", 5)):
        (mixture / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(count)))
    config = TrainConfig(
        mixture=str(mixture),
        model=ModelOptions(str(model)),
        tuning=TuningOptions(method=method, lora_r=4, dtype="float32", checkpoint_activations=False),  # type: ignore[arg-type]
        chat=ChatOptions(system="Be had."),
        output_root=tmp_path,
        batch_size=8,
        micro_batch_size=4,
        max_steps=2,
        learning_rate=5e-3,
    )
    trained = fit(prepare(config, World()), tmp_path / "trained")
    suite = Suite("heldout", ("heldout_loss",), 0, str(mixture / "validation.jsonl"))
    job = make_job(None, None, tmp_path, adapter=tmp_path / "trained", suite=suite)
    assert job.model.chat is not None
    assert job.model.chat.system == "Be had."
    found = scoring.score(job, tmp_path / "scores", Processes(), torch.device("cpu"))
    (loss,) = (row["macro"]["value"] for row in found["scores"])
    assert loss == pytest.approx(trained.manifest["evaluations"][-1]["eval_loss"], rel=1e-4)
    assert found["model"]["format"] == trained.manifest["text_format"]
