# SPDX-License-Identifier: GPL-2.0-only
"""Slicing: the rows of a stretch of time, of some tasks or cgroups, of a pool, of some ops.

A stretch of time is a contiguous run of rows. What tasks or cgroups own is kept as whole lives
of objects, whoever frees them. Rows that are kept are not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ztrace.traces.columns import valid, values
from ztrace.traces.errors import TraceError
from ztrace.traces.extent import Clock, Extent, extent
from ztrace.traces.metadata import Metadata
from ztrace.traces.reader import TraceReader
from ztrace.traces.schema import OP_CODE, OPS
from ztrace.traces.timeorder import Misplaced, first_misplaced
from ztrace.traces.writer import TraceWriter

Mask = npt.NDArray[np.bool_]

FROM, TO = "slice_from_ns", "slice_to_ns"
"""Names of the filters in the metadata that a slice in time leaves, values as ``ts_ns``."""

STORE, LOAD, INVALIDATE, WRITEBACK, MALLOC, FREE, MAP, UNMAP, SHRINK, COMPACT = (
    OP_CODE[name]
    for name in (
        *("store", "load", "invalidate", "writeback"),
        *("malloc", "free", "map", "unmap", "shrink", "compact"),
    )
)

_CHANGING = (MALLOC, FREE, SHRINK, COMPACT)  # without one of these the pool's state is unknown
_USES = (LOAD, INVALIDATE, WRITEBACK, MAP, UNMAP)


@dataclass(frozen=True)
class Moment:
    """A time: ``ns`` from the trace's earliest call, or as in ``ts_ns`` if ``absolute``."""

    ns: int
    absolute: bool = False

    def at(self, first_ns: int) -> int:
        """The time as in ``ts_ns``."""
        return self.ns if self.absolute else first_ns + self.ns


@dataclass(frozen=True)
class Selection:
    """Which rows to keep: those that pass every one that is given.

    ``begin`` and ``end``: from the first row that returned at or after ``begin``, up to, not
    including, the first that returned at or after ``end``. ``tids`` and ``cgroups``: objects
    that one of them allocated. ``pools`` and ``ops`` (codes): rows of these.
    """

    begin: Moment | None = None
    end: Moment | None = None
    tids: Collection[int] = ()
    cgroups: Collection[int] = ()
    pools: Collection[int] = ()
    ops: Collection[int] = ()


def slice_trace(
    reader: TraceReader,
    writer: TraceWriter,
    selection: Selection,
    *,
    advance: Callable[[int], object] = lambda rows: None,
) -> Misplaced | None:
    """Write the selected rows of ``reader`` to ``writer``, and metadata that says so.

    Returns the first row out of time order where times are selected: a cut in time is one between
    two rows, so that calls within the times may then be missing.

    A pool of which a malloc, free, shrink or compact was left out, other than at the end, is
    not known to be empty at the start. ``advance`` gets numbers of rows, in all twice the
    trace's. Memory: one batch; with tasks or cgroups also each live object and swap slot.
    TraceError if no row is left, and for a damaged trace.
    """
    times = extent(reader, advance)
    begin = None if selection.begin is None else selection.begin.at(times.first_ns)
    end = None if selection.end is None else selection.end.at(times.first_ns)
    if begin is not None and end is not None and begin >= end:
        raise TraceError(f"{reader.path}: --from {begin} ns is not before --to {end} ns; swap them")
    owners = Owners(selection.tids, selection.cgroups)
    clock = Clock()
    left_out = np.zeros(256, bool)
    done = 0
    for batch in reader.batches():
        seen = clock.seen(batch)
        stop = len(seen) if end is None else int(np.searchsorted(seen, end))
        rows = batch.slice(0, stop)
        kept = owners.own(rows)
        if begin is not None:
            kept &= seen[:stop] >= begin
        op, pool = rows.column("op").indices.to_numpy(), rows.column("pool").to_numpy()
        if selection.ops:
            kept &= np.isin(op, list(selection.ops))
        if selection.pools:
            kept &= np.isin(pool, list(selection.pools))
        left_out[pool[~kept & np.isin(op, _CHANGING)]] = True
        writer.write(rows.filter(pa.array(kept)))
        done += batch.num_rows
        advance(batch.num_rows)
        if stop < len(seen):
            break
    advance(reader.num_rows - done)
    by_time = begin is not None or end is not None
    misplaced = first_misplaced(reader) if by_time else None
    if not writer.rows:
        if misplaced is not None:
            raise misplaced.error(str(reader.path))
        raise TraceError(f"{reader.path}: {_nothing_left(times, begin, end)}")
    writer.metadata = _described(reader.metadata, selection, times, begin, end, left_out)
    if misplaced is not None:
        writer.metadata.notes.append("cut by time though rows were out of time order")
    return misplaced


