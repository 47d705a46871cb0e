"""Schedules and optimisers: the first step learns, and every name that is taken works."""

from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler

from smart.config import Problems, check_options
from smart.model import TuningOptions
from smart.model.options import OPTIMIZERS, SCHEDULES
from smart.training.schedule import make_schedule


def rates(scheduler, optimizer, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def one_weight() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=2.0)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (0, 10), (3, 10)])
def test_the_rate_rises_from_its_share_and_then_falls_as_in_transformers(name, warmup, steps):
    optimizer, theirs = one_weight(), one_weight()
    ours = rates(make_schedule(name, optimizer, warmup, steps), optimizer, steps)
    expected = rates(get_scheduler(name, theirs, warmup, steps), theirs, steps)
    rising = 0 if name == "constant" else warmup
    assert ours[:rising] == pytest.approx([2 * (step + 1) / (warmup + 1) for step in range(rising)])
    assert ours[rising:] == pytest.approx(expected[rising:])
    assert all(rate > 0 for rate in ours)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_last_step_of_a_warm_up_has_risen(name):
    optimizer = one_weight()
    assert rates(make_schedule(name, optimizer, 1, 1), optimizer, 1) == [2.0]


def test_a_resumed_schedule_goes_on():
    optimizer = one_weight()
    whole = rates(make_schedule("cosine", optimizer, 2, 8), optimizer, 8)
    optimizer = one_weight()
    scheduler = make_schedule("cosine", optimizer, 2, 8)
    rates(scheduler, optimizer, 3)
    kept, groups = scheduler.state_dict(), optimizer.state_dict()
    optimizer = one_weight()
    scheduler = make_schedule("cosine", optimizer, 2, 8)
    scheduler.load_state_dict(kept)
    optimizer.load_state_dict(groups)
    assert rates(scheduler, optimizer, 5) == pytest.approx(whole[3:])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_that_is_taken_moves_weights(name, tmp_path):
    from transformers import Trainer, TrainingArguments

    model = torch.nn.Sequential(torch.nn.Linear(64, 64))  # 4,096 weights: fewer are not kept in 8 bits
    before = model[0].weight.detach().clone()
    arguments = TrainingArguments(
        str(tmp_path), optim=name, use_cpu=True, report_to="none", learning_rate=1e-2
    )
    optimizer = Trainer(model, arguments).create_optimizer()
    model(torch.ones(2, 64)).pow(2).sum().backward()
    optimizer.step()
    moved = (model[0].weight - before).abs().max()
    assert 0 < float(moved) < 10


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            ("schedule", name)
            for name in ("cosine_with_min_lr", "warmup_stable_decay", "reduce_lr_on_plateau", "x")
        ),
        *(("optimizer", name) for name in ("lomo", "galore_adamw", "schedule_free_adamw", "adamw_torch_xla")),
    ],
)
def test_others_are_refused_with_the_list(key, value):
    problems = Problems()
    check_options(TuningOptions(**{key: value}), problems)
    (said,) = problems.found
    assert said.startswith(f"tuning.{key}={value}: no such {key}.")
    assert all(name in said for name in (SCHEDULES if key == "schedule" else OPTIMIZERS))
