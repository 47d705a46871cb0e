"""The data set card of a mixture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from smart.config import counted
from smart.mixture.budgets import TaskBudgets, submixture_totals
from smart.mixture.turns import Turns
from smart.runtime.escapes import markdown

_SUBMIXTURES_SHOWN = 40
_OVERLAPS_SHOWN = 40

_USE = """## Use

```python
from datasets import load_dataset

data = load_dataset("path/to/this/folder")
```

TRL's `SFTTrainer(model, train_dataset=data["train"])` takes it as it is, and trains on `completion` alone."""

_USE_TURNS = """## Use

```python
from datasets import load_dataset  # 5 or later, where rows have tools

data = load_dataset("path/to/this/folder")
```

TRL's `SFTTrainer(model, train_dataset=data["train"])` takes it as it is, with the chat template of the model. Fields of
a message that are not there are null; for a template that asks whether they are there, take them away:
`data["train"].with_transform(trl.trainer.utils.remove_none_values)`."""

_TASKS = """`tasks.csv` has a line for every task of the pool: its place in the greedy order (from 0; empty where not
selected), gain, weight and size, and its rows here, in all and by template type. `manifest.json` has the
configuration, the versions, and a hash of each file."""

_COLUMNS_OF_TURNS = f"""## Columns

`messages` (a list of role, content, and what a message has beside them), `tools` and `chat_template_kwargs` where any
row has them, `submixture`, `task_name`, `template_type` (chat), and `row` (number of the row in the collection as read,
before any drop). Calls, tools and the template's arguments are JSON.

{_TASKS}"""

_COLUMNS = f"""## Columns

`prompt`, `response`, `submixture`, `task_name`, `template_type` (zero- or few-shot, with or without answer
options), `row` (number of the row in the collection as read, before any drop), and `completion`: the response
after a space, as it follows the prompt in training.

{_TASKS}"""

_LICENCE = """## Licence

Selection adds no licence and takes none away. Each row keeps the licence of the data set that it comes from,
and the licences of a collection may differ from task to task: check those of the tasks in `tasks.csv` before
passing this on."""


def render_card(
    name: str,
    table: TaskBudgets,
    validation_rows: int,
    manifest: Mapping[str, Any],
    figures: Sequence[str],
    turns: Turns | None = None,
) -> str:
    """README.md of a mixture folder, with the header by which `datasets.load_dataset` finds the splits.

    Args:
        name: of the folder.
        table: what each task gave.
        validation_rows: rows of the validation split; 0 for none.
        manifest: its `config`, `counts`, `drops`, `warnings` and `contamination` are shown, where present.
        figures: file names under figures/.
        turns: of the training rows; None where they are two texts.
    """
    rows = int(table.budgets.sum())
    held_out = "no validation rows"
    if validation_rows:
        held_out = (
            f"{counted(validation_rows, 'validation row')}, a sample of the whole pool's stratified by task"
        )
    sections = [
        _header(rows, validation_rows > 0),
        f"# {markdown(name)}",
        f"An instruction-tuning mixture made with SMART: {counted(rows, 'training row')} of {table.sizes.sum():,}, "
        f"from {len(table.selected):,} of {counted(len(table.tasks), 'task')}; {held_out}.",
        _warnings(manifest.get("warnings", ())),
        _USE if turns is None else _USE_TURNS,
        "## What it holds",
        _submixture_table(table),
        _template_table(table) if turns is None else _turns_table(turns),
        *(f"![{figure}](figures/{figure})" for figure in figures),
        _COLUMNS if turns is None else _COLUMNS_OF_TURNS,
        _contamination(manifest.get("contamination")),
        _duplicates(manifest.get("duplicates")),
        *(_block(key, manifest.get(key)) for key in ("config", "counts", "drops")),
        _LICENCE,
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _header(rows: int, validation: bool) -> str:
    splits = ["train", "validation"] if validation else ["train"]
    files = "\n".join(f"  - split: {split}\n    path: {split}.parquet" for split in splits)
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}\n"
        "license: other\nlicense_name: as-in-the-sources\n"
        f"size_categories:\n- {_size_category(rows)}\n"
        "task_categories:\n- text-generation\ntags:\n- instruction-tuning\n- data-selection\n---"
    )


