# SPDX-License-Identifier: GPL-2.0-only
"""The calls around the first one that a validation refuses, for a picture of them.

A window has the calls that the refused one overlaps, directly or through others, and the longest
order of them that gives the kernel's answers; where calls were played in recorded order or as they
held the lock, that order. It shows why a verdict is what it is: what else could have come first?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ztrace.allocator.ztree.model import TYPE_SHIFT
from ztrace.replay.validate.calls import ABSENT, COMPACT, FREE, MALLOC, SHRINK, Calls, windows
from ztrace.replay.validate.checker import Failure
from ztrace.replay.validate.placement_verdict import PoolPlacement, Way
from ztrace.replay.validate.verdict import Verdict
from ztrace.traces.reader import TraceReader
from ztrace.traces.schema import OPS

MOST_CALLS = 60
"""Calls in a window, the nearest to the refused one."""

_BESIDE = 8  # calls before and after it, where none overlaps


@dataclass(frozen=True)
class Bar:
    """A call of CPU ``cpu`` from ``ts`` to ``end``, ns; ``moment``: when it held the lock."""

    row: int
    ts: int
    end: int
    cpu: int
    tid: int
    what: str
    moment: int | None = None
    beside: bool = False  # shown for its neighbourhood alone


@dataclass(frozen=True)
class Window:
    """``bars`` by time; ``refused`` is the row of one; ``order``: rows, each with its step."""

    pool: int
    bars: tuple[Bar, ...]
    refused: int
    answer: str
    order: tuple[tuple[int, str], ...]
    said: str


def first_refused(reader: TraceReader, verdict: Verdict) -> Window | None:
    """The window of the first refused call of a verdict on a trace; None: no call was refused."""
    if verdict.trees is not None and verdict.trees.unexplained:
        one = verdict.trees.unexplained[0]
        return _of_failure(reader, one.pool, one.failure, _tree_call, one.tree)
    for pool in verdict.pools:
        if pool.refused is not None:
            return _of_failure(reader, pool.pool, pool.refused, _page_call)
        if pool.first is not None and not pool.agrees:
            return _of_rows(reader, pool, *pool.first)
    return None


# -- of a search ------------------------------------------------------------------------------


def _of_failure(
    reader: TraceReader,
    pool: int,
    failure: Failure[Any],
    what: Callable[[Any], str],
    tree: int | None = None,
) -> Window:
    near = _nearest(failure.call, failure.around)
    bars = [Bar(one.row, one.ts, one.end, one.cpu, one.tid, what(one)) for one in near]
    rows = {bar.row for bar in bars}
    held, _ = _calls_near(reader, pool, failure.call.row, tree)
    others = [one for one in held if one["row"] not in rows]
    if len(bars) + len(others) <= MOST_CALLS:
        bars += [_bar_of(one, beside=True) for one in others]
    order = tuple(
        (call.row, getattr(step, "name", "WHOLE").lower())
        for call, step in failure.tried
        if call.row in rows
    )
    answer = f"{failure.answer}; likely: {failure.cause}"
    said = "in the longest order that gives the kernel's handles"
    bars.sort(key=lambda bar: (bar.ts, bar.row))
    return Window(pool, tuple(bars), failure.call.row, answer, order, said)


def _nearest(call: Any, around: Sequence[Any]) -> list[Any]:
    """The calls nearest in time to one of them, itself too, by time."""

    def distance(one: Any) -> int:
        return int(max(one.ts - call.end, call.ts - one.end, 0))

    near = sorted(around, key=lambda one: (one.row != call.row, distance(one)))[:MOST_CALLS]
    return sorted(near, key=lambda one: (one.ts, one.row))


def _tree_call(call: Any) -> str:
    size = f"({call.size})" if call.size else ""
    return f"{call.kind.name.lower()}{size} block {call.block} slot {call.slot}"


def _page_call(call: Any) -> str:
    size = f"({call.chunks} chunks)" if call.chunks else ""
    return f"{call.kind.name.lower().replace('_', ' ')}{size} {call.handle:#x}"


# -- of recorded order, and of the lock's -----------------------------------------------------


def _of_rows(reader: TraceReader, pool: PoolPlacement, row: int, answer: str) -> Window:
    held, refused = _calls_near(reader, pool.pool, row)
    by_lock = pool.order == Way.LOCK
    bars = [_bar_of(call, by_lock=by_lock) for call in held]
    shown = _nearest(next(bar for bar in bars if bar.row == refused), bars)

    def played(bar: Bar) -> tuple[int, int]:
        return (bar.end if bar.moment is None else bar.moment, bar.row) if by_lock else (0, bar.row)

    order = tuple((bar.row, "") for bar in sorted(shown, key=played) if bar.row != refused)
    said = "as they held the lock" if by_lock else "as they returned"
    return Window(pool.pool, tuple(shown), refused, answer, order, f"played {said}")


def _calls_near(
    reader: TraceReader, pool: int, row: int, tree: int | None = None
) -> tuple[Calls, int]:
    """Calls of a pool that overlap the one of a row, or stand beside it, and that call's row.

    ``tree``: of ztree's, only those of this block tree, since trees share nothing.

    A difference can show in a row that changes nothing: then the one that changed last is meant.
    """
    ops = (MALLOC, FREE, SHRINK, COMPACT)
    held: Calls | None = None
    for window in windows(reader, ops=ops, also=("lock_ns",)):
        calls = window.calls[window.calls["pool"] == pool]
        if tree is not None:
            calls = calls[calls["handle"] >> np.uint64(TYPE_SHIFT) == np.uint64(tree)]
        held = calls if held is None else np.concatenate([held[-4096:], calls])
        if len(held) and (held["row"] > row).sum() > _BESIDE and window.until > held["ts"][-1]:
            break
    assert held is not None
    at = int(np.flatnonzero(held["row"] <= row)[-1])
    call = held[at]
    overlaps = (held["ts"] <= call["end"]) & (held["end"] >= call["ts"])
    beside = np.abs(np.arange(len(held)) - at) <= _BESIDE
    return held[overlaps | beside], int(call["row"])


def _bar_of(call: Any, *, by_lock: bool = False, beside: bool = False) -> Bar:
    known = by_lock and call["lock_ns"] != ABSENT
    moment = int(call["ts"]) + int(call["lock_ns"]) if known else None
    row, ts, end, cpu, tid = (int(call[name]) for name in ("row", "ts", "end", "cpu", "tid"))
    return Bar(row, ts, end, cpu, tid, _row_call(call), moment, beside)


def _row_call(call: Any) -> str:
    op = OPS[call["op"]]
    if call["op"] == MALLOC:
        got = f" = {call['handle']:#x}" if call["ret"] >= 0 else f" = {call['ret']}"
        return f"{op}({call['size']}){got}"
    return f"{op}({call['handle']:#x})" if call["op"] == FREE else op


def lanes(window: Window) -> Iterator[tuple[int, list[Bar]]]:
    """Each CPU and its calls; of calls that one CPU had at a time, each task is a lane."""
    for cpu in sorted({bar.cpu for bar in window.bars}):
        own = [bar for bar in window.bars if bar.cpu == cpu]
        ends: list[int] = []
        rows: list[list[Bar]] = []
        for bar in own:
            free = next((at for at, end in enumerate(ends) if end < bar.ts), None)
            if free is None:
                ends.append(bar.end)
                rows.append([bar])
            else:
                ends[free] = bar.end
                rows[free].append(bar)
        for bars in rows:
            yield cpu, bars
