# SPDX-License-Identifier: GPL-2.0-only
"""Allocators whose handles are addresses against their recorded calls: does every object lie where
the model puts it?

Of these, zbud, z3fold, zsmalloc and those of third parties, what is compared is which objects
share a page (or zspage) and where in it they lie, and the pool's size after each call. How depends
on what a trace tells of the order in which calls took effect:

- one CPU, and any third party's: the recorded order (recorded_order.py);
- zbud on several: an order is searched (zbud_checker.py);
- zsmalloc on several: calls are played as they held the lock (lock_order.py), where recorded;
- z3fold on several: not determined. Calls are played in recorded order, and differences told
  apart by whether calls of other CPUs may be their cause (corrected_order.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ztrace.allocator.registry import recorded, recorded_traits, resolve
from ztrace.allocator.specification import family
from ztrace.allocator.traits import Check, Tells
from ztrace.allocator.zbud.model import Zbud
from ztrace.replay.errors import ReplayError
from ztrace.replay.validate.by_row import PLAYED, check_by_row
from ztrace.replay.validate.calls import COMPACT, FREE, MALLOC, SHRINK, WRITEBACK, windows
from ztrace.replay.validate.corrected_order import CorrectedOrder
from ztrace.replay.validate.lock_order import LockOrder
from ztrace.replay.validate.partial import refuse_partial
from ztrace.replay.validate.placement_verdict import Placement, PoolPlacement, Way
from ztrace.replay.validate.recorded_order import RecordedOrder
from ztrace.replay.validate.zbud_run import ZbudRun
from ztrace.traces.reader import TraceReader

OPS = (MALLOC, FREE, WRITEBACK, SHRINK, COMPACT)
BY_ROW = (Way.RECORDED, Way.CORRECTED)


def compare_places(
    reader: TraceReader,
    *,
    backend: str | None = None,
    advance: Callable[[int], object] = lambda rows: None,
) -> Placement:
    """Play a trace whose recording tells places through its model and compare what can be.

    ``backend`` replaces the model chosen from the trace's kernel. ReplayError for a trace of
    another allocator, without allocator calls, of some objects only, or with calls that cannot
    have happened.
    """
    began = time.perf_counter()
    refuse_partial(reader)
    orders = {number: _order(reader, number, backend) for number in _used_pools(reader)}
    by_row = {number for number, order in orders.items() if order in BY_ROW}
    passes = 1 + 2 * bool(by_row) + 2 * (len(by_row) < len(orders))
    step = _Share(advance, passes)
    step(reader.num_rows)  # _used_pools
    results: dict[int, PoolPlacement] = {}
    if by_row:
        results |= _by_row(reader, orders, backend, step)
    if len(by_row) < len(orders):
        results |= _by_window(reader, orders, backend, step)
    lost = reader.metadata.lost_total()
    found = [results[number] for number in sorted(results)]
    return Placement(str(reader.path), found, lost, time.perf_counter() - began)


@dataclass
class _Share:
    """Progress of one of several passes over the rows, as its share of the rows."""

    advance: Callable[[int], object]
    passes: int
    done: int = 0

    def __call__(self, rows: int) -> None:
        before = self.done // self.passes
        self.done += rows
        self.advance(self.done // self.passes - before)


def _used_pools(reader: TraceReader) -> list[int]:
    """Pools that calls were made to; ReplayError if there is none, or not of these allocators."""
    used: set[int] = set()
    for batch in reader.batches(columns=("op", "pool")):
        op = batch.column("op").indices.to_numpy()
        used.update(np.unique(batch.column("pool").to_numpy()[np.isin(op, PLAYED)]).tolist())
    if not used:
        raise ReplayError(f"{reader.path}: no malloc or free in it; nothing to validate")
    pools = reader.metadata.pools
    for number in sorted(used):
        allocator = pools[number].allocator if number < len(pools) else "unknown"
        if recorded_traits(allocator).tells is Tells.NOTHING:
            raise ReplayError(f"{reader.path}: pool {number} is {allocator}; no places to compare")
    return sorted(used)


def _order(reader: TraceReader, number: int, backend: str | None) -> Way:
    """In which order a pool's calls are played."""
    metadata = reader.metadata
    pool = metadata.pools[number]
    if not pool.empty_at_start or backend is not None:
        return Way.RECORDED
    check = recorded_traits(pool.allocator).check
    if check is Check.LOCKED:
        # Also of one CPU: where the kernel preempts, calls overlap on it, too.
        return Way.LOCK if _tells_lock(reader, number) else Way.RECORDED
    if metadata.machine.cpus == 1:
        return Way.RECORDED
    if check is Check.CORRECTED:
        return Way.CORRECTED if metadata.machine.cpus else Way.RECORDED
    return Way.FOUND if check is Check.SEARCHED else Way.RECORDED


