"""A mixture for other trainers: the small file by which each of them trains on this very folder.

| name | writes | their documents and sources |
| --- | --- | --- |
| axolotl | datasets.yml, to include in a configuration | docs/dataset-formats/conversation.qmd and inst_tune.qmd, and \
`_get_tools` of prompt_strategies/chat_template.py |
| llamafactory | dataset_info.json, for dataset_dir | data/README.md, and data/converter.py |
| openinstruct | arguments.txt, for finetune.py | docs/algorithms/dataset.md, and `DatasetConfig` of \
dataset_transformation.py |
| swift | arguments.txt, for swift sft | Customization/Custom-dataset.md and Instruction/Agent-support.md |

The forms follow what these say; the trainers themselves are no part of the tests.

Where a trainer cannot read the Parquet files, rows are written beside, as JSON lines in its own form:

- ms-swift documents no Parquet, and open-instruct knows only messages, so plain rows become messages for it;
- with tools, axolotl wants arguments and parameters as JSON text, so that datasets can hold rows of different shapes;
  LLaMA-Factory and ms-swift have roles for calls and results, and tools as JSON text; open-instruct has Olmo 3's
  fields, functions and function_calls. The last three tell results by their order, so ids and names of results are
  left out.

A row that a trainer has no form for is left out of these files, counted, and said.
"""

from __future__ import annotations

import json
import keyword
import logging
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from smart.config import counted
from smart.conversation import Conversation, from_json
from smart.reading import CONVERSATION, plain_conversations, shape_table
from smart.runtime.files import hash_bytes
from smart.runtime.manifest import cached_folder

Export = Literal["axolotl", "llamafactory", "openinstruct", "swift"]
Row = dict[str, Any]

VERSION = 1
"""Raised whenever other files are written for the same mixture."""
log = logging.getLogger(__name__)


class NoFormError(Exception):
    """A trainer has no form for a row."""


@dataclass(frozen=True)
class _Mixture:
    """A mixture folder, as its exports see it."""

    folder: Path
    splits: tuple[str, ...]
    """train, and validation where there is one."""
    turns: bool
    tools: bool
    """Whether some row has calls, tools or arguments for the template."""
    separator: str

    def parquet(self, split: str) -> Path:
        return self.folder / f"{split}.parquet"

    def conversations(self, split: str) -> Iterator[Conversation]:
        with pq.ParquetFile(self.parquet(split)) as file:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number)
                given = dict(zip(table.column_names, table.columns, strict=True))
                columns = shape_table(str(self.parquet(split)), given).columns
                made = columns.get(CONVERSATION) or plain_conversations(columns["inputs"], columns["targets"])
                yield from map(from_json, made.to_pylist())


def export_mixture(folder: Path, manifest: Mapping[str, Any], names: Sequence[Export]) -> None:
    """Write FOLDER/exports/NAME for each name that is not there; the mixture itself stays as it is. Hold its lock.

    Args:
        manifest: of the mixture.
    """
    folder = folder.absolute()
    splits = tuple(split for split in ("train", "validation") if f"{split}.parquet" in manifest["files"])
    schema = pq.read_schema(folder / "train.parquet")
    turns = "messages" in schema.names
    beside = {"tools", "chat_template_kwargs"} & {*schema.names}
    calls = turns and schema.field("messages").type.value_type.get_field_index("tool_calls") >= 0
    separator = manifest.get("config", {}).get("separator", " ")
    mixture = _Mixture(folder, splits, turns, bool(beside or calls), separator)
    for name in names:
        # Configurations name the folder by its path: another place is another export.
        key = hash_bytes(f"{part}\0".encode() for part in (VERSION, name, manifest["key"], folder))

        def make(draft: Path, name: Export = name) -> Mapping[str, Any]:
            return {"left_out": _EXPORTS[name](mixture, draft, folder / "exports" / name)}

        cached_folder(folder / "exports" / name, "export", key, make)
        log.info("Export: %s", folder / "exports" / name)


