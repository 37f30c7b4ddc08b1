# SPDX-License-Identifier: GPL-2.0-only
"""Streaming statistics of a trace: calls, failures, sizes and durations of each op.

Memory does not grow with the trace. Sizes up to 64 KiB are counted one by one, so their
percentiles are exact. Durations go to a log-linear histogram: a percentile is never below the
true value and at most 1/64 (1.6 %) above it; least, greatest and mean are exact.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ztrace.traces.columns import valid, values
from ztrace.traces.extent import LARGEST_NS
from ztrace.traces.reader import TraceReader
from ztrace.traces.schema import LIST_OPS, NOT_BYTES, OPS
from ztrace.traces.timeorder import Misplaced, TimeOrder

Counts = npt.NDArray[np.int64]

LARGEST_SIZE = 64 << 10
"""Sizes above this many bytes share one bucket; a percentile in there is not known."""

DURATION_RESOLUTION = 64
"""Buckets for each doubling of a duration."""

_SUBBITS = DURATION_RESOLUTION.bit_length() - 1
_DURATION_BUCKETS = (32 - _SUBBITS + 1) * DURATION_RESOLUTION
_COLUMNS = ("ts_ns", "dur_ns", "op", "size", "ret", "cpu", "tid")

# The kernel's own, never meant for user space, hence not in the C library's list.
_KERNEL_ERRNO = {512: "ERESTARTSYS", 524: "ENOTSUPP", 529: "EIOCBQUEUED"}


@dataclass(frozen=True)
class Spread:
    """Distribution of ``count`` values, in the unit of the values.

    A percentile (nearest rank) is None where the counting does not resolve it.
    """

    count: int
    total: int
    minimum: int
    mean: float
    p50: int | None
    p99: int | None
    maximum: int


@dataclass(frozen=True)
class OpSummary:
    """What one op did. ``failed`` counts the calls with ret < 0 by errno name.

    ``size_bytes`` is over all calls that carry a size, ``bytes`` their sum over those that
    succeeded; ``dur_ns`` is over all calls. A spread is None if there are no values.
    """

    calls: int
    failed: dict[str, int]
    bytes: int
    size_bytes: Spread | None
    dur_ns: Spread | None


@dataclass(frozen=True)
class Summary:
    """Statistics of a whole trace.

    ``ops`` has the ops that occur, in schema order. ``rows_by_cpu`` maps a CPU number to its
    rows. ``first_ns`` and ``last_ns`` are the least and greatest ``ts_ns``, None in an empty
    trace; ``rows_per_second`` is None if they are equal. ``misplaced``: the first row out of time
    order, with which nothing is played.
    """

    rows: int
    first_ns: int | None
    last_ns: int | None
    rows_per_second: float | None
    threads: int
    rows_by_cpu: dict[int, int]
    ops: dict[str, OpSummary]
    duration_resolution: float = field(default=1 / DURATION_RESOLUTION)
    misplaced: Misplaced | None = None

    @property
    def span_ns(self) -> int:
        """From the first to the last entry, in ns, as far as a clock can have gone."""
        return _span(self.first_ns, self.last_ns)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON types; CPU numbers become strings."""
        plain = asdict(self)
        plain["misplaced"] = self.misplaced and self.misplaced._asdict()
        plain["rows_by_cpu"] = {str(cpu): rows for cpu, rows in self.rows_by_cpu.items()}
        return plain


def summarize(reader: TraceReader, advance: Callable[[int], object] | None = None) -> Summary:
    """Read a whole trace once; ``advance`` is called with the rows of each batch."""
    state = _Running()
    for batch in reader.batches(_COLUMNS):
        state.add(batch)
        if advance is not None:
            advance(batch.num_rows)
    return state.result()


def duration_bucket(dur_ns: npt.NDArray[np.uint32]) -> Counts:
    """Return the histogram bucket of each duration: below 128 ns one for each ns."""
    wide = dur_ns.astype(np.int64)
    bits = np.frexp(wide.astype(np.float64))[1].astype(np.int64)  # bit length; 0 for 0
    shift = np.maximum(bits - _SUBBITS - 1, 0)
    buckets: Counts = shift * DURATION_RESOLUTION + (wide >> shift)
    return buckets


def bucket_top(bucket: int) -> int:
    """Return the greatest duration in ns that falls into ``bucket``."""
    if bucket < 2 * DURATION_RESOLUTION:
        return bucket
    shift = bucket // DURATION_RESOLUTION - 1
    return ((bucket - shift * DURATION_RESOLUTION + 1) << shift) - 1


