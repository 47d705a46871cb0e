"""Unseen tasks in a model's own format: conversations, and rows of prompt and response as conversations of one turn.

The ids are those of training (`smart.model.chat`), so that a loss is what training would call it: for every turn of the
assistant, the loss of its supervised tokens after exactly the context that the model reads when it is used. The last
answer of each conversation is generated too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from smart.config import UserError
from smart.conversation import Conversation, Message, from_json
from smart.evaluation.cached_lm import Prompt
from smart.evaluation.heldout import score_text
from smart.model.chat import ChatFormat, encode_conversations
from smart.reading import Fault, refusal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_THOUGHT, _END_OF_THOUGHT = "<think>", "</think>"


class TurnsTask(ConfigurableTask):
    """A task whose rows know their ids: a request for the loss of each answer, or for each option."""

    def __init__(self, config: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        super().__init__(config=config)

    def fewshot_context(self, doc: Mapping[str, Any], *_: object, **__: object) -> str:
        """The last question as the model reads it, with all that stands before it."""
        return str(doc["prompt"])

    def construct_requests(self, doc: Mapping[str, Any], ctx: str, **how: Any) -> Any:
        """See lm-eval; a request for each turn of the assistant, or for each option."""
        if self.OUTPUT_TYPE == "generate_until":
            return super().construct_requests(doc, ctx, **how)
        pairs = list(zip(doc["contexts"], doc["answers"], strict=True))
        if self.OUTPUT_TYPE == "multiple_choice":
            pairs = [(doc["contexts"][-1], choice) for choice in doc["choices"]]
        place = {key: how[key] for key in ("metadata",) if key in how}
        return [
            Instance("loglikelihood", doc, (self._prompt(context), self._prompt(answer)), idx, **place)
            for idx, (context, answer) in enumerate(pairs)
        ]

    def _prompt(self, ids: Sequence[int]) -> Prompt:
        return Prompt(str(self._tokenizer.decode(list(ids))), ids)


def turn_documents(
    table: pa.Table, tokenizer: PreTrainedTokenizerBase, form: ChatFormat
) -> list[dict[str, Any]]:
    """Rows of a file of unseen tasks as documents of `TurnsTask`.

    Args:
        table: with the column conversation, or with inputs and targets.

    Raises:
        UserError: for rows that the template cannot carry.
    """
    rows = table.to_pylist()
    conversations = [_conversation(row) for row in rows]
    answers = _answers(form, tokenizer, conversations)
    return [
        _document(row, conversation, pairs, tokenizer, form)
        for row, conversation, pairs in zip(rows, conversations, answers, strict=True)
    ]


def _conversation(row: Mapping[str, Any]) -> Conversation:
    if row.get("conversation") is not None:
        return from_json(row["conversation"])
    return asked(row["inputs"], row["targets"])


def asked(question: str, answer: str) -> Conversation:
    """A conversation of one question and its answer."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


Pair = tuple[list[int], list[int]]
"""Ids of a context, and of the answer that follows, to its end of turn."""


def _answers(
    form: ChatFormat, tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation]
) -> list[list[Pair]]:
    """For each conversation, its answers in order, each after what the model reads before it."""
    encoded = encode_conversations(form, tokenizer, conversations)
    wrong: dict[str, list[int]] = {}
    for number, one in enumerate(encoded):
        if one.fault:
            wrong.setdefault(one.fault, []).append(number)
    if wrong:
        faults = [str(Fault("conversation", what, np.array(rows))) for what, rows in wrong.items()]
        raise UserError(
            refusal("suite.collection", faults, "Leave them out, or take a model whose template has these.")
        )
    return [
        [(row.ids[:start], row.ids[start:stop]) for row in one.rows for start, stop in row.spans]
        for one in encoded
    ]


def _document(
    row: Mapping[str, Any],
    conversation: Conversation,
    pairs: list[Pair],
    tokenizer: PreTrainedTokenizerBase,
    form: ChatFormat,
) -> dict[str, Any]:
    *before, last = conversation["messages"]
    context = form.render(
        tokenizer, before, conversation.get("tools"), conversation.get("chat_template_kwargs"), generate=True
    )
    options = row.get("options") or []
    answer = _reference(last, pairs[-1][1], tokenizer, form)
    return {
        "prompt": context,
        "target": answer,
        "continuation": "".join(str(tokenizer.decode(ids)) for _, ids in pairs),
        "contexts": [ids for ids, _ in pairs],
        "answers": [ids for _, ids in pairs],
        "choices": [_without_end(ids, form) for ids in _options(form, tokenizer, conversation, options)],
        "tokens": sum(len(ids) for _, ids in pairs),
        "references": row.get("references") or [answer],
        "options": options,
        "label": options.index(answer) if answer in options else None,
        "category": row.get("task_source") or "",
    }


def _options(
    form: ChatFormat, tokenizer: PreTrainedTokenizerBase, conversation: Conversation, options: Sequence[str]
) -> list[list[int]]:
    """Ids of each option as the conversation's last answer."""
    before = conversation["messages"][:-1]
    answered: list[Conversation] = [
        {**conversation, "messages": [*before, {"role": "assistant", "content": option}]}
        for option in options
    ]
    return [pairs[-1][1] for pairs in _answers(form, tokenizer, answered)]


def _without_end(ids: Sequence[int], form: ChatFormat) -> list[int]:
    """Options are compared without an end, as lm-eval compares them."""
    end = list(form.end_ids)
    return list(ids[: -len(end)]) if list(ids[-len(end) :]) == end else list(ids)


def _reference(
    message: Message, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, form: ChatFormat
) -> str:
    """What a generated answer is compared with: the text; calls of tools as the template writes them."""
    if message.get("tool_calls"):
        return str(tokenizer.decode(_without_end(ids, form), skip_special_tokens=True)).strip()
    return message["content"]


def score_answer(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """As `score_text`, of what follows a thought; a thought that does not end has no answer."""
    said = {**doc, "references": [without_thought(reference) for reference in doc["references"]]}
    return score_text(said, [without_thought(results[0])])


def without_thought(text: str) -> str:
    """A text without what the model thought before it.

    >>> without_thought("<think>2 + 2</think> 4"), without_thought("4"), without_thought("<think>2 +")
    (' 4', '4', '')
    """
    _, end, answer = text.rpartition(_END_OF_THOUGHT)
    return "" if not end and text.lstrip().startswith(_THOUGHT) else answer
