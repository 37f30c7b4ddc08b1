# SPDX-License-Identifier: GPL-2.0-only
"""What a replay reads: a trace, or one in another order or with other sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from ztrace.traces.metadata import Metadata
from ztrace.traces.schema import OPS

INSERT = len(OPS)
"""Code of an op that only a trace in found order has (replay/order/found.py)."""

AT = "at_ns"
"""Name of the column with the moment of effect, which only a trace in found order has."""


class Source(Protocol):
    """What replay uses of :class:`traces.reader.TraceReader`."""

    path: Path
    metadata: Metadata
    num_rows: int

    def batches(self, columns: Sequence[str], rows: int = 65536) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, at least with the columns asked for."""
