# SPDX-License-Identifier: GPL-2.0-only
"""What a recording itself says: durations, sizes, and what became of evictions. One pass.

Memory does not grow with the trace: durations are counted in the buckets of traces.summary
(a quantile is at most 1/64 above the true value) for each of BLOCKS stretches of time, sizes in
bins of SIZE_BIN bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ztrace.replay.read.lives import ANSWERS
from ztrace.replay.report.cgroups import Cgroups
from ztrace.replay.report.statistics import (
    Counts,
    Floats,
    as_dict,
    interval,
    quantile_draws,
    rank_bucket,
    rounded,
    stream_of,
)
from ztrace.traces.columns import values
from ztrace.traces.metadata import Metadata
from ztrace.traces.reader import TraceReader
from ztrace.traces.schema import LIST_OPS, OP_CODE, OPS
from ztrace.traces.summary import bucket_top, duration_bucket

BLOCKS = 64
SIZE_BIN = 16
HEAT_TIMES, HEAT_SIZES = 96, 64
LONGEST_NS = 2**32 - 1
"""A duration that long or longer is recorded as this."""

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999, "p99_99": 0.9999}
INTERVALS = ("p50", "p99_9", "p99_99")

BUCKETS = int(duration_bucket(np.array([LONGEST_NS], np.uint32))[0]) + 1
TOPS: Floats = np.array([bucket_top(bucket) for bucket in range(BUCKETS)], np.float64)
"""The longest duration of each bucket in ns."""

SLOWEST = 50
"""How many of each op's longest calls are kept."""

_COLUMNS = ("ts_ns", "dur_ns", "op", "pool", "size", "handle", "ret", "cpu", "tid")
_SHOWN = ("ts_ns", "dur_ns", "cpu", "tid", "size", "ret")  # of the slowest calls
_LIFE_UNIT = 1000  # ns of a lifetime that are told apart
_LIFE_ROWS = 1 << 20  # that wait before they are put together
_TAIL_STEP = 8  # buckets of a page's curve: eight for each doubling
_NO_CALLS = frozenset({"sample", *LIST_OPS})


def quantiles(counts: Counts, values: Floats, longest: float) -> dict[str, float | None]:
    """Nearest-rank quantiles of a histogram, by name; ``values``: what a bucket stands for.

    None where there are fewer calls than one in ``1 - fraction``.
    """
    calls = int(counts.sum())
    found: dict[str, float | None] = {}
    for key, fraction in QUANTILES.items():
        known = calls and calls * (1 - fraction) >= 0.999
        value = min(float(values[rank_bucket(counts, fraction)]), longest) if known else None
        found[f"{key}_ns"] = value
    return found


def tail(counts: Counts, values: Floats, longest: float) -> dict[str, list[float]]:
    """Share of the calls that take longer than each of some rising durations.

    The last point is the longest call, one of all.
    """
    calls = counts.sum()
    longer = calls - np.cumsum(counts)
    at = np.flatnonzero((counts > 0) & (longer > 0))
    return {
        "duration_ns": rounded([*np.minimum(values[at], longest), longest]),
        "share_longer": rounded([*(longer[at] / calls), 1 / calls]),
    }


