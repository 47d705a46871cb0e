"""Whole runs in this process: losses, resuming, stopping, results."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from smart.config import Composition, UserError
from smart.runtime.manifest import read_manifest, write_manifest
from smart.runtime.tracking import Tracker
from smart.training import checkpoints, train
from smart.training.fit import UNFINISHED, is_finished, merge, tidy


def adapter(folder) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def losses(trained) -> list[float]:
    return [entry["loss"] for entry in trained.history if "loss" in entry]


def assert_equal_runs(one, other, first, second) -> None:
    assert losses(one) == losses(other)
    weights, others = adapter(first), adapter(second)
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


NO_DROPOUT = {"lora_dropout": 0.0}


@pytest.mark.parametrize("packing", [False, True])
def test_losses_and_gradients_do_not_depend_on_accumulation(runner, tmp_path, packing):
    cuts = {"one": {"micro_batch_size": 8}, "four": {"micro_batch_size": 2}}
    cuts["tokens"] = {"tokens_per_micro_batch": 90}
    runs = {
        name: runner.train(tmp_path / name, tuning=NO_DROPOUT, packing=packing, max_steps=3, **cut)
        for name, cut in cuts.items()
    }
    found = {
        name: torch.tensor([(e["loss"], e["grad_norm"]) for e in run.history if "grad_norm" in e])
        for name, run in runs.items()
    }
    assert len(found["one"]) == 3
    for name in ("four", "tokens"):
        assert torch.allclose(found["one"], found[name], rtol=1e-5, atol=0)
    order = runner.job(packing=packing, **cuts["tokens"])
    rounds = [len(step) for step in map(order.order(order.train_tokens()).step, range(3))]
    assert max(rounds) > 1, "the tokens make several micro-batches"


def test_gradients_do_not_depend_on_accumulation(runner, tmp_path):
    """One step of plain gradient descent moves each weight by its gradient."""
    plain = NO_DROPOUT | {"optimizer": "sgd", "warmup": 0.0, "schedule": "constant", "max_grad_norm": 1e9}
    moved = []
    for micro in (8, 2):
        runner.train(
            tmp_path / str(micro), tuning=plain, micro_batch_size=micro, max_steps=1, learning_rate=1.0
        )
        # Half of the adapters begin at 0, so that what they hold is minus their gradient.
        moved.append({k: v for k, v in adapter(tmp_path / str(micro)).items() if "lora_B" in k})
    for name, one in moved[0].items():
        assert one.any()
        assert (one - moved[1][name]).abs().max() <= 1e-5 * one.abs().max()


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_falcon"])
def test_packing_changes_neither_the_examples_of_a_step_nor_its_loss(runner, tmp_path, model):
    padded, packed = (
        runner.train(tmp_path / str(packing), model=model, tuning=NO_DROPOUT, packing=packing, max_steps=4)
        for packing in (False, True)
    )
    assert packed.manifest["counts"] == padded.manifest["counts"]
    assert packed.manifest["counts"]["examples"] == 4 * 8
    assert losses(packed) == pytest.approx(losses(padded), rel=1e-4)


@pytest.mark.parametrize(
    ("model", "pinned"),
    [
        ("tiny_llama", [6.58310, 6.57199, 6.36890, 6.31336]),
        ("tiny_falcon", [6.42724, 6.28953, 6.07448, 6.08336]),
        ("tiny_mistral", [6.68746, 6.58891, 6.38560, 6.32483]),
    ],
)
def test_first_losses_are_pinned(runner, tmp_path, model, pinned):
    trained = runner.train(tmp_path / "out", model=model, tuning=NO_DROPOUT, max_steps=4)
    assert losses(trained) == pytest.approx(pinned, rel=2e-4)


def test_the_loss_is_that_of_the_model_itself(runner, tmp_path):
    """The first loss, computed anew by transformers' own loss from the rows of the first step."""
    from smart.model.base import weights_source
    from smart.model.load import load_model

    job = runner.job(tuning=NO_DROPOUT, max_steps=1)
    trained = runner.train(tmp_path / "out", tuning=NO_DROPOUT, max_steps=1)
    model = load_model(job.base, weights_source(job.base, runner.models), dtype="float32", four_bit=True)
    store = job.train_tokens()
    total = count = 0.0
    for row in job.order(store).stream[:8]:
        ids, mask = store[row]
        labels = torch.tensor(ids.astype("int64"))[None]
        labels[:, ~torch.from_numpy(mask.copy())] = -100
        supervised = int(mask.sum())
        loss = model(input_ids=torch.tensor(ids.astype("int64"))[None], labels=labels).loss
        total, count = total + float(loss.detach()) * supervised, count + supervised
    assert losses(trained)[0] == pytest.approx(total / count, rel=1e-5)


