"""Files of rows become Arrow columns: the one reader of select, train, evaluate and reproduce.

Text comes out as it went in, to the byte, or its row is named in a `Fault`: no value is guessed to be a number, a
date or a boolean, and nothing is repaired in silence.
"""

from smart.reading.faults import Fault, apart, fault_where, one_each, refusal
from smart.reading.files import SPLITS, SUFFIXES, distinct, file_identity, suffix_of
from smart.reading.json_rows import decode_json
from smart.reading.parsed import LINE
from smart.reading.reader import Batch, Rows, read, scan
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
    "SHAPED",
    "SPLITS",
    "SUFFIXES",
    "TASKS",
    "TEXT",
    "TEXTS",
    "Batch",
    "Fault",
    "Kind",
    "NoShapeError",
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
    "one_each",
    "plain_conversations",
    "read",
    "read_shaped",
    "refusal",
    "said",
    "scan",
    "shape_table",
    "suffix_of",
    "task_column",
    "turns_of",
]
