"""The kit for GPUs, on tiny models and a CPU: what it keeps, when it stops, and that each part runs."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import correct, report, shapes, train
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.options import PARTS, Options
from benchmarks.gpu.results import (
    FAILED,
    MEMORY,
    MISSING,
    OK,
    REFUSED,
    Measurement,
    Results,
    in_turns,
    read_lines,
)
from benchmarks.gpu.runner import guarded, in_a_child, run
from smart.config import UserError

MACHINE = {"gpu": "NVIDIA H100", "commit": "abc", "versions": {"torch": "2.13.0"}}
A, B = (
    Measurement("train", "m/qlora", "smart", seconds=50),
    Measurement("train", "m/qlora", "trl", seconds=50),
)


class Clock:
    """A clock that measurements move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def measured(
    results: Results,
    wanted: list[Measurement],
    minutes: float,
    seconds: float = 40,
    ended: Any = (OK, {"x": 1}),
) -> tuple[list[str], list[Measurement]]:
    """Names of what was measured, and what there was no time for."""
    clock, made = Clock(), list[str]()

    def measure(one: Measurement, left: float) -> Any:
        made.append(f"{one.contender}{one.repeat}")
        clock.now += seconds
        return ended

    late = run(wanted, results, minutes, measure, seed=0, tell=lambda _: None, clock=clock)
    return made, late


def test_contenders_take_turns_and_what_is_in_the_file_is_not_repeated(tmp_path):
    file, wanted = tmp_path / "gpu.jsonl", in_turns([A, B], 3)
    made, late = measured(Results(file, MACHINE, tiny=False), wanted, minutes=2.5)
    assert made == [
        "smart0",
        "trl0",
        "smart1",
    ]  # 50 s were expected, then 1.2 times 40 s: a fourth would not fit
    assert [f"{one.contender}{one.repeat}" for one in late] == ["trl1", "smart2", "trl2"]
    made, late = measured(Results(file, MACHINE, tiny=False), wanted, minutes=60)
    assert (made, late) == (["trl1", "smart2", "trl2"], [])
    assert measured(Results(file, MACHINE, tiny=False), wanted, minutes=60) == ([], [])
    assert len(measured(Results(file, {**MACHINE, "gpu": "NVIDIA A100"}, tiny=False), wanted, 60)[0]) == 6
    assert len(measured(Results(file, MACHINE, tiny=True), wanted, 60)[0]) == 6


def test_a_line_that_was_torn_is_measured_again(tmp_path):
    file = tmp_path / "gpu.jsonl"
    measured(Results(file, MACHINE, tiny=False), [A, B], minutes=60)
    file.write_bytes(file.read_bytes()[:-20])
    made, _ = measured(Results(file, MACHINE, tiny=False), [A, B], minutes=60)
    assert made == ["trl0"]
    assert [line["contender"] for line in read_lines(file)] == ["smart", "trl"]


@pytest.mark.parametrize(("status", "again"), [(MEMORY, 0), (REFUSED, 0), (FAILED, 1), (MISSING, 1)])
def test_what_cannot_be_measured_is_not_tried_three_times(tmp_path, status, again):
    """Nor ever again, where the reason is the GPU's size or ours; an error may have been fixed since."""
    file, wanted = tmp_path / "gpu.jsonl", in_turns([A], 3)
    made, _ = measured(Results(file, MACHINE, tiny=False), wanted, 60, ended=(status, {"reason": "no"}))
    assert made == ["smart0"]
    assert len(measured(Results(file, MACHINE, tiny=False), wanted, 60, ended=(status, {}))[0]) == again


def test_a_package_that_is_not_there_costs_no_process(tmp_path):
    results = Results(tmp_path / "gpu.jsonl", MACHINE, tiny=False)
    made, _ = measured(results, [Measurement("train", "m", needs=("no_such_package", "torch"))], 60)
    assert made == []
    assert results.lines[0]["status"] == MISSING
    assert results.lines[0]["result"] == {"missing": "no_such_package"}