def _coarse_tail(counts: Counts, longest: float) -> dict[str, list[float]]:
    """The tail of a histogram of BUCKETS, a point for each _TAIL_STEP of them."""
    padded = np.zeros(-(-BUCKETS // _TAIL_STEP) * _TAIL_STEP, np.int64)
    padded[:BUCKETS] = counts
    ends = np.minimum(np.arange(_TAIL_STEP - 1, len(padded), _TAIL_STEP), BUCKETS - 1)
    return tail(padded.reshape(-1, _TAIL_STEP).sum(axis=1), TOPS[ends], longest)


@dataclass
class Durations:
    """Calls of one op. ``blocks``: shape (BLOCKS, BUCKETS), calls of each stretch of time."""

    blocks: Counts = field(default_factory=lambda: np.zeros((BLOCKS, BUCKETS), np.int64))
    failed: int = 0
    total_ns: int = 0
    longest_ns: int = 0

    def add(
        self,
        dur_ns: npt.NDArray[np.uint32],
        block: npt.NDArray[np.int64],
        ret: npt.NDArray[np.int32],
    ) -> None:
        """Count calls."""
        cell = block * BUCKETS + duration_bucket(dur_ns)
        self.blocks += np.bincount(cell, minlength=self.blocks.size).reshape(self.blocks.shape)
        self.failed += int((ret < 0).sum())
        self.total_ns += int(dur_ns.sum(dtype=np.uint64))
        self.longest_ns = max(self.longest_ns, int(dur_ns.max()))

    @property
    def counts(self) -> Counts:
        """Calls in each bucket."""
        return np.asarray(self.blocks.sum(axis=0), np.int64)

    @property
    def calls(self) -> int:
        """How many."""
        return int(self.blocks.sum())

    def quantiles(self) -> dict[str, int | None]:
        """All of QUANTILES, in ns."""
        found = quantiles(self.counts, TOPS, self.longest_ns)
        return {key: None if value is None else int(value) for key, value in found.items()}

    def quantile(self, key: str) -> int | None:
        """One of QUANTILES in ns; None if fewer calls than one in ``1 - fraction``."""
        return self.quantiles()[f"{key}_ns"]

    def draws(self, fraction: float, name: str) -> Floats | None:
        """The quantile in bootstrap draws of stretches, ns."""
        found = quantile_draws(self.blocks, fraction, TOPS, stream_of(name))
        return None if found is None else np.minimum(found, self.longest_ns)

    def to_dict(self, cost_ns: float | None, name: str) -> dict[str, Any]:
        """Figures in ns, as recorded; ``corrected`` has the probe's cost taken off, if known."""
        figures: dict[str, float | None] = {"mean_ns": self.total_ns / self.calls}
        figures |= self.quantiles()
        figures["max_ns"] = self.longest_ns
        found = {}
        for key in INTERVALS:
            value = figures[f"{key}_ns"]
            if value is not None:
                found[key] = as_dict(interval(value, self.draws(QUANTILES[key], name)))
        corrected = None
        if cost_ns is not None:
            corrected = {
                key: None if value is None else max(0.0, value - cost_ns)
                for key, value in figures.items()
            }
        return {
            "calls": self.calls,
            "failed": self.failed,
            **figures,
            "intervals": found,
            "probe_cost_ns": cost_ns,
            "corrected": corrected,
            "tail": self._tail(),
        }

    def _tail(self) -> dict[str, list[float]]:
        return _coarse_tail(self.counts, self.longest_ns)


@dataclass
class Lifetimes:
    """How long objects live, ns, in the buckets of durations over :data:`_LIFE_UNIT` ns.

    Mallocs and frees wait until there are many, then those of one handle are put together.
    ``cgroups`` is told of each object, if given.
    """

    cgroups: Cgroups | None = None
    counts: Counts = field(default_factory=lambda: np.zeros(BUCKETS, np.int64))
    longest: int = 0
    _waiting: list[npt.NDArray[np.int64]] = field(default_factory=list)
    _rows: int = 0
    _live: int = 0

    def add(
        self,
        handle: npt.NDArray[np.uint64],
        pool: npt.NDArray[np.uint8],
        at_ns: npt.NDArray[np.int64],
        is_free: npt.NDArray[np.bool_],
        *codes: npt.NDArray[np.int64],
    ) -> None:
        """Take rows in order: ``at_ns`` is the return of a malloc and the begin of a free.

        ``codes``: those of the objects that are given, for ``cgroups``.
        """
        key = handle.astype(np.int64) ^ (pool.astype(np.int64) << 56)
        self._waiting.append(np.stack([key, at_ns, is_free.astype(np.int64), *codes]))
        self._rows += len(handle)
        if self._rows > _LIFE_ROWS + 2 * self._live:
            self._match()

    def _match(self) -> None:
        if not self._waiting:
            return
        rows = np.concatenate(self._waiting, axis=1)
        rows = rows[:, np.argsort(rows[0], kind="stable")]
        key, at_ns, is_free, *codes = rows
        freed = np.flatnonzero((key[1:] == key[:-1]) & (is_free[1:] == 1) & (is_free[:-1] == 0))
        if self.cgroups is not None:
            self.cgroups.lived(codes[0][freed], at_ns[freed], at_ns[freed + 1])
        lived = np.maximum(at_ns[freed + 1] - at_ns[freed], 0) // _LIFE_UNIT
        if len(lived):
            lived = np.minimum(lived, LONGEST_NS)
            self.longest = max(self.longest, int(lived.max()))
            found = duration_bucket(lived.astype(np.uint32))
            self.counts += np.bincount(found, minlength=BUCKETS)
        last = np.flatnonzero(np.append(key[1:] != key[:-1], True) & (is_free == 0))
        self._waiting, self._rows, self._live = [rows[:, last]], 0, len(last)

    def to_dict(self) -> dict[str, Any]:
        """``objects`` that were seen to be freed, and the share of them that live longer."""
        self._match()
        objects = int(self.counts.sum())
        if not objects:
            return {"objects": 0}
        curve = _coarse_tail(self.counts, self.longest)
        curve["duration_ns"] = [ns * _LIFE_UNIT for ns in curve["duration_ns"]]
        return {"objects": objects, **curve}

    def by_cgroup(self) -> dict[str, Any] | None:
        """Figures of the cgroups, if they are several; see :meth:`Cgroups.to_dict`. Nothing may be
        added any more."""
        self._match()
        if self.cgroups is None:
            return None
        for _, at_ns, _, code in self._waiting:
            self.cgroups.lived(code, at_ns, None)
        self._waiting = []
        return self.cgroups.to_dict()


@dataclass
class Recorded:
    """The tallies of one recording; shapes and units see the fields' makers.

    ``zero_handles``: mallocs that gave handle 0. ``written_back``: write-backs that succeeded.
    ``stores``: done, mallocs, mallocs refused and stores failed in each part of the time.
    ``slowest``: op -> its longest calls, shape (at most SLOWEST, columns of _SHOWN), -1 for null.
    """

    first_ns: int
    last_ns: int
    page_bytes: int
    headers: list[int]
    durations: dict[str, Durations] = field(default_factory=dict)
    slowest: dict[str, Counts] = field(default_factory=dict)
    sizes: Counts = field(init=False)
    heat: Counts = field(default_factory=lambda: np.zeros((HEAT_TIMES, HEAT_SIZES), np.int64))
    stores: Counts = field(default_factory=lambda: np.zeros((4, HEAT_TIMES), np.int64))
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    zero_handles: int = 0
    written_back: int = 0
    size_sum: int = 0

    def __post_init__(self) -> None:
        self.sizes = np.zeros(self.page_bytes // SIZE_BIN, np.int64)

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the rows of a batch."""
        if not batch.num_rows:
            return
        ts, dur, ret, pool = (
            batch.column(name).to_numpy() for name in ("ts_ns", "dur_ns", "ret", "pool")
        )
        op = batch.column("op").indices.to_numpy()
        for code in np.unique(op).tolist():
            if OPS[code] not in _NO_CALLS:
                at = np.flatnonzero(op == code)
                block = self._stretch(ts[at], BLOCKS)
                self.durations.setdefault(OPS[code], Durations()).add(dur[at], block, ret[at])
                self._add_slowest(OPS[code], batch, at)
        is_malloc, is_store = op == OP_CODE["malloc"], op == OP_CODE["store"]
        given = is_malloc & (ret >= 0)
        for kind, chosen in enumerate(
            (is_store & (ret == 0), given, is_malloc & np.isin(ret, ANSWERS), is_store & (ret < 0))
        ):
            part = self._stretch(ts[chosen], HEAT_TIMES)
            self.stores[kind] += np.bincount(part, minlength=HEAT_TIMES)
        handle = batch.column("handle")
        known = handle.is_valid().to_numpy(zero_copy_only=False)
        is_free = (op == OP_CODE["free"]) & known
        lives = np.flatnonzero((given & known) | is_free)
        ends = np.where(is_free, ts, ts + dur.astype(np.int64))[lives]
        codes: list[npt.NDArray[np.int64]] = []
        if self.lifetimes.cgroups is not None:
            place = self.lifetimes.cgroups.add(batch, op)[lives]
            codes = [Cgroups.code(place, self._own_size(batch, pool)[lives])]
        self.lifetimes.add(values(handle)[lives], pool[lives], ends, is_free[lives], *codes)
        self.zero_handles += int((given & known & (handle.fill_null(1).to_numpy() == 0)).sum())
        self.written_back += int(((op == OP_CODE["writeback"]) & (ret == 0)).sum())
        self._add_sizes(self._own_size(batch, pool)[given], ts[given])

    def _add_slowest(self, op: str, batch: pa.RecordBatch, at: npt.NDArray[np.intp]) -> None:
        dur = batch.column("dur_ns").to_numpy()[at]
        at = at[np.argsort(-dur.astype(np.int64), kind="stable")[:SLOWEST]]
        taken = [batch.column(name).take(pa.array(at)) for name in _SHOWN]
        columns = [column.cast(pa.int64()).fill_null(-1).to_numpy() for column in taken]
        rows = np.stack(columns, axis=1)
        both = np.concatenate([self.slowest.get(op, rows[:0]), rows])
        kept = np.argsort(-both[:, _SHOWN.index("dur_ns")], kind="stable")[:SLOWEST]
        self.slowest[op] = both[kept]

    def slowest_list(self) -> list[dict[str, Any]]:
        """The longest calls of each op, longest first; ``at_ns`` from the recording's start."""
        return [
            {
                "op": op,
                "at_ns": at_ns - self.first_ns,
                "dur_ns": dur_ns,
                "cpu": cpu,
                "tid": tid,
                "size": None if size < 0 else size,
                "ret": ret,
            }
            for op in sorted(self.slowest)
            for at_ns, dur_ns, cpu, tid, size, ret in self.slowest[op].tolist()
        ]

    def _stretch(self, ts: npt.NDArray[np.int64], parts: int) -> npt.NDArray[np.int64]:
        """The number of the stretch of time, of ``parts``, that each moment lies in."""
        span = max(1, self.last_ns - self.first_ns)
        part = (ts.astype(np.float64) - self.first_ns) * (parts / span)
        return np.clip(part, 0, parts - 1).astype(np.int64)

    def _own_size(
        self, batch: pa.RecordBatch, pool: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.int64]:
        """What was compressed to, header taken off, bytes."""
        headers = np.zeros(256, np.int64)
        headers[: len(self.headers)] = self.headers
        size = values(batch.column("size")).astype(np.int64)
        return np.asarray(np.clip(size - headers[pool], 1, self.page_bytes), np.int64)

    def _add_sizes(self, own: npt.NDArray[np.int64], ts: npt.NDArray[np.int64]) -> None:
        self.size_sum += int(own.sum())
        self.sizes += np.bincount((own - 1) // SIZE_BIN, minlength=len(self.sizes))
        row = self._stretch(ts, HEAT_TIMES) * HEAT_SIZES
        cell = row + (own - 1) * HEAT_SIZES // self.page_bytes
        self.heat += np.bincount(cell, minlength=self.heat.size).reshape(self.heat.shape)

    def sizes_dict(self) -> dict[str, Any]:
        """Histogram of what zswap or zram compressed to, header taken off: bins of SIZE_BIN."""
        objects = int(self.sizes.sum())
        return {
            "objects": objects,
            "mean_bytes": self.size_sum / objects if objects else None,
            "bin_bytes": SIZE_BIN,
            "bytes": [(i + 1) * SIZE_BIN for i in range(len(self.sizes))],
            "mallocs": self.sizes.tolist(),
        }

    def stores_dict(self) -> dict[str, Any] | None:
        """Stores by the end of each of equal parts of the time; None where none was recorded."""
        done, given, refused, failed = np.cumsum(self.stores, axis=1)
        if not done.any():
            return None
        span_s = (self.last_ns - self.first_ns) / 1e9
        return {
            "t_s": [round(span_s * (i + 1) / HEAT_TIMES, 6) for i in range(HEAT_TIMES)],
            "same_filled": np.maximum(done - given, 0).tolist(),
            "refused": refused.tolist(),
            "failed": np.maximum(failed - refused, 0).tolist(),
        }

    def heat_dict(self) -> dict[str, Any]:
        """Mallocs by time (rows, equal parts of the recording) and size (columns)."""
        return {
            "span_s": (self.last_ns - self.first_ns) / 1e9,
            "largest_bytes": self.page_bytes,
            "mallocs": self.heat.tolist(),
        }


def tally(reader: TraceReader, advance: Callable[[int], object]) -> Recorded:
    """Count one recording; ``advance`` gets rows, in all twice the recording's."""
    first, last = 2**63 - 1, -(2**63)
    groups = np.empty(0, np.uint64)
    for batch in reader.batches(["ts_ns", "dur_ns", "cgroup"]):
        if batch.num_rows:
            groups = np.union1d(groups, _distinct(values(batch.column("cgroup"))))
            ts = batch.column("ts_ns").to_numpy()
            first = min(first, int(ts.min()))
            last = max(last, int((ts + batch.column("dur_ns").to_numpy().astype(np.int64)).max()))
        advance(batch.num_rows)
    metadata = reader.metadata
    headers = [pool.header_bytes for pool in metadata.pools]
    found = Recorded(min(first, last), max(first, last), page_bytes(metadata), headers)
    columns: tuple[str, ...] = _COLUMNS
    if len(groups) > 1:
        found.lifetimes.cgroups = Cgroups(groups, found.first_ns, found.last_ns)
        columns = (*_COLUMNS, "cgroup")
    for batch in reader.batches(columns):
        found.add(batch)
        advance(batch.num_rows)
    return found


def _distinct(column: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Of what stands in long runs."""
    begins = np.append(True, column[1:] != column[:-1])
    return np.unique(column[begins])


def page_bytes(metadata: Metadata) -> int:
    """The recorded machine's page; 4096 where it is not known."""
    return metadata.machine.page_bytes or 4096
