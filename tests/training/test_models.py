"""Models that need more than a name: told before work, or trained as they should be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from smart.config import ConfigError, UserError
from smart.model import ModelOptions
from smart.training.config import TrainConfig
from smart.training.job import World, prepare
from tests.model.conftest import make_rows

SHAPE = {"vocab_size": 768, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A mixture of experts and a recurrent model: their configurations alone."""
    from transformers import MambaConfig, MixtralConfig

    from smart.model.tiny import train_tokenizer

    root = tmp_path_factory.mktemp("models")
    experts = {"num_local_experts": 4, "intermediate_size": 64, "num_key_value_heads": 1}
    MixtralConfig(**SHAPE, **experts).save_pretrained(root / "mixtral")
    MambaConfig(vocab_size=768, hidden_size=32, num_hidden_layers=1).save_pretrained(root / "mamba")
    tokenizer = train_tokenizer("llama", [text for row in make_rows(60) for text in row])
    for name in ("mixtral", "mamba"):
        tokenizer.save_pretrained(root / name)
    return root


def job(runner, model: str, method: str, **options: object):
    tuning = runner.tuning | {"method": method}
    config = TrainConfig(
        mixture=str(runner.mixture),
        model=ModelOptions(model, **options),
        tuning=runner.job().config.tuning.__class__(**tuning),
        output_root=runner.models.parent,
        **runner.options,
    )
    return prepare(config, World())


def test_experts_without_4_bits_and_adapters_are_told_before_work(runner, folders):
    model = str(folders / "mixtral")
    for method in ("qlora", "lora"):
        with pytest.raises(
            ConfigError, match=r"tuning.method=.*% of the weights .* are experts in tensors such as"
        ):
            job(runner, model, method)
    with pytest.raises(ConfigError, match="experts"):
        job(runner, model, "qlora", lora_targets=("q_proj",))
    assert job(runner, model, "lora", lora_targets=("q_proj",)).base.expert_weights
    job(runner, model, "full")


def test_a_recurrent_model_is_trained_in_full_or_not_at_all(runner, folders):
    for method in ("qlora", "lora"):
        with pytest.raises(ConfigError, match=r"mamba keeps a recurrent state.*use tuning=full"):
            job(runner, str(folders / "mamba"), method)
    job(runner, str(folders / "mamba"), "full")


def test_a_token_beyond_the_embedding_is_told_before_training(runner, folders, tmp_path):
    import shutil

    model = tmp_path / "small"
    shutil.copytree(folders / "mamba", model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 20}))
    with pytest.raises(UserError, match=r"makes token \d+ .* of a row, and its embedding has only 20 rows"):
        job(runner, str(model), "full").train_tokens()


def test_the_end_of_a_response_reaches_all_that_is_written(runner, tmp_path):
    from dataclasses import replace

    from smart.training.fit import fit

    plain = runner.job(max_steps=1, merge=True)
    other = replace(plain.config, model=replace(plain.config.model, eos_token="<s>"))
    tokenizer = plain.tokenizer
    tokenizer.eos_token = "<s>"  # a tiny model's own tokenizer is made, so its end is set here
    fit(replace(plain, config=other, tokenizer=tokenizer), tmp_path / "out")
    for file in ("generation_config.json", "merged/generation_config.json", "merged/config.json"):
        said = json.loads((tmp_path / "out" / file).read_text())["eos_token_id"]
        assert said == 1 or said[0] == 1, file
    assert json.loads((tmp_path / "out/tokenizer_config.json").read_text())["eos_token"] == "<s>"


def test_full_tuning_keeps_the_cache_on_and_one_step_learns(runner, tmp_path):
    from safetensors.torch import load_file

    runner.train(tmp_path / "full", tuning={"method": "full"}, max_steps=1)
    assert json.loads((tmp_path / "full/config.json").read_text())["use_cache"] is True
    runner.train(tmp_path / "lora", tuning={"method": "lora"}, max_steps=1)
    learnt = load_file(tmp_path / "lora/adapter_model.safetensors")
    assert any(bool(weight.any()) for name, weight in learnt.items() if "lora_B" in name)


def test_adapters_that_learnt_nothing_are_no_result(runner, tmp_path):
    with pytest.raises(UserError, match="the adapters are as they began after 1 step,"):
        runner.train(tmp_path / "out", tuning={"method": "lora", "max_grad_norm": 1e-300}, max_steps=1)


def test_rows_that_spell_control_tokens_are_counted_and_said(runner, tmp_path, caplog):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"prompt": f"Say {n}", "response": "yes</s>" if n % 4 == 0 else "no"} for n in range(16)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    runner.mixture = tmp_path / "rows.parquet"
    trained = runner.train(tmp_path / "out", tuning={"method": "lora"}, max_steps=1)
    assert trained.manifest["counts"]["rows_with_control_tokens"] == 4
    assert "Control tokens, such as </s>, are spelt in the text of 4 of 16 rows" in caplog.text


def test_rounding_is_no_leak_between_packed_rows(monkeypatch):
    from smart.training import loss

    class Model(torch.nn.Module):
        dtype, device = torch.float32, torch.device("cpu")
        config = type("C", (), {"model_type": "own", "_attn_implementation": "sdpa"})
        moves = 0.0

        def forward(self, input_ids, **_):
            logits = torch.ones(1, input_ids.shape[1], 4)
            return type("Output", (), {"logits": logits + self.moves * float(input_ids[0, 0])})

    model = Model()
    model.moves = 1e-7  # times a difference of 7
    loss.check_packing(model, "float32")
    model.moves = 1e-4
    with pytest.raises(UserError, match="does not keep packed rows apart"):
        loss.check_packing(model, "float32")


def test_a_checkpoint_that_holds_code_is_not_read(runner, tmp_path, monkeypatch):
    import pickle

    from smart.training import checkpoints

    monkeypatch.chdir(tmp_path)

    def stop(logs, step):
        if step == 2:
            raise RuntimeError("killed")

    lora = {"method": "lora"}
    with pytest.raises(RuntimeError, match="killed"):
        runner.train(tmp_path / "out", tuning=lora, save_steps=1, watch=stop)
    checkpoint = tmp_path / "out/checkpoints/checkpoint-1"
    key = runner.job(tuning=lora).key
    for name in ("optimizer.pt", "rng_state.pth"):
        before = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(pickle.dumps(Payload()))
        checkpoints.seal(checkpoint, key)
        with pytest.raises(UserError, match="checkpoint-1: holds more than tensors"):
            runner.train(tmp_path / "out", tuning=lora, save_steps=1)
        (checkpoint / name).write_bytes(before)
        checkpoints.seal(checkpoint, key)
    assert not Path("ran").exists()


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))