def test_how_a_measurement_ended_is_told_apart():
    import torch

    def ends(error: Exception) -> str:
        def measure() -> dict[str, Any]:
            raise error

        return guarded(measure)[0]

    assert ends(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")) == MEMORY
    assert ends(UserError("packing=true: no")) == REFUSED
    assert ends(ModuleNotFoundError("No module named 'hydra'", name="hydra")) == MISSING
    assert ends(ValueError("wrong")) == FAILED
    assert guarded(lambda: {"a": 1}) == (OK, {"a": 1})


def test_a_process_is_killed_when_the_time_is_over(tmp_path):
    program = (
        "import pathlib, subprocess, time; started = subprocess.Popen(['sleep', '60']);"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(started.pid)); time.sleep(60)"
    )
    started = time.monotonic()
    assert in_a_child([sys.executable, "-S", "-c", program], tmp_path, {})(A, 1.0) is None
    assert time.monotonic() - started < 10
    stat = Path("/proc", (tmp_path / "pid").read_text(), "stat")  # of what it had started
    while (
        stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
    ):  # dies of its signal in a moment
        assert time.monotonic() - started < 30
        time.sleep(0.01)


def test_a_process_that_dies_is_told_with_what_it_said(tmp_path):
    program = "print('no such kernel'); raise SystemExit(3)"
    status, result = in_a_child([sys.executable, "-S", "-c", program], tmp_path, {})(A, 60)  # type: ignore[misc]
    assert (status, result["error"], result["log"]) == (
        FAILED,
        "the process ended with 3",
        "no such kernel\n",
    )


def test_shapes_are_those_of_the_published_models():
    import torch
    from transformers import AutoModelForCausalLM

    def size(shape: str, layers: int) -> int:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(shapes.config_of(shape, layers=layers))
        return sum(weight.numel() for weight in model.parameters())

    sizes = {"llama2_7b": 6_738_415_616, "mistral_7b": 7_241_732_096, "falcon_7b": 6_921_720_704}
    for shape in shapes.SHAPES:
        assert shapes.config_of(shape).num_hidden_layers == 32
        assert size(shape, 1) + 31 * (size(shape, 2) - size(shape, 1)) == sizes[shape]


def test_a_model_without_files_is_loaded_as_any_other(tmp_path):
    """Every linear layer in 4 bits, and the same weights each time, in every dtype."""
    import torch

    from smart.model import ModelOptions
    from smart.model.base import find_base
    from smart.model.load import load_model

    folder = shapes.model_folder(tmp_path, "falcon_7b", tiny=True)
    base = find_base(ModelOptions(str(folder)))
    with shapes.random_weights():
        load_model(base, str(folder), dtype="bfloat16", four_bit=True)  # counts them itself
        first, second = (load_model(base, str(folder), dtype=dtype) for dtype in ("float32", "bfloat16"))
    weights = dict(second.named_parameters())
    for name, weight in first.named_parameters():
        assert torch.equal(weight, weights[name].float()), name
    assert float(
        first.get_parameter("transformer.h.0.mlp.dense_h_to_4h.weight").detach().std()
    ) == pytest.approx(shapes.SPREAD, rel=0.05)


def test_rows_have_the_lengths_of_real_ones(tmp_path):
    import pyarrow.parquet as pq

    real = np.array(shapes.lengths())
    assert real.shape == (512, 2)
    assert (np.diff(real.sum(1)) >= 0).all()
    table = pq.read_table(shapes.write_rows(tmp_path / "rows.parquet", 400, seed=0, vocabulary=700))
    lengths = np.array(
        [[len(text.split()) for text in table[name].to_pylist()] for name in ("prompt", "response")]
    )
    assert lengths.sum(0).mean() == pytest.approx(real.sum(1).mean(), rel=0.15)
    tokenizer = shapes.word_tokenizer(700)
    assert tokenizer("w5 w699 w3")["input_ids"] == [5, 699, 3]


def test_the_clock_starts_after_the_first_steps_and_counts_what_follows():
    import torch

    clock = Clock()
    watch = train.StepWatch(1, 2, clock)
    for step in range(3):
        for _ in range(2):
            labels = torch.tensor([[-100, 4, 5], [-100, -100, 6]])
            batch = {
                "input_ids": labels.abs(),
                "attention_mask": torch.tensor([[1, 1, 1], [0, 1, 1]]),
                "labels": labels,
            }
            watch.micro_batch(lambda: None, batch)
        clock.now += 10.0 if step == 0 else 2.0
        watch.step()
    assert watch.seconds == 4
    assert [sum(float(count[part]) for count in watch._counts) for part in range(3)] == [20, 12, 24]