class _Tally:
    """Counts of values in buckets, with exact sum, least and greatest value."""

    def __init__(self, buckets: int) -> None:
        self.counts: Counts = np.zeros(buckets, np.int64)
        self.count = 0
        self.total = 0
        self.minimum = 0
        self.maximum = 0

    def add(self, values: npt.NDArray[np.uint32], buckets: Counts) -> None:
        if not len(values):
            return
        self.counts += np.bincount(buckets, minlength=len(self.counts))
        low, high = int(values.min()), int(values.max())
        self.minimum = min(self.minimum, low) if self.count else low
        self.maximum = max(self.maximum, high)
        self.count += len(values)
        self.total += int(values.sum(dtype=np.uint64))

    def bucket_at(self, percent: int) -> int:
        """Return the bucket of the nearest-rank percentile."""
        rank = -(-self.count * percent // 100)
        return int(np.searchsorted(np.cumsum(self.counts), rank))

    def spread(self, value_of: Callable[[int], int | None]) -> Spread | None:
        if not self.count:
            return None
        found = [value_of(self.bucket_at(percent)) for percent in (50, 99)]
        p50, p99 = (None if v is None else min(v, self.maximum) for v in found)
        mean = self.total / self.count
        return Spread(self.count, self.total, self.minimum, mean, p50, p99, self.maximum)


def _size_of(bucket: int) -> int | None:
    return bucket if bucket <= LARGEST_SIZE else None


class _Op:
    """Running counts of one op."""

    def __init__(self) -> None:
        self.calls = 0
        self.bytes = 0
        self.failed: dict[int, int] = {}
        self.sizes = _Tally(LARGEST_SIZE + 2)
        self.durations = _Tally(_DURATION_BUCKETS)

    def add(
        self,
        ret: npt.NDArray[np.int32],
        dur_ns: npt.NDArray[np.uint32],
        size: npt.NDArray[np.uint32],
        sized: npt.NDArray[np.bool_],
    ) -> None:
        self.calls += len(ret)
        bad = ret < 0
        for value, count in zip(*np.unique(ret[bad], return_counts=True), strict=True):
            self.failed[int(value)] = self.failed.get(int(value), 0) + int(count)
        self.bytes += int(size[sized & ~bad].sum(dtype=np.uint64))
        known = size[sized]
        self.sizes.add(known, np.minimum(known.astype(np.int64), LARGEST_SIZE + 1))
        self.durations.add(dur_ns, duration_bucket(dur_ns))

    def result(self) -> OpSummary:
        failed = sorted(self.failed.items(), key=lambda item: (-item[1], -item[0]))
        return OpSummary(
            calls=self.calls,
            failed={errno_name(-ret): count for ret, count in failed},
            bytes=self.bytes,
            size_bytes=self.sizes.spread(_size_of),
            dur_ns=self.durations.spread(bucket_top),
        )


def _span(first_ns: int | None, last_ns: int | None) -> int:
    if first_ns is None or last_ns is None:
        return 0
    return min(last_ns, LARGEST_NS) - max(first_ns, -LARGEST_NS)


class _Running:
    """Running counts of the whole trace."""

    def __init__(self) -> None:
        self.rows = 0
        self.first: int | None = None
        self.last: int | None = None
        self.cpus: Counts = np.zeros(1 << 16, np.int64)
        self.tids: npt.NDArray[np.uint32] = np.zeros(0, np.uint32)
        self.ops: dict[int, _Op] = {}
        self.order = TimeOrder()
        self.misplaced: Misplaced | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        columns = {name: batch.column(name) for name in _COLUMNS}
        sized = valid(columns["size"])
        size = values(columns["size"])
        codes = columns.pop("op").indices.to_numpy()
        ts, dur, ret, cpu, tid = (
            columns[name].to_numpy() for name in ("ts_ns", "dur_ns", "ret", "cpu", "tid")
        )
        if self.misplaced is None:
            self.misplaced = self.order.find(ts, dur, tid, cpu, codes)
        low, high = int(ts.min()), int(ts.max())
        self.first = low if self.first is None else min(low, self.first)
        self.last = high if self.last is None else max(high, self.last)
        self.rows += batch.num_rows
        self.cpus += np.bincount(cpu, minlength=len(self.cpus))
        self.tids = np.union1d(self.tids, tid)
        for code in np.unique(codes):
            at = codes == code
            op = self.ops.setdefault(int(code), _Op())
            name = OPS[code]
            lasts = dur[at] if name not in LIST_OPS else dur[:0]
            op.add(ret[at], lasts, size[at], sized[at] & (name not in NOT_BYTES))

    def result(self) -> Summary:
        span = _span(self.first, self.last)
        return Summary(
            rows=self.rows,
            first_ns=self.first,
            last_ns=self.last,
            rows_per_second=self.rows * 1e9 / span if span else None,
            threads=len(self.tids),
            rows_by_cpu={int(cpu): int(self.cpus[cpu]) for cpu in np.flatnonzero(self.cpus)},
            ops={OPS[code]: self.ops[code].result() for code in sorted(self.ops)},
            misplaced=self.misplaced,
        )


def errno_name(number: int) -> str:
    """Return the name of a positive errno, or its number as text if it has none."""
    return errno.errorcode.get(number) or _KERNEL_ERRNO.get(number) or str(number)