def test_training_learns_and_shuffled_responses_teach_less(runner, tmp_path, mixture):
    import pyarrow.parquet as pq

    shuffled = tmp_path / "shuffled"
    shutil.copytree(mixture, shuffled)
    table = pq.read_table(shuffled / "train.parquet")
    responses = table["response"].to_pylist()
    moved = table.set_column(1, "response", [responses[7:] + responses[:7]])
    pq.write_table(moved, shuffled / "train.parquet")
    write_manifest(shuffled, {"kind": "mixture", "key": "b" * 32})
    runner.options |= {"max_steps": 30, "learning_rate": 2e-2}
    fell = []
    for folder in (mixture, shuffled):
        runner.mixture = folder
        evaluations = runner.train(tmp_path / folder.name / "out").manifest["evaluations"]
        assert [entry["step"] for entry in evaluations] == [0, 30]
        fell.append(evaluations[0]["eval_loss"] - evaluations[-1]["eval_loss"])
    assert fell[0] > 0.2
    assert fell[0] > fell[1]


def test_evaluation_is_per_submixture_and_never_disturbs_training(runner, tmp_path):
    often = runner.train(tmp_path / "often", eval_steps=2)
    once = runner.train(tmp_path / "once")
    assert_equal_runs(often, once, tmp_path / "often", tmp_path / "once")
    evaluations = often.manifest["evaluations"]
    assert [entry["step"] for entry in evaluations] == [0, 2, 4, 6]
    assert set(evaluations[0]) == {"step", "eval_loss", "eval_loss/cot", "eval_loss/niv2"}
    low, high = sorted([evaluations[0]["eval_loss/cot"], evaluations[0]["eval_loss/niv2"]])
    assert low < evaluations[0]["eval_loss"] < high


@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_interrupted_run_goes_on_bit_equal(runner, tmp_path, method, dtype):
    runner.tuning |= {"method": method, "dtype": dtype}
    whole = runner.train(tmp_path / "whole", save_steps=2)

    def interrupt(logs, step):
        if step == 2 and "loss" in logs:  # comes after the end of step 2, so the run stops after step 3
            os.kill(os.getpid(), signal.SIGUSR1 if method == "lora" else signal.SIGTERM)

    first = runner.train(tmp_path / "parts", save_steps=2, watch=interrupt)
    manifest = read_manifest(tmp_path / "parts")
    assert first.interrupted
    assert (manifest["status"], manifest["counts"]["steps"]) == ("interrupted", 3)
    assert not is_finished(tmp_path / "parts", runner.job().key)
    second = runner.train(tmp_path / "parts", save_steps=2)
    assert second.manifest["resumed_from_step"] == 3
    assert losses(whole) == losses(second)
    file = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()
    assert is_finished(tmp_path / "parts", runner.job().key)


def fail_at(step):
    def watch(logs, at):
        if at == step and "loss" in logs:
            raise RuntimeError("killed")

    return watch


