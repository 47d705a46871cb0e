"""The file of unseen tasks that a grid makes from a collection, for evaluate.suite=heldout."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smart.collection import load
from smart.config import code_of_targets
from smart.experiment.run_graph import named_files
from smart.mixture.turns import Layout
from smart.reading import CONVERSATION, RowView
from smart.runtime.content import ContentHashes
from smart.runtime.files import atomic_file, hash_file
from smart.runtime.locks import owned
from smart.runtime.manifest import make_key
from smart.runtime.sealed import read_sealed, write_sealed

log = logging.getLogger(__name__)

_NAMES = {"inputs": "inputs", "targets": "targets", "task_name": "task_name", "submixture": "task_source"}
"""Column of a collection → its name in the file, as suite=heldout reads it."""


def heldout_file(options: Mapping[str, Any], root: Path) -> Path:
    """Where the file lies: named by what it is made from: options, the files that they name, the user's own code.

    Args:
        options: `_target_` and the options of a source.
        root: the folder of artifacts.
    """
    code, files = code_of_targets(options), named_files(options, root, ContentHashes())
    beside = {name: found for name, found in (("_code_", code), ("_files_", files)) if found}
    return root / "cache" / "heldout" / f"tasks-{make_key({**options, **beside}, [], 1)[:8]}.parquet"


def write_heldout(options: Mapping[str, Any], root: Path) -> None:
    """Write the file, once; and again where it is not what was written. Its hash lies beside it."""
    path = heldout_file(options, root)
    seal = path.with_suffix(".sealed")
    with owned(path):
        known = read_sealed(seal, path.stem)
        if path.exists() and known is not None and known.decode() == hash_file(path):
            return
        if path.exists():
            log.warning("%s is damaged: made again.", path)
        rows = heldout_rows(options)
        with atomic_file(path) as draft:
            pq.write_table(_stored(rows), draft)
        write_sealed(seal, path.stem, hash_file(path).encode())


def heldout_rows(options: Mapping[str, Any]) -> pa.Table:
    """Rows of unseen tasks, zero-shot alone, as `read_heldout` gives them."""
    from hydra.utils import instantiate

    rows = load(instantiate({"_convert_": "all", **options})).train
    labels = {name: rows[column].cast(pa.string()) for column, name in _NAMES.items()}
    if CONVERSATION in rows.column_names:
        own = {name: labels[name] for name in ("task_name", "task_source")}
        return pa.table({CONVERSATION: rows[CONVERSATION], **own})
    return pa.table(labels).filter(pc.starts_with(rows["template_type"].cast(pa.string()), "zs"))


def _stored(rows: pa.Table) -> pa.Table:
    """Turns as in mixtures."""
    if CONVERSATION not in rows.column_names:
        return rows
    turns = Layout.of([RowView.of(rows)]).columns(rows[CONVERSATION].to_pylist())
    return pa.table({**turns, **{name: rows[name] for name in rows.column_names if name != CONVERSATION}})
