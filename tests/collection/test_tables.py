"""Codes, hashes, duplicates, filters, groups: integer arrays from Arrow tables."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from smart.collection import SCHEMA, Groups, tables
from smart.collection.tables import codes, fingerprint, hash_texts, later_copies
from smart.reading import RowView
from smart.templates import TEMPLATES
from tests.collection.examples import rows


def table_of(records: list[dict], chunks: int = 1) -> pa.Table:
    """In SCHEMA, in several chunks each with a dictionary of its own."""
    numbered = [{**record, "row": row} for row, record in enumerate(records)]
    pieces = np.array_split(np.arange(len(numbered)), chunks)
    plain = pa.schema([(field.name, pa.string()) for field in SCHEMA][:3] + list(SCHEMA)[3:])
    parts = [pa.Table.from_pylist([numbered[i] for i in piece], plain).cast(SCHEMA) for piece in pieces]
    return pa.concat_tables(parts)


def test_codes_are_ranks_of_the_values_in_use() -> None:
    column = pa.chunked_array(
        [
            pa.array(["b", "é", "b"]).dictionary_encode(),
            pa.array(["a", "b", "z"]).dictionary_encode().slice(0, 2),
        ]
    )
    values, code = codes(column)
    assert values == ["a", "b", "é"]  # z stands in a dictionary, but in no row
    assert code.tolist() == [1, 2, 1, 0, 1]


def test_codes_of_plain_strings_and_of_nothing() -> None:
    values, code = codes(pa.chunked_array([["y", "x", "y"]]))
    assert (values, code.tolist()) == (["x", "y"], [1, 0, 1])
    values, code = codes(pa.chunked_array([], pa.string()))
    assert (values, len(code)) == ([], 0)


def test_groups_by_hand() -> None:
    def row(submixture: str, task: str, template: str) -> dict:
        return {
            "submixture": submixture,
            "task_name": task,
            "template_type": template,
            "inputs": "q",
            "targets": "a",
        }

    groups = Groups.of(
        table_of(
            [
                row("b", "x", "zs_opt"),
                row("a", "y", "fs_noopt"),
                row("b", "x", "zs_opt"),
                row("a", "x", "zs_noopt"),  # the same name in another submixture is another task
                row("a", "y", "fs_opt"),
                row("b", "x", "zs_noopt"),
            ],
            chunks=3,
        )
    )
    assert groups.tasks == (("a", "x"), ("a", "y"), ("b", "x"))
    assert groups.sizes.tolist() == [[0, 1, 0, 0], [0, 0, 1, 1], [2, 1, 0, 0]]
    assert groups.order.tolist() == [3, 4, 1, 0, 2, 5]
    assert groups.offsets.tolist() == [0, 0, 1, 1, 1, 1, 1, 2, 3, 5, 6, 6, 6]


def test_groups_of_a_million_rows() -> None:
    rng = np.random.default_rng(0)
    count, names = 1_000_000, [f"task{i:04}" for i in range(1500)]
    submixture, task, template = (
        rng.integers(5, size=count),
        rng.integers(1500, size=count),
        rng.integers(4, size=count),
    )
    labels = zip(
        (submixture, task, template), (list("ebdca"), names[::-1], list(TEMPLATES)[::-1]), strict=True
    )
    table = pa.table(
        [
            pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array(code, pa.int32()), values)])
            for code, values in labels
        ],
        names=list(SCHEMA.names)[:3],
    )
    groups = Groups.of(table)

    assert list(groups.tasks) == sorted(groups.tasks)
    assert len(groups.tasks) == 5 * 1500
    assert groups.order.dtype == groups.offsets.dtype == groups.sizes.dtype == np.int64
    assert np.array_equal(np.sort(groups.order), np.arange(count))
    assert np.array_equal(np.diff(groups.offsets), groups.sizes.ravel())
    inside = np.ones(count - 1, bool)
    inside[groups.offsets[1:-1] - 1] = False
    assert (np.diff(groups.order)[inside] > 0).all()  # stable: table order within a group
    for group in rng.integers(4 * len(groups.tasks), size=200).tolist():
        members = groups.order[groups.offsets[group] : groups.offsets[group + 1]]
        name, own = groups.tasks[group // 4]
        assert {"ebdca"[i] for i in submixture[members]} <= {name}
        assert {names[::-1][i] for i in task[members]} <= {own}
        assert {TEMPLATES[::-1][i] for i in template[members]} <= {TEMPLATES[group % 4]}


def test_later_copies_need_all_four_to_be_equal() -> None:
    first = {"submixture": "s", "task_name": "t", "template_type": "zs_opt", "inputs": "q", "targets": "a"}
    changes = [{}, {"inputs": "Q"}, {}, {"targets": "b"}, {"task_name": "u"}, {"submixture": "r"}, {}]
    changes += [{"template_type": "fs_opt"}, {"inputs": "Q"}]
    table = table_of([{**first, **change} for change in changes], chunks=2)
    copies = later_copies(table, hash_texts(RowView.of(table)))
    assert np.flatnonzero(copies).tolist() == [2, 6, 8]


def test_rows_with_chance_matches_of_their_mixed_hashes_are_no_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tables, "_MIX", np.uint64(0))  # of all that is mixed the last hash alone is left
    first = {"submixture": "s", "task_name": "t", "template_type": "zs_opt", "inputs": "q", "targets": "a"}
    table = table_of([{**first, "inputs": name} for name in "qrqsrq"])
    assert np.flatnonzero(later_copies(table, hash_texts(RowView.of(table)))).tolist() == [2, 4, 5]


def named(table: pa.Table) -> str:
    return fingerprint(table, hash_texts(RowView.of(table)))


@pytest.mark.parametrize(
    "change", [{"inputs": "q"}, {"targets": "a"}, {"task_name": "new"}, {"template_type": "?"}]
)
def test_fingerprint_sees_every_column(change: dict) -> None:
    records = rows(20)
    changed = [*records[:-1], {**records[-1], **change}]
    one, other = table_of(records), table_of(changed)
    assert named(one) != named(other)


def test_fingerprint_sees_order_and_row_numbers_but_not_chunks() -> None:
    table, chunked, swapped = table_of(rows(20)), table_of(rows(20), chunks=4), table_of(rows(20)[::-1])
    renumbered = table.set_column(5, "row", pa.array(range(1, 21)))
    assert named(table) == named(chunked)
    assert named(table) != named(swapped)
    assert named(table) != named(renumbered)
