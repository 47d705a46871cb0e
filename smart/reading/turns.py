"""One row's messages, in any of the forms that people write, as a Conversation; or why it is none.

Nothing is lost in silence: a field that has a value, and no place in a Conversation, makes the row unusable.

What counts as a conversation follows from what chat templates take. A system text stands first: Qwen's and Llama's
templates take it from the first message alone, Mistral's and Gemma's refuse it elsewhere. Behind it comes a user's
turn: the same two, and Qwen3's, refuse an assistant that begins. Several turns of one role in a row are kept, since
ChatML's and Llama 3's templates take them. What stands behind the last answer is left out: nothing is learnt from it.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from smart.conversation import ROLES, Conversation, Message, to_json
from smart.reading.json_rows import decode_text

_ROLES = {
    **{role: role for role in ROLES},
    "developer": "system",
    "human": "user",
    **dict.fromkeys(("gpt", "model", "bot", "chatgpt"), "assistant"),
    **dict.fromkeys(("function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("environment", "observation", "ipython", "function", "tool_response"), "tool"),
}
"""Role as people write it → as templates know it."""
_WRITES_CALLS = {"function_call", "tool_call"}
"""Roles whose text is a call, or a list of calls, as JSON."""
_SAYS = {
    "role": ("role", "from"),
    "content": ("content", "value"),
}
"""Field of a Message → its names, of which a message has one."""


class UnfitError(Exception):
    """Why a row is no conversation; `what` is the same for all rows that have the same fault."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


@dataclass(frozen=True)
class Read:
    """A row as a conversation."""

    conversation: Conversation
    text: str
    """The same as JSON."""
    cut: bool
    """True where messages stood behind the last answer."""


def read_conversation(
    messages: object, tools: object = None, template: object = None, system: object = None
) -> Read:
    """A row's values, as JSON knows them, as a conversation.

    Args:
        messages: a list of messages.
        tools: schemas of tools: a list, or its JSON text.
        template: what the row tells the template: an object, or its JSON text.
        system: a system text beside the messages, for a conversation that has none of its own.

    Raises:
        UnfitError: where something is no conversation, or would be lost.
    """
    beside = _Beside()
    turns = [_message(message, beside) for message in _listed(messages)]
    system = _text(system, "a system text")
    if system.strip() and not (turns and turns[0]["role"] == "system"):
        turns.insert(0, {"role": "system", "content": system})
    whole = len(turns)
    turns = _up_to_last_answer(turns)
    conversation: Conversation = {"messages": turns}
    if schemas := _schemas(tools, beside.functions):
        conversation["tools"] = schemas
    if kwargs := _object(template, "chat_template_kwargs"):
        conversation["chat_template_kwargs"] = kwargs
    try:
        text = to_json(conversation)
        text.encode()
    except UnicodeEncodeError:
        raise UnfitError("half a character (a lone surrogate)") from None
    except (ValueError, RecursionError):
        raise UnfitError("a number that JSON does not know, such as NaN") from None
    return Read(conversation, text, cut=len(turns) < whole)


@dataclass
class _Beside:
    """What messages say about the whole conversation."""

    functions: object = None
    """Olmo 3's `functions` of a system message: the tools."""


def _message(given: object, beside: _Beside) -> Message:
    if not isinstance(given, dict):
        raise UnfitError(f"{_kind(given)} instead of a message")
    fields = {name: value for name, value in given.items() if _is_something(value)}
    role = _role(_take_one("role", fields))
    content = _take_one("content", fields)
    null = all(given.get(name) is None for name in _SAYS["content"])
    _refuse(null and _ROLES[role] == "user", "a user's turn without content")
    if role in _WRITES_CALLS:
        calls, content = _calls(content, "calls"), None
        _refuse(not calls, f"a turn of {role} without a call")
    else:
        calls = []
    role = _ROLES[role]
    turn: Message = {"role": role, "content": _content(content, role)}
    if role == "assistant":
        if thought := fields.pop("reasoning_content", None):
            turn["reasoning_content"] = _text(thought, "reasoning_content")
        calls += _calls(fields.pop("tool_calls", None), "tool_calls")
        calls += _calls(fields.pop("function_call", None), "function_call")
        calls += _pythonic(fields.pop("function_calls", None))
        if calls:
            turn["tool_calls"] = calls
    if role == "system" and "functions" in fields:
        beside.functions = fields.pop("functions")
    for name in ("tool_call_id", "name"):
        if name in fields:
            turn[name] = _text(fields.pop(name), name)
    # Where a weight only says what is done in any case, nothing is lost.
    if fields.get("weight") in ((1, True) if role == "assistant" else (0, False)):
        del fields["weight"]
    for name in fields:
        raise UnfitError(f"field {name} of a turn of {role} can't be carried")
    return turn


