# SPDX-License-Identifier: GPL-2.0-only
"""Traces as pandas frames in which every number is exact.

A column that has nulls would become float64 in pandas, which holds no integer above 2**53: a
handle of zsmalloc or zbud, an address, would silently become another one. So the schema of a trace
says in the way of pandas' own files (its key ``pandas``) that these columns are of pandas'
nullable integers; then ``pandas.read_parquet`` makes them so by itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd

    from ztrace.traces.reader import TraceReader

PANDAS_KEY = b"pandas"

NULLABLE = {
    **{f"int{bits}": f"Int{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"UInt{bits}" for bits in (8, 16, 32, 64)},
}
"""Arrow's name of an integer type -> that of pandas' integers that may be null."""


def told_to_pandas(schema: pa.Schema) -> pa.Schema:
    """The schema with the key ``pandas``: nullable integers are Int or UInt, all else as it is."""
    document = {
        "index_columns": [],
        "column_indexes": [],
        "columns": [_column(field) for field in schema],
    }
    return schema.with_metadata({PANDAS_KEY: json.dumps(document, separators=(",", ":"))})


def read_pandas(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A trace of any version as a frame, one row a call; op is categorical, nothing is rounded.

    ``columns``: names, default all. TraceError as :class:`traces.reader.TraceReader`. Newer files
    need it not: ``pandas.read_parquet`` gives the same of them.
    """
    from ztrace.traces.reader import TraceReader

    with TraceReader(path) as reader:
        return frame_of(read_table(reader, columns))


def read_table(reader: TraceReader, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a trace as one table, columns typed as in the schema; default all."""
    names = reader.schema.names if columns is None else columns
    schema = pa.schema([reader.schema.field(name) for name in names])
    return pa.Table.from_batches(list(reader.batches(names)), schema)


def frame_of(table: pa.Table) -> pd.DataFrame:
    """A frame of a table of a trace's columns; integers that may be null stay integers."""
    frame: pd.DataFrame = table.cast(told_to_pandas(table.schema)).to_pandas()
    return frame


def _column(field: pa.Field) -> dict[str, Any]:
    kind, more = str(field.type), None
    if pa.types.is_dictionary(field.type):
        kind, more = "categorical", {"num_categories": 0, "ordered": False}
        stored = str(field.type.index_type)
    else:
        stored = NULLABLE[kind] if field.nullable else kind
    return {
        "name": field.name,
        "pandas_type": kind,
        "numpy_type": stored,
        "metadata": more,
    }
