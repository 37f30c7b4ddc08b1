# SPDX-License-Identifier: GPL-2.0-only
"""Pools' calls played in the core in recorded order, as recorded_order.py plays them.

The core says that all they tell is what the model does, to the count. Where something differs, or
is not whole, it says no more than that; what, the model in Python tells.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ztrace.allocator.native.library import library
from ztrace.allocator.registry import builtin, recorded_traits
from ztrace.allocator.traits import Compacts, Tells, Traits
from ztrace.replay.errors import ReplayError
from ztrace.replay.figures.result import Agreement, PoolResult
from ztrace.replay.play.backends import models
from ztrace.replay.play.interface import PLAYER
from ztrace.replay.play.native import reason_missing, replay_placing
from ztrace.replay.read.lives import ANSWERS, is_whole
from ztrace.replay.read.rows import COMPACT, MALLOC, MAP, SHRINK, UNMAP, call_times, op_codes
from ztrace.replay.validate.calls import PLAYED
from ztrace.replay.validate.placement_verdict import Agreement as Compared
from ztrace.replay.validate.placement_verdict import PoolPlacement
from ztrace.traces.columns import valid, values
from ztrace.traces.reader import TraceReader


def require() -> None:
    """NativeMissing if there is no core."""
    library(PLAYER)


def can_play(result: PoolPlacement) -> bool:
    """Whether the core has the pool's model, and that answers as the recorded allocator."""
    known = builtin(result.backend) is not None and models(result.backend, result.allocator)
    return known and reason_missing() is None


def agreeing(
    reader: TraceReader, results: Mapping[int, PoolPlacement], advance: Callable[[int], object]
) -> dict[int, PoolPlacement]:
    """Those of some pools that the core agrees with, with all that was compared.

    ``advance`` gets numbers of rows, in all twice the trace's.
    """
    backends = {result.backend for result in results.values()}
    played: dict[int, tuple[PoolResult, Agreement]] = {}
    for backend in backends:
        own = {number: one for number, one in results.items() if one.backend == backend}
        tells = {number: recorded_traits(one.allocator).tells for number, one in own.items()}
        try:
            found = replay_placing(
                reader, backend, tells, lambda rows: advance(rows // len(backends))
            )
        except ReplayError:
            continue  # said in its own words by the model in Python
        played |= {pool.pool: (pool, places) for pool, places in found if pool.pool in own}
    counted = _count(reader, {number: results[number] for number in played})
    return {
        number: _filled(results[number], *played[number], counted[number])
        for number in played
        if _agrees(*played[number], counted[number], is_whole(reader.metadata))
    }


@dataclass
class _Counted:
    """What is told of a pool by its rows alone."""

    traits: Traits
    calls: int = 0
    overlapping: int = 0
    refused: int = 0  # mallocs that failed, not for want of memory
    totals: int = 0
    unmaps: int = 0
    unmap_totals: int = 0
    places: int = 0
    compactions: int = 0
    cpus: set[int] = field(default_factory=set)
    latest: int = -(1 << 62)  # end of any call so far


def _count(reader: TraceReader, pools: Mapping[int, PoolPlacement]) -> dict[int, _Counted]:
    counted = {number: _Counted(recorded_traits(one.allocator)) for number, one in pools.items()}
    columns = ("ts_ns", "dur_ns", "op", "pool", "size", "ret", "cpu", "total", "place")
    for batch in reader.batches(columns=columns):
        op, pool = op_codes(batch), batch.column("pool").to_numpy()
        starts, ends = call_times(batch)
        ret, told = batch.column("ret").to_numpy(), valid(batch.column("total"))
        cpu = batch.column("cpu").to_numpy()
        failed = (op == MALLOC) & (ret < 0) & (ret != -errno.ENOMEM)
        played = np.isin(op, PLAYED)
        placed = values(batch.column("place")) != 0
        tells = {
            Tells.HANDLE: (op == MALLOC) & (ret >= 0),
            Tells.MALLOC: (op == MALLOC) & (ret >= 0) & placed,
            Tells.MAP: (op == MAP) & placed,
        }
        compacted = op == COMPACT
        if compacted.any():
            within = values(batch.column("size")) > 0  # a free, whose own it is
        for number, one in counted.items():
            mine = pool == number
            calls = mine & played
            one.refused += int((mine & failed).sum())
            one.places += int((mine & tells[one.traits.tells]).sum())
            one.unmaps += int((mine & (op == UNMAP)).sum())
            one.unmap_totals += int((mine & told & (op == UNMAP)).sum())
            one.totals += int((mine & told & (played | (op == SHRINK))).sum())
            if compacted.any() and one.traits.compacts is not Compacts.NEVER:
                own = compacted & ~within if one.traits.compacts is Compacts.PAGES else compacted
                one.compactions += int((mine & own).sum())
            if not calls.any():
                continue
            one.calls += int(calls.sum())
            one.cpus.update(np.unique(cpu[calls]).tolist())
            latest = np.maximum.accumulate(np.append(one.latest, ends[calls]))
            one.overlapping += int((starts[calls] <= latest[:-1]).sum())
            one.latest = int(latest[-1])
    return counted


def _agrees(pool: PoolResult, places: Agreement, counted: _Counted, whole: bool) -> bool:
    told = (places, pool.totals, pool.errors, pool.shrinks)
    unknown = {op: times for op, times in pool.unknown.items() if times}
    if whole and counted.unmap_totals in (0, counted.unmaps):
        unknown.pop("unmap", None)  # which 6.1 does after it has freed, see _sizes()
    answers = {errno.errorcode[-code] for code in ANSWERS}
    return (
        all(one.equal == one.compared for one in told)
        and not (unknown or pool.reissued or pool.refused or pool.stopped)
        and not (pool.shrinks_not_replayed or pool.shrinks_diverged)
        and not pool.compactions_unmatched
        and pool.compactions == counted.compactions
        and places.compared == counted.places
        and pool.totals.compared >= _sizes(pool, counted)
        and pool.errors.compared == counted.refused
        and set(pool.failed) <= answers | {"ENOMEM"}
    )


def _sizes(pool: PoolResult, counted: _Counted) -> int:
    """How many sizes are compared: not what zswap_writeback_entry() of 6.1 reads as it unmaps an
    object that it has freed. The core does that, and of rows that are no calls of the allocator.
    """
    return counted.totals - (pool.unknown.get("unmap", 0) if counted.unmap_totals else 0)


def _filled(
    result: PoolPlacement, pool: PoolResult, places: Agreement, counted: _Counted
) -> PoolPlacement:
    result.calls, result.overlapping = counted.calls, counted.overlapping
    result.cpus, result.compactions = counted.cpus, counted.compactions
    result.places = Compared(places.compared, places.equal)
    result.errors = Compared(pool.errors.compared, pool.errors.equal)
    result.shrinks = Compared(pool.shrinks.compared, pool.shrinks.equal)
    sizes = result.sizes
    sizes.compared = sizes.equal = sizes.sure = _sizes(pool, counted)
    return result
