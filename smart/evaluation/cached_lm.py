"""A model's answers to lm-eval's requests: batch by batch, over processes, and never twice.

The batches are those that lm-eval's own class for Hugging Face models would make of all requests together. A batch is
the unit that is shared among processes and kept on disk, so neither the number of processes nor an interruption
changes what is padded with what, and the answers stay the same to the last digit.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from lm_eval.api.model import LM
from lm_eval.models.utils import Collator, normalize_gen_kwargs

from smart.config import UserError, counted
from smart.model.chat import ChatFormat, ChatTemplateError
from smart.runtime.files import hash_bytes
from smart.runtime.processes import Processes
from smart.runtime.progress import progress

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

FORMAT = 1
"""Of stored answers; lines of another one are not used."""
Pair = tuple[tuple[str, str], list[int], list[int]]
"""A likelihood request: its texts, the ids of its context, the ids of its continuation."""

log = logging.getLogger(__name__)


class Prompt(str):
    """A text with ids of its own, which need not be those that lm-eval would make of it."""

    ids: list[int]

    def __new__(cls, text: str, ids: Sequence[int]) -> Prompt:
        made = super().__new__(cls, text)
        made.ids = list(ids)
        return made


class AnswerStore:
    """Answers of finished batches, one line each, appended to one file per process.

    The folder stands for one model in one precision at one batch size: its caller names it by all of these. A line
    begins with the hash of the folder's name and of the rest of the line; one that does not is not used, so what it
    answered is asked again.
    """

    def __init__(self, folder: Path, writer: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file, self._name = folder / f"{writer}.jsonl", folder.name
        self._known: dict[str, list[Any]] = {}
        for file in sorted(folder.glob("*.jsonl")):
            self._read(file)

    def _read(self, file: Path) -> None:
        content, start = file.read_bytes(), 0
        damaged: list[tuple[int, int]] = []
        lines = content.split(b"\n")
        for line in lines:
            check, _, text = line.partition(b" ")
            if check == self._check(text):
                key, answers = json.loads(text)
                self._known[key] = answers
            elif line.strip():
                damaged.append((start, len(line)))
            start += len(line) + 1
        if damaged:
            count = sum(bool(line.strip()) for line in lines)
            log.warning(
                "%s: damaged, so asked again: %s of %s.", file, f"{len(damaged):,}", counted(count, "line")
            )
            # The last one may be torn, or another process may be writing it just now.
            _blank(file, [place for place in damaged if sum(place) < len(content)])

    def get(self, key: str) -> list[Any] | None:
        return self._known.get(key)

    def put(self, key: str, answers: list[Any]) -> None:
        self._known[key] = answers
        text = json.dumps([key, answers]).encode()
        line = self._check(text) + b" " + text + b"\n"
        with self._file.open("ab") as file:
            if file.tell() and not _ends_a_line(self._file):
                line = b"\n" + line  # the line before is torn
            file.write(line)

    def _check(self, text: bytes) -> bytes:
        return hash_bytes([f"answers {FORMAT} {self._name}".encode(), text])[:16].encode()


def _ends_a_line(file: Path) -> bool:
    with file.open("rb") as end:
        end.seek(-1, os.SEEK_END)
        return end.read() == b"\n"


def _blank(file: Path, places: Sequence[tuple[int, int]]) -> None:
    """Write spaces over lines: in place, since another process may append to the file at the same time."""
    with file.open("r+b") as open_file:
        for start, length in places:
            open_file.seek(start)
            open_file.write(b" " * length)


@dataclass
class Tally:
    """What the requests of a run come to."""

    requests: int = 0
    from_store: int = 0
    """Answered by an earlier run."""
    truncated: int = 0
    """Longer than the model's context: lm-eval cuts their left part off."""
    input_tokens: int = 0
    """Read by the model, without padding; options of one prompt that differ in their last token are read once."""
    new_tokens: int = 0
    """At most so many are generated."""
    without_system: int = 0
    """Prompts whose system text was left out, since the template refuses it."""


class Batch(NamedTuple):
    numbers: list[int]
    """Places of its requests in the list of all."""
    content: list[Any]
    """What each request asks."""


