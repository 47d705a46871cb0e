"""The command itself, in processes of its own: killed, launched, swept, refused."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smart.config import ConfigError, compose, read_config
from smart.training import TrainConfig
from tests.commands import ROOT, python

TINY = [
    "model=tiny_llama",
    "tuning.dtype=float32",
    "tuning.lora_r=4",
    "tuning.checkpoint_activations=false",
    "tracker.mode=disabled",
    "batch_size=8",
    "micro_batch_size=4",
    "max_steps=8",
    "save_steps=2",
    "learning_rate=0.005",
]


@pytest.fixture
def arguments(mixture, tmp_path) -> list[str]:
    return [f"mixture={mixture}", f"output_root={tmp_path / 'outputs'}", *TINY]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **extra}


def run(*command: str, code: int = 0, cwd: Path = ROOT, **extra: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [python(), *command],
        cwd=cwd,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def torchrun(
    *arguments: str, processes: int = 2, code: int = 0, script: str = "train.py"
) -> subprocess.CompletedProcess[str]:
    return run(
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={processes}",
        script,
        *arguments,
        code=code,
    )


def result(outputs: Path) -> Path:
    (folder,) = (path for path in (outputs / "adapters").iterdir() if path.is_dir())
    return folder


def losses(folder: Path, key: str = "loss") -> list[float]:
    entries = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [entry[key] for entry in entries if key in entry]


def assert_equal(first: Path, second: Path) -> None:
    assert losses(first) == losses(second)
    assert (first / "adapter_model.safetensors").read_bytes() == (
        second / "adapter_model.safetensors"
    ).read_bytes()


def test_plan_tells_all_and_writes_nothing(arguments, tmp_path):
    done = run("train.py", *arguments, "plan=true")
    for word in (
        "rows",
        "dropped",
        "supervised",
        "steps",
        "trainable",
        "adapters",
        "optimiser",
        "peak memory",
    ):
        assert word in done.stdout
    assert not (tmp_path / "outputs").exists()


def test_two_processes_learn_what_one_does_and_one_folder_is_written(arguments, tmp_path):
    same = [*arguments, "tuning.lora_dropout=0", "max_steps=3"]
    run("train.py", *same, f"output={tmp_path / 'one'}")
    done = torchrun(*same, f"output={tmp_path / 'two'}", "tracker.mode=offline")
    assert done.stdout.count("Adapter: ") == 1
    (record,) = (tmp_path / "outputs").rglob("*.wandb")  # of the main process alone
    logged = record.read_bytes()
    for part in (
        b"select.budget",
        b"train.model",
        b"train.tuning.lora_r",
        b"animals",
        b"train/loss",
        b"eval/loss/cot",
    ):
        assert part in logged
    one, two = tmp_path / "one", tmp_path / "two"
    for key in ("loss", "grad_norm", "eval_loss", "eval_loss/cot"):
        assert losses(two, key) == pytest.approx(losses(one, key), rel=1e-5)
    assert json.loads((two / "manifest.json").read_text())["processes"] == 2
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    # Adam's first steps amplify rounding where a gradient is nearly zero.
    assert all(torch.allclose(ours[name], theirs[name], atol=2e-3) for name in ours)
    assert not list(tmp_path.glob("outputs/adapters/*/*")), "with output=, nothing lies elsewhere"


# Merges when the other process has left, and tells how long the group would have waited.
PATIENT = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, os.getcwd())
left = Path(__file__).with_name("left")
from smart.training import fit
merge = fit.merge_adapters
def patient(*arguments, **options):
    for _ in range(600):
        if left.exists():
            return merge(*arguments, **options)
        time.sleep(0.1)
    raise SystemExit("the other process waits for the merge")
fit.merge_adapters = patient
from smart.cli.train import main
try:
    main()
finally:
    import torch
    group = torch.distributed.distributed_c10d._get_default_group()
    if group.rank() == 1:
        left.write_text(str(group._get_backend(torch.device("cpu")).options._timeout.total_seconds()))
"""


def test_two_processes_have_the_gradients_of_one(arguments, tmp_path):
    """One step of plain gradient descent moves each weight by its gradient; and none waits while one merges."""
    script = tmp_path / "patient.py"
    script.write_text(PATIENT)
    descent = ["optimizer=sgd", "schedule=constant", "warmup=0", "max_grad_norm=1e9", "lora_dropout=0"]
    same = [*arguments, *(f"tuning.{value}" for value in descent), "learning_rate=1", "max_steps=1"]
    run("train.py", *same, f"output={tmp_path / 'one'}")
    torchrun(*same, f"output={tmp_path / 'two'}", "merge=true", "ddp_timeout=77", script=str(script))
    assert (tmp_path / "left").read_text() == "77.0"
    assert (tmp_path / "two" / "merged" / "model.safetensors").is_file()
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    for name in one:
        assert "lora_A" in name or one[name].any()  # these begin at 0, so they hold minus their gradient
        assert (one[name] - two[name]).abs().max() <= 1e-5 * one[name].abs().max()