def _axolotl(mixture: _Mixture, draft: Path, place: Path) -> int:
    left_out, entries = 0, {}
    for split in mixture.splits:
        path, kind = mixture.parquet(split), "parquet"
        if mixture.tools:
            left_out += _write_rows(mixture, split, draft, _as_axolotl, "axolotl")
            path, kind = place / f"{split}.jsonl", "json"
        lines = [f"path: {_quoted(path)}", f"ds_type: {kind}", "split: train"]
        if mixture.turns:
            lines += ["type: chat_template", "field_messages: messages", "message_property_mappings:"]
            lines += [
                "  role: role",
                "  content: content",
                "roles_to_train: [assistant]",
                "train_on_eos: turn",
            ]
            lines += ["field_tools: tools"] if mixture.tools else []
        else:
            prompt = _quoted("{instruction}" + mixture.separator)
            lines += [
                "type:",
                '  system_prompt: ""',
                "  field_instruction: prompt",
                "  field_output: response",
            ]
            lines += [f"  format: {prompt}", f"  no_input_format: {prompt}"]
        entries[{"train": "datasets", "validation": "test_datasets"}[split]] = lines
    text = "".join(f"{key}:\n  - " + "\n    ".join(lines) + "\n" for key, lines in entries.items())
    (draft / "datasets.yml").write_text(text, encoding="utf-8")
    return left_out


def _as_axolotl(conversation: Conversation) -> Row:
    if "chat_template_kwargs" in conversation:
        raise NoFormError("arguments for the template of one row")
    messages: list[Row] = []
    for message in conversation["messages"]:
        calls = [
            {**call, "function": {**call["function"], "arguments": _json(call["function"]["arguments"])}}
            for call in message.get("tool_calls", ())
        ]
        messages.append({**message, **({"tool_calls": calls} if calls else {})})
    tools = [
        {
            **tool,
            "function": {**tool["function"], "parameters": _json(tool["function"].get("parameters", {}))},
        }
        if isinstance(tool.get("function"), dict)
        else tool
        for tool in conversation.get("tools", ())
    ]
    return {"messages": messages, **({"tools": tools} if tools else {})}