def test_operations_are_those_of_a_plain_count(kit):
    job = train.make_job("llama2_7b/lora", kit, ())
    # Two layers of width 64: four square projections and three of 64 by 128; a head of 768 words.
    linear, lengths = 2 * (4 * 64 * 64 + 3 * 64 * 128), np.array([2, 4])
    forward_and_backward = 4 * linear * 6 + 4 * 64 * 768 * 3
    attention = 3 * 2 * (2 * 64) * (2 * 2 + 4 * 4)  # forward over half of all pairs, backward twice of that
    assert train.model_flops(job, 6, 3, lengths) == forward_and_backward + attention


def test_the_plan_of_memory_is_read(kit):
    """From what plan=true prints."""
    job = train.make_job("llama2_7b/lora", kit, ())
    planned = train.planned_memory(job)
    assert planned is not None
    assert 1e5 < planned < 1e9


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> Options:
    return Options(tmp_path_factory.mktemp("kit"), tiny=True, here=True)


def lines_of(kit: Options, part: str, *words: str) -> list[dict[str, Any]]:
    """What a part measures of what has all the words in its name, in this process."""
    file = kit.scratch / f"{part}-{len(list(kit.scratch.iterdir()))}.jsonl"
    given = [
        part,
        "--tiny",
        "--here",
        "--scratch",
        str(kit.scratch),
        "--results",
        str(file),
        "--repeats",
        "1",
    ]
    assert main([*given, "--minutes", "5", "--only", *words]) == 0
    lines = list(read_lines(file))
    assert lines
    assert {line["status"] for line in lines} == {OK}, lines
    return lines


@pytest.mark.parametrize("words", [("qlora smart #1",), ("qlora trl, packed #1",)], ids=["ours", "trl"])
def test_training_is_measured(kit, words):
    (line,) = lines_of(kit, "train", *words)
    result = line["result"]
    assert 0 < result["supervised_per_second"] < result["tokens_per_second"]
    assert result["padding"] >= 1
    assert set(line["machine"]["versions"]) >= {"torch", "transformers", "trl"}


def test_gradients_are_compared_with_the_cpu(kit, monkeypatch):
    """Here with itself, so float32 is equal but for the order of sums, and bfloat16 is not."""
    few = ("float32 with a mask", "float32 packed", "bfloat16")
    monkeypatch.setattr(correct, "VARIANTS", {name: correct.VARIANTS[name] for name in few})
    (line,) = lines_of(kit, "correct", "gradients/llama2_7b")
    found = line["result"]
    assert all(one["passed"] for one in found.values())
    assert list(found) == list(few)
    assert max(found[name]["gradients"] for name in few[:2]) < 1e-6 < found["bfloat16"]["gradients"]


