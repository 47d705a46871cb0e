"""Files of rows become Arrow columns: the one reader of select, train, evaluate and reproduce.

Text comes out as it went in, to the byte, or its row is named in a `Fault`: no value is guessed to be a number, a
date or a boolean, and nothing is repaired in silence.
"""

from smart.reading.converted import ArrowFile, map_arrow, read_mapped, write_arrow, write_tables
from smart.reading.faults import Fault, apart, fault_where, one_each, refusal
from smart.reading.files import SPLITS, SUFFIXES, distinct, file_identity, suffix_of
from smart.reading.json_rows import decode_json
from smart.reading.parsed import LINE
from smart.reading.reader import Batch, Rows, read, scan
from smart.reading.row_view import ROW, RowView, take_texts, whole_numbers
from smart.reading.shapes import (
    CONVERSATION,
    SHAPED,
    NoShapeError,
    Shaped,
    ShapedRows,
    plain_conversations,
    read_shaped,
    shape_table,
)
from smart.reading.tasks import TASKS, filled, task_column
from smart.reading.text_hashes import row_hashes, text_hashes
from smart.reading.turns import said, turns_of
from smart.reading.values import (
    JSON,
    TEXT,
    TEXTS,
    Kind,
    as_text,
    class_names,
    from_values,
    is_blank,
    is_text,
)

__all__ = [
    "CONVERSATION",
    "JSON",
    "LINE",
    "ROW",
    "SHAPED",
    "SPLITS",
    "SUFFIXES",
    "TASKS",
    "TEXT",
    "TEXTS",
    "ArrowFile",
    "Batch",
    "Fault",
    "Kind",
    "NoShapeError",
    "RowView",
    "Rows",
    "Shaped",
    "ShapedRows",
    "apart",
    "as_text",
    "class_names",
    "decode_json",
    "distinct",
    "fault_where",
    "file_identity",
    "filled",
    "from_values",
    "is_blank",
    "is_text",
    "map_arrow",
    "one_each",
    "plain_conversations",
    "read",
    "read_mapped",
    "read_shaped",
    "refusal",
    "row_hashes",
    "said",
    "scan",
    "shape_table",
    "suffix_of",
    "take_texts",
    "task_column",
    "text_hashes",
    "turns_of",
    "whole_numbers",
    "write_arrow",
    "write_tables",
]
