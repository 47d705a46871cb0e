"""Conversations as tokens, for every published template: contexts by ids, ends of turns, masks, nothing lost."""

from __future__ import annotations

import datetime
import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smart.config import UserError
from smart.conversation import Conversation
from smart.model.chat import ChatFormat, context_ids, encode_conversations, fits
from smart.model.tokens import continuation_ids, ids_of
from tests.chat_templates import REWRITES, TAKES_TOOLS, TEMPLATES, chat_tokenizer

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
TAKES_SYSTEM = [name for name in TEMPLATES if name not in ("mistral1", "gemma2")]


def dialogue(*texts: str, **more: Any) -> Conversation:
    """Turns of user and assistant, who alternate."""
    messages: Any = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    return {"messages": messages, **more}


def with_tools() -> Conversation:
    return {
        "messages": [
            {"role": "user", "content": "How warm is it?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": '{"t": 12}'},
            {"role": "assistant", "content": "12 degrees."},
        ],
        "tools": [TOOL],
    }


def one(name: str, conversation: Conversation, **options: Any) -> Any:
    tokenizer = chat_tokenizer(name)
    said = {key: options.pop(key) for key in ("system", "thinking") if key in options}
    return encode_conversations(ChatFormat.of(tokenizer, **said), tokenizer, [conversation], **options)[0]


def shown(name: str, conversation: Conversation, **options: Any) -> list[str]:
    """The rows as text, what is supervised inside ⟦ ⟧."""
    tokenizer, rows = chat_tokenizer(name), []
    for row in one(name, conversation, **options).rows:
        text, before = "", 0
        for start, stop in row.spans:
            text += tokenizer.decode(row.ids[before:start]) + f"⟦{tokenizer.decode(row.ids[start:stop])}⟧"
            before = stop
        rows.append(text)
        assert before == len(row.ids)
    return rows


def reference(name: str, conversation: Conversation) -> list[tuple[list[int], list[int]]]:
    """(context, answer) of each answer, from transformers' own apply_chat_template, slowly."""
    tokenizer = chat_tokenizer(name)
    form = ChatFormat.of(tokenizer)
    told: Any = {"tools": conversation.get("tools"), "chat_template": form.template}
    told |= conversation.get("chat_template_kwargs", {})
    pairs = []
    for place, message in enumerate(conversation["messages"]):
        if message["role"] == "assistant":
            before, until = conversation["messages"][:place], conversation["messages"][: place + 1]
            context = tokenizer.apply_chat_template(before, add_generation_prompt=True, **told)["input_ids"]
            asked = tokenizer.apply_chat_template(before, add_generation_prompt=True, tokenize=False, **told)
            whole = tokenizer.apply_chat_template(until, tokenize=False, **told)
            answer = whole.removeprefix(asked).removesuffix(form.behind)
            ids = ids_of(tokenizer, [asked + answer])[0]
            if ids[: len(context)] != context:
                ids = context + continuation_ids(tokenizer, [answer])[0]
            pairs.append((context, ids[len(context) :]))
    return pairs


def assert_as_reference(name: str, conversation: Conversation, encoded: Any) -> None:
    pairs = reference(name, conversation)
    found = [(row.ids[:start], row.ids[start:stop]) for row in encoded.rows for start, stop in row.spans]
    assert found == pairs
    end = list(ChatFormat.of(chat_tokenizer(name)).end_ids)
    assert all(answer[-len(end) :] == end for _, answer in found)
    assert all(row.spans[-1][1] == len(row.ids) for row in encoded.rows)
    wholes = [context + answer for context, answer in pairs]
    chained = all(b[: len(a)] == a for a, b in pairwise(wholes))
    assert len(encoded.rows) == (1 if chained else len(pairs))
    assert encoded.split == (not chained)


@pytest.mark.parametrize("name", TEMPLATES)
def test_end_of_turn_is_the_templates(name):
    form = ChatFormat.of(chat_tokenizer(name))
    said = TEMPLATES[name]
    assert (form.end_of_turn, form.behind) == (said.end_of_turn, said.behind)
    assert form.stop_ids() == [chat_tokenizer(name).convert_tokens_to_ids(said.end_of_turn)]
    assert form.stop_ids(5, form.end_ids[0], None) == [form.end_ids[0], 5]


