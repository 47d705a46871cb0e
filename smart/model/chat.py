"""Where conversations become tokens: training, selection and evaluation all call this.

For each supervised turn, which is every turn of the assistant:

- the ids before it are those of `apply_chat_template` of the messages before, with the generation prompt, which is
  what the model reads when it is used;
- the ids of the answer follow, to the end of turn, and the loss is on them. Answer and context share no token;
- what stands between turns is not supervised, nor what the template writes behind an end of turn.

A conversation is one row with several supervised spans where each context continues the one before with its answer.
Templates that rewrite what came before (Qwen3 takes away earlier thoughts) make it one row for each answer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from smart.config import UserError, counted
from smart.conversation import Conversation, Message
from smart.model.chat_format import (
    MANIFEST_FIELD,
    ChatFormat,
    ChatTemplateError,
    added_tokens_pattern,
    stop_at,
    stops_of,
)
from smart.model.tokens import Overlength, continuation_ids, control_tokens, ids_of
from smart.model.turns import Turn, TurnRenderer, chains, texts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "MANIFEST_FIELD",
    "ChatFormat",
    "ChatRow",
    "ChatTemplateError",
    "EncodedConversation",
    "context_ids",
    "encode_conversations",
    "fits",
    "stop_at",
    "stops_of",
]


class ChatRow(NamedTuple):
    """One row: the model reads `ids`, and the loss is on the spans."""

    ids: list[int]
    spans: list[tuple[int, int]]
    """[start, stop) in ids of each supervised turn, with its end of turn; ascending, none of them empty."""
    cut: int = 0
    """How many messages of the conversation's beginning are left out, so that the row fits."""


class EncodedConversation(NamedTuple):
    """What becomes of a conversation."""

    rows: list[ChatRow]
    """One, or one for each supervised turn; none where the conversation is dropped."""
    fault: str | None = None
    """Why the template cannot carry it. Without rows and without a fault it is too long."""
    control: bool = False
    """True where its text spells a control token, such as <|im_end|>, which is read as that token."""
    split: bool = False
    """True where the template rewrites what came before, so that each answer has a row of its own."""
    lost: int = 0
    """Supervised turns that are in no row, since they are too long or were cut off."""


