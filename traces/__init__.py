# SPDX-License-Identifier: GPL-2.0-only
"""The trace file: its columns and metadata, writing, reading, CSV, statistics.

>>> from ztrace.traces import TraceReader
>>> with TraceReader("trace.parquet") as trace:  # doctest: +SKIP
...     for batch in trace.batches(["op", "size"]):
...         print(batch.num_rows)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ztrace.traces.errors import TraceError, printable
from ztrace.traces.metadata import Counters, Kernel, Machine, Metadata, PoolInfo, Probe
from ztrace.traces.reader import TraceReader
from ztrace.traces.schema import (
    ALLOCATOR_OPS,
    COLUMNS,
    OP_CODE,
    OPS,
    SCHEMA,
    SCHEMA_VERSION,
    ZSWAP_OPS,
)
from ztrace.traces.writer import AtomicFile, TraceWriter

if TYPE_CHECKING:
    from ztrace.traces.csvfile import export_csv, import_csv, import_metadata
    from ztrace.traces.summary import Summary, summarize

_LATE = {
    **dict.fromkeys(("export_csv", "import_csv", "import_metadata"), "csvfile"),
    **dict.fromkeys(("Summary", "summarize"), "summary"),
}

__all__ = [
    "ALLOCATOR_OPS",
    "COLUMNS",
    "OPS",
    "OP_CODE",
    "SCHEMA",
    "SCHEMA_VERSION",
    "ZSWAP_OPS",
    "AtomicFile",
    "Counters",
    "Kernel",
    "Machine",
    "Metadata",
    "PoolInfo",
    "Probe",
    "Summary",
    "TraceError",
    "TraceReader",
    "TraceWriter",
    "export_csv",
    "import_csv",
    "import_metadata",
    "printable",
    "summarize",
]


def __getattr__(name: str) -> Any:
    """CSV and statistics, whose modules nobody needs who reads a trace."""
    if name in _LATE:
        return getattr(import_module(f"ztrace.traces.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