def _nothing_left(times: Extent, begin: int | None, end: int | None) -> str:
    late, early = begin is not None and begin > times.last_ns, end is not None and end <= times[0]
    if late or early:
        return (
            f"no row is left, its calls lie between {times.first_ns} and {times.last_ns} ns, "
            f"{(times.last_ns - times.first_ns) / 1e9:.3f} s; choose times inside"
        )
    return "no row is left; choose a filter that some row passes (ztrace stat shows what there is)"


def _described(
    metadata: Metadata,
    selection: Selection,
    times: Extent,
    begin: int | None,
    end: int | None,
    left_out: Mask,
) -> Metadata:
    """The metadata of the slice."""
    filters = dict(metadata.filters)
    filters |= {FROM: str(begin)} if begin is not None else {}
    filters |= {TO: str(end)} if end is not None else {}
    for name, chosen in (
        ("slice_tid", [str(tid) for tid in sorted(selection.tids)]),
        ("slice_cgroup", [str(cgroup) for cgroup in sorted(selection.cgroups)]),
        ("slice_pool", [str(pool) for pool in sorted(selection.pools)]),
        ("slice_op", [OPS[code] for code in sorted(selection.ops)]),
    ):
        if chosen:
            before = [filters[name]] if name in filters else []
            filters[name] = " and ".join([*before, " or ".join(chosen)])
    first = times.first_ns if begin is None else max(begin, times.first_ns)
    last = times.last_ns if end is None else min(end, times.last_ns)
    in_time = begin is not None or end is not None
    counters = metadata.counters
    return replace(
        metadata,
        filters=filters,
        pools=[
            replace(
                pool,
                empty_at_start=pool.empty_at_start and not left_out[number],
                created_in_recording=pool.created_in_recording
                and not (begin is not None and left_out[number]),
            )
            for number, pool in enumerate(metadata.pools)
        ],
        duration_ns=last - first if in_time else metadata.duration_ns,
        counters=replace(
            counters,
            start=counters.start if begin is None else {},
            end=counters.end if end is None else {},
            check=[],  # counts the rows of the whole recording
            extra={} if in_time else counters.extra,
        ),
    )


@dataclass
class _Leaving:
    """An object whose handle was given out again, at ``given_ns``, before its free returned."""

    owned: bool
    given_ns: int


@dataclass
class Owners:
    """Follows which live objects and swap slots belong to some tasks and cgroups.

    An object belongs to the task that allocated it, in the cgroup in which it did; a slot to the
    task that stored into it last. Rows of an object from before the trace belong to nobody, as
    do shrinks, compactions and samples, which are of a whole pool. With neither tasks nor
    cgroups every row is owned.
    """

    tids: Collection[int]
    cgroups: Collection[int]
    _objects: dict[tuple[int, int], bool] = field(default_factory=dict)  # (pool, handle)
    _leaving: dict[tuple[int, int], _Leaving] = field(default_factory=dict)
    _slots: dict[int, bool] = field(default_factory=dict)

    def own(self, batch: pa.RecordBatch) -> Mask:
        """Whether each row of the next batch is of an object or a slot that is owned."""
        mine = np.ones(batch.num_rows, bool)
        if not self.tids and not self.cgroups:
            return mine
        if self.tids:
            mine &= np.isin(batch.column("tid").to_numpy(), list(self.tids))
        if self.cgroups:
            cgroup = batch.column("cgroup")
            mine &= valid(cgroup)
            mine &= np.isin(values(cgroup), np.array([*self.cgroups], np.uint64))
        columns = ("ts_ns", "dur_ns", "pool", "key", "handle", "ret")
        rows = zip(
            mine.tolist(),
            batch.column("op").indices.to_pylist(),
            *(batch.column(name).to_pylist() for name in columns),
            strict=True,
        )
        return np.fromiter((self._row(*row) for row in rows), bool, batch.num_rows)

    def _row(
        self,
        mine: bool,
        op: int,
        ts: int,
        dur: int,
        pool: int,
        key: int | None,
        handle: int | None,
        ret: int,
    ) -> bool:
        if op in (STORE, MALLOC):
            if op == MALLOC and handle is not None and ret >= 0:
                self._give(pool, handle, mine, ts + dur)
            if key is not None:
                self._slots[key] = mine
            return mine
        if op == FREE:
            return handle is not None and self._free(pool, handle, ts)
        if op not in _USES:
            return False
        if op == INVALIDATE and key is None:
            return True  # a whole device is given up: the end of every life
        owned = self._slots.get(key, False) if key is not None else False
        if handle is not None:
            owned = self._objects.get((pool, handle), owned)
        if op == INVALIDATE and key is not None:
            self._slots.pop(key, None)
        return owned

    def _give(self, pool: int, handle: int, mine: bool, given_ns: int) -> None:
        at = pool, handle
        if at in self._objects:
            self._leaving[at] = _Leaving(self._objects[at], given_ns)
        self._objects[at] = mine

    def _free(self, pool: int, handle: int, ts: int) -> bool:
        """A free that began before its handle was given out again means the older object."""
        at = pool, handle
        late = self._leaving.pop(at, None)
        if late is not None and ts <= late.given_ns:
            return late.owned
        return self._objects.pop(at, False)
