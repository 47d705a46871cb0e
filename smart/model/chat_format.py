"""How conversations become text: a model's template, and all that it is told beside the messages."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from smart.config import UserError
from smart.conversation import Message
from smart.model.tokens import continuation_ids, ids_of
from smart.runtime.files import hash_bytes

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

MANIFEST_FIELD = "text_format"
"""Of a training's manifest: `ChatFormat.to_manifest()`, or {"kind": "plain"}; its "format" is that of manifests."""
DATE = "2024-07-26"
"""What templates are told of today, so that a row has the same tokens every day: Llama 3.1's own day."""
_NOW = re.compile(r"""strftime_now\(\s*(["'])(?P<form>[^"']*)\1\s*\)""")
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_ANSWER = "JaneAusten"
_THINKING = "enable_thinking"


class ChatTemplateError(Exception):
    """A template stops at a conversation; the text says why."""


@dataclass(frozen=True)
class ChatFormat:
    """A template, and what it is told for every conversation.

    Training makes one of the tokenizer and writes it into the adapter's manifest, out of which evaluation makes the
    same one, so that a model is asked in the form in which it has learnt.
    """

    template: str
    """Jinja, with the day written out where it asks for today's."""
    tool_template: str | None
    """For conversations with tools, where the tokenizer has another for them."""
    template_hash: str
    """Of the tokenizer's own templates, before the day was written out."""
    end_of_turn: str
    """What the template puts behind an answer, such as <|im_end|>: the last of what is supervised."""
    end_ids: tuple[int, ...]
    """Its ids. It need not be the tokenizer's end of sequence."""
    behind: str
    """What the template writes behind the end of the last turn, such as a line feed; never supervised."""
    system: str | None = None
    """System text for conversations that have none; None: the template's own default, where it has one."""
    thinking: bool | None = None
    """enable_thinking, for conversations that don't say it themselves; None: the template decides. False leaves out
    reasoning_content too."""
    date: str = DATE

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        *,
        system: str | None = None,
        thinking: bool | None = None,
        date: str = DATE,
    ) -> ChatFormat:
        """The format of a tokenizer's own template.

        Raises:
            UserError: where it has none, the template refuses what it is told, or a model could not learn from it
            where a turn ends.
        """
        named = _templates(tokenizer)
        if thinking and not any(_THINKING in text for text in named.values()):
            raise UserError(
                f"chat.thinking=true: the template of {tokenizer.name_or_path!r} does not know"
                f" {_THINKING}; leave chat.thinking out"
            )
        said = [f"{name}\n{text}".encode() for name, text in sorted(named.items())]
        frozen = {name: _frozen(text, date, tokenizer) for name, text in named.items()}
        first = cls(
            frozen["default"], frozen.get("tool_use"), hash_bytes(said), "", (), "", system, thinking, date
        )
        end, behind = _end_of_turn(first, tokenizer)
        ids = (
            ids_of(tokenizer, [end])[0] if end in _added(tokenizer) else continuation_ids(tokenizer, [end])[0]
        )
        return cls(
            first.template,
            first.tool_template,
            first.template_hash,
            end,
            tuple(ids),
            behind,
            system,
            thinking,
            date,
        )

    def to_manifest(self) -> dict[str, Any]:
        """Plain JSON. The template's text lies beside the adapter, with the tokenizer."""
        return {
            "kind": "chat",
            "template": self.template_hash,
            "end_of_turn": self.end_of_turn,
            "end_ids": list(self.end_ids),
            "system": self.system,
            "thinking": self.thinking,
            "date": self.date,
        }

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
        """The format that `to_manifest` wrote down, of the tokenizer that lies beside the manifest.

        Raises:
            UserError: where the tokenizer's template is another.
        """
        found = cls.of(
            tokenizer, system=manifest["system"], thinking=manifest["thinking"], date=manifest["date"]
        )
        if (found.template_hash, list(found.end_ids)) != (manifest["template"], manifest["end_ids"]):
            raise UserError(
                f"the template of {tokenizer.name_or_path!r} is not the one that the model was trained with (hash"
                f" {found.template_hash[:8]}, not {manifest['template'][:8]}; end of turn {found.end_of_turn!r},"
                f" {manifest['end_of_turn']!r}); take the tokenizer that was saved beside the adapter"
            )
        return found

    def other_marks(self, tokenizer: PreTrainedTokenizerBase) -> str | None:
        """How the template's own {% generation %} marks differ from what is supervised here; None where they don't."""
        from transformers.utils.chat_template_utils import render_jinja_template

        if not _MARKS.search(self.template):
            return None
        messages = _probe()
        told = tokenizer.special_tokens_map | ({} if self.thinking is None else {_THINKING: self.thinking})
        render: Any = render_jinja_template  # which is typed as if it gave a text alone
        ((text,), (marks,)) = render(
            [messages], chat_template=self.template, return_assistant_tokens_mask=True, **told
        )
        start = len(self.render(tokenizer, messages[:-1], generate=True))
        ours = text[start : text.rindex(self.end_of_turn) + len(self.end_of_turn)]
        theirs = "".join(text[first:last] for first, last in marks)
        if theirs == ours:
            return None
        return (
            f"The template's own {{% generation %}} marks take {theirs!r} for an answer; supervised is {ours!r}, which"
            " is what a model writes when it is asked, to its end of turn."
        )

    def stop_ids(self, *others: int | None) -> list[int]:
        """Ids at which generation stops: the end of turn, where it is one token, and `others`."""
        own = self.end_ids if len(self.end_ids) == 1 else ()
        return list(dict.fromkeys(one for one in (*own, *others) if one is not None))

    def thinks(self, kwargs: Mapping[str, Any] | None) -> bool | None:
        """enable_thinking as the template is told it for one conversation."""
        return (kwargs or {}).get(_THINKING, self.thinking)

    def template_for(self, tools: object) -> str:
        return self.tool_template if tools and self.tool_template is not None else self.template

    def render(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        generate: bool,
        resume: bool = False,
    ) -> str:
        """The text of a conversation.

        Args:
            kwargs: the conversation's own `chat_template_kwargs`.
            generate: whether the text ends where the assistant's next turn begins.
            resume: whether it ends with the last message's text, which the assistant goes on with.

        Raises:
            ChatTemplateError: with the template's reason.
        """
        given: list[Any] = list(messages)
        if self.system is not None and not any(message["role"] == "system" for message in given):
            given.insert(0, {"role": "system", "content": self.system})
        if self.thinks(kwargs) is False:
            given = [
                {key: message[key] for key in message if key != "reasoning_content"} for message in given
            ]
        told = {} if self.thinking is None else {_THINKING: self.thinking}
        try:
            text = tokenizer.apply_chat_template(
                given,
                tools=list(tools) if tools else None,
                chat_template=self.template_for(tools),
                add_generation_prompt=generate,
                continue_final_message=resume,
                tokenize=False,
                **(told | dict(kwargs or {})),
            )
        except Exception as error:  # a template is a program of others, which may fail in any way
            raise ChatTemplateError(f"the template refuses it: {_first_line(error)}") from error
        return str(text)