def _llamafactory(mixture: _Mixture, draft: Path, place: Path) -> int:
    left_out, entries = 0, {}
    for split in mixture.splits:
        # The file's place is relative to dataset_dir, in which dataset_info.json lies.
        entry: Row = {"file_name": f"../../{split}.parquet"}
        if not mixture.turns:
            entry["columns"] = {"prompt": "prompt", "response": "response"}
        else:
            entry |= {"formatting": "sharegpt", "columns": {"messages": "messages"}}
            roles = {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
            entry["tags"] = {"role_tag": "role", "content_tag": "content", **roles}
        if mixture.tools:
            left_out += _write_rows(mixture, split, draft, _as_sharegpt, "LLaMA-Factory")
            entry["file_name"] = f"{split}.jsonl"
            entry["columns"]["tools"] = "tools"
            entry["tags"] |= {"function_tag": "function_call", "observation_tag": "observation"}
        entries["mixture" if split == "train" else f"mixture_{split}"] = entry
    (draft / "dataset_info.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    return left_out


def _as_sharegpt(conversation: Conversation) -> Row:
    """Turns of LLaMA-Factory: calls and answers stand in turn with the user's and with results."""
    _only(conversation, "tool_calls", "tool_call_id", "name")
    turns: list[Row] = []
    for message in conversation["messages"]:
        turn = {"role": message["role"], "content": message["content"]}
        if calls := message.get("tool_calls"):
            if message["content"].strip():
                raise NoFormError("a text and a call in one turn")
            turn = {"role": "function_call", "content": _json([call["function"] for call in calls])}
        if message["role"] == "tool":
            turn["role"] = "observation"
            if turns[-1]["role"] == "observation":  # several results are one observation
                turns[-1]["content"] += "\n" + turn["content"]
                continue
        turns.append(turn)
    answers = [turn["role"] in ("assistant", "function_call") for turn in turns if turn["role"] != "system"]
    if answers != [place % 2 == 1 for place in range(len(answers))]:
        raise NoFormError("several turns of one side in a row")
    tools = conversation.get("tools", [])
    return {"messages": turns, "tools": _json(tools) if tools else ""}


def _openinstruct(mixture: _Mixture, draft: Path, place: Path) -> int:
    path, left_out = mixture.parquet("train"), 0
    if mixture.tools or not mixture.turns:
        left_out = _write_rows(mixture, "train", draft, _as_olmo, "open-instruct")
        path = place / "train.jsonl"
    line = f"--dataset_mixer_list {_shell(path)} 1.0 --dataset_mixer_list_splits train\n"
    (draft / "arguments.txt").write_text(line, encoding="utf-8")
    return left_out


def _as_olmo(conversation: Conversation) -> Row:
    _only(conversation, "tool_calls", "tool_call_id", "name")
    turns: list[Row] = []
    for message in conversation["messages"]:
        turn = {"role": message["role"], "content": message["content"]}
        if calls := message.get("tool_calls"):
            turn["function_calls"] = "\n".join(_pythonic(call["function"]) for call in calls)
        if message["role"] == "tool":
            turn["role"] = "environment"
        turns.append(turn)
    if tools := conversation.get("tools"):
        if turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": ""})
        turns[0]["functions"] = _json(tools)
    return {"messages": turns}


def _pythonic(function: Mapping[str, Any]) -> str:
    names = [*function["name"].split("."), *function["arguments"]]
    if not all(name.isidentifier() and not keyword.iskeyword(name) for name in names):
        raise NoFormError("a call whose names are none in Python")
    return f"{function['name']}({', '.join(f'{name}={value!r}' for name, value in function['arguments'].items())})"


def _swift(mixture: _Mixture, draft: Path, place: Path) -> int:
    left_out, options = 0, []
    for split in mixture.splits:
        left_out += _write_rows(mixture, split, draft, _as_swift, "ms-swift")
        option = {"train": "--dataset", "validation": "--val_dataset"}[split]
        options.append(f"{option} {_shell(place / f'{split}.jsonl')}")
    (draft / "arguments.txt").write_text(" ".join(options) + "\n", encoding="utf-8")
    return left_out


def _as_swift(conversation: Conversation) -> Row:
    _only(conversation, "tool_calls", "tool_call_id", "name")
    turns: list[Row] = []
    for message in conversation["messages"]:
        calls = message.get("tool_calls", [])
        if message["content"] or not calls:
            role = "tool_response" if message["role"] == "tool" else message["role"]
            turns.append({"role": role, "content": message["content"]})
        turns += [{"role": "tool_call", "content": _json(call["function"])} for call in calls]
    tools = conversation.get("tools", [])
    return {"messages": turns, **({"tools": _json(tools)} if tools else {})}


def _only(conversation: Conversation, *fields: str) -> None:
    """Stop at what a trainer has no place for.

    Args:
        fields: of messages, beside role and content, that it has a place for or can do without.
    """
    if "chat_template_kwargs" in conversation:
        raise NoFormError("arguments for the template of one row")
    for message in conversation["messages"]:
        for name in message.keys() - {"role", "content", *fields}:
            raise NoFormError(f"{name} of a message")


def _write_rows(
    mixture: _Mixture, split: str, draft: Path, form: Callable[[Conversation], Row], trainer: str
) -> int:
    """Write the rows of a split as JSON lines; returns how many have no such form."""
    reasons: dict[str, int] = {}
    with (draft / f"{split}.jsonl").open("w", encoding="utf-8") as file:
        for conversation in mixture.conversations(split):
            try:
                file.write(_json(form(conversation)) + "\n")
            except NoFormError as error:
                reasons[str(error)] = reasons.get(str(error), 0) + 1
    for reason, count in reasons.items():
        log.warning(
            "%s has no form for %s: %s left out of %s.jsonl.", trainer, reason, counted(count, "row"), split
        )
    return sum(reasons.values())


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _quoted(value: object) -> str:
    """A scalar of YAML, which JSON's texts are."""
    return json.dumps(str(value), ensure_ascii=False)


def _shell(path: Path) -> str:
    return shlex.quote(str(path))


_EXPORTS: dict[Export, Callable[[_Mixture, Path, Path], int]] = {
    "axolotl": _axolotl,
    "llamafactory": _llamafactory,
    "openinstruct": _openinstruct,
    "swift": _swift,
}
