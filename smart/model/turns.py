"""A conversation's answers as a template renders them: what the model reads before each, and what it should write.

Nothing of a row may be lost in silence: a template that leaves out a message, a tool or a call refuses the row.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from smart.conversation import Conversation, Message
from smart.model.chat_format import ChatFormat, ChatTemplateError, added_tokens_pattern

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_THOUGHT = "</think>"
_MARK = "Zzyzx"


class Turn(NamedTuple):
    """A supervised turn, as text."""

    context: str
    """All that stands before the answer, with what the template writes to begin it."""
    answer: str
    """The answer, to its end of turn."""


class TurnRenderer:
    """Renders the answers of conversations.

    Args:
        form: the format.
        tokenizer: of the model whose template it is.
    """

    def __init__(self, form: ChatFormat, tokenizer: PreTrainedTokenizerBase) -> None:
        self.form = form
        self.tokenizer = tokenizer
        self._added = added_tokens_pattern(tokenizer)

    def turns(self, conversation: Conversation, *, last: bool = False) -> list[Turn]:
        """One for each turn of the assistant, or for the last alone; each is rendered as the last of its conversation.

        Raises:
            ChatTemplateError: where the template cannot carry the conversation.
        """
        messages = conversation["messages"]
        answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        if not answers:
            raise ChatTemplateError("no turn of the assistant")
        self._check_kwargs(conversation)
        turns = [self._turn(conversation, place) for place in (answers[-1:] if last else answers)]
        self._check_context(conversation, answers[-1], turns[-1].context)
        return turns

    def _render(self, conversation: Conversation, messages: Sequence[Message], *, generate: bool) -> str:
        return self.form.render(
            self.tokenizer,
            messages,
            conversation.get("tools"),
            conversation.get("chat_template_kwargs"),
            generate=generate,
        )

    def _turn(self, conversation: Conversation, place: int) -> Turn:
        messages = conversation["messages"]
        if place == 0 and self.form.system is None:
            raise ChatTemplateError("begins with the assistant")
        context = self._render(conversation, messages[:place], generate=True)
        answer = self._answer(conversation, messages[: place + 1], context)
        for part in _parts_of_answer(
            messages[place], self.form.thinks(conversation.get("chat_template_kwargs"))
        ):
            if part.text.strip() not in answer and not self._matters(conversation, messages, place, part):
                raise ChatTemplateError(f"the template leaves out {part.name}")
        return Turn(context, answer)

    def _answer(self, conversation: Conversation, messages: Sequence[Message], context: str) -> str:
        whole = self._render(conversation, messages, generate=False)
        if not whole.startswith(context):
            raise ChatTemplateError(
                "the template begins an answer otherwise than it asks for one (such as with an empty thought, or with"
                " none); chat.thinking may help"
            )
        return self._ended(whole[len(context) :])

    def _ended(self, text: str) -> str:
        """Up to and including the end of turn."""
        end, behind = self.form.end_of_turn, self.form.behind
        if text.endswith(end + behind):
            return text[: len(text) - len(behind)]
        text = text.rstrip()  # the end of a call of a tool may be another token
        if text.endswith(end) or len(text) in [mark.end() for mark in self._added.finditer(text)]:
            return text
        raise ChatTemplateError("the template puts no end behind an answer")

    def _check_kwargs(self, conversation: Conversation) -> None:
        template = self.form.template_for(conversation.get("tools"))
        for name, value in conversation.get("chat_template_kwargs", {}).items():
            if name in _reserved():
                raise ChatTemplateError(f"chat_template_kwargs: {name} is not the row's to say")
            if value and name not in template and name != "enable_thinking":
                raise ChatTemplateError(f"the template leaves out {name} of chat_template_kwargs")

    def _check_context(self, conversation: Conversation, place: int, context: str) -> None:
        messages = conversation["messages"]
        for number, message in enumerate(messages[:place]):
            part = _Part(f"a message of the role {message['role']}", message["content"], _with_content)
            if (
                message["role"] != "assistant"
                and message["content"].strip() not in context
                and not self._matters(conversation, messages[:place], number, part)
            ):
                raise ChatTemplateError(f"the template leaves out {part.name}")
        for tool in conversation.get("tools", []):
            name = tool.get("function", tool).get("name")
            if isinstance(name, str) and name not in context:
                raise ChatTemplateError("the template leaves out the tools")
        if "tools" in conversation:
            without: Conversation = {**conversation, "tools": []}
            if self._render(without, messages[:place], generate=True) == context:
                raise ChatTemplateError("the template leaves out the tools")

    def _matters(
        self, conversation: Conversation, messages: Sequence[Message], place: int, part: _Part
    ) -> bool:
        """Whether the rendering changes with a part of a message, which may stand in it in another form, as in JSON."""
        if part.changed is None:
            return False
        changed = part.changed(messages[place])
        before, generate = list(messages[:place]), messages[place]["role"] != "assistant"
        after = [] if not generate else list(messages[place + 1 :])
        return self._render(
            conversation, [*before, messages[place], *after], generate=generate
        ) != self._render(conversation, [*before, changed, *after], generate=generate)


class _Part(NamedTuple):
    """What must not be lost of a message."""

    name: str
    text: str
    changed: Callable[[Message], Message] | None
    """The message with another text there; None where the text stands as it is or not at all."""


def _with_content(message: Message) -> Message:
    return {**message, "content": message["content"] + _MARK}


def _with_reasoning(message: Message) -> Message:
    return {**message, "reasoning_content": message["reasoning_content"] + _MARK}


def _with_thought(message: Message) -> Message:
    thought, end, rest = message["content"].partition(_THOUGHT)
    return {**message, "content": f"{thought}{_MARK}{end}{rest}"}


def _parts_of_answer(message: Message, thinks: bool | None) -> Iterator[_Part]:
    thought, end, answer = message["content"].rpartition(_THOUGHT)
    yield _Part("text of the assistant", answer, _with_content)
    if end:
        yield _Part("a thought of the assistant", thought, _with_thought)
    if thinks is not False and "reasoning_content" in message:
        name = "reasoning_content, which chat.thinking=false does without"
        yield _Part(name, message["reasoning_content"], _with_reasoning)
    for call in message.get("tool_calls", []):
        yield _Part("a call of a tool", str(call.get("function", call).get("name", "")), None)


@cache
def _reserved() -> frozenset[str]:
    """What `apply_chat_template` takes beside the template's own variables."""
    from transformers import PreTrainedTokenizerBase

    return frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters) | {"messages"}


def chains(turns: Sequence[Turn]) -> bool:
    """True where each context continues the one before with its answer, so that one row can teach all turns."""
    return all(after.context.startswith(before.context + before.answer) for before, after in pairwise(turns))


def texts_of(conversation: Conversation) -> Iterator[str]:
    """All texts of a conversation that a user may have written."""

    def within(value: object) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            for one in value.values():
                yield from within(one)
        elif isinstance(value, list):
            for one in value:
                yield from within(one)

    for message in conversation["messages"]:
        plain: dict[str, Any] = {key: value for key, value in message.items() if key != "role"}
        yield from within(plain)
    yield from within(conversation.get("tools"))