class CachedLM(LM):
    """lm-eval's model interface around its own HFLM, which does all tokenising and scoring.

    Args:
        store: keeps answers for later runs; None keeps nothing.
        form: how conversations become prompts; None: prompts are plain text.
        generation_batch_size: prompts at once while answers are generated; None: as `inner` has it.
    """

    def __init__(
        self,
        inner: HFLM,
        store: AnswerStore | None = None,
        processes: Processes | None = None,
        form: ChatFormat | None = None,
        generation_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.inner = inner
        self.form = form
        self.tally = Tally()
        self._store = store
        self._processes = processes or Processes()
        self._generation_batch_size = generation_batch_size

    @property
    def tokenizer_name(self) -> str:
        return str(self.inner.tokenizer_name)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Messages as the model reads them; as lm-eval does, without a system text that the template refuses.

        Raises:
            UserError: for messages that the template refuses.
        """
        assert self.form is not None
        messages: list[Any] = list(chat_history)
        try:
            try:
                return self._render(messages, add_generation_prompt)
            except ChatTemplateError:
                kept = [message for message in messages if message["role"] != "system"]
                if len(kept) == len(messages):
                    raise
                text = self._render(kept, add_generation_prompt)
        except ChatTemplateError as refusal:
            raise UserError(
                f"format=chat: {refusal}", "with format=plain prompts don't go through it"
            ) from refusal
        self.tally.without_system += 1
        return text

    def _render(self, messages: list[Any], generate: bool) -> str:
        assert self.form is not None
        return self.form.render(self.inner.tokenizer, messages, generate=generate, resume=not generate)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        pairs = [self.pair(*request.args) for request in requests]
        batches = likelihood_batches(pairs, self.inner.batch_size)
        self.tally.input_tokens += sum(len(ids) for ids in {(*p[1], *p[2][:-1]) for p in pairs})
        self.tally.truncated += sum(len(p[1]) + len(p[2]) > self.inner.max_length + 1 for p in pairs)

        def score(content: list[Pair]) -> list[Any]:
            return self.inner._loglikelihood_tokens(content, disable_tqdm=True)

        return [(value, greedy) for value, greedy in self._answer("loglikelihood", requests, batches, score)]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        asked = [
            (self._not_empty(context), self._ended(options))
            for context, options in (r.args for r in requests)
        ]
        lengths = [len(self.inner.tok_encode(context)) for context, _ in asked]
        for length, (_, options) in zip(lengths, asked, strict=True):
            new = normalize_gen_kwargs(dict(options), self.inner.max_gen_toks)["max_gen_toks"]
            if new >= self.inner.max_length:
                raise UserError(
                    f"max_length={self.inner.max_length}: a task generates up to {counted(new, 'token')}, which leaves"
                    " no room for its prompts; raise max_length, or take a model with a longer context"
                )
            self.tally.input_tokens += length
            self.tally.new_tokens += new
            self.tally.truncated += length > self.inner.max_length - new

        size = self._generation_batch_size or self.inner.batch_size

        def generate(content: list[Any]) -> list[Any]:
            instances: Any = [SimpleNamespace(args=args) for args in content]
            with self._batches_of(size):
                return self.inner.generate_until(instances, disable_tqdm=True)

        batches = generation_batches(asked, lengths, size)
        return self._answer("generate_until", requests, batches, generate)

    @contextlib.contextmanager
    def _batches_of(self, size: int) -> Iterator[None]:
        """Inside, lm-eval's class takes so many prompts at once."""
        before = self.inner.batch_size_per_gpu
        self.inner.batch_size_per_gpu = size
        try:
            yield
        finally:
            self.inner.batch_size_per_gpu = before

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        batches = [Batch([number], [request.args]) for number, request in enumerate(requests)]

        def roll(content: list[Any]) -> list[Any]:
            instances: Any = [SimpleNamespace(args=args) for args in content]
            return self.inner.loglikelihood_rolling(instances, disable_tqdm=True)

        return self._answer("loglikelihood_rolling", requests, batches, roll)

    def pair(self, context: str, continuation: str) -> Pair:
        """Ids as `TemplateLM.loglikelihood` makes them; a context without any has the prefix token, as an empty one."""
        inner = self.inner
        if isinstance(context, Prompt) and isinstance(continuation, Prompt):
            return (context, continuation), context.ids, continuation.ids
        if context:
            ids, answer = inner._encode_pair(context, continuation)
            return (context, continuation), ids or [inner.prefix_token_id], answer
        ids = inner.tok_encode(continuation, add_special_tokens=False)
        if ids[0] == inner.prefix_token_id:
            return (context, continuation), ids[:1], ids[1:]
        return (context, continuation), [inner.prefix_token_id], ids

    def _not_empty(self, context: str) -> str:
        """A prompt of which the tokenizer makes no ids becomes the prefix token, as for likelihoods."""
        return (
            context
            if self.inner.tok_encode(context)
            else self.inner.tokenizer.decode([self.inner.prefix_token_id])
        )

    def _ended(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options of generation, with the end of turn among the texts at which it stops."""
        if self.form is None:
            return options
        until = options.get("until") or []
        listed = [until] if isinstance(until, str) else list(until)
        return {**options, "until": list(dict.fromkeys([*listed, self.form.end_of_turn]))}

    def _answer(
        self,
        kind: str,
        requests: Sequence[Instance],
        batches: Sequence[Batch],
        compute: Callable[[list[Any]], list[Any]],
    ) -> list[Any]:
        """Answers in the order of the requests, from the store or from the model."""
        total = sum(len(batch.numbers) for batch in batches)
        parts = self._processes.share(lambda: self._my_share(kind, requests, batches, compute, total))
        self.tally.requests += total
        answers: list[Any] = [None] * total
        for place, found in (item for part in parts for item in part.items()):
            for number, answer in zip(batches[place].numbers, found, strict=True):
                answers[number] = answer
        return answers

    def _my_share(
        self,
        kind: str,
        requests: Sequence[Instance],
        batches: Sequence[Batch],
        compute: Callable[[list[Any]], list[Any]],
        total: int,
    ) -> dict[int, list[Any]]:
        """Place of each batch that falls to this process → its answers."""
        rank, size = self._processes.rank, self._processes.size
        mine: dict[int, list[Any]] = {}
        with progress(total=total, desc=f"Answering {kind}", unit=" requests", disable=rank > 0) as bar:
            for place in range(rank, len(batches), size):
                batch = batches[place]
                key = hash_bytes([kind.encode(), json.dumps(batch.content).encode()])
                known = self._store.get(key) if self._store else None
                if known is None:
                    known = compute(batch.content)
                    check_numbers([requests[number] for number in batch.numbers], known)
                    if self._store:
                        self._store.put(key, known)
                else:
                    self.tally.from_store += len(known)
                mine[place] = known
                bar.update(len(known) * size)
        return mine


class CountingLM(CachedLM):
    """Tokenises and counts, and answers nothing of sense: for a plan, which loads no weights."""

    def _answer(
        self,
        kind: str,
        requests: Sequence[Instance],
        batches: Sequence[Batch],
        compute: Callable[[list[Any]], list[Any]],
    ) -> list[Any]:
        total = sum(len(batch.numbers) for batch in batches)
        self.tally.requests += total
        return [{"loglikelihood": (0.0, False), "generate_until": ""}.get(kind, 0.0)] * total


def check_numbers(requests: Sequence[Instance], answers: Sequence[Any]) -> None:
    """Refuse likelihoods that are no numbers: lm-eval would score them as if they were.

    Raises:
        UserError: with the first such task and item.
    """
    for request, answer in zip(requests, answers, strict=True):
        value = answer[0] if isinstance(answer, tuple | list) else answer
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(
                f"{request.task_name}, item {request.doc_id}: the model's log-likelihood is {value}",
                "its weights are damaged, or its numbers leave the range of dtype: try dtype=float32",
            )


def likelihood_batches(pairs: Sequence[Pair], size: int) -> list[Batch]:
    """The batches that HFLM makes: longest first, options that differ only in their last token as one."""

    def prompt(row: tuple[int, list[int], list[int]]) -> list[int]:
        return row[1] + row[2][:-1]

    def longest_first(row: tuple[int, list[int], list[int]]) -> tuple[int, tuple[int, ...]]:
        ids = row[1] + row[2]
        return -len(ids), tuple(ids)

    rows = [(number, context, answer) for number, (_, context, answer) in enumerate(pairs)]
    members = defaultdict(list)
    for row in rows:
        members[tuple(prompt(row))].append(row[0])
    collator = Collator(rows, sort_fn=longest_first, group_fn=prompt, group_by="contexts")
    batches = []
    for chunk in collator.get_batched(n=size):
        numbers = [number for row in chunk for number in members[tuple(prompt(row))]]
        batches.append(Batch(numbers, [pairs[number] for number in numbers]))
    return batches


def generation_batches(
    asked: Sequence[tuple[str, dict[str, Any]]], lengths: Sequence[int], size: int
) -> list[Batch]:
    """The batches that HFLM makes: equal options together, longest prompts first."""
    rows = [(context, options, number) for number, (context, options) in enumerate(asked)]
    collator = Collator(
        rows,
        sort_fn=lambda row: (-lengths[row[2]], row[0]),
        group_fn=lambda row: row[1],
        group_by="gen_kwargs",
    )
    return [
        Batch([row[2] for row in chunk], [(row[0], row[1]) for row in chunk])
        for chunk in collator.get_batched(n=size)
    ]