def test_what_is_not_whole_is_not_resumed_from(runner, tmp_path):
    whole = runner.train(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        runner.train(tmp_path / "out", save_steps=2, watch=fail_at(5))
    folder = tmp_path / "out" / "checkpoints"
    assert [path.name for path in checkpoints.by_step(folder)] == ["checkpoint-2", "checkpoint-4"]
    damaged = folder / "checkpoint-4" / "optimizer.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-5")
    (folder / "checkpoint-5" / checkpoints.SEAL).unlink()
    tokens = tmp_path / "out" / "tokens" / "ids.npy"
    tokens.write_bytes(tokens.read_bytes()[:-1] + b"\x01")
    resumed = runner.train(tmp_path / "out", save_steps=2)
    assert resumed.manifest["resumed_from_step"] == 2
    assert_equal_runs(whole, resumed, tmp_path / "whole", tmp_path / "out")
    for left in UNFINISHED:  # as after a kill between the manifest and the last deletion
        (tmp_path / "out" / left).touch()
    key = runner.job().key
    assert is_finished(tmp_path / "out", key)
    tidy(tmp_path / "out")
    assert is_finished(tmp_path / "out", key)
    assert not {path.name for path in (tmp_path / "out").iterdir()} & set(UNFINISHED)


def test_an_overwriting_run_that_was_interrupted_goes_on(runner, tmp_path):
    runner.train(tmp_path / "out", learning_rate=0.001, max_steps=1)
    with pytest.raises(RuntimeError, match="killed"):
        runner.train(tmp_path / "out", save_steps=2, watch=fail_at(3), overwrite=True)
    assert not (tmp_path / "out" / "manifest.json").exists(), "the old one went first"
    again = runner.train(tmp_path / "out", save_steps=2, overwrite=True)
    assert again.manifest["resumed_from_step"] == 2
    assert runner.train(tmp_path / "out", overwrite=True).manifest["resumed_from_step"] is None


def test_a_changed_configuration_is_refused_on_resume(runner, tmp_path):
    with pytest.raises(RuntimeError, match="killed"):
        runner.train(tmp_path / "out", save_steps=2, watch=fail_at(3))
    with pytest.raises(UserError, match=r"\(learning_rate: was 0.005, is 0.001\).*overwrite=true"):
        runner.train(tmp_path / "out", learning_rate=0.001)
    with pytest.raises(UserError, match=r"model.name: was tiny_llama, is tiny_mistral"):
        runner.train(tmp_path / "out", model="tiny_mistral")
    there = runner.mixture
    runner.mixture = tmp_path / "other"
    shutil.copytree(there, runner.mixture)
    write_manifest(runner.mixture, {"kind": "mixture", "key": "b" * 32})
    with pytest.raises(UserError, match=r"inputs.mixture: was a{32}, is b{32}"):
        runner.train(tmp_path / "out")
    runner.mixture = there
    assert runner.train(tmp_path / "out", save_steps=3).manifest["resumed_from_step"] == 2


def test_a_finished_run_can_be_merged_later(runner, tmp_path):
    together, later = tmp_path / "together", tmp_path / "later"
    runner.train(together, merge=True)
    runner.train(later)
    before = read_manifest(later)
    assert not (later / "merged").exists()
    merge(runner.job(merge=True), later)
    merged = before | {"merged": read_manifest(together)["merged"]}
    assert {**read_manifest(later), "hash": ""} == {**merged, "hash": ""}
    weights = later / "merged/model.safetensors"
    whole = (together / "merged/model.safetensors").read_bytes()
    assert weights.read_bytes() == whole
    weights.write_bytes(whole[:-1])
    merge(runner.job(merge=True), later)
    assert weights.read_bytes() == whole, "damaged, it was made again"


def test_progress_counts_the_tokens_of_finished_steps_and_shows_rate_time_and_memory(runner, monkeypatch):
    from smart.training import callbacks

    monkeypatch.setattr(callbacks, "peak_memory", lambda: 1_230_000_000)
    job = runner.job()
    order = job.order(job.train_tokens())
    shown = callbacks.ProgressCallback(order)
    tokens = [int(order.lengths[order.stream[8 * step : 8 * step + 8]].sum()) for step in range(6)]
    state = SimpleNamespace(global_step=2, max_steps=6)  # resumed after two steps
    shown.on_train_begin(None, state, None)
    state.global_step = 3
    shown.on_log(None, state, None, logs={"eval_loss": 2.0})
    shown.on_log(None, state, None, logs={"loss": 1.5})
    assert (shown._bar.n, shown._bar.total) == (sum(tokens[:3]), sum(tokens))
    line = str(shown._bar)
    shown.on_train_end(None, state, None)
    for part in ("step=3/6", "loss=1.500", "peak=1.23 GB"):
        assert part in line
    assert "tokens/s" in line
    assert "<" in line, "elapsed<remaining"