def _is_something(value: object) -> bool:
    """False for null, and for empty texts, lists and objects: what Parquet and careful writers put for a field that
    is not there."""
    return value is not None and value != "" and value != [] and value != {}


def _take_one(name: str, fields: dict[str, object]) -> object:
    found = [fields.pop(known) for known in _SAYS[name] if known in fields]
    if len(found) > 1 and found[0] != found[1]:
        raise UnfitError(f"{' and '.join(_SAYS[name])} of a message differ")
    return found[0] if found else None


def _role(given: object) -> str:
    role = _text(given, "role").lower()
    if role not in _ROLES:
        raise UnfitError(f"unknown role {role[:40]!r}" if role else "a message without role")
    return role


def _content(given: object, role: str) -> str:
    if not isinstance(given, list):
        return _text(given, f"content of a turn of {role}")
    return "".join(map(_part, given))


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise UnfitError(f"content with {_kind(part)} as a part")
    fields = {name: value for name, value in part.items() if _is_something(value)}
    kind = fields.pop("type", "text")
    text = fields.pop("text", "")
    if kind != "text":
        raise UnfitError(f"content with a part of type {str(kind)[:40]}")
    for name in fields:
        raise UnfitError(f"content with a part that has a field {name}")
    return _text(text, "text of a part")


def _calls(given: object, name: str) -> list[dict[str, Any]]:
    """Calls as a list, one object, or JSON text of either."""
    value = _decoded(given, name) if _is_something(given) else None
    if not _is_something(value):
        return []
    return [_call(call, name) for call in (value if isinstance(value, list) else [value])]


def _call(given: object, name: str) -> dict[str, Any]:
    given = _decoded(given, name)
    if not isinstance(given, dict):
        raise UnfitError(f"{name} with {_kind(given)} as a call")
    fields = {key: value for key, value in given.items() if _is_something(value)}
    call: dict[str, Any] = {}
    if "id" in fields:
        call["id"] = _text(fields.pop("id"), f"id of {name}")
    if fields.pop("type", "function") != "function":
        raise UnfitError(f"{name} of another type than function")
    function = fields
    if "function" in fields:
        inner = fields.pop("function")
        _refuse(bool(fields), f"{name} with a field {next(iter(fields), '')} that can't be carried")
        if not isinstance(inner, dict):
            raise UnfitError(f"{name} with {_kind(inner)} as a function")
        function = {key: value for key, value in inner.items() if _is_something(value)}
    called = _text(function.pop("name", None), f"name of {name}")
    _refuse(not called, f"{name} without the name of a function")
    arguments = _object(function.pop("arguments", None), f"arguments of {name}")
    _refuse(bool(function), f"{name} with a field {next(iter(function), '')} that can't be carried")
    return {**call, "type": "function", "function": {"name": called, "arguments": arguments}}


def _pythonic(given: object) -> list[dict[str, Any]]:
    """Olmo 3's calls, as Python writes them: weather(city="Bern", days=2), one a line, or in a list."""
    if isinstance(given, list):
        return _calls(given, "function_calls")
    text = _text(given, "function_calls")
    if not text.strip():
        return []
    try:
        lines = ast.parse(text.strip()).body
        return [_python_call(node) for line in lines for node in _python_calls(line)]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise UnfitError("function_calls that are no calls with named arguments, one a line") from None


def _python_calls(line: ast.stmt) -> Iterator[ast.expr]:
    if not isinstance(line, ast.Expr):
        raise ValueError
    value = line.value
    yield from value.elts if isinstance(value, ast.List | ast.Tuple) else [value]