def _size_category(rows: int) -> str:
    """The hub's own terms."""
    bounds = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")
    place = min(max(len(str(rows)) - 3, 0), len(bounds) - 1)
    return f"{bounds[place - 1]}<n<{bounds[place]}" if place else "n<1K"


def _warnings(warnings: Sequence[str]) -> str:
    return "## Warnings\n\n" + "\n".join(f"- {markdown(warning)}" for warning in warnings) if warnings else ""


def _contamination(found: Mapping[str, Any] | None) -> str:
    """What a collection shares with benchmarks, and the first rows that do."""
    if not found:
        return ""
    lines = ["## Benchmarks' questions", "", f"A row counts that holds {found['sign']} of a question."]
    for split, report in found["collection"].items():
        left = (
            "dropped"
            if found["mode"] == "drop"
            else f"{len(found['mixture'][split]):,} of them in this mixture"
        )
        lines.append(f"Split {split}: {report['overlapping']:,} of {counted(report['rows'], 'row')}, {left}.")
    overlaps = [(split, one) for split, report in found["collection"].items() for one in report["overlaps"]]
    if overlaps:
        lines += [
            "",
            "| split | row | benchmark | item | sign | shared words |",
            "| --- | ---: | --- | ---: | --- | --- |",
        ]
        lines += [
            f"| {split} | {one['row']} | {markdown(one['benchmark'])} | {one['item']} | {one['sign']} |"
            f" {markdown(one['shared'])} |"
            for split, one in overlaps[:_OVERLAPS_SHOWN]
        ]
        more = sum(len(r["overlaps"]) for r in found["collection"].values()) - _OVERLAPS_SHOWN
        lines += [f"\n… and {more:,} more, in `manifest.json`."] if more > 0 else []
    return "\n".join(lines)


def _duplicates(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    return (
        f"## Near-duplicates\n\nOf {counted(found['rows'], 'row')} {found['dropped']:,} were left out before the"
        f" selection, among them all rows of {counted(found['tasks_dropped'], 'task')}, since an earlier one is nearly"
        f" the same: {found['sign']}."
    )


def _submixture_table(table: TaskBudgets) -> str:
    totals = submixture_totals(table)
    lines = [
        f"| {markdown(total.name)} | {total.selected:,} of {total.tasks:,} | {total.rows:,} | {total.size:,} |"
        for total in totals[:_SUBMIXTURES_SHOWN]
    ]
    header = ["| submixture | tasks selected | rows | rows in the pool |", "| --- | --- | ---: | ---: |"]
    more = len(totals) - _SUBMIXTURES_SHOWN
    return "\n".join([*header, *lines, *([f"\n… and {more} more, in `tasks.csv`."] if more > 0 else [])])


def _template_table(table: TaskBudgets) -> str:
    counts = zip(table.templates, table.budgets.sum(axis=0), table.sizes.sum(axis=0), strict=True)
    lines = [f"| {template} | {rows:,} | {held:,} |" for template, rows, held in counts]
    return "\n".join(["| template type | rows | rows in the pool |", "| --- | ---: | ---: |", *lines])


def _turns_table(turns: Turns) -> str:
    rows = len(turns.answers)
    several = int((turns.answers > 1).sum())
    lines = {
        "rows": rows,
        "rows with several answers": several,
        "rows with a system text": turns.system,
        "rows with tools": turns.tools,
        "turns of the assistant": int(turns.answers.sum()),
        "calls of tools": turns.calls,
    }
    return "\n".join(
        ["| turns | |", "| --- | ---: |", *(f"| {name} | {count:,} |" for name, count in lines.items())]
    )


def _block(key: str, content: object) -> str:
    return f"## {key.title()}\n\n```json\n{json.dumps(content, indent=2)}\n```" if content else ""
