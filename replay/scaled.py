# SPDX-License-Identifier: GPL-2.0-only
"""A trace whose objects are of other sizes, for replay: what another compressor would have given.

The kernel's answers of such a trace are of no use, so nothing is compared with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from replay.errors import ReplayError
from replay.source import Source
from traces.schema import OP_CODE

SCALED = "scaled"
"""The allocator of a scaled trace's pools: none, so that no model is held to its answers."""

_MALLOC = OP_CODE["malloc"]


class Scaled:
    """A trace with every malloc's compressed size times ``factor``; offers what replay uses.

    Sizes are rounded to whole bytes, half to even, and kept within 1 byte and a page. A header
    that zswap puts before each object (:mod:`replay.header`) is not scaled.
    Raises ReplayError for a factor that is not positive and finite.
    """

    def __init__(self, source: Source, factor: float) -> None:
        if not 0 < factor < float("inf"):
            raise ReplayError(f"scale {factor:g}: must be above 0; write for instance 0.8")
        self.path = source.path
        self.num_rows = source.num_rows
        self._source = source
        self._factor = factor
        recorded = source.metadata
        self._page_bytes = recorded.machine.page_bytes or 4096
        self._headers = np.zeros(256, np.int64)
        for number, pool in enumerate(recorded.pools):
            self._headers[number] = pool.header_bytes
        self.metadata = replace(
            recorded,
            pools=[replace(pool, allocator=SCALED) for pool in recorded.pools],
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
        size = column.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        header = self._headers[batch.column("pool").to_numpy()]
        packed = np.rint((size - header) * self._factor).astype(np.int64)
        made = np.clip(packed, 1, self._page_bytes - header) + header
        malloc = batch.column("op").indices.to_numpy() == _MALLOC
        # A size that cannot be (none, or above a page) stays for the replay to refuse.
        possible = malloc & (size > header) & (size <= self._page_bytes)
        sizes = pa.array(np.where(possible, made, size).astype(np.uint32), mask=_nulls(column))
        return batch.set_column(batch.schema.get_field_index("size"), "size", sizes)


def _nulls(column: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    nulls: np.ndarray[tuple[int], np.dtype[np.bool_]] = column.is_null().to_numpy(
        zero_copy_only=False
    )
    return nulls