def _python_call(node: ast.expr) -> dict[str, Any]:
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError
        arguments[keyword.arg] = _literal(keyword.value)
    return {"type": "function", "function": {"name": _dotted(node.func), "arguments": arguments}}


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    if not isinstance(node, ast.Name):
        raise ValueError
    return node.id


_JSON_WORDS = {"true": True, "false": False, "null": None}


def _literal(node: ast.expr) -> Any:
    """The value of an argument, of a kind that JSON has too."""
    if isinstance(node, ast.Name) and node.id in _JSON_WORDS:
        return _JSON_WORDS[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        names = [None if key is None else _literal(key) for key in node.keys]
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise ValueError
        return dict(zip(names, map(_literal, node.values), strict=True))
    value = ast.literal_eval(node)
    if not (value is None or isinstance(value, str | int | float)):
        raise ValueError
    return value


def _schemas(tools: object, functions: object) -> list[dict[str, Any]]:
    """The tools of a conversation, from its column or from a system message."""
    found = [read for read in (_tools(tools, "tools"), _tools(functions, "functions")) if read]
    if len(found) > 1 and found[0] != found[1]:
        raise UnfitError("other functions in a message than in the column tools")
    return found[0] if found else []


def _tools(given: object, name: str) -> list[dict[str, Any]]:
    value = _decoded(given, name) if _is_something(given) else None
    if not _is_something(value):
        return []
    schemas = []
    for schema in value if isinstance(value, list) else [value]:
        schema = _decoded(schema, name)
        if not isinstance(schema, dict):
            raise UnfitError(f"{_kind(schema)} instead of a tool's schema")
        schemas.append(schema)
    return schemas


def _object(given: object, name: str) -> dict[str, Any]:
    """An object, or its JSON text; {} for nothing."""
    value = _decoded(given, name) if _is_something(given) else None
    if not _is_something(value):
        return {}
    if not isinstance(value, dict):
        raise UnfitError(f"{_kind(value)} instead of an object as {name}")
    return value


def _decoded(given: object, name: str) -> Any:
    """The value of a JSON text; other values as they are."""
    if not isinstance(given, str):
        return given
    try:
        return decode_text(given)
    except (ValueError, RecursionError):
        raise UnfitError(f"{name}: not JSON") from None


def _up_to_last_answer(turns: list[Message]) -> list[Message]:
    """The turns, without those behind the last of the assistant.

    Raises:
        UnfitError: for an order that templates refuse, and for a conversation from which nothing can be learnt.
    """
    _refuse(not turns, "no messages")
    roles = [turn["role"] for turn in turns]
    _refuse("system" in roles[1:], "a system text that is not the first message")
    _refuse("assistant" not in roles, "no turn of the assistant")
    _refuse(roles[roles[0] == "system"] != "user", "no user's turn before the others")
    turns = turns[: len(roles) - roles[::-1].index("assistant")]
    last = turns[-1]
    _refuse(not last["content"].strip() and not last.get("tool_calls"), "an empty last answer")
    return turns


def _listed(given: object) -> list[Any]:
    value = _decoded(given, "messages")
    if not isinstance(value, list):
        raise UnfitError(f"{_kind(value)} instead of a list of messages")
    return value


def _text(given: object, name: str) -> str:
    if given is None:
        return ""
    if not isinstance(given, str):
        raise UnfitError(f"{_kind(given)} instead of text as {name}")
    return given


_KINDS = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


def _kind(value: object) -> str:
    return "null" if value is None else _KINDS.get(type(value), f"a {type(value).__name__}")


def _refuse(wrong: bool, what: str) -> None:
    if wrong:
        raise UnfitError(what)


def turns_of(conversation: Conversation, roles: Sequence[str] = ROLES) -> list[str]:
    """What the given roles said, turn by turn; calls as JSON, behind the text."""
    return [said(message) for message in conversation["messages"] if message["role"] in roles]


def said(message: Message) -> str:
    """What one message says: its text, and its calls as JSON."""
    calls = [
        json.dumps(call["function"], ensure_ascii=False, separators=(",", ":"))
        for call in message.get("tool_calls", ())
    ]
    return "\n".join(part for part in (message["content"], *calls) if part)
