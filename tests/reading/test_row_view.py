"""Rows of a table whose texts are read when they are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from smart.collection import SCHEMA
from smart.reading import RowView, map_arrow, take_texts, write_arrow
from tests.collection.examples import rows


def view(count: int, chunks: int = 1) -> RowView:
    records = [{**row, "row": number} for number, row in enumerate(rows(count))]
    table = pa.Table.from_pylist(
        records, pa.schema([*[(f.name, pa.string()) for f in SCHEMA][:5], SCHEMA[5]])
    )
    pieces = np.array_split(np.arange(count), chunks)
    return RowView.of(pa.concat_tables([table.take(pa.array(piece)) for piece in pieces]).cast(SCHEMA))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_rows_that_are_kept(share: float) -> None:
    whole = view(500, chunks=3)
    keep = np.random.default_rng(1).random(500) < share
    kept = whole.keep(keep)
    assert len(kept) == keep.sum()
    assert kept.table.schema == whole.table.schema == SCHEMA
    assert kept.table.to_pylist() == whole.table.filter(pa.array(keep)).to_pylist()
    assert kept.rows.tolist() == kept.table["row"].to_pylist() == np.flatnonzero(keep).tolist()


def test_rows_are_taken_in_any_order_and_in_batches() -> None:
    kept = view(60, chunks=4).keep(np.arange(60) % 3 > 0)
    places = np.random.default_rng(0).permutation(40)[:17]
    assert kept.take(places)["row"].to_pylist() == kept.rows[places].tolist()
    assert kept.take(places)["inputs"].to_pylist() == [
        kept.table["inputs"][place].as_py() for place in places
    ]
    batches = list(kept.batches(16))
    assert [len(batch) for batch in batches] == [16, 16, 8]
    assert pa.concat_tables(batches)["targets"].to_pylist() == kept.table["targets"].to_pylist()


def test_texts_at_any_positions_over_slices_and_empty_chunks() -> None:
    texts = [f"text {i} äß" * (i % 5) for i in range(40)]
    kind = pa.large_string()
    whole = pa.array(["other", *texts], kind)[1:]
    column = pa.chunked_array([whole[:7], whole[7:30], pa.array([], kind), whole[30:]])
    for positions in (np.random.default_rng(1).integers(0, 40, 60), np.arange(8, 12), np.array([], np.int64)):
        assert take_texts(column, positions).to_pylist() == [texts[i] for i in positions]


def test_choosing_rows_of_a_mapped_table_copies_no_text(tmp_path: Path) -> None:
    texts = pa.chunked_array([[f"{i} " * 1000 for i in range(2000)]])
    write_arrow(tmp_path / "a.arrow", [{"inputs": texts, "targets": texts}])
    labels = pa.table({"row": np.arange(2000)})
    before = pa.total_allocated_bytes()
    kept = RowView(map_arrow(tmp_path / "a.arrow"), labels, np.arange(2000)).keep(np.arange(2000) % 2 == 0)
    assert pa.total_allocated_bytes() - before < 100_000
    assert kept.take(np.array([3]))["inputs"][0].as_py() == "6 " * 1000