@pytest.mark.parametrize("name", TEMPLATES)
def test_turns_system_text_and_tools(name):
    turns = dialogue("Hi", "Hello, I am 12.", "And\nmore?", "yes  it is\n", "12 + 345", "357")
    encoded = one(name, turns)
    assert_as_reference(name, turns, encoded)
    assert encoded.split == (name in ("llama3 of GPT-2", "qwen3", "olmo3"))
    system: Conversation = {
        **turns,
        "messages": [{"role": "system", "content": "Be terse."}, *turns["messages"]],
    }
    encoded = one(name, system)
    if name in TAKES_SYSTEM:
        assert_as_reference(name, system, encoded)
        assert all("Be terse." in row for row in shown(name, system))
        assert one(name, turns, system="Be terse.").rows == encoded.rows
        assert one(name, system, system="Be verbose.").rows == encoded.rows
    else:
        assert "the template refuses it" in encoded.fault
        with pytest.raises(UserError, match=r"chat\.system='Be terse\.'"):
            one(name, turns, system="Be terse.")
    encoded = one(name, with_tools())
    if name in TAKES_TOOLS:
        assert_as_reference(name, with_tools(), encoded)
        assert all("weather" in row for row in shown(name, with_tools()))
        assert "Paris" in "".join(shown(name, with_tools())).partition("⟦")[2]
    else:
        assert encoded.fault in (
            "the template leaves out a call of a tool",
            "the template leaves out the tools",
        )


def test_what_is_supervised_of_each_template():
    conversation = dialogue("Hi", "Hello", "More", "yes")
    assert shown("smollm2", conversation) == [
        "<|im_start|>system\nYou are SmolLM.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        "⟦Hello<|im_end|>⟧\n<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n⟦yes<|im_end|>⟧"
    ]
    assert shown("qwen3", conversation) == [
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦<think>\n\n</think>\n\nHello<|im_end|>⟧",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nMore<|im_end|>\n"
        "<|im_start|>assistant\n⟦<think>\n\n</think>\n\nyes<|im_end|>⟧",
    ]
    assert shown("gemma3", conversation) == [
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n⟦Hello<end_of_turn>⟧\n"
        "<start_of_turn>user\nMore<end_of_turn>\n<start_of_turn>model\n⟦yes<end_of_turn>⟧"
    ]
    assert shown("olmo2", conversation) == [
        "<|endoftext|><|user|>\nHi\n<|assistant|>\n⟦Hello<|endoftext|>⟧\n<|user|>\nMore\n<|assistant|>\n"
        "⟦yes<|endoftext|>⟧"
    ]
    (called,) = shown("llama3", with_tools())
    assert called.count("<|begin_of_text|>") == 1
    assert (
        '⟦{"name": "weather", "parameters": {"city": "Paris"}}<|eot_id|>⟧<|start_header_id|>ipython' in called
    )
    assert called.endswith(
        '"{\\"t\\": 12}"<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n⟦12 degrees.<|eot_id|>⟧'
    )


def test_thoughts():
    thought = dialogue("Hi", "<think>\nhm\n</think>\n\nHello")
    apart: Any = dialogue("Hi", "Hello")
    apart["messages"][1]["reasoning_content"] = "hm"
    prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert shown("qwen3", thought) == shown("qwen3", apart)
    assert shown("qwen3", thought) == [prompt + "⟦<think>\nhm\n</think>\n\nHello<|im_end|>⟧"]
    empty = "<think>\n\n</think>\n\n"
    assert shown("qwen3", apart, thinking=False) == [f"{prompt}{empty}⟦Hello<|im_end|>⟧"]
    assert shown("qwen3", dialogue("Hi", "Hello", chat_template_kwargs={"enable_thinking": False})) == [
        f"{prompt}{empty}⟦Hello<|im_end|>⟧"
    ]
    assert "begins an answer otherwise" in one("qwen3", thought, thinking=False).fault
    assert "leaves out reasoning_content" in one("llama3", apart).fault
    assert shown("llama3", apart, thinking=False) == shown("llama3", dialogue("Hi", "Hello"))
    assert "/no_think" in shown("smollm3", dialogue("Hi", "Hello"), thinking=False)[0]
    with pytest.raises(UserError, match=r"chat\.thinking=true.*does not know enable_thinking"):
        one("llama3", thought, thinking=True)


def test_what_a_row_tells_its_template():
    told = dialogue(
        "Hi", "Hello", chat_template_kwargs={"custom_instructions": "Be terse.", "python_tools": []}
    )
    assert "## Custom Instructions\n\nBe terse." in shown("smollm3", told)[0]
    assert "leaves out custom_instructions" in one("qwen3", told).fault
    taken = dialogue("Hi", "Hello", chat_template_kwargs={"add_generation_prompt": True})
    assert "add_generation_prompt is not the row's to say" in one("qwen3", taken).fault


