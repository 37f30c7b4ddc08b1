# SPDX-License-Identifier: GPL-2.0-only
"""What a replay reads: a trace, or one in another order or with other sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from ztrace.traces.metadata import Metadata


class Source(Protocol):
    """What replay uses of :class:`traces.reader.TraceReader`."""

    path: Path
    metadata: Metadata
    num_rows: int

    def batches(self, columns: Sequence[str], rows: int = 65536) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, at least with the columns asked for."""