def test_a_folder_of_something_else_is_refused(tmp_path):
    assert not is_finished(tmp_path / "new", "key")
    (tmp_path / ".run.json.partial-x").touch()  # a process was killed as it began
    assert not is_finished(tmp_path, "key")
    (tmp_path / "thesis.tex").write_text("dear to someone")
    with pytest.raises(UserError, match="what lies there is no run"):
        is_finished(tmp_path, "key")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch(runner, tmp_path):
    with pytest.raises(UserError, match=r"step \d: (loss|grad_norm) is (nan|inf)") as caught:
        runner.train(tmp_path / "out", tuning={"max_grad_norm": 1e30}, learning_rate=1e30, save_steps=1)
    (file,) = (tmp_path / "out").glob("not-finite-*.pt")
    assert str(file) in str(caught.value)
    batches = torch.load(file)
    assert sum(len(batch["input_ids"]) for batch in batches) == 8
    last = checkpoints.by_step(tmp_path / "out" / "checkpoints")[-1]
    weights = adapter(last)
    assert all(weight.isfinite().all() for weight in weights.values())


def test_a_full_disk_keeps_the_last_checkpoint(runner, tmp_path, monkeypatch):
    save, calls = torch.save, []

    def full(obj, file, *args, **kwargs):
        calls.append(str(file))
        if "checkpoint-4" in str(file):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        return save(obj, file, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        runner.train(tmp_path / "out", save_steps=2)
    monkeypatch.undo()
    assert any("checkpoint-4" in call for call in calls)
    assert runner.train(tmp_path / "out", save_steps=2).manifest["resumed_from_step"] == 2


def torch_error(file):
    raise RuntimeError(
        "[enforce fail at inline_container.cc:672] . unexpected pos 8448 vs 8342\nframe #0 ..."
    )


def safetensors_error(file):
    from safetensors import SafetensorError

    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def stream_error(file):
    raise RuntimeError("basic_ios::clear: iostream error")


@pytest.mark.parametrize(
    ("module", "name", "fail"),
    [
        ("torch", "save", stream_error),
        ("torch", "save", torch_error),
        ("safetensors.torch", "save_file", safetensors_error),
    ],
)
def test_a_full_disk_is_one_line_whichever_library_meets_it(
    runner, tmp_path, monkeypatch, module, name, fail
):
    import importlib

    owner = importlib.import_module(module)
    save = getattr(owner, name)

    def full(obj, file, *args, **kwargs):
        return fail(file) if "checkpoint-4" in str(file) else save(obj, file, *args, **kwargs)

    monkeypatch.setattr(owner, name, full)
    if module == "safetensors.torch":
        monkeypatch.setattr("peft.peft_model.safe_save_file", full)
    with pytest.raises(UserError, match=r"a file could not be written, with .* MB left") as caught:
        runner.train(tmp_path / "out", save_steps=2)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert runner.train(tmp_path / "out", save_steps=2).manifest["resumed_from_step"] == 2


def test_old_checkpoints_go_only_when_a_newer_is_whole(runner, tmp_path):
    seen = []

    def watch(logs, step):
        folder = tmp_path / "out" / "checkpoints"
        if "loss" in logs:
            seen.append([checkpoints.step_of(path) for path in checkpoints.by_step(folder)])

    runner.train(tmp_path / "out", save_steps=1, keep_checkpoints=2, watch=watch)
    assert seen == [[], [1], [1, 2], [2, 3], [3, 4], [4, 5]]
    assert not (tmp_path / "out" / "checkpoints").exists(), "a finished run needs none"


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_falcon", "tiny_mistral"])
def test_the_result_loads_merges_and_tells_its_story(runner, tmp_path, model):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    trained = runner.train(out, model=model, merge=True)
    job = runner.job(model=model)
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer("What does the cow say?\nAnswer:", return_tensors="pt")["input_ids"]
    assert (
        ids.tolist()
        == job.tokenizer("What does the cow say?\nAnswer:", return_tensors="pt")["input_ids"].tolist()
    )
    with torch.no_grad():
        apart = AutoPeftModelForCausalLM.from_pretrained(out, dtype=torch.float32)(input_ids=ids).logits
        merged = AutoModelForCausalLM.from_pretrained(out / "merged", dtype=torch.float32)(
            input_ids=ids
        ).logits
    torch.testing.assert_close(merged, apart, rtol=1e-4, atol=1e-5)
    manifest = read_manifest(out)
    assert manifest == trained.manifest
    assert (manifest["kind"], manifest["status"], manifest["key"]) == ("adapter", "finished", job.key)
    assert manifest["inputs"] == ["a" * 32, f"{model}-1"]
    store = job.train_tokens()
    learnt = job.order(store).stream[:48]
    assert manifest["counts"]["examples"] == 48
    assert manifest["counts"]["supervised_tokens"] == store.supervised[learnt].sum()
    card = (out / "README.md").read_text()
    assert card.startswith(f"---\nbase_model: {model}\nlibrary_name: peft\n")
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [entry["loss"] for entry in history if "loss" in entry] == losses(trained)
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "adapter_model.safetensors",
        "adapter_config.json",
        "tokenizer.json",
        "manifest.json",
        "merged",
    }
    assert not names & {"training_args.bin", "checkpoints", "tokens", "run.json"}


