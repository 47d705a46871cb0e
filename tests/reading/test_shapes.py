"""The shapes of instruction data, through every format of file; what has no place in a conversation is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smart.config import UserError
from smart.conversation import ROLES, from_json
from smart.reading import CONVERSATION, read_shaped, shape_table, turns_of
from smart.reading.turns import UnfitError, read_conversation


def message(role: str, content: Any = None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


USER, ANSWER = message("user", "u"), message("assistant", "a")
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
NEAR = {
    "type": "function",
    "function": {"name": "maps.near", "arguments": {"x": [1, {"k": None}], "ok": True}},
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
PYTHONIC = 'weather(city="Bern")\nmaps.near(x=[1, {"k": None}], ok=True)'
KWARGS = {
    "custom_instructions": "c",
    "enable_thinking": False,
    "python_tools": ["def f(): ..."],
    "xml_tools": ["{}"],
}
WITH_TOOLS = [
    message("system", "You may call tools."),
    USER,
    message("assistant", "", tool_calls=[{"id": "c0", **CALL}]),
    message("tool", '{"t": 12}', tool_call_id="c0"),
    ANSWER,
]


def calling(*calls: Any, text: str | None = None) -> dict[str, Any]:
    return message("assistant", text, tool_calls=list(calls))


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def turns(row: list[Any]) -> list[dict[str, Any]]:
    """Messages without fields that say nothing."""
    return [{name: value for name, value in one.items() if value or name == "content"} for one in row]


TEXTS = {
    "flan": ({"inputs": "q", "targets": "a"}, ("q", "a")),
    "prompt, response": ({"prompt": "q", "response": "a", "completion": " a"}, ("q", "a")),
    "prompt, completion": ({"prompt": "q", "completion": "a"}, ("q", "a")),
    "two texts beside messages": ({"inputs": "q", "targets": "a", "messages": [USER, ANSWER]}, ("q", "a")),
    "alpaca": ({"instruction": "q", "input": "i", "output": "a", "text": "x"}, ("q\n\ni", "a")),
    "alpaca, blank input": ({"instruction": "q", "input": " ", "output": "a"}, ("q", "a")),
    "alpaca, no input": ({"instruction": "q", "output": "a"}, ("q", "a")),
    "dolly": ({"instruction": "q", "context": "i", "response": "a", "category": "x"}, ("q\n\ni", "a")),
}
SINGLE = [USER, ANSWER]
CONVERSATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tulu": ({"id": "r0", "messages": SINGLE * 2, "source": "s"}, {"messages": SINGLE * 2}),
    "sharegpt": (
        {
            "conversations": [
                {"from": "system", "value": "s"},
                {"from": "human", "value": "u"},
                {"from": "gpt", "value": "a", "weight": 1},
            ]
        },
        {"messages": [message("system", "s"), *SINGLE]},
    ),
    "openhermes": (
        {"conversations": SINGLE, "system_prompt": "s"},
        {"messages": [message("system", "s"), *SINGLE]},
    ),
    "parts": (
        {
            "messages": [
                message(role, [{"type": "text", "text": text}])
                for role, text in (("user", "u"), ("assistant", "a"))
            ]
        },
        {"messages": SINGLE},
    ),
    "prompt and completion of messages": ({"prompt": [USER], "completion": [ANSWER]}, {"messages": SINGLE}),
    "a prompt of messages": (
        {"prompt": [message("system", "s"), USER], "completion": "a"},
        {"messages": [message("system", "s"), *SINGLE]},
    ),
    "tools": ({"messages": WITH_TOOLS, "tools": [TOOL]}, {"messages": WITH_TOOLS, "tools": [TOOL]}),
    "tools as JSON text": (
        {
            "messages": [
                USER,
                message(
                    "assistant",
                    None,
                    tool_calls=[{"function": {"name": "weather", "arguments": '{"city": "Bern"}'}}],
                ),
            ],
            "tools": json.dumps([TOOL]),
        },
        {"messages": [USER, message("assistant", "", tool_calls=[CALL])], "tools": [TOOL]},
    ),
    "dolci": (
        {
            "messages": [
                message("system", "s", functions=json.dumps([TOOL]), function_calls=None),
                message("user", "u", functions=None, function_calls=None),
                message("assistant", None, functions=None, function_calls=PYTHONIC),
                message("environment", "12"),
                message("assistant", "a"),
            ]
        },
        {
            "messages": [
                message("system", "s"),
                USER,
                message("assistant", "", tool_calls=[CALL, NEAR]),
                message("tool", "12"),
                ANSWER,
            ],
            "tools": [TOOL],
        },
    ),
    "smoltalk2": (
        {"messages": [USER, message("assistant", "<think>t</think>a")], "chat_template_kwargs": KWARGS},
        {"messages": [USER, message("assistant", "<think>t</think>a")], "chat_template_kwargs": KWARGS},
    ),
    "reasoning": (
        {"messages": [USER, message("assistant", "a", reasoning_content="r")]},
        {"messages": [USER, message("assistant", "a", reasoning_content="r")]},
    ),
    "calls as a turn": (
        {
            "conversations": [
                {"from": "human", "value": "u"},
                {"from": "function_call", "value": json.dumps(CALL["function"])},
                {"from": "observation", "value": "12"},
                {"from": "gpt", "value": "a"},
            ],
            "tools": json.dumps([TOOL]),
        },
        {
            "messages": [USER, message("assistant", "", tool_calls=[CALL]), message("tool", "12"), ANSWER],
            "tools": [TOOL],
        },
    ),
    "messages as JSON text": ({"messages": json.dumps(SINGLE)}, {"messages": SINGLE}),
    "developer": (
        {"messages": [message("developer", "s"), *SINGLE]},
        {"messages": [message("system", "s"), *SINGLE]},
    ),
}


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "json"])
@pytest.mark.parametrize("name", [*TEXTS, *CONVERSATIONS])
def test_every_shape_in_every_format(tmp_path: Path, name: str, suffix: str) -> None:
    row, expected = (TEXTS | CONVERSATIONS)[name]  # type: ignore[operator]
    read = read_shaped(write(tmp_path / f"rows.{suffix}", [row, row]))
    assert (read.faults, read.cut, read.count) == ([], 0, 2)
    if name in TEXTS:
        assert list(read.columns) == ["inputs", "targets"]
        assert [tuple(column.to_pylist()) for column in read.columns.values()] == [
            (text, text) for text in expected
        ]
    else:
        assert list(read.columns) == [CONVERSATION]
        texts = read.columns[CONVERSATION].to_pylist()
        assert texts[0] == texts[1]
        assert from_json(texts[0]) == {**expected, "messages": turns(expected["messages"])}  # type: ignore[dict-item]


def test_the_same_row_is_the_same_text_from_every_format(tmp_path: Path) -> None:
    rows = [{"messages": WITH_TOOLS, "tools": [TOOL]}, {"messages": SINGLE, "tools": None}]
    texts = [
        read_shaped(write(tmp_path / f"rows.{suffix}", rows)).columns[CONVERSATION].to_pylist()
        for suffix in ("parquet", "jsonl", "json")
    ]
    assert texts[0] == texts[1] == texts[2]


def test_cases_of_real_files(shared: Path) -> None:
    folder = shared / "cases" / "chat"
    if not folder.is_dir():
        pytest.skip("has no rows with turns")
    for path in sorted(folder.iterdir()):
        read = read_shaped(str(path))
        assert read.count >= 10, path
        assert (read.faults, read.cut) == ([], 0), path
        plain = path.name.startswith("alpaca")
        assert list(read.columns) == (["inputs", "targets"] if plain else [CONVERSATION]), path


def test_columns_of_json_that_come_late_are_seen(tmp_path: Path) -> None:
    first = {"messages": SINGLE}
    assert list(read_shaped(write(tmp_path / "a.jsonl", [first])).columns) == [CONVERSATION]
    late = read_shaped(write(tmp_path / "b.jsonl", [first, {"inputs": "q", "targets": "a"}]))
    assert late.columns["inputs"].to_pylist() == [None, "q"]


def test_no_shape_names_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"no column inputs or prompt and targets or response, nor messages.*has: x, y"
    ):
        read_shaped(write(tmp_path / "a.jsonl", [{"x": 1, "y": 2}]))


def test_tables_of_arrow_have_the_same_shapes() -> None:
    pairs = [{"prompt": [USER], "completion": [ANSWER]}]
    shaped = shape_table("split train", dict(zip(pairs[0], pa.Table.from_pylist(pairs).columns, strict=True)))
    assert [from_json(text)["messages"] for text in shaped.columns[CONVERSATION].to_pylist()] == [SINGLE]


FAULTS = {
    "unknown role 'narrator'": [message("narrator", "x"), ANSWER],
    "a message without role": [{"content": "x"}],
    "no messages": [],
    "null": None,
    "an object instead of a list of messages": {"role": "user"},
    "messages: not JSON": "hello",
    "text instead of a message": ["hello"],
    "no turn of the assistant": [USER],
    "no user's turn before the others": [ANSWER, USER, ANSWER],
    "a system text that is not the first message": [message("system", "s"), message("system", "t"), *SINGLE],
    "an empty last answer": [*SINGLE, USER, message("assistant", " ")],
    "a user's turn without content": [message("user"), ANSWER],
    "field logprobs of a turn of assistant can't be carried": [USER, message("assistant", "a", logprobs=[1])],
    "field tool_calls of a turn of user can't be carried": [message("user", "u", tool_calls=[CALL]), ANSWER],
    "field weight of a turn of assistant can't be carried": [USER, message("assistant", "a", weight=0)],
    "role and from of a message differ": [{"role": "user", "from": "gpt", "content": "x"}],
    "content with a part of type image": [message("user", [{"type": "image", "url": "x"}]), ANSWER],
    "content with a part that has a field cache": [
        message("user", [{"type": "text", "text": "u", "cache": 1}]),
        ANSWER,
    ],
    "a number instead of text as content of a turn of user": [message("user", 5), ANSWER],
    "tool_calls: not JSON": [USER, message("assistant", tool_calls="weather()")],
    "arguments of tool_calls: not JSON": [USER, calling({"name": "f", "arguments": "{x}"})],
    "a list instead of an object as arguments of tool_calls": [
        USER,
        calling({"name": "f", "arguments": [1]}),
    ],
    "tool_calls without the name of a function": [USER, calling({"arguments": {"a": 1}})],
    "tool_calls with a field index that can't be carried": [USER, calling({"index": 1, **CALL})],
    "tool_calls of another type than function": [USER, calling({"type": "code", "name": "f"})],
    "function_calls that are no calls with named arguments, one a line": [
        USER,
        message("assistant", function_calls="f(1)"),
    ],
    "half a character (a lone surrogate)": [
        USER,
        calling({"name": "f", "arguments": '{"a": "\\ud83d"}'}),
    ],
    "a number that JSON does not know, such as NaN": [
        USER,
        calling({"name": "f", "arguments": '{"a": NaN}'}),
    ],
    "a turn of function_call without a call": [USER, {"from": "function_call", "value": ""}],
}


@pytest.mark.parametrize("what", FAULTS)
def test_what_cannot_be_carried_is_a_fault_of_its_row(tmp_path: Path, what: str) -> None:
    rows = [{"messages": SINGLE}, {"messages": FAULTS[what]}, {"messages": SINGLE}]
    read = read_shaped(write(tmp_path / "rows.jsonl", rows))
    assert [(fault.reason, fault.rows.tolist()) for fault in read.faults] == [(f"messages: {what}", [1])]
    assert read.columns[CONVERSATION].is_null().to_pylist() == [False, True, False]


@pytest.mark.parametrize(
    "calls",
    [
        "x = 1",
        "f(*a)",
        "f(**a)",
        "f(a=g())",
        "f(a={1: 2})",
        "f(a=b'x')",
        "f(a={1, 2})",
        "f(",
        "f(a=1j)",
        '"f"',
    ],
)
def test_pythonic_calls_that_are_none(calls: str) -> None:
    with pytest.raises(UnfitError, match="function_calls that are no calls"):
        read_conversation([USER, message("assistant", function_calls=calls)])


def test_tools_in_two_places_must_be_the_same() -> None:
    head = message("system", "s", functions=json.dumps([TOOL]))
    assert read_conversation([head, *SINGLE], [TOOL]).conversation["tools"] == [TOOL]
    with pytest.raises(UnfitError, match="other functions in a message than in the column tools"):
        read_conversation([head, *SINGLE], [{"name": "other"}])
    with pytest.raises(UnfitError, match="tools: not JSON"):
        read_conversation(SINGLE, "weather")


def test_turns_behind_the_last_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        {"messages": [*SINGLE, USER]},
        {"messages": SINGLE},
        {"messages": [*SINGLE, message("tool", "x"), USER]},
    ]
    read = read_shaped(write(tmp_path / "rows.jsonl", rows))
    assert read.cut == 2
    for text in read.columns[CONVERSATION].to_pylist():
        assert [turn["content"] for turn in from_json(text)["messages"]] == ["u", "a"]


def test_a_null_of_a_struct_is_a_field_that_is_not_there(tmp_path: Path) -> None:
    calls = [{"name": "f", "arguments": arguments} for arguments in ({"a": 1}, {"b": 2})]
    rows = [{"messages": [USER, message("assistant", "", tool_calls=[call])]} for call in calls]
    for suffix in ("parquet", "jsonl"):
        read = read_shaped(write(tmp_path / f"rows.{suffix}", rows))
        texts = read.columns[CONVERSATION].to_pylist()
        assert [
            from_json(text)["messages"][1]["tool_calls"][0]["function"]["arguments"] for text in texts
        ] == [{"a": 1}, {"b": 2}]
    kept = read_conversation(
        [USER, message("assistant", "", tool_calls=[{"name": "f", "arguments": '{"a": null}'}])]
    )
    assert kept.conversation["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"a": None}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
WORD = st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORD, inner, max_size=2),
    max_leaves=4,
)
OBJECTS = st.dictionaries(WORD, VALUES, min_size=1, max_size=3)
CALLS = st.builds(
    lambda name, arguments, id_: {
        **({"id": id_} if id_ else {}),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    },
    WORD,
    st.dictionaries(WORD, VALUES, max_size=2),
    st.none() | WORD,
)


@st.composite
def conversations(draw: st.DrawFn) -> dict[str, Any]:
    messages: list[dict[str, Any]] = (
        [{"role": "system", "content": draw(TEXT)}] if draw(st.booleans()) else []
    )
    messages.append({"role": "user", "content": draw(TEXT)})
    for role in draw(st.lists(st.sampled_from(ROLES[1:]), max_size=4)):
        messages.append({"role": role, "content": draw(TEXT)})
        if role == "assistant" and draw(st.booleans()):
            messages[-1]["reasoning_content"] = draw(TEXT.filter(bool))
        if role == "assistant" and draw(st.booleans()):
            messages[-1]["tool_calls"] = draw(st.lists(CALLS, min_size=1, max_size=2))
        if role == "tool" and draw(st.booleans()):
            messages[-1] |= {"tool_call_id": draw(WORD), "name": draw(WORD)}
    messages.append({"role": "assistant", "content": draw(TEXT.filter(str.strip))})
    made: dict[str, Any] = {"messages": messages}
    if draw(st.booleans()):
        made["tools"] = draw(st.lists(OBJECTS, min_size=1, max_size=2))
    if draw(st.booleans()):
        made["chat_template_kwargs"] = draw(OBJECTS)
    return made


@given(conversations())
@settings(max_examples=60, deadline=None)
def test_a_conversation_is_read_as_it_was_written(made: dict[str, Any]) -> None:
    values = (made["messages"], made.get("tools"), made.get("chat_template_kwargs"))
    read = read_conversation(*values)
    assert read.conversation == made
    assert list(map(list, read.conversation["messages"])) == list(map(list, made["messages"]))
    assert from_json(read.text) == made
    again = read_conversation(*(None if value is None else json.dumps(value) for value in values))
    assert again.text == read.text
    assert not read.cut


def leaves(value: Any) -> list[Any]:
    """All values inside, but what says nothing."""
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in leaves(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in leaves(inner)]
    return [] if value is None or value == "" else [value]


FIELDS = st.sampled_from(
    [
        "content",
        "value",
        "tool_calls",
        "function_call",
        "function_calls",
        "functions",
        "reasoning_content",
        "name",
        "tool_call_id",
        "weight",
        "id",
        "thinking",
        "images",
    ]
)


@given(
    st.sampled_from(["system", "user", "assistant", "tool", "human", "gpt", "function_call", "environment"]),
    st.dictionaries(FIELDS, VALUES | st.lists(CALLS, max_size=2), max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_every_field_is_carried_or_a_fault(role: str, fields: dict[str, Any]) -> None:
    given_message = {"role": role, **fields}
    before = [] if role == "system" else [message("user", "first")]
    try:
        read = read_conversation(
            [*before, given_message, message("user", "then"), message("assistant", "last")]
        )
    except UnfitError:
        return
    kept = read.text
    for name, value in fields.items():
        if name == "weight" and value in (0, 1):
            continue
        for leaf in leaves(value):
            if leaf not in ("function", "text"):
                said = json.dumps(leaf, ensure_ascii=False)
                said = said.strip('"') if isinstance(value, list) else said  # texts of a list become one
                assert said in kept, (name, leaf)


def test_what_is_said_by_whom() -> None:
    made = {"messages": turns(WITH_TOOLS)}
    assert turns_of(made, ("user",)) == ["u"]
    assert turns_of(made, ("assistant",)) == ['{"name":"weather","arguments":{"city":"Bern"}}', "a"]
