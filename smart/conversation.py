"""A conversation as every room hands it on: messages, tools, and what the template is told beside them."""

from __future__ import annotations

import json
from typing import Any, Required, TypedDict


class Message(TypedDict, total=False):
    """One turn, in the form of OpenAI's API, which chat templates read."""

    role: Required[str]
    """One of ROLES."""
    content: Required[str]
    """"" where there is none, such as beside a call of a tool."""
    tool_calls: list[dict[str, Any]]
    """[{"type": "function", "function": {"name": …, "arguments": {…}}}, …], of the assistant alone; not empty."""
    reasoning_content: str
    """What the assistant thought before its answer, where it is apart from the content."""
    tool_call_id: str
    name: str


class Conversation(TypedDict, total=False):
    messages: Required[list[Message]]
    tools: list[dict[str, Any]]
    """JSON schemas of the tools that may be called; not empty."""
    chat_template_kwargs: dict[str, Any]
    """What the row tells the template, such as {"enable_thinking": false}; not empty."""


ROLES = ("system", "user", "assistant", "tool")


def to_json(conversation: Conversation) -> str:
    """One line of JSON; keys stay in their order, in which templates write them out."""
    return json.dumps(conversation, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def from_json(text: str) -> Conversation:
    conversation: Conversation = json.loads(text)
    return conversation
