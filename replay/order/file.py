# SPDX-License-Identifier: GPL-2.0-only
"""The order file: in which order a trace's allocator calls took effect.

Parquet with one row a step: ``at_ns`` (int64, a moment inside the call), ``row`` (int64, the
call's row in the trace) and ``step``: ``whole`` for a call that took effect at one moment; a
malloc between whose steps another call acted has ``look``, ``insert`` and ``take`` instead. The
footer's key ``ztrace-order`` names the trace and its number of rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ztrace.allocator.ztree.calls import BlockStep
from ztrace.replay.errors import ReplayError
from ztrace.replay.validate.found_order import FoundOrder
from ztrace.traces import TraceReader
from ztrace.traces.parquet import open_parquet
from ztrace.traces.writer import AtomicFile

KEY = b"ztrace-order"
VERSION = 1
NAMES = [step.name.lower() for step in BlockStep]
SCHEMA = pa.schema(
    [
        pa.field("at_ns", pa.int64(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("step", pa.dictionary(pa.int8(), pa.string()), nullable=False),
    ]
)


class OrderWriter:
    """Writes an order stretch by stretch; the file appears when the block is left in order."""

    def __init__(self, path: Path, trace: Path, *, force: bool = False) -> None:
        """TraceError if ``path`` exists and ``force`` is not set."""
        self._atomic = AtomicFile(path, force=force)
        self._trace = trace

    def __enter__(self) -> Self:
        file = self._atomic.__enter__()
        with TraceReader(self._trace) as reader:
            about = {"version": VERSION, "trace": self._trace.name, "rows": reader.num_rows}
        self._writer = pq.ParquetWriter(file, SCHEMA, compression="zstd")
        self._writer.add_key_value_metadata({KEY: json.dumps(about)})
        return self

    def write(self, order: FoundOrder) -> None:
        """Append a stretch."""
        steps = pa.DictionaryArray.from_arrays(pa.array(order.step, pa.int8()), NAMES)
        self._writer.write_table(pa.table([order.at_ns, order.row, steps], schema=SCHEMA))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
        self._atomic.__exit__(kind, error, trace)


def read_order(path: Path, trace_rows: int) -> Iterator[FoundOrder]:
    """The stretches of an order file, for a trace of ``trace_rows`` rows.

    ReplayError for a file that is no order, or the order of another trace.
    """
    try:
        with open_parquet(path) as file:
            about = json.loads(
                (file.schema_arrow.metadata or {}).get(KEY) or (file.metadata.metadata or {})[KEY]
            )
            if about["version"] != VERSION or about["rows"] != trace_rows:
                raise ReplayError(
                    f"{path}: the order of another trace ({about['rows']} rows); "
                    "make it with ztrace validate --order"
                )
            for batch in file.iter_batches(use_threads=False):
                step = batch.column("step").cast(pa.string()).to_pylist()
                yield FoundOrder(
                    batch.column("at_ns").to_numpy(),
                    batch.column("row").to_numpy(),
                    np.array([NAMES.index(name) for name in step], np.int8),
                )
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise ReplayError(f"{path}: not an order written by ztrace validate --order") from error
