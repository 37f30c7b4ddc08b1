# SPDX-License-Identifier: GPL-2.0-only
"""Shrinks of a trace as they can be played: what each evicted, and how that went."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ztrace.replay.read.evictions import evictions
from ztrace.replay.read.rows import segments, survey
from ztrace.traces.reader import TraceReader

Ints = NDArray[np.int64]


class Eviction(NamedTuple):
    """It ended with ``row`` of the trace; ``first`` is the first row that may be part of it."""

    first: int
    row: int
    handle: int
    ret: int


class Shrink(NamedTuple):
    """Rows from ``first`` to before its own, ``row``, returned while it ran."""

    first: int
    row: int
    pages: int
    evictions: list[Eviction]


def read_shrinks(reader: TraceReader) -> list[Shrink]:
    """The shrinks of a trace, in order; those that ran during another one are left out."""
    found: list[Shrink] = []
    spans = survey(reader, lambda rows: None).shrinks
    if not spans:
        return found
    for rows in segments(reader, spans, 4096, compactions=False):
        for first, last in rows.shrinks:
            begin, evicted = rows.number[first], []
            for one in evictions(rows, first, last):
                evicted.append(Eviction(begin, rows.number[one.at], one.handle, one.ret))
                begin = rows.number[one.at] + 1
            found.append(
                Shrink(rows.number[first], rows.number[last], rows.size[last] or 1, evicted)
            )
    return found


def evicted_objects(
    shrink: Shrink, row: Ints, handle: NDArray[np.uint64], object_: Ints
) -> list[int]:
    """The object of each eviction of a shrink; -1 if no call within tells.

    ``row``, in order, ``handle`` and ``object_`` are of calls on known objects. An allocator may
    have named the object by a handle that it made for this eviction, as z3fold does; then the call
    on another one within tells: zswap maps and frees only the object that it writes back.
    """
    found = []
    for one in shrink.evictions:
        begin, end = np.searchsorted(row, (one.first, one.row + 1)).tolist()
        same = np.flatnonzero(handle[begin:end] == np.uint64(one.handle))
        if len(same):
            found.append(int(object_[begin + same[0]]))
        else:
            found.append(int(object_[end - 1]) if end > begin else -1)
    return found
