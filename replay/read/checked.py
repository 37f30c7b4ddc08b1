# SPDX-License-Identifier: GPL-2.0-only
"""The rows of a trace on their way to whoever plays them, looked over for what no recorder writes.

Nothing that is told by time is right if rows are out of time order, nothing about objects if it is
not known which calls failed. Both are refused by row, whichever command met them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from ztrace.replay.errors import ReplayError
from ztrace.replay.read.source import Source
from ztrace.traces.errors import TraceError
from ztrace.traces.returns import check_returns
from ztrace.traces.timeorder import QuickOrder


def checked(source: Source, columns: Sequence[str], rows: int = 65536) -> Iterator[pa.RecordBatch]:
    """Yield a source's batches. ``columns`` has ts_ns, dur_ns, op and ret.

    ReplayError, with the row, for rows out of time order (:mod:`traces.timeorder`) and for a
    ``ret`` that no call gives (:mod:`traces.returns`).
    """
    where = str(source.path)
    order = QuickOrder(source, where)
    first = 0
    for batch in source.batches(columns, rows):
        op, ret = batch.column("op").indices.to_numpy(), batch.column("ret").to_numpy()
        try:
            order.check(batch.column("ts_ns").to_numpy(), batch.column("dur_ns").to_numpy())
            check_returns(op, ret, first, where)
        except TraceError as error:
            raise ReplayError(str(error)) from error
        yield batch
        first += batch.num_rows


def check(source: Source) -> None:
    """Look over a whole trace, for who then reads it in ways of its own. Errors as above."""
    for _ in checked(source, ("ts_ns", "dur_ns", "op", "ret")):
        pass
