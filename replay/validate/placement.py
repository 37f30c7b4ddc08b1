# SPDX-License-Identifier: GPL-2.0-only
"""Allocators whose handles are addresses against their recorded calls: does every object lie where
the model puts it?

Of these, zbud, z3fold, zsmalloc and those of third parties, what is compared is which objects
share a page (or zspage) and where in it they lie, and the pool's size after each call. How depends
on what a trace tells of the order in which calls took effect:

- one CPU, and any third party's: the recorded order (recorded_order.py);
- zbud on several: an order is searched (zbud_checker.py), where it is recorded when calls held
  the lock there is little left to search;
- zsmalloc on several: calls are played as they held the lock (lock_order.py), where recorded;
- z3fold on several: in the order of its locks, where it is recorded what was done to its lists
  (listed_order.py). Else it is not determined. Calls are played in recorded order, and differences
  told apart by whether calls of other CPUs may be their cause (corrected_order.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ztrace.allocator.registry import builtin, recorded, recorded_traits, resolve
from ztrace.allocator.specification import family
from ztrace.allocator.traits import Check, Tells
from ztrace.replay.validate.calls import (
    COMPACT,
    FREE,
    LINK,
    MALLOC,
    MAP,
    SHRINK,
    UNLINK,
    UNMAP,
    WRITEBACK,
    windows,
)
from ztrace.replay.validate.placement_verdict import PoolPlacement, Way
from ztrace.traces.columns import valid, values
from ztrace.traces.reader import TraceReader

if TYPE_CHECKING:  # each way's own modules and models are loaded where a pool goes that way
    from ztrace.replay.validate.corrected_order import CorrectedOrder
    from ztrace.replay.validate.listed_order import ListedOrder
    from ztrace.replay.validate.lock_order import LockOrder
    from ztrace.replay.validate.recorded_order import RecordedOrder
    from ztrace.replay.validate.zbud_run import ZbudRun

OPS = (MALLOC, FREE, WRITEBACK, SHRINK, COMPACT)
LISTED_OPS = (MAP, UNMAP, LINK, UNLINK)
"""What those that are played by their lists need beside these."""
BY_ROW = (Way.RECORDED, Way.CORRECTED)


class Places:
    """Plays pools through their models and compares where objects lie.

    ``pools``: those that calls were made to and whose recordings tell places. ``backend`` replaces
    the model chosen from the trace's kernel; ``engine``: as of ZbudRun.
    :meth:`compare` goes over the rows ``passes`` times.
    """

    def __init__(
        self,
        reader: TraceReader,
        pools: Sequence[int],
        backend: str | None,
        engine: str | None = None,
    ) -> None:
        self._reader = reader
        self._engine = engine
        self._backend = backend
        self._page_bytes = reader.metadata.machine.page_bytes or 4096
        self._tells_lock = {number: _tells_lock(reader, number) for number in pools}
        ways = {number: self._way(number) for number in pools}
        self._by_row = {number: way for number, way in ways.items() if way in BY_ROW}
        self._by_window = {number: way for number, way in ways.items() if way not in BY_ROW}
        self.passes = 2 * bool(self._by_row) + 2 * bool(self._by_window)

    def compare(self, advance: Callable[[int], object]) -> list[PoolPlacement]:
        """What was found of each pool, by its number.

        ``advance`` gets numbers of rows. ReplayError for calls that cannot have happened.
        """
        found: list[PoolPlacement] = []
        if self._by_row:
            found += self._play_rows(advance)
        if self._by_window:
            found += self._play_windows(advance)
        return sorted(found, key=lambda result: result.pool)

    def _way(self, number: int) -> Way:
        """In which order a pool's calls are played."""
        machine, pool = self._reader.metadata.machine, self._reader.metadata.pools[number]
        if not pool.empty_at_start or self._backend is not None:
            return Way.RECORDED
        check = recorded_traits(pool.allocator).check
        if check is Check.LOCKED:
            # Also of one CPU: where the kernel preempts, calls overlap on it, too.
            return Way.LOCK if self._tells_lock[number] else Way.RECORDED
        if machine.cpus == 1:
            return Way.RECORDED
        if check is Check.SEARCHED:
            return Way.LOCK if self._tells_lock[number] else Way.FOUND
        if check is Check.CORRECTED:
            if machine.cpus and _tells_lists(self._reader, number):
                return Way.LISTED
            return Way.CORRECTED if machine.cpus else Way.RECORDED
        return Way.RECORDED

    def _result(self, number: int, way: Way) -> PoolPlacement:
        metadata = self._reader.metadata
        pool = metadata.pools[number]
        spec = self._model(pool.allocator)
        result = PoolPlacement(number, pool.allocator, spec, pool.empty_at_start, way)
        many = recorded_traits(pool.allocator).check is Check.LOCKED and metadata.machine.cpus != 1
        if way == Way.RECORDED and many and not self._tells_lock[number]:
            result.notes.append("the trace does not say when calls held the lock (lock_ns)")
        return result

    def _model(self, allocator: str) -> str:
        """The specification of the model for a pool of this recording."""
        metadata, backend = self._reader.metadata, self._backend
        rules = metadata.kernel.release, self._page_bytes
        if backend is not None and family(backend) != allocator:
            return resolve(backend, *rules)
        return recorded(backend or allocator, *rules, metadata.machine.cpus)

    def _play_rows(self, advance: Callable[[int], object]) -> list[PoolPlacement]:
        """Play pools in the order of rows.

        What the core does not agree with is played once more, in Python, which tells what differs.
        """
        from ztrace.replay.validate import recorded_native

        if self._engine == "native":
            recorded_native.require()
        results = {number: self._result(number, way) for number, way in self._by_row.items()}
        tried = {
            number: result
            for number, result in results.items()
            if self._engine != "python"
            and result.order == Way.RECORDED
            and recorded_native.can_play(result)
        }
        found = recorded_native.agreeing(self._reader, tried, advance) if tried else {}
        rest = {number: one for number, one in results.items() if number not in found}
        if rest:
            self._play_rows_in_python(rest, (lambda rows: None) if tried else advance)
        return list(results.values())

    def _play_rows_in_python(
        self, results: Mapping[int, PoolPlacement], advance: Callable[[int], object]
    ) -> None:
        from ztrace.replay.validate.by_row import check_by_row
        from ztrace.replay.validate.recorded_order import RecordedOrder

        reader = self._reader
        checks: dict[int, RecordedOrder | CorrectedOrder] = {}
        for number, result in results.items():
            if result.order == Way.RECORDED:
                checks[number] = RecordedOrder(str(reader.path), reader.metadata, result)
            else:
                from ztrace.replay.validate.corrected_order import CorrectedOrder

                checks[number] = CorrectedOrder(reader, result)
        check_by_row(reader, checks, self._page_bytes, advance)

    def _play_windows(self, advance: Callable[[int], object]) -> list[PoolPlacement]:
        """Play pools in an order made of the recorded times.

        What the core does not agree with is played once more, in Python, which tells what differs.
        """
        found = self._played_windows(self._by_window, self._engine, advance)
        differ = {number: self._by_window[number] for number, one in found.items() if one is None}
        if differ:
            found |= self._played_windows(differ, "python", lambda rows: None)
        return [one for one in found.values() if one is not None]

    def _played_windows(
        self,
        pools: Mapping[int, Way],
        engine: str | None,
        advance: Callable[[int], object],
    ) -> dict[int, PoolPlacement | None]:
        runs: dict[int, ZbudRun | LockOrder | ListedOrder] = {}
        listed = frozenset(number for number, way in pools.items() if way == Way.LISTED)
        for number, way in pools.items():
            result = self._result(number, way)
            if number in listed:
                from ztrace.replay.validate.listed_order import ListedOrder

                runs[number] = ListedOrder(
                    result, self._page_bytes, self._reader.metadata.machine.cpus
                )
            elif recorded_traits(result.allocator).check is Check.SEARCHED:
                from ztrace.allocator.zbud.model import Zbud
                from ztrace.replay.validate.zbud_run import ZbudRun

                model = Zbud(page_bytes=self._page_bytes)
                runs[number] = ZbudRun(result, model, engine)
            else:
                runs[number] = _lock_order(result, engine)
        ops = (*OPS, *LISTED_OPS) if listed else OPS
        for window in windows(self._reader, advance, ops=ops, also=("total", "place", "lock_ns")):
            calls = window.calls
            others = calls[np.isin(calls["op"], OPS)] if listed else calls
            for number, run in runs.items():
                own = calls if number in listed else others
                run.feed(own[own["pool"] == number], window.until)
        return {number: run.finish() for number, run in runs.items()}