def _templates(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Name → text of the tokenizer's templates that are used here: default, and tool_use where there is one."""
    found = tokenizer.chat_template
    named = dict(found) if isinstance(found, Mapping) else {"default": found} if found else {}
    if "default" not in named:
        names = f", only those named {', '.join(sorted(named))}" if named else ""
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template{names}: use an instruction-tuned model,"
            " whose tokenizer has one; or format=plain for rows of prompt and response"
        )
    return {name: named[name] for name in ("default", "tool_use") if name in named}


def _frozen(template: str, day: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """With the day in place of every question for today's, as a string of Jinja."""

    def written(match: re.Match[str]) -> str:
        return json.dumps(date.fromisoformat(day).strftime(match["form"]))

    text = _NOW.sub(written, template)
    if "strftime_now(" in text:
        raise UserError(
            f"the template of {tokenizer.name_or_path!r} writes today's date in a form that is not written out in it,"
            " so its rows would have other tokens every day; give the tokenizer a template with a fixed date"
        )
    return text


def _probe() -> list[Message]:
    return [{"role": "user", "content": "Who wrote Emma?"}, {"role": "assistant", "content": _ANSWER}]


def _end_of_turn(form: ChatFormat, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What stands behind an answer: the end of turn, and what follows it."""
    name = repr(tokenizer.name_or_path)
    try:
        text = form.render(tokenizer, _probe(), generate=False)
    except ChatTemplateError as refusal:
        told = f"chat.system={form.system!r}: " if form.system is not None else ""
        raise UserError(f"{told}{name}: {refusal}") from refusal
    if form.system is not None and form.system.strip() not in text:
        raise UserError(
            f"chat.system={form.system!r}: the template of {name} leaves it out; put it into the rows"
        )
    _, found, suffix = text.rpartition(_ANSWER)
    marker = added_tokens_pattern(tokenizer).search(suffix)
    end = marker.group() if marker else suffix.strip()
    if not found or not end:
        raise UserError(
            f"the template of {name} puts nothing behind an answer, so a model could not learn to stop; give it an end"
            " of turn, such as {{ eos_token }}"
        )
    return end, suffix[suffix.index(end) + len(end) :]


def stop_at(generation: GenerationConfig | None, ids: Sequence[int]) -> None:
    """Put ids before those at which generation stops already."""
    if generation is not None and ids:
        generation.eos_token_id = list(dict.fromkeys((*ids, *stops_of(generation))))


def stops_of(generation: GenerationConfig) -> list[int]:
    """Ids at which generation stops."""
    found = generation.eos_token_id
    return list(found) if isinstance(found, list) else [] if found is None else [int(found)]


def added_tokens_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Finds in a text what the tokenizer reads as one of its added tokens, the longest first."""
    texts = sorted(_added(tokenizer), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)")


def _added(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    return {token.content for token in tokenizer.added_tokens_decoder.values() if token.content}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
