# SPDX-License-Identifier: GPL-2.0-only
"""Plays a trace's rows, pool by pool, on models that answer in recorded order.

A shrink's row comes last of those that returned while it ran; it is given to its pool's check where
it began, together with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, Protocol

from ztrace.replay.read.rows import COMPACT, FREE, MALLOC, MAP, UNMAP, Rows, segments, survey
from ztrace.traces.reader import TraceReader

PLAYED = (MALLOC, FREE, MAP, UNMAP, COMPACT)
"""Codes of the ops that are given to a check one by one."""


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
            check = checks.get(rows.pool[last])
            if check is not None:
                check.shrink(rows, first, last, partial(_play, checks, rows))
            else:
                _play(checks, rows, first, last)
            played = last + 1
        _play(checks, rows, played, len(rows))
        advance(rows.rows)


def _play(checks: Mapping[int, RowCheck], rows: Rows, start: int, stop: int) -> None:
    columns = (
        *(rows.number, rows.ts_ns, rows.end_ns, rows.op, rows.size),
        *(rows.handle, rows.ret, rows.total, rows.cpu, rows.place),
    )
    pieces = (column[start:stop] for column in columns)
    for pool, *values in zip(rows.pool[start:stop], *pieces, strict=True):
        if pool in checks and values[3] in PLAYED:
            checks[pool].play(Row(*values))
