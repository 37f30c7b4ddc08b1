# SPDX-License-Identifier: GPL-2.0-only
"""A trace whose objects are of other sizes, for replay: what another compressor would have given.

The kernel's answers of such a trace are of no use, so nothing is compared with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from ztrace.replay.read.source import Source
from ztrace.traces.columns import valid, values
from ztrace.traces.resizing import RESIZED, clip_sizes, header_bytes, scaled
from ztrace.traces.schema import OP_CODE


class Scaled:
    """A trace with every compressed size times ``factor``, of mallocs and of zswap's stores.

    Sizes are rounded to whole bytes, half to even, and kept within 1 byte and a page. A header
    that zswap puts before each object (:mod:`replay.play.header`) is not scaled.
    Raises TraceError for a factor that is not positive and finite.
    """

    def __init__(self, source: Source, factor: float) -> None:
        self.path = source.path
        self.num_rows = source.num_rows
        self._source = source
        self._new_sizes = scaled(factor)
        recorded = source.metadata
        self._page_bytes = recorded.machine.page_bytes or 4096
        self._headers = header_bytes(recorded)
        self.metadata = replace(
            recorded,
            pools=[replace(pool, allocator=RESIZED) for pool in recorded.pools],
            notes=[*recorded.notes, f"sizes times {factor:g}"],
        )

    def batches(self, columns: Sequence[str], rows: int = 65536) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the source's order, at least with the columns asked for."""
        if "size" not in columns:
            yield from self._source.batches(columns, rows)
            return
        for batch in self._source.batches(list(dict.fromkeys([*columns, "op", "pool"])), rows):
            yield self._resized(batch)

    def _resized(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        column = batch.column("size")
        size = values(column).astype(np.int64)
        op = batch.column("op").indices.to_numpy()
        malloc, store = op == OP_CODE["malloc"], op == OP_CODE["store"]
        header = np.where(malloc, self._headers[batch.column("pool").to_numpy()], 0)
        # A size that cannot be (none, or above a page) stays for the replay to refuse.
        possible = (malloc | store) & (size > header) & (size <= self._page_bytes)
        size[possible] = clip_sizes(
            size[possible], self._new_sizes, header[possible], self._page_bytes
        )
        nulls = ~valid(column)
        sizes = pa.array(size.astype(np.uint32), mask=nulls)
        return batch.set_column(batch.schema.get_field_index("size"), "size", sizes)
