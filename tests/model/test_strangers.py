"""Files of others: none runs code, and whatever does not fit stops with one line that says what."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from smart.config import UserError
from smart.model import ModelOptions, TuningOptions, adapters, find_base, load, load_tokenizer, weights_source
from smart.model.pretrained import read_tokenizer
from tests.model.conftest import make_rows

RAN = Path("ran")


def texts() -> list[str]:
    return [text for row in make_rows(60) for text in row]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a tiny model with its tokenizer."""
    root = tmp_path_factory.mktemp("whole")
    base = find_base(ModelOptions("tiny_llama"))
    folder = Path(weights_source(base, root))
    load_tokenizer(base, texts).save_pretrained(folder)
    return folder


@pytest.fixture
def model(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def trained(whole, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "trained"
    base = find_base(ModelOptions(str(whole)))
    plain = load.load_model(base, str(whole), dtype="float32")
    adapters.add_adapters(base, plain, TuningOptions(lora_r=4), seed=0).save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(trained, tmp_path) -> Path:
    shutil.copytree(trained, tmp_path / "adapter")
    return tmp_path / "adapter"


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def load_float32(folder: Path) -> object:
    return load.load_model(find_base(ModelOptions(str(folder))), str(folder), dtype="float32")


def refused(call, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said
    for word in words:
        assert word in said


class Payload:
    def __reduce__(self):
        return (Path.touch, (RAN,))


def test_code_of_a_model_a_tokenizer_and_an_adapter_is_never_run(model, adapter, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run code"))
    (model / "own.py").write_text("from pathlib import Path\nPath('ran').touch()\nclass Own: pass\n")
    change(
        model / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": ["own.Own", "own.Own"]},
    )
    refused(
        lambda: read_tokenizer("theirs", model), "theirs needs code of its own repository, which is never run"
    )
    change(model / "config.json", model_type="own", auto_map={"AutoConfig": "own.Own"})
    refused(lambda: find_base(ModelOptions(str(model))), "never run")
    change(adapter / "adapter_config.json", auto_map={"x": "own.Own"})
    refused(lambda: adapters.read_adapter_config(adapter), "names code to import")
    change(adapter / "adapter_config.json", auto_map=None, megatron_config={"a": 1}, megatron_core="own")
    refused(lambda: adapters.read_adapter_config(adapter), "names code to import")
    change(adapter / "adapter_config.json", megatron_config=None, peft_type="PROMPT_TUNING")
    refused(lambda: adapters.read_adapter_config(adapter), "only LORA is read")
    assert not RAN.exists()


def test_pickles_are_never_opened(model, adapter, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for file in (model / "model.safetensors", adapter / "adapter_model.safetensors"):
        file.unlink()
        bad = "pytorch_model.bin" if file.parent == model else "adapter_model.bin"
        (file.parent / bad).write_bytes(pickle.dumps(Payload()))
        (file.parent / "training_args.bin").write_bytes(pickle.dumps(Payload()))
    refused(lambda: find_base(ModelOptions(str(model))), "pytorch_model.bin is a pickle", "safetensors")
    refused(lambda: adapters.read_adapter_config(adapter), "adapter_model.bin, can run code")
    assert not RAN.exists()


def test_a_package_of_weights_is_a_plain_name():
    from smart.config import Problems, check_options

    problems = Problems()
    check_options(ModelOptions("a/b", gguf_package="a.b.c"), problems)
    assert "without dots" in problems.found[0]


def test_tensors_that_are_missing_renamed_or_of_another_shape_are_named(model):
    file = model / "model.safetensors"
    given = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"

    def having(changed: dict[str, torch.Tensor]) -> None:
        save_file(changed, file, metadata={"format": "pt"})

    having({key: value for key, value in given.items() if key != name})
    refused(lambda: load_float32(model), f"missing: {name}")
    having({(f"{key}s" if key == name else key): value for key, value in given.items()})
    refused(lambda: load_float32(model), f"missing: {name}", f"unexpected: {name}s")
    having({**given, name: given[name][:5].clone()})
    refused(lambda: load_float32(model), "layers.1.mlp.up_proj")
    having({**given, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    load_float32(model)  # a buffer that old files hold, and that transformers knows to leave


def test_tied_weights_are_not_missing(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = LlamaConfig(**shape, num_attention_heads=2, tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    load_float32(tmp_path)


@pytest.mark.parametrize("four_bit", [False, True])
def test_weights_that_are_no_numbers_stop(model, four_bit):
    file = model / "model.safetensors"
    given = load_file(file)
    given["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")
    save_file(given, file, metadata={"format": "pt"})
    base = find_base(ModelOptions(str(model)))
    refused(
        lambda: load.load_model(base, str(model), dtype="float32", four_bit=four_bit), "not finite numbers"
    )


def test_a_damaged_file_is_named(model):
    file = model / "model.safetensors"
    whole = file.read_bytes()
    for content in (whole[:-100], b"\xff" * 8 + whole[8:], whole[:20], b""):
        file.write_bytes(content)
        refused(lambda: find_base(ModelOptions(str(model))), str(file), "damaged or cut off")


def test_adapters_that_do_not_fit_are_told_by_their_tensors(whole, adapter):
    file = adapter / "adapter_model.safetensors"
    given = load_file(file)
    name = next(key for key in given if "lora_B" in key)

    def put() -> None:
        adapters.load_adapters(load_float32(whole), adapter)

    save_file({key: value for key, value in given.items() if key != name}, file)
    refused(put, f"missing: {name}")
    save_file(
        {(key.replace("layers.0", "layers.7") if key == name else key): v for key, v in given.items()}, file
    )
    refused(put, "missing:", "unexpected:", "layers.7")
    save_file({**given, name: given[name] * float("nan")}, file)
    refused(put, name, "not finite")
    save_file(given, file)
    put()


def test_a_model_that_sees_both_sides_is_refused(tmp_path):
    from transformers import BertConfig, XLNetConfig, XLNetLMHeadModel

    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertConfig(vocab_size=64, hidden_size=16, **shape).save_pretrained(tmp_path / "bert")
    refused(lambda: find_base(ModelOptions(str(tmp_path / "bert"))), "bert is no causal language model")
    torch.manual_seed(0)
    both = XLNetLMHeadModel(XLNetConfig(vocab_size=64, d_model=16, n_layer=1, n_head=2, d_inner=32))
    for weight in both.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    refused(lambda: load.check_causal("theirs", both), "sees the tokens that come after")


def test_a_multimodal_model_gets_adapters_in_its_text_model_alone(tmp_path):
    from transformers import Gemma3Config

    text = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 16,
    }
    text |= {"num_key_value_heads": 1, "intermediate_size": 48, "max_position_embeddings": 512}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4).save_pretrained(tmp_path)
    base = find_base(ModelOptions(str(tmp_path)))
    assert base.context == 512
    assert len(base.linear_layers) == 7
    assert len(base.all_linear_layers) > 7
    adapted = adapters.add_adapters(base, base.skeleton(), TuningOptions(lora_r=2), seed=0)
    assert all("language_model" in name for name, _ in adapted.named_parameters() if "lora" in name)


def test_a_tokenizer_needs_files(tmp_path, model):
    for file in model.glob("tokenizer*"):
        file.unlink()
    refused(lambda: load_tokenizer(find_base(ModelOptions(str(model))), texts), "has no tokenizer files")


def test_a_class_that_overrides_tokenizer_json_is_refused(model, tmp_path):
    change(model / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    refused(lambda: read_tokenizer("theirs", model), "makes other tokens than its tokenizer.json")


def test_special_tokens_beyond_the_embedding(model):
    change(model / "config.json", vocab_size=700)
    base = find_base(ModelOptions(str(model)))
    tokenizer = load_tokenizer(base, texts)
    tokenizer.add_special_tokens({"pad_token": "[PAD]", "eos_token": "<end>"})
    tokenizer.save_pretrained(model)
    refused(lambda: load_tokenizer(base, texts), "eos_token is number 769", "only 700 rows")
    tokenizer.eos_token = "</s>"
    tokenizer.save_pretrained(model)
    assert load_tokenizer(base, texts).pad_token == "</s>", "padding is masked, so any token will do"


def test_text_that_spells_a_control_token_counts_and_ends_once(tokenizer):
    from smart.model import encode

    end = tokenizer.eos_token
    rows = encode(tokenizer, ["one", f"two {end} three", "four"], ["yes", "no", f"yes{end}"])
    assert [row.control for row in rows] == [False, True, True]
    assert [row.response.count(tokenizer.eos_token_id) for row in rows] == [1, 1, 1]
    assert all(row.response[-1] == tokenizer.eos_token_id for row in rows)


CODE = re.compile(
    r"\bpickle\.loads?\(|torch\.load\((?![^\n]*weights_only=True)|allow_pickle=True|trust_remote_code=True"
    r"|yaml\.(unsafe_|full_)?load\(|(?<![\w.])(eval|exec)\("
)


def test_files_of_others_come_in_by_one_door():
    """Each from_pretrained stands where trust_remote_code is off, and nothing else reads what can hold code."""
    doors = {"pretrained.py": 1, "load.py": 1, "adapters.py": 1}
    root = Path(adapters.__file__).parents[1]
    for file in sorted(root.rglob("*.py")):
        if file.relative_to(root) == Path("runtime", "cluster.py"):
            continue  # what this command and its own workers send each other
        text = file.read_text()
        lines = [line for line in text.splitlines() if not line.lstrip().startswith(("#", '"', 'f"'))]
        code = "\n".join(lines)
        assert not CODE.search(code), file
        found = code.count(").from_pretrained(") + code.count("AutoModelForCausalLM.from_pretrained(")
        found += code.count("PeftModel.from_pretrained(")
        assert found == (doors.get(file.name, 0) if file.parent.name == "model" else 0), file
    assert CODE.search("torch.load(file)")
    assert not CODE.search("torch.load(file, weights_only=True)")
    assert CODE.search("yaml.load(text)")
