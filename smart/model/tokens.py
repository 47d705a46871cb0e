"""The one place where text becomes tokens: selection, training and evaluation all call `encode`.

Prompt and response are tokenised apart, so the border between them is exact, and the ids are those that
lm-eval makes of a context and its continuation. Where ours differ from lm-eval's, by intent:

- an end of sequence follows the response, so that the model learns to stop (`end=False` leaves it out), unless the
  text itself ends with it;
- a prompt that is too long loses its left part but keeps the beginning of sequence, which lm-eval cuts off;
- where the separator is empty and prompt and response would share a token, each keeps its own tokens, while
  lm-eval drops what the shared token hides;
- the response to a blank prompt is tokenised as in the middle of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from smart.config import UserError, counted
from smart.templates import SEPARATOR

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Overlength = Literal["truncate_prompt", "drop", "error"]

# Precedes every response while it is tokenised: some tokenizers put a space before the beginning of a text.
_ANCHOR = "a"


class Tokens(NamedTuple):
    """One row: the model reads `prompt + response`, and the loss is on `response`."""

    prompt: list[int]
    """Ids, with the beginning of sequence where the model has one; never empty."""
    response: list[int]
    """Ids, from the separator to the end of sequence; never empty."""
    cut: int
    """How many ids the prompt has lost on its left."""
    control: bool = False
    """True where the row's text spells a control token, such as </s>, which is read as that token."""


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    separator: str = SEPARATOR,
    max_length: int | None = None,
    overlength: Overlength = "truncate_prompt",
    end: bool = True,
) -> list[Tokens | None]:
    """Turn rows into tokens.

    White space at the end of a prompt goes to the response, as in lm-eval: words begin with their space.

    Args:
        separator: joins prompt and response; lm-eval's target delimiter.
        max_length: the most ids a row may have, all included; None for no bound.
        overlength: what to do with a longer row: cut its prompt from the left (where the response leaves no
        room
            for any prompt, the row is dropped), drop it, or stop.
        end: whether an end of sequence follows the response.

    Returns:
        Tokens for each row, or None where the row is dropped.

    Raises:
        UserError: for a row that is too long under "error", and for a tokenizer without an end of sequence.
    """
    start = _beginning(tokenizer)
    written_start = str(tokenizer.decode([_start_or_end(tokenizer)]))
    bodies = [prompt.rstrip() for prompt in prompts]
    continuations = _continuations(tokenizer, prompts, responses, separator)
    last = [_end(tokenizer)] if end else []
    control = control_tokens(tokenizer)
    rows: list[Tokens | None] = []
    for body, ids, written in zip(bodies, ids_of(tokenizer, bodies), continuations, strict=True):
        response = _ended(written, last)
        prefix = [] if body.startswith(written_start) else start
        prompt = prefix + ids or [_start_or_end(tokenizer)]
        room = len(prompt) if max_length is None else max_length - len(response)
        cut = max(0, len(prompt) - room)
        if cut and overlength == "error":
            raise UserError(
                f"row {len(rows)} has {counted(len(prompt) + len(response), 'token')}, more than"
                f" max_length={max_length}: raise"
                " max_length, or set overlength=truncate_prompt or overlength=drop"
            )
        if cut and (overlength == "drop" or room < max(1, len(prefix))):
            rows.append(None)
        else:
            spelt = not control.isdisjoint(ids) or not control.isdisjoint(written)
            rows.append(Tokens(prefix + prompt[len(prefix) + cut :], response, cut, spelt))
    return rows


def fits(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    responses: Sequence[str],
    max_length: int,
    *,
    separator: str = SEPARATOR,
    overlength: Overlength = "truncate_prompt",
) -> np.ndarray:
    """Which rows `encode` keeps: bool, shape (rows,). Prompts that may be cut are not tokenised, which is quick."""
    start = max(1, len(_beginning(tokenizer)))
    if overlength == "truncate_prompt":
        continuations, last = _continuations(tokenizer, prompts, responses, separator), [_end(tokenizer)]
        return np.array([start + len(_ended(ids, last)) <= max_length for ids in continuations], dtype=bool)
    rows = encode(
        tokenizer, prompts, responses, separator=separator, max_length=max_length, overlength="drop"
    )
    return np.array([row is not None for row in rows], dtype=bool)


def _continuations(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    responses: Sequence[str],
    separator: str,
) -> list[list[int]]:
    texts = [
        prompt[len(prompt.rstrip()) :] + separator + response
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return continuation_ids(tokenizer, texts)


def continuation_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts as they are in the middle of a text, sharing no token with what stands before."""
    (anchor,) = ids_of(tokenizer, [_ANCHOR])
    rows = ids_of(tokenizer, [_ANCHOR + text for text in texts])
    for number, ids in enumerate(rows):
        if ids[: len(anchor)] == anchor:
            rows[number] = ids[len(anchor) :]
        else:  # the anchor has grown together with the response, which an empty separator allows
            rows[number] = ids_of(tokenizer, [texts[number]])[0]
    return rows


def _ended(ids: list[int], last: list[int]) -> list[int]:
    """With an end of sequence, unless the text has spelt one."""
    return ids if ids[-1:] == last else ids + last


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the tokens that steer a model, such as </s>."""
    known = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return (known | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}


def ids_of(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts as they stand, without a beginning or an end of sequence."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]


def _beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    # What the tokenizer puts before a text of its own accord, and nothing of what some put behind it.
    (anchor,) = ids_of(tokenizer, [_ANCHOR])
    ids = list(tokenizer(_ANCHOR)["input_ids"])
    for start in range(len(ids)):
        if anchor and ids[start : start + len(anchor)] == anchor:
            return ids[:start]
    raise UserError(f"the tokenizer of {tokenizer.name_or_path!r} makes no tokens of the text {_ANCHOR!r}")


def _end(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no end-of-sequence token, so a model could not"
            " learn to"
            " stop: set one with model.eos_token"
        )
    return int(tokenizer.eos_token_id)


def _start_or_end(tokenizer: PreTrainedTokenizerBase) -> int:
    return _end(tokenizer) if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)