def context_ids(
    form: ChatFormat,
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """What the model reads before it answers: the template's text, without a second beginning of sequence.

    Raises:
        ChatTemplateError: with the template's reason.
    """
    return ids_of(tokenizer, [form.render(tokenizer, messages, tools, kwargs, generate=True)])[0]


def encode_conversations(
    form: ChatFormat,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    *,
    max_length: int | None = None,
    overlength: Overlength = "truncate_prompt",
) -> list[EncodedConversation]:
    """Turn conversations into rows of tokens.

    Args:
        max_length: the most ids a row may have; None for no bound.
        overlength: what to do with longer rows. truncate_prompt: leave out whole turns from the beginning, so that
            the first that is left is the user's; system text and tools stay, and what does not fit even so is
            dropped. drop: drop the conversation. error: stop.

    Raises:
        UserError: for a conversation that is too long under "error".
    """
    encoder = _Encoder(form, tokenizer)
    encoded = encoder.encode(conversations)
    if max_length is None:
        return encoded
    for number, (conversation, one) in enumerate(zip(conversations, encoded, strict=True)):
        longest = max((len(row.ids) for row in one.rows), default=0)
        if longest <= max_length:
            continue
        if overlength == "error":
            raise UserError(
                f"row {number} has {counted(longest, 'token')}, more than max_length={max_length}: raise max_length, or"
                " set overlength=truncate_prompt or overlength=drop"
            )
        rows = encoder.shorten(conversation, one, max_length) if overlength == "truncate_prompt" else []
        answers = sum(message["role"] == "assistant" for message in conversation["messages"])
        encoded[number] = one._replace(rows=rows, lost=answers - sum(len(row.spans) for row in rows))
    return encoded


def fits(
    form: ChatFormat,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    max_length: int,
    *,
    overlength: Overlength = "truncate_prompt",
) -> np.ndarray:
    """Which conversations training keeps, with one supervised turn at least: bool, shape (conversations,)."""
    encoded = encode_conversations(
        form, tokenizer, conversations, max_length=max_length, overlength=overlength
    )
    return np.array([bool(one.rows) for one in encoded], dtype=bool)


class _Encoder:
    def __init__(self, form: ChatFormat, tokenizer: PreTrainedTokenizerBase) -> None:
        self._renderer = TurnRenderer(form, tokenizer)
        self._borders = _Borders(tokenizer)
        added = tokenizer.added_tokens_decoder
        control = {added[number].content for number in control_tokens(tokenizer) if number in added}
        self._control = tuple(sorted(control))

    def encode(
        self, conversations: Sequence[Conversation], *, last: bool = False
    ) -> list[EncodedConversation]:
        """Rows of any length; `last`: of the last turn alone."""
        found: list[EncodedConversation] = []
        strands: list[list[Turn]] = []
        for conversation in conversations:
            try:
                turns = self._renderer.turns(conversation, last=last)
            except ChatTemplateError as refusal:
                found.append(EncodedConversation([], str(refusal)))
                continue
            strands.append(turns)
            spelt = any(token in text for text in texts_of(conversation) for token in self._control)
            found.append(EncodedConversation([], None, spelt))
        rows = iter(self._borders.rows(strands))
        return [one if one.fault else self._with(one, next(rows)) for one in found]

    @staticmethod
    def _with(one: EncodedConversation, rows: list[ChatRow]) -> EncodedConversation:
        return one._replace(rows=rows, split=len(rows) > 1)

    def shorten(self, conversation: Conversation, one: EncodedConversation, max_length: int) -> list[ChatRow]:
        """Rows that fit, of as many whole turns from the end as can be kept."""
        if not one.split:
            return self._shortened(conversation, max_length, last=False)
        answers = [n for n, message in enumerate(conversation["messages"]) if message["role"] == "assistant"]
        rows = []
        for place, row in zip(answers, one.rows, strict=True):
            if len(row.ids) <= max_length:
                rows.append(row)
            else:
                until: Conversation = {**conversation, "messages": conversation["messages"][: place + 1]}
                rows += self._shortened(until, max_length, last=True)
        return rows

    def _shortened(self, conversation: Conversation, max_length: int, *, last: bool) -> list[ChatRow]:
        messages = conversation["messages"]
        answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        users = [n for n, message in enumerate(messages[: answers[-1]]) if message["role"] == "user"]
        known: dict[int, list[ChatRow]] = {}

        def does_fit(start: int) -> bool:
            kept = [m for n, m in enumerate(messages) if n >= start or m["role"] == "system"]
            (one,) = self.encode([{**conversation, "messages": kept}], last=last)
            known[start] = [row._replace(cut=len(messages) - len(kept)) for row in one.rows]
            return bool(one.rows) and all(len(row.ids) <= max_length for row in one.rows)

        place = bisect_left(users[1:], True, key=does_fit) + 1  # the later the start, the shorter
        return known[users[place]] if place < len(users) else []


class _Borders:
    """Rows of tokens out of rendered turns, with exact borders.

    Tokenizers split a text at their added tokens, such as <|im_start|>, before anything else, so what stands between
    two of them has the same ids wherever it stands. A row is therefore tokenised once; a context ends where the ids of
    its tail, from the last added token on, end in it. Where that does not hold (no added token, an answer that grows
    together with its context), context and answer are tokenised each for itself.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._pattern = added_tokens_pattern(tokenizer)
        self._added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
        self._numbers = frozenset(self._added.values())
        self._tail_ids = lru_cache(1024)(lambda tail: tuple(ids_of(tokenizer, [tail])[0]))

    def rows(self, strands: Sequence[Sequence[Turn]]) -> list[list[ChatRow]]:
        """For each list of turns its rows: one where the turns chain, else one for each."""
        pieces = [[turns] if chains(turns) else [[turn] for turn in turns] for turns in strands]
        wholes = [piece[-1].context + piece[-1].answer for split in pieces for piece in split]
        ids = iter(ids_of(self._tokenizer, wholes))
        texts = iter(wholes)
        return [
            [row for piece in split for row in self._rows(piece, next(texts), next(ids))] for split in pieces
        ]

    def _rows(self, turns: Sequence[Turn], text: str, ids: list[int]) -> list[ChatRow]:
        spans = self._spans(turns, text, ids)
        return self._one_by_one(turns) if spans is None else [ChatRow(ids, spans)]

    def _spans(self, turns: Sequence[Turn], text: str, ids: list[int]) -> list[tuple[int, int]] | None:
        """Where the answers stand in a row; None where a border cannot be told from added tokens."""
        marks = list(self._pattern.finditer(text))
        places = [place for place, number in enumerate(ids) if number in self._numbers]
        if [self._added[mark.group()] for mark in marks] != [ids[place] for place in places]:
            return None
        ends = [mark.end() for mark in marks]
        spans = []
        for context, answer in turns:
            before = bisect_left(ends, len(context) + 1) - 1  # the last added token of the context
            if before < 0:
                return None
            tail = self._tail_ids(context[marks[before].start() :])
            start = places[before] + len(tail)
            if tuple(ids[places[before] : start]) != tail:
                return None
            end = bisect_left(ends, len(context) + len(answer))
            if end == len(ends) or ends[end] != len(context) + len(answer):
                return None
            spans.append((start, places[end] + 1))
        return spans

    def _one_by_one(self, turns: Sequence[Turn]) -> list[ChatRow]:
        contexts = ids_of(self._tokenizer, [turn.context for turn in turns])
        wholes = ids_of(self._tokenizer, [turn.context + turn.answer for turn in turns])
        apart = continuation_ids(self._tokenizer, [turn.answer for turn in turns])
        rows = []
        for context, whole, answer in zip(contexts, wholes, apart, strict=True):
            row = whole if whole[: len(context)] == context else context + answer
            rows.append(ChatRow(row, [(len(context), len(row))]))
        if all(after.ids[: len(before.ids)] == before.ids for before, after in pairwise(rows)):
            return [ChatRow(rows[-1].ids, [row.spans[0] for row in rows])]
        return rows
