"""One format from training to evaluation: the prompts of lm-eval's own command, and the ids of training."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from smart.benchmarks.suites import Suite
from smart.config import ConfigError, UserError, compose
from smart.evaluation import EvaluateConfig, scoring
from smart.evaluation.dry_run import describe_plan
from smart.model import ChatOptions
from smart.model.chat import ChatFormat
from smart.model.chat_format import MANIFEST_FIELD
from smart.runtime.manifest import write_manifest
from smart.runtime.processes import Processes
from tests.evaluation.examples import CHATML, TASKS, make_job, save_adapter, save_model
from tests.evaluation.test_run import assert_equal, their_samples

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer has a template."""
    return save_model(tmp_path_factory.mktemp("chatty") / "tiny", template=CHATML)


def format_of(folder: Path, **told: Any) -> ChatFormat:
    from transformers import AutoTokenizer

    return ChatFormat.of(AutoTokenizer.from_pretrained(folder), **told)


@pytest.fixture
def tuned(chatty: Path, tmp_path: Path) -> Path:
    """An adapter that was trained in chat, with a system text of its own."""
    adapter = save_adapter(tmp_path / "tuned", chatty)
    form = format_of(adapter, system="Say yes.")
    write_manifest(adapter, {"kind": "adapter", "key": "k", "config": {}, MANIFEST_FIELD: form.to_manifest()})
    return adapter


def score(job: Any, folder: Path) -> dict[str, Any]:
    return scoring.score(job, folder, Processes(), CPU)


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, set[tuple[int, ...]]]]:
    """The ids that the model reads: contexts with their continuation, and prompts without their padding."""
    from lm_eval.models.huggingface import HFLM

    seen: dict[str, set[tuple[int, ...]]] = {"likelihood": set(), "generation": set()}
    likelihoods, generate = HFLM._loglikelihood_tokens, HFLM._model_generate

    def note_pairs(self: Any, requests: Any, *more: Any, **named: Any) -> Any:
        seen["likelihood"] |= {(*context, -1, *answer) for _, context, answer in requests}
        return likelihoods(self, requests, *more, **named)

    def note_prompts(self: Any, context: Any, *more: Any, **named: Any) -> Any:
        for ids, mask in zip(context.tolist(), named["attention_mask"].tolist(), strict=True):
            seen["generation"].add(tuple(one for one, real in zip(ids, mask, strict=True) if real))
        return generate(self, context, *more, **named)

    with monkeypatch.context() as patch:
        patch.setattr(HFLM, "_loglikelihood_tokens", note_pairs)
        patch.setattr(HFLM, "_model_generate", note_prompts)
        yield seen


def test_the_prompts_are_those_of_lm_evals_own_command(chatty, benchmarks, cache, tmp_path, monkeypatch):
    """--apply_chat_template --fewshot_as_multiturn --system_instruction: ids, hashes, answers, scores."""
    adapter = save_adapter(tmp_path / "tuned", chatty)
    form = format_of(adapter, system="Say yes.")
    write_manifest(adapter, {"kind": "adapter", "key": "k", "config": {}, MANIFEST_FIELD: form.to_manifest()})
    with watched(monkeypatch) as theirs_read:
        theirs = their_samples(
            cache,
            benchmarks,
            model_args=f"pretrained={chatty},dtype=float32,peft={adapter}",
            num_fewshot=2,
            apply_chat_template=True,
            fewshot_as_multiturn=True,
            system_instruction="Say yes.",
        )
    job = make_job(None, benchmarks, cache, adapter=adapter, suite=Suite("mini", TASKS, shots=2))
    with watched(monkeypatch) as ours_read:
        score(job, tmp_path / "scores")
    assert ours_read == theirs_read
    assert all(ours_read.values())
    assert_equal(tmp_path / "scores", theirs)


def test_the_adapter_says_which_format(chatty, tuned, benchmarks, cache, tmp_path, caplog):
    def job(folder: Path | None, form: str = "auto") -> Any:
        return make_job(None if folder else chatty, benchmarks, cache, adapter=folder, format=form)

    plain_adapter = save_adapter(tmp_path / "plain", chatty)
    assert job(None).model.chat is None
    assert job(plain_adapter).model.chat is None
    trained = job(tuned).model.chat
    assert (trained.system, trained.end_of_turn) == ("Say yes.", "<|im_end|>")
    bare = job(None, "chat").model.chat
    assert (bare.system, bare.template_hash) == (None, trained.template_hash)
    assert not caplog.text
    assert job(tuned, "plain").model.chat is None
    assert "format=plain: the model was trained with format=chat" in caplog.text
    assert job(tuned, "chat").model.chat == trained
    assert job(tuned, "chat").key == job(tuned).key, "told or found, the scores are the same"
    assert job(None, "plain").key == job(None).key
    assert len({job(None).key, job(None, "chat").key, job(tuned).key, job(tuned, "plain").key}) == 4
    assert "format" not in job(None).model.identity