def test_a_wrong_gradient_is_seen():
    import torch

    reference = {"a": torch.tensor([3.0, 4.0]), "b": torch.zeros(2)}
    assert (
        correct.distance_of({"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.0, 1.0])}, reference) == 0.2
    )
    with pytest.raises(ValueError, match="gradients of 1"):
        correct.distance_of({"a": torch.zeros(2)}, reference)


def test_a_mask_covers_what_follows_the_end_of_a_row():
    import torch

    ids = torch.tensor([[5, 6, 2, 2, 2], [5, 2, 6, 7, 2], [5, 6, 7, 8, 9]])
    mask = correct.mask_padding({"input_ids": ids, "use_cache": False}, pad=2)["attention_mask"]
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]


def test_plain_attention_is_told_from_fused():
    assert correct.is_fused(
        ["aten::_scaled_dot_product_flash_attention", "aten::scaled_dot_product_attention"]
    )
    assert not correct.is_fused(
        ["aten::_scaled_dot_product_attention_math", "aten::scaled_dot_product_attention"]
    )
    assert not correct.is_fused([])


def test_our_losses_are_trls(kit):
    ours, theirs = (line["result"]["losses"] for line in lines_of(kit, "smollm", "losses"))
    assert len(ours) == 6
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_answers_are_timed_and_those_of_lm_eval(kit):
    (line,) = lines_of(kit, "evaluate", "equality")
    assert line["result"]["passed"]
    (line,) = lines_of(kit, "evaluate", "generate/8", "bfloat16, merged")
    assert line["result"]["new_tokens_per_second"] > 0


def test_documents_are_encoded(kit):
    (line,) = lines_of(kit, "encode", "batch_size=64")
    assert line["result"]["documents_per_second"] > 0


@pytest.mark.full
@pytest.mark.parametrize("part", PARTS)
def test_every_measurement_of_a_part_runs(kit, part, tmp_path):
    given = [
        part,
        "--tiny",
        "--here",
        "--scratch",
        str(kit.scratch),
        "--results",
        str(tmp_path / "gpu.jsonl"),
    ]
    assert main([*given, "--repeats", "1"]) == 0
    lines = list(read_lines(tmp_path / "gpu.jsonl"))
    assert {line["status"] for line in lines} <= {OK, MISSING, REFUSED}, lines
    assert all(line["result"].get("passed", True) for line in lines)


@pytest.mark.full
def test_a_command_measures_in_processes(tmp_path):
    """Also the run that is killed, which kills its own process."""
    given = [
        "correct",
        "--tiny",
        "--scratch",
        str(tmp_path / "scratch"),
        "--results",
        str(tmp_path / "gpu.jsonl"),
    ]
    assert main([*given, "--only", "resume"]) == 0
    (line,) = read_lines(tmp_path / "gpu.jsonl")
    assert line["result"] == {"same_bytes": True, "losses_apart": 0.0, "passed": True}


def test_without_a_gpu_nothing_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.gpu.results.gpu_name", lambda: None)
    with pytest.raises(SystemExit, match="no GPU here"):
        main(["train", "--results", str(tmp_path / "gpu.jsonl"), "--scratch", str(tmp_path)])


def line_of(contender: str, repeat: int, **changed: Any) -> dict[str, Any]:
    made = {
        "part": "train",
        "case": "mistral_7b/qlora",
        "contender": contender,
        "repeat": repeat,
        "status": OK,
        "result": {"tokens_per_second": 1000.0 * (repeat + 1), "peak": 12_340_000_000, "mfu": 0.412},
        "seconds": 60.0,
        "seed": 0,
        "date": "2026-11-28T12:00:00+00:00",
        "machine": MACHINE,
        "tiny": False,
    }
    return {**made, **changed}


def test_the_report_has_medians_and_says_what_was_not_run(tmp_path):
    page, results = tmp_path / "performance.md", tmp_path / "gpu.jsonl"
    page.write_text(f"# Performance\n{report.BEGIN}\nold\n{report.END}\nrest\n")
    report.write(results, page)
    assert page.read_text() == f"# Performance\n{report.BEGIN}\n{report.NOT_RUN}\n{report.END}\nrest\n"

    tiny = line_of("smart", 0, tiny=True, case="tiny")
    too_large = line_of("trl", 0, status=MEMORY, result={"reason": "CUDA out of memory"})
    lines = [*(line_of("smart", repeat) for repeat in (0, 2, 1)), too_large, tiny]
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report.write(results, page)
    text = page.read_text()
    assert "old" not in text
    assert text.endswith(f"{report.END}\nrest\n")
    assert "### NVIDIA H100\n\nWith torch 2.13.0." in text
    assert "| mistral_7b/qlora | smart | 2,000 | 12.3 GB | 41.2% | 3 | abc | 2026-11-28 |" in text
    assert "| mistral_7b/qlora | trl | out of memory: CUDA out of memory |" in text
    assert "(`python -m benchmarks.gpu train`)" in text
    assert "**Encoding**: not run." in text
    assert "tiny" not in text
    page.write_text("# no marks")
    with pytest.raises(UserError, match="has no lines"):
        report.write(results, page)


def test_the_report_says_who_is_ahead_and_how_far_losses_lie_apart():
    def rate(contender: str, value: float) -> dict[str, Any]:
        return line_of(contender, 0, result={"tokens_per_second": value})

    lines = [
        rate("smart", 100.0),
        rate("smart, by tokens", 150.0),
        rate("trl", 90.0),
        rate("trl, packed", 120.0),
    ]
    for name, losses in (("smart", [2.0, 1.0]), ("trl", [2.0, 1.25])):
        lines.append(line_of(name, 0, part="smollm", case="losses", result={"losses": losses}))
    text = report.render(lines)
    assert "- mistral_7b/qlora: 1.25 times TRL's best (smart, by tokens beside trl, packed)" in text
    assert "lie at most 0.2 of their size apart, over 2 steps." in text


def test_the_page_is_what_the_results_say():
    """docs/performance.md is made again whenever the results change."""
    root = Path(__file__).resolve().parents[2]
    text = (root / "docs" / "performance.md").read_text()
    section = text.partition(report.BEGIN)[2].partition(report.END)[0].strip("\n")
    assert section == report.render(read_lines(root / "benchmarks" / "results" / "gpu.jsonl"))
