"""In which precision and in which batches a model answers: recorded, kept apart, and refused where it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from smart.config import ConfigError, UserError, deciding
from smart.evaluation import scoring
from smart.evaluation.config import GenerationOptions
from smart.evaluation.metrics import ADDED_SETTINGS
from smart.evaluation.model_under_test import Precision, find_model, load_lm
from smart.evaluation.scoring import check_device
from smart.model import find_base
from smart.model.adapters import merge_adapters
from smart.runtime.gpu import device_name, emulates_bfloat16, has_tensor_types, tf32
from smart.runtime.processes import Processes
from tests.evaluation.examples import make_job, texts
from tests.evaluation.test_run import counting

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def score(job: Any, folder: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Results, and the samples by column."""
    result = scoring.score(job, folder, Processes(), CPU)
    return result, pq.read_table(folder / "samples.parquet").to_pydict()


def likelihoods(samples: dict[str, list[Any]]) -> np.ndarray:
    return np.concatenate([row for row in samples["likelihoods"] if row])


def test_what_was_added_is_in_no_key_at_its_default():
    """Stored answers and scores keep their names."""
    assert set(deciding(Precision())) == {"dtype", "four_bit", "batch_size", "max_length"}
    defaults = {name: getattr(Precision(), name) for name in ADDED_SETTINGS}
    assert defaults == ADDED_SETTINGS
    changed = Precision(adapter_dtype="bfloat16", merged=True, tf32=True, generation_batch_size=32)
    assert set(deciding(changed)) == {"dtype", "four_bit", "batch_size", "max_length", *ADDED_SETTINGS}


def test_answers_are_generated_in_batches_of_their_own(model, benchmarks, cache, tmp_path, monkeypatch):
    plain, before = score(make_job(model, benchmarks, cache), tmp_path / "plain")
    job = make_job(model, benchmarks, cache, generation=GenerationOptions(batch_size=6))
    seen = counting(monkeypatch)
    result, samples = score(job, tmp_path / "larger")
    assert seen[-1] == 6  # all of them at once, where the likelihoods are asked four prompts at once as ever
    assert len(seen) > 2
    assert result["model"]["generation_batch_size"] == 6
    assert "generation_batch_size" not in plain["model"]
    assert samples["responses"] == before["responses"]
    assert samples["likelihoods"] == before["likelihoods"]


def test_merged_adapters_answer_as_the_merged_model(model, adapter, benchmarks, cache, tmp_path):
    _, beside = score(make_job(None, benchmarks, cache, adapter=adapter, limit=2), tmp_path / "beside")
    job = make_job(None, benchmarks, cache, adapter=adapter, merged=True, limit=2)
    result, merged = score(job, tmp_path / "merged")
    assert result["model"]["merged"]
    merge_adapters(find_base(job.model.base.options), str(model), adapter, tmp_path / "model", "float32")
    _, whole = score(
        make_job(None, benchmarks, cache, adapter=tmp_path / "model", limit=2), tmp_path / "whole"
    )
    assert merged["likelihoods"] == whole["likelihoods"]
    assert merged["responses"] == whole["responses"]
    apart = np.abs(likelihoods(merged) - likelihoods(beside)).max()
    assert 0 < apart < 1e-3


def test_merged_is_never_in_4_bits(adapter):
    assert not find_model(None, adapter, Precision(merged=True)).four_bit
    assert find_model(None, adapter, Precision(four_bit=True)).four_bit


def test_adapters_are_computed_as_the_model_where_asked(adapter, benchmarks, cache, tmp_path):
    found = {}
    for dtype in ("float32", "bfloat16"):
        job = make_job(
            None, benchmarks, cache, adapter=adapter, dtype="bfloat16", adapter_dtype=dtype, limit=3
        )
        result, samples = score(job, tmp_path / dtype)
        assert result["model"].get("adapter_dtype", "float32") == dtype
        found[dtype] = likelihoods(samples)
        lm = load_lm(job.model, job.model.tokenizer(texts), tmp_path / "models", CPU)
        adapted = {str(weight.dtype) for name, weight in lm.model.named_parameters() if ".lora_" in name}
        assert adapted == {f"torch.{dtype}"}
    assert 0 < np.abs(found["float32"] - found["bfloat16"]).max() < 0.5


def test_what_cannot_be_is_refused(model, adapter, benchmarks, cache):
    with pytest.raises(ConfigError, match=r"2 values[^$]*merging into 4 bits[^$]*have the type of the model"):
        make_job(
            None, benchmarks, cache, adapter=adapter, merged=True, four_bit=True, adapter_dtype="bfloat16"
        )
    with pytest.raises(ConfigError, match="bfloat16: is coarser than the model's float32"):
        make_job(None, benchmarks, cache, adapter=adapter, adapter_dtype="bfloat16")
    for asked in ({"merged": True}, {"adapter_dtype": "bfloat16", "dtype": "bfloat16"}):
        with pytest.raises(UserError, match=r"(merged=true|adapter_dtype=bfloat16): \w+ has no adapters"):
            make_job(model, benchmarks, cache, **asked)
    with pytest.raises(UserError, match=r"tf32=true: cpu does not have it; GPUs from Ampere"):
        check_device(make_job(model, benchmarks, cache, tf32=True), CPU)


@pytest.mark.parametrize(
    ("name", "capability", "has"), [("Tesla T4", (7, 5), False), ("NVIDIA A100", (8, 0), True)]
)
def test_a_gpu_is_known_by_name_and_by_what_it_computes_itself(monkeypatch, name, capability, has):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)  # which counts emulation
    assert (device_name(GPU), device_name(CPU)) == (name, "cpu")
    assert has_tensor_types(GPU) is has
    assert emulates_bfloat16(GPU) is not has
    assert not emulates_bfloat16(CPU)


def test_tf32_ends_with_the_answers():
    before = torch.get_float32_matmul_precision()
    with tf32(False):
        assert torch.get_float32_matmul_precision() == before
    with tf32(True):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