def _lock_order(result: PoolPlacement, engine: str | None) -> LockOrder:
    """A pool's calls in the order of the lock, played in the core where it can and may."""
    from ztrace.replay.validate import lock_native
    from ztrace.replay.validate.lock_order import LockOrder, LockReplay

    in_core = engine == "native" or (
        engine is None and builtin(result.backend) is not None and not lock_native.reason_missing()
    )
    return LockOrder(result, (lock_native.NativeLocks if in_core else LockReplay)(result))


def _tells_lists(reader: TraceReader, number: int) -> bool:
    """Whether all that was done to a pool's lists is told, and each call that locked a page says
    when. Nothing is judged by its lists after a shrink.
    """
    if reader.metadata.lost_total():
        return False
    told = False
    for batch in reader.batches(columns=("op", "pool", "handle", "lock_ns")):
        op = batch.column("op").indices.to_numpy()
        own = batch.column("pool").to_numpy() == number
        told |= bool((own & (op == LINK)).any())
        locks = own & np.isin(op, (FREE, MAP, UNMAP)) & (values(batch.column("handle")) % 2 == 0)
        if (locks & ~valid(batch.column("lock_ns"))).any() or (own & (op == SHRINK)).any():
            return False
    return told


def _tells_lock(reader: TraceReader, number: int) -> bool:
    """Whether each malloc and free of a pool has the moment of its lock, and places are told."""
    traits = recorded_traits(reader.metadata.pools[number].allocator)
    searched = traits.check is Check.SEARCHED
    by_malloc = traits.tells is Tells.MALLOC
    for batch in reader.batches(columns=("op", "pool", "ret", "place", "total", "lock_ns")):
        op = batch.column("op").indices.to_numpy()
        done = (batch.column("pool").to_numpy() == number) & (batch.column("ret").to_numpy() == 0)
        malloc, free = done & (op == MALLOC), done & (op == FREE)
        untold = ~valid(batch.column("lock_ns")) & (malloc | free)
        if searched:  # where sizes are told, they are compared by when calls overlap
            untold |= valid(batch.column("total")) & (malloc | free)
        if by_malloc:
            untold |= ~valid(batch.column("place")) & malloc
        if untold.any():
            return False
    return True