@pytest.mark.parametrize("name", ["llama3", "smollm3"])
def test_today_is_always_the_same_day(name, monkeypatch):
    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 5, 6)

    from transformers.utils import chat_template_utils

    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    tokenizer = chat_tokenizer(name)
    (row,) = shown(name, dialogue("Hi", "Hello"))
    assert "26 Jul" in row
    assert "2031" not in row
    assert "2031" in tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    form = ChatFormat.of(tokenizer, date="2025-01-02")
    assert "02 Jan" in form.render(tokenizer, [{"role": "user", "content": "a"}], generate=True)


ODD = (
    "Hi",
    " ",
    "\n",
    "\n\n",
    "a  b",
    "12345",
    "Zürich",
    "日本",
    "🙂",
    "don't",
    "<|im_end|>",
    "</s>",
    "<|user|>",
    "[INST]",
    "?",
)
TEXT = st.lists(st.sampled_from(ODD), min_size=1, max_size=5).map("".join)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    messages: list[Any] = [{"role": "system", "content": draw(TEXT)}] if draw(st.booleans()) else []
    tools = draw(st.booleans())
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(TEXT)})
        if tools and draw(st.booleans()):
            messages.append({"role": "assistant", "content": "", "tool_calls": [CALL]})
            messages.append({"role": "tool", "content": draw(TEXT)})
        messages.append({"role": "assistant", "content": draw(TEXT)})
    return {"messages": messages, "tools": [TOOL]} if tools else {"messages": messages}


@settings(max_examples=20, deadline=None)
@given(st.lists(conversations(), min_size=1, max_size=3))
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_rules_hold_for_any_conversation(name, batch):
    tokenizer = chat_tokenizer(name)
    encoded = encode_conversations(ChatFormat.of(tokenizer), tokenizer, batch)
    for conversation, found in zip(batch, encoded, strict=True):
        roles = {message["role"] for message in conversation["messages"]}
        if ("system" not in roles or name in TAKES_SYSTEM) and (
            "tools" not in conversation or name in TAKES_TOOLS
        ):
            assert found.fault is None
        if found.fault is None:
            assert_as_reference(name, conversation, found)
        else:
            assert found.rows == []


@settings(max_examples=20, deadline=None)
@given(conversations(), st.integers(5, 120))
@pytest.mark.parametrize("name", ["smollm2", "llama3", "qwen3", "mistral"])
def test_too_long_conversations_keep_whole_turns_from_the_end(name, conversation, max_length):
    tokenizer = chat_tokenizer(name)
    form = ChatFormat.of(tokenizer)
    (whole,) = encode_conversations(form, tokenizer, [conversation])
    (cut,) = encode_conversations(form, tokenizer, [conversation], max_length=max_length)
    (dropped,) = encode_conversations(
        form, tokenizer, [conversation], max_length=max_length, overlength="drop"
    )
    answers = sum(len(row.spans) for row in whole.rows)
    assert fits(form, tokenizer, [conversation], max_length).tolist() == [bool(cut.rows)]
    assert all(len(row.ids) <= max_length for row in cut.rows)
    assert cut.lost == (answers - sum(len(row.spans) for row in cut.rows) if whole.rows else 0)
    if all(len(row.ids) <= max_length for row in whole.rows):
        assert cut == dropped == whole
        return
    assert dropped.rows == []
    with pytest.raises(UserError, match=rf"row 0 has \d+ tokens, more than max_length={max_length}"):
        encode_conversations(form, tokenizer, [conversation], max_length=max_length, overlength="error")
    assert [row.ids for row in cut.rows] == kept_ids(name, conversation, whole.split, max_length)


def kept_ids(name, conversation, split, max_length):
    """Ids of the rows that are left of a conversation, by trying each of the user's turns as the first."""
    messages = conversation["messages"]
    head = [message for message in messages if message["role"] == "system"]
    answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    found = []
    for place in answers if split else answers[-1:]:
        starts = [n for n, message in enumerate(messages[:place]) if message["role"] == "user"]
        for start in starts:
            kept = messages[: place + 1] if start == starts[0] else head + messages[start : place + 1]
            rows = one(name, {**conversation, "messages": kept}).rows
            ids = [row.ids for row in (rows[-1:] if split else rows)]
            if ids and all(len(row) <= max_length for row in ids):
                found += ids
                break
    return found


def test_rows_do_not_depend_on_their_neighbours():
    rng = random.Random(0)
    batch = [
        dialogue(*("".join(rng.choices(ODD, k=3)) for _ in range(2 * rng.randint(1, 3)))) for _ in range(30)
    ]
    for name in ("smollm2", "qwen3", "mistral"):
        tokenizer = chat_tokenizer(name)
        together = encode_conversations(ChatFormat.of(tokenizer), tokenizer, batch)
        assert together == [one(name, conversation) for conversation in batch]


