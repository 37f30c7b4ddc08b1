# SPDX-License-Identifier: GPL-2.0-only
"""When a trace's calls began and returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ztrace.traces.reader import TraceReader

Times = npt.NDArray[np.int64]

LARGEST_NS = 2**62
"""Times beyond count as this, 146 years: no duration carries a sum of this out of int64."""


class Extent(NamedTuple):
    """Entry of the earliest call and return of the latest, ns; both 0 in an empty trace."""

    first_ns: int
    last_ns: int


def extent(reader: TraceReader, advance: Callable[[int], object] = lambda rows: None) -> Extent:
    """Read the times of a whole trace; ``advance`` is called with the rows of each batch."""
    first, last = [], []
    for batch in reader.batches(["ts_ns", "dur_ns"]):
        if batch.num_rows:
            first.append(int(batch.column("ts_ns").to_numpy().min()))
            last.append(int(returns(batch).max()))
        advance(batch.num_rows)
    return Extent(min(first, default=0), max(last, default=0))


def returns(batch: pa.RecordBatch) -> Times:
    """The return of each call of a batch, ns; entries beyond 2**62 count as 2**62."""
    ts: Times = np.clip(batch.column("ts_ns").to_numpy(), -LARGEST_NS, LARGEST_NS)
    end: Times = ts + batch.column("dur_ns").to_numpy().astype(np.int64)
    return end


class Clock:
    """The moment at which each row was seen: the latest return among it and all rows before.

    Rows of several CPUs are not quite in order of their returns. These moments never go back,
    so a cut in time is a cut between two rows.
    """

    def __init__(self) -> None:
        self.now = -LARGEST_NS

    def seen(self, batch: pa.RecordBatch) -> Times:
        """The moments of the next batch, ns, ascending."""
        moments: Times = np.maximum(np.maximum.accumulate(returns(batch)), self.now)
        if len(moments):
            self.now = int(moments[-1])
        return moments