def _tells_lock(reader: TraceReader, number: int) -> bool:
    """Whether each malloc and free of a zsmalloc pool has the moment of its lock and its place."""
    for batch in reader.batches(columns=("op", "pool", "ret", "place", "lock_ns")):
        op = batch.column("op").indices.to_numpy()
        done = (batch.column("pool").to_numpy() == number) & (batch.column("ret").to_numpy() == 0)
        malloc, free = done & (op == MALLOC), done & (op == FREE)
        untold = batch.column("lock_ns").is_null().to_numpy(False) & (malloc | free)
        if (untold | (batch.column("place").is_null().to_numpy(False) & malloc)).any():
            return False
    return True


def _result(reader: TraceReader, number: int, order: Way, backend: str | None) -> PoolPlacement:
    metadata = reader.metadata
    pool = metadata.pools[number]
    spec = _model(reader, pool.allocator, backend)
    result = PoolPlacement(number, pool.allocator, spec, pool.empty_at_start, order)
    many = recorded_traits(pool.allocator).check is Check.LOCKED and metadata.machine.cpus != 1
    if order == Way.RECORDED and many and not _tells_lock(reader, number):
        result.notes.append("the trace does not say when calls held the lock (lock_ns)")
    return result


def _by_row(
    reader: TraceReader, orders: Mapping[int, Way], backend: str | None, step: _Share
) -> dict[int, PoolPlacement]:
    """Play pools in the order of rows."""
    checks: dict[int, RecordedOrder | CorrectedOrder] = {}
    for number, order in orders.items():
        if order in BY_ROW:
            result = _result(reader, number, order, backend)
            if order == Way.RECORDED:
                checks[number] = RecordedOrder(str(reader.path), reader.metadata, result)
            else:
                checks[number] = CorrectedOrder(reader, result)
    check_by_row(reader, checks, _page_bytes(reader), step)
    return {number: check.result for number, check in checks.items()}


def _by_window(
    reader: TraceReader, orders: Mapping[int, Way], backend: str | None, step: _Share
) -> dict[int, PoolPlacement]:
    """Play pools in an order made of the recorded times."""
    runs: dict[int, ZbudRun | LockOrder] = {}
    for number, order in orders.items():
        if order not in BY_ROW:
            result = _result(reader, number, order, backend)
            if order == Way.FOUND:
                runs[number] = ZbudRun(result, Zbud(page_bytes=_page_bytes(reader)))
            else:
                runs[number] = LockOrder(result)
    for window in windows(reader, step, ops=OPS, also=("total", "place", "lock_ns")):
        for number, run in runs.items():
            run.feed(window.calls[window.calls["pool"] == number], window.until)
    return {number: run.finish() for number, run in runs.items()}


def _page_bytes(reader: TraceReader) -> int:
    return reader.metadata.machine.page_bytes or 4096


def _model(reader: TraceReader, allocator: str, backend: str | None) -> str:
    """The specification of the model for a pool of this recording."""
    metadata = reader.metadata
    rules = metadata.kernel.release, _page_bytes(reader)
    if backend is not None and family(backend) != allocator:
        return resolve(backend, *rules)
    return recorded(backend or allocator, *rules, metadata.machine.cpus)