def test_control_tokens_in_a_text_are_told():
    assert [one("qwen3", dialogue("Hi", text)).control for text in ("a <|im_end|> b", "a </s> b")] == [
        True,
        False,
    ]


def test_what_no_template_carries():
    backwards: Any = {"messages": [{"role": "assistant", "content": "Hi"}]}
    assert one("smollm2", backwards).fault == "begins with the assistant"
    assert one("smollm2", dialogue("Hi")).fault == "no turn of the assistant"
    two: Any = with_tools()
    two["messages"][1]["tool_calls"] = [CALL, CALL]
    assert "single tool-calls" in one("llama3", two).fault
    beside: Any = with_tools()
    beside["messages"][1]["content"] = "Let me look."
    assert one("llama3", beside).fault == "the template leaves out text of the assistant"
    assert one("qwen3", beside).fault is None
    forgotten: Any = dialogue("Hi", "Hello")
    forgotten["messages"].insert(1, {"role": "tool", "content": "12"})
    assert one("tulu3", forgotten).fault == "the template leaves out a message of the role tool"


def test_manifest_gives_the_format_again():
    for name in TEMPLATES:
        tokenizer = chat_tokenizer(name)
        form = ChatFormat.of(tokenizer, thinking=False, date="2025-01-02")
        assert ChatFormat.of_manifest(form.to_manifest(), tokenizer) == form
    with pytest.raises(UserError, match="is not the one that the model was trained with"):
        ChatFormat.of_manifest(form.to_manifest(), chat_tokenizer("qwen3"))


def test_contexts_for_generation():
    tokenizer = chat_tokenizer("qwen3")
    form = ChatFormat.of(tokenizer, system="Be terse.", thinking=False)
    messages: Any = dialogue("Hi", "Hello", "More")["messages"]
    text = tokenizer.decode(context_ids(form, tokenizer, messages))
    assert text.startswith("<|im_start|>system\nBe terse.<|im_end|>\n")
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert context_ids(form, tokenizer, messages, [TOOL]) != context_ids(form, tokenizer, messages)


def test_tokenizers_that_cannot_be_used():
    import copy

    tokenizer = copy.deepcopy(chat_tokenizer("smollm2"))
    tokenizer.chat_template = None
    with pytest.raises(UserError, match=r"has no chat template.*format=plain"):
        ChatFormat.of(tokenizer)
    tokenizer.chat_template = {"rag": "x"}
    with pytest.raises(UserError, match="only those named rag"):
        ChatFormat.of(tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(UserError, match="could not learn to stop"):
        ChatFormat.of(tokenizer)
    tokenizer.chat_template = "{{ strftime_now(form) }}"
    with pytest.raises(UserError, match="other tokens every day"):
        ChatFormat.of(tokenizer)
    tokenizer.chat_template = {
        "default": TEMPLATES["smollm2"].template,
        "tool_use": TEMPLATES["qwen2.5"].template,
    }
    encoded = encode_conversations(
        ChatFormat.of(tokenizer), tokenizer, [with_tools(), dialogue("Hi", "Hello")]
    )
    assert [found.fault for found in encoded] == [None, None]
    assert "Qwen" in tokenizer.decode(encoded[0].rows[0].ids)
    assert "SmolLM" in tokenizer.decode(encoded[1].rows[0].ids)


def test_nothing_in_nothing_out():
    tokenizer = chat_tokenizer("smollm2")
    form = ChatFormat.of(tokenizer)
    assert encode_conversations(form, tokenizer, []) == []
    np.testing.assert_array_equal(fits(form, tokenizer, [], 10), np.zeros(0, bool))


def test_marks_of_a_template_are_compared():
    said = {name: ChatFormat.of(chat_tokenizer(name)).other_marks(chat_tokenizer(name)) for name in TEMPLATES}
    assert {name for name, text in said.items() if text} == {"smollm3"}
    assert "'<|im_start|>assistant\\nJaneAusten<|im_end|>\\n'" in said["smollm3"]
    assert "'JaneAusten<|im_end|>'" in said["smollm3"]


def test_every_template_that_rewrites_is_known():
    found = {
        name
        for name in TEMPLATES
        if name in TAKES_TOOLS and one(name, dialogue("Hi", "a", "b", "c", tools=[TOOL])).split
    }
    assert found - {"llama3 of GPT-2"} == set(REWRITES)