def test_accelerate_launches_it(arguments, tmp_path):
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes=1"]
    done = run(*launch, "train.py", *arguments, "max_steps=1", f"output={tmp_path / 'out'}")
    assert f"evaluate.py adapter={tmp_path / 'out'}" in done.stdout
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["status"] == "finished"


@pytest.mark.full
def test_accelerate_launches_it_sharded(arguments, tmp_path):
    launch = ["-m", "accelerate.commands.launch", f"--config_file={ROOT / 'conf/accelerate/fsdp.yaml'}"]
    launch += ["--num_processes=2", "--main_process_port=0"]
    run(*launch, "train.py", *arguments, "max_steps=1", f"output={tmp_path / 'out'}", SMART_SHARD_CPUS="1")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["processes"], manifest["status"]) == (2, "finished")


def test_a_sweep_starts_one_distributed_job_per_run(arguments, tmp_path):
    done = run("train.py", "-m", *arguments, "seed=1,2", "max_steps=2", "launch=ddp", "num_processes=2")
    folders = sorted((tmp_path / "outputs" / "adapters").glob("[!.]*"))
    assert len(folders) == 2
    for folder in folders:
        manifest = json.loads((folder / "manifest.json").read_text())
        assert (manifest["processes"], manifest["status"]) == (2, "finished")
    assert "2 done, 0 failed" in done.stdout
    assert done.stdout.count("Adapter: ") == 2, "the processes say it, and who started them does not again"


def test_a_sweep_under_a_launcher_is_refused(arguments):
    done = run("train.py", "-m", *arguments, "seed=1,2", code=1, LOCAL_RANK="0", WORLD_SIZE="8", RANK="0")
    assert "launch=ddp num_processes=8" in done.stderr
    assert "Traceback" not in done.stderr