def test_the_key_follows_what_decides_the_weights(runner):
    key = runner.job().key
    assert runner.job(save_steps=7, eval_steps=2, merge=True).key == key
    changed = [
        {"seed": 1},
        {"learning_rate": 1e-3},
        {"max_length": 64},
        {"model": "tiny_mistral"},
        {"batch_size": 4},
    ]
    changed += [{"tuning": {"lora_r": 5}}, {"separator": "\n"}]
    assert len({runner.job(**change).key for change in changed} | {key}) == len(changed) + 1


def test_the_separator_is_the_mixtures_unless_the_command_names_one(runner, tmp_path):
    plain = runner.job()
    assert plain.deciding["separator"] == " "
    assert runner.job(separator=" ").key == plain.key
    shutil.copytree(runner.mixture, tmp_path / "lines")
    manifest = {"kind": "mixture", "key": "a" * 32, "config": {"separator": "\n"}}
    write_manifest(tmp_path / "lines", manifest)
    runner.mixture = tmp_path / "lines"
    job = runner.job()
    assert job.deciding["separator"] == "\n"
    newline = job.tokenizer("\n", add_special_tokens=False)["input_ids"][-1]
    for store in (job.train_tokens(), *job.validation_tokens().values()):
        ids, mask = store[0]
        assert ids[mask][0] == newline
    assert runner.job(separator=" ").key == plain.key


def test_a_training_that_was_not_logged_is_logged_by_the_same_call(runner, tmp_path, monkeypatch):
    steps: list[int] = []
    summary: dict[str, object] = {}

    class Run:
        dir = "/somewhere/files"

        def __init__(self) -> None:
            self.summary = summary

        def log(self, values, step=None):
            steps.append(step)

        def log_artifact(self, artifact):
            pass

        def finish(self, exit_code=0):
            pass

    def refuse(**_):
        raise OSError("away")

    config = runner.job(output=tmp_path / "adapter", tracker=Tracker("online")).config
    config = replace(config, composed=Composition(choices={"model": "tiny_llama", "tuning": "lora"}))
    monkeypatch.setattr("wandb.init", refuse)
    assert not train(config).found
    assert steps == []
    monkeypatch.setattr("wandb.init", lambda **_: Run())
    assert train(config).found
    assert sorted({step for step in steps if step}) == list(range(1, 7))
    assert summary["steps"] == 6
    steps.clear()
    assert train(config).found
    assert steps == [], "once"
