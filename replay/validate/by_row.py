# SPDX-License-Identifier: GPL-2.0-only
"""Plays a trace's rows, pool by pool, on models that answer in recorded order.

A shrink's row comes last of those that returned while it ran; it is given to its pool's check where
it began, together with them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, Protocol

from ztrace.allocator import Pool
from ztrace.replay.read.lives import FREE_WAITS_ROWS
from ztrace.replay.read.rows import (
    NO_HANDLE,
    Rows,
    segments,
    survey,
)
from ztrace.replay.validate.calls import PLAYED
from ztrace.replay.validate.placement_verdict import PoolPlacement
from ztrace.traces.reader import TraceReader


class Row(NamedTuple):
    """One recorded call. Times in ns, ``end`` its return; 0, NO_HANDLE and NO_TOTAL for null."""

    number: int
    ts: int
    end: int
    op: int
    size: int
    handle: int
    ret: int
    total: int
    cpu: int
    place: int


Play = Callable[[int, int], None]
"""Plays the rows of a piece from one index up to another."""


class RowCheck(Protocol):
    """Checks one pool."""

    def play(self, row: Row) -> None:
        """Play a row and compare what it tells."""

    def shrink(self, rows: Rows, first: int, last: int, play: Play) -> None:
        """Play the shrink that row ``last`` records, and rows ``first`` to ``last`` by ``play``."""

    def settle(self, before: int | None) -> None:
        """Wait no longer for frees of handles given out again in rows under ``before``."""


def check_by_row(
    reader: TraceReader,
    checks: Mapping[int, RowCheck],
    page_bytes: int,
    advance: Callable[[int], object],
) -> None:
    """Give the rows of each pool to its check; ``advance`` gets, in all, twice the trace's rows."""
    found = survey(reader, advance)
    for rows in segments(reader, found.shrinks, page_bytes, compactions=True):
        played = 0
        for first, last in rows.shrinks:
            _play(checks, rows, played, first)
            shrunk = checks.get(rows.pool[last])
            if shrunk is not None:
                shrunk.shrink(rows, first, last, partial(_play, checks, rows))
            else:
                _play(checks, rows, first, last)
            played = last + 1
        _play(checks, rows, played, len(rows))
        for check in checks.values():
            check.settle(rows.number[-1] - FREE_WAITS_ROWS if len(rows) else 0)
        advance(rows.rows)
    for check in checks.values():
        check.settle(None)


def _play(checks: Mapping[int, RowCheck], rows: Rows, start: int, stop: int) -> None:
    columns = (
        *(rows.number, rows.ts_ns, rows.end_ns, rows.op, rows.size),
        *(rows.handle, rows.ret, rows.total, rows.cpu, rows.place),
    )
    pieces = (column[start:stop] for column in columns)
    make = tuple.__new__  # of what Row is: its own constructor takes as long as a model's malloc
    for pool, op, values in zip(
        rows.pool[start:stop], rows.op[start:stop], zip(*pieces, strict=True), strict=True
    ):
        if op in PLAYED and pool in checks:
            checks[pool].play(make(Row, values))


def malloc(model: Pool, row: Row, result: PoolPlacement) -> int | None:
    """Play a malloc: the model's handle if both gave one. A refusal is compared."""
    number, ret = row.number, row.ret
    if ret == -errno.ENOMEM:
        return None  # no page was to be had: not the model's matter
    try:
        given = model.malloc(row.size)
    except OSError as refusal:
        code = -(refusal.errno or 0)
        result.errors.note(ret == code, lambda: f"row {number}: kernel {ret}, model {code}")
        return None
    if ret >= 0 and row.handle != NO_HANDLE:
        return given
    result.errors.note(False, lambda: f"row {number}: kernel {ret}, model took {row.size} bytes")
    model.free(given)
    return None