def test_mistakes_are_one_line_each(arguments):
    done = run("train.py", *arguments, "model=tiny_lama", code=1)
    assert "Did you mean tiny_llama?" in done.stderr
    done = run("train.py", *arguments[1:], "batch_size=10", code=1)
    assert done.stderr.strip().startswith("train: mixture=null: needs a folder")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("launch=dpp", "launch=dpp: must be one of ddp, fsdp, or null; did you mean ddp?"),
        ("launch=fsdp_qlora", "launch=fsdp_qlora: is launch=fsdp now"),
        ("model=auto", "model.name=???: must be a hub name or a folder"),
        ("batch_size=abc", "batch_size=abc: must be a whole number, at least 1"),
        ("tuning.schedule=cosin", "tuning.schedule=cosin: no such schedule. Did you mean cosine?"),
    ],
)
def test_a_wrong_value_is_named_before_any_work(arguments, wrong, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        read_config(TrainConfig, compose("train", [*arguments, wrong]))


# Dies in the middle of its work: so many micro-batches and so much processor time after it began to train.
MORTAL = """
import os, signal, sys
sys.path.insert(0, os.getcwd())
from transformers import Trainer
left, seconds = int(sys.argv.pop(1)), float(sys.argv.pop(1))
step = Trainer.training_step
def mortal(*arguments, **options):
    global left
    left -= 1
    if left == 0:
        signal.setitimer(signal.ITIMER_PROF, seconds)
    return step(*arguments, **options)
Trainer.training_step = mortal
from smart.cli.train import main
main()
"""


def check_kills(arguments: list[str], whole: Path, folder: Path, kills: int) -> None:
    """Killed again and again, at a moment of its own progress: no clock and no other load decides which."""
    script = folder.with_name("mortal.py")
    script.write_text(MORTAL)
    rng = random.Random(0)
    command = [*arguments, f"output={folder}"]
    for _ in range(kills):
        moment = [str(rng.randint(1, 3)), str(rng.uniform(0.001, 0.02))]
        run(str(script), *moment, *command, code=-signal.SIGPROF)
    run("train.py", *command)
    assert_equal(whole, folder)


SHORT = ["save_steps=1", "max_steps=5"]


@pytest.fixture(scope="module")
def whole(mixture, tmp_path_factory) -> Path:
    """A short run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    run("train.py", f"mixture={mixture}", f"output_root={folder}", *TINY, *SHORT, f"output={folder / 'run'}")
    return folder / "run"


def test_killed_anywhere_the_same_command_ends_bit_equal(arguments, whole, tmp_path):
    check_kills([*arguments, *SHORT], whole, tmp_path / "killed", kills=2)


@pytest.mark.full
@pytest.mark.parametrize("tuning", ["qlora", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", ["tiny_llama", "tiny_falcon", "tiny_mistral"])
def test_killed_at_twenty_points_the_same_command_ends_bit_equal(arguments, tmp_path, tuning, dtype, model):
    changed = [f"model={model}", f"tuning={tuning}", f"tuning.dtype={dtype}", "save_steps=1", "max_steps=30"]
    run("train.py", *arguments, *changed, f"output={tmp_path / 'whole'}")
    check_kills([*arguments, *changed], tmp_path / "whole", tmp_path / "killed", kills=20)


@pytest.mark.full
@pytest.mark.parametrize("model", ["tiny_llama", "tiny_falcon", "tiny_mistral"])
def test_two_processes_in_4_bits_stopped_by_a_signal_go_on_and_merge(arguments, tmp_path, model):
    changed = [*arguments, f"model={model}", "merge=true", "max_steps=40", "launch=ddp", "num_processes=2"]
    run("train.py", *changed, f"output={tmp_path / 'whole'}")
    folder = tmp_path / "stopped"
    process = subprocess.Popen(
        [python(), "train.py", *changed, f"output={folder}"], cwd=ROOT, env=environment()
    )
    while process.poll() is None and not list(folder.glob("checkpoints/checkpoint-*/manifest.json")):
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 130
    assert json.loads((folder / "manifest.json").read_text())["status"] == "interrupted"
    run("train.py", *changed, f"output={folder}")
    assert_equal(tmp_path / "whole", folder)
    assert (folder / "merged" / "model.safetensors").exists()


@pytest.mark.full
@pytest.mark.parametrize(
    ("model", "tuning"), [("tiny_llama", "qlora"), ("tiny_falcon", "full"), ("tiny_mistral", "lora")]
)
def test_two_processes_that_shard_killed_anywhere_go_on_bit_equal(
    arguments, tmp_path, monkeypatch, model, tuning
):
    monkeypatch.setenv("SMART_SHARD_CPUS", "1")
    changed = [
        *arguments,
        f"model={model}",
        f"tuning={tuning}",
        "tuning.dtype=bfloat16",
        *SHORT,
        "launch=fsdp",
    ]
    torchrun(*changed, f"output={tmp_path / 'whole'}")
    script, folder = tmp_path / "mortal.py", tmp_path / "killed"
    script.write_text(MORTAL)
    for batches in ("2", "3"):
        torchrun(batches, "0.01", *changed, f"output={folder}", script=str(script), code=1)
        assert not (folder / "manifest.json").exists()
    torchrun(*changed, f"output={folder}")
    assert losses(tmp_path / "whole") == losses(folder)
    for file in folder.glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "whole" / file.name).read_bytes()


@pytest.mark.full
def test_two_machines_share_a_run_and_refuse_folders_that_they_do_not_share(arguments, tmp_path):
    """Each torchrun stands for a machine, and would see the other's folder if it had its name."""

    def machines(*outputs: Path) -> list[tuple[int, str]]:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        rendezvous = ["--rdzv_backend=c10d", f"--rdzv_endpoint=localhost:{port}", "--rdzv_id=1"]
        launcher = [python(), "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", *rendezvous]
        started = [
            subprocess.Popen(
                [*launcher, f"--node_rank={number}", "train.py", *arguments, "max_steps=2", f"output={output}"],
                cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for number, output in enumerate(outputs)
        ]  # fmt: skip
        said = [process.communicate(timeout=300)[0] for process in started]
        return [(process.returncode, text) for process, text in zip(started, said, strict=True)]

    shared = machines(tmp_path / "run", tmp_path / "run")
    assert [code for code, _ in shared] == [0, 0], shared
    assert "".join(text for _, text in shared).count("Adapter: ") == 1
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["processes"] == 2
    again = machines(tmp_path / "run", tmp_path / "run")
    assert [code for code, _ in again] == [0, 0], again
    assert "".join(text for _, text in again).count("Trained before") == 1
    apart = machines(tmp_path / "a" / "run", tmp_path / "b" / "run")
    assert [code for code, _ in apart] == [1, 1]
    assert all("does not see what" in text for _, text in apart)
    assert not [path for path in tmp_path.glob("[ab]/*") if not path.name.endswith(".lock")]
