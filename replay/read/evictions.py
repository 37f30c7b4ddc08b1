# SPDX-License-Identifier: GPL-2.0-only
"""What a recorded shrink evicted."""

from __future__ import annotations

import errno
from itertools import groupby
from typing import NamedTuple

from ztrace.replay.read.rows import FREE, MAP, NO_HANDLE, UNMAP, WRITEBACK, Rows


class Eviction(NamedTuple):
    """One eviction of a recorded shrink: index of the row that ends it, recorded result."""

    at: int
    handle: int
    ret: int


def evictions(rows: Rows, first: int, last: int) -> list[Eviction]:
    """The evictions of the shrink that row ``last`` records, in order.

    These are the shrinking task's writebacks in the meantime. Where those were not recorded,
    they are its runs of calls on one object, and one succeeded if it freed the object.
    """
    tid, pool, begun = rows.tid[last], rows.pool[last], rows.ts_ns[last]
    nested = [
        i
        for i in range(first, last)
        if rows.tid[i] == tid and rows.pool[i] == pool and rows.ts_ns[i] >= begun
    ]
    known = [
        Eviction(i, rows.handle[i], rows.ret[i])
        for i in nested
        if rows.op[i] == WRITEBACK and rows.handle[i] != NO_HANDLE
    ]
    if known:
        return known
    inferred = []
    calls = (i for i in nested if rows.op[i] in (MAP, UNMAP, FREE))
    for handle, group in groupby(calls, key=lambda i: rows.handle[i]):
        indices = list(group)
        freed = any(rows.op[i] == FREE for i in indices)
        inferred.append(Eviction(indices[-1], handle, 0 if freed else -errno.EEXIST))
    return inferred