def test_what_the_template_is_told_may_be_said_anew(chatty, tuned, benchmarks, cache):
    def job(folder: Path | None, **more: Any) -> Any:
        return make_job(None if folder else chatty, benchmarks, cache, adapter=folder, **more)

    other = job(tuned, format="chat", chat=ChatOptions(system="Be at it."))
    assert other.model.chat.system == "Be at it."
    assert other.key != job(tuned).key
    assert job(None, format="chat", chat=ChatOptions(system="Say yes.")).model.chat == job(tuned).model.chat
    with pytest.raises(UserError, match="are for format=chat"):
        job(tuned, chat=ChatOptions(system="Be at it."))


def test_a_template_that_is_not_the_one_of_training_is_refused(chatty, tuned, benchmarks, cache):
    for file in tuned.glob("chat_template*"):
        file.unlink()
    said = json.loads((tuned / "tokenizer_config.json").read_text())
    said["chat_template"] = CHATML.replace("Be on it.", "Be at it.")
    (tuned / "tokenizer_config.json").write_text(json.dumps(said))
    form = json.loads((tuned / "manifest.json").read_text())[MANIFEST_FIELD]
    write_manifest(tuned, {"kind": "adapter", "key": "k", "config": {}, MANIFEST_FIELD: form})
    with pytest.raises(UserError, match=r"is not the one that the model was trained with.*format=chat"):
        make_job(None, benchmarks, cache, adapter=tuned)
    assert make_job(None, benchmarks, cache, adapter=tuned, format="chat").model.chat is not None


def test_a_model_without_a_template_cannot_be_asked_in_chat(model, benchmarks, cache):
    with pytest.raises(UserError, match="has no chat template"):
        make_job(model, benchmarks, cache, format="chat")


def test_the_old_option_says_what_took_its_place():
    with pytest.raises(
        ConfigError, match=r"is now format \(chat_template=false is format=plain, .*=true is format=chat\)"
    ):
        compose("evaluate", ["chat_template=true"], EvaluateConfig)


def test_a_merged_model_is_asked_as_its_adapter_is(chatty, tuned, benchmarks, cache):
    manifest = json.loads((tuned / "manifest.json").read_text())
    shutil.copytree(chatty, tuned / "merged")
    write_manifest(tuned / "merged", {"kind": "model", "key": "k"})
    write_manifest(tuned, {name: manifest[name] for name in ("kind", "key", "config", MANIFEST_FIELD)})
    merged = make_job(None, benchmarks, cache, adapter=tuned / "merged").model
    assert merged.chat == make_job(None, benchmarks, cache, adapter=tuned).model.chat
    shutil.copytree(tuned / "merged", tuned.parent / "elsewhere")
    assert make_job(None, benchmarks, cache, adapter=tuned.parent / "elsewhere").model.chat is None


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML.replace("Be on it.", "{{ strftime_now('%Y') }}"), "system\n2024<|im_end|>"),
        (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHATML,
            "Be on it.",
        ),
    ],
)
def test_what_templates_of_others_do_with_dates_and_system_texts(
    chatty, benchmarks, cache, template, expected
):
    """The day is that of training; a system text that is refused is left out as in lm-eval, and counted."""
    from transformers import AutoTokenizer

    from smart.evaluation.cached_lm import CachedLM

    tokenizer = AutoTokenizer.from_pretrained(chatty)
    tokenizer.chat_template = template
    lm = CachedLM(cast("Any", SimpleNamespace(tokenizer=tokenizer)), form=ChatFormat.of(tokenizer))
    question = {"role": "user", "content": "the of"}
    assert expected in lm.apply_chat_template([question])
    assert lm.tally.without_system == 0
    lm.apply_chat_template([{"role": "system", "content": "to"}, question])
    assert lm.tally.without_system == ("raise_exception" in template)


def test_an_answer_that_a_task_begins_is_gone_on_with_as_in_lm_eval(chatty):
    """Its `gen_prefix`."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    from smart.evaluation.cached_lm import CachedLM

    tokenizer = AutoTokenizer.from_pretrained(chatty)
    inner = cast("Any", SimpleNamespace(tokenizer=tokenizer, chat_template_args={}))
    begun = [{"role": "user", "content": "the of"}, {"role": "assistant", "content": "to and"}]
    ours = CachedLM(inner, form=ChatFormat.of(tokenizer)).apply_chat_template(
        begun, add_generation_prompt=False
    )
    assert ours == HFLM.apply_chat_template(inner, begun, add_generation_prompt=False)
    assert ours.endswith("<|im_start|>assistant\nto and")


def test_a_plan_counts_the_prompts_of_the_format(chatty, benchmarks, cache):
    plain, chat = (
        describe_plan(make_job(chatty, benchmarks, cache, format=form)) for form in ("plain", "chat")
    )
    read = [int(re.search(r"tokens +([\d,]+) read", plan)[1].replace(",", "")) for plan in (plain, chat)]
    assert read[0] < read[1]
