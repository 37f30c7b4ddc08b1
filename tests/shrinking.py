# SPDX-License-Identifier: GPL-2.0-only
"""Traces with shrinks, made by a model: as zswap of 6.1 records them, evictions and refusals."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import numpy as np

from ztrace.allocator import create
from ztrace.traces import TraceWriter
from ztrace.traces.metadata import Kernel, Machine, Metadata, PoolInfo

STEP_NS = 100


def write_shrinking(path: Path, backend: str, *, calls: int, allocator: str | None = None) -> int:
    """A random history of ``calls`` mallocs, frees and shrinks on a model, on one CPU; one eviction
    in seven is refused. Returns how many shrinks there are. ``allocator``: what the trace says that
    it was recorded on, the model's if None."""
    chance = random.Random(15)
    pool = create(backend)
    rows: list[tuple[int, int, str, int, int, int]] = []  # ts, dur, op, size, handle, ret
    live: dict[int, int] = {}
    now = evictions = shrinks = 0

    def note(op: str, size: int, handle: int, ret: int, began: int | None = None) -> None:
        nonlocal now
        begin = now if began is None else began
        now += STEP_NS
        rows.append((begin, now - begin - 1, op, size, handle, ret))

    def evict(handle: int) -> int:
        nonlocal evictions, now
        evictions += 1
        began, ret = now, 0 if evictions % 7 else -errno.ENOMEM
        now += STEP_NS
        pool.map(handle)
        note("map", 0, handle, 0)
        pool.unmap(handle)
        if not ret:
            pool.free(handle)
            del live[handle]
            note("free", 0, handle, 0)
        note("writeback", 0, handle, ret, began)
        return ret

    for _ in range(calls):
        kind = chance.random()
        if kind < 0.02 and len(live) > 300:
            began, now = now, now + STEP_NS
            try:
                ret = pool.shrink(1, evict).ret
            except OSError as refusal:
                ret = -(refusal.errno or 0)
            note("shrink", 0, 0, ret, began)
            shrinks += 1
        elif kind < 0.6 or not live:
            size = chance.randrange(40, 3900)
            handle = pool.malloc(size)
            live[handle] = size
            note("malloc", size, handle, 0)
            for op, use in (("map", pool.map), ("unmap", pool.unmap)):
                use(handle)
                note(op, 0, handle, 0)
        else:
            handle = chance.choice(list(live))
            pool.free(handle)
            del live[handle]
            note("free", 0, handle, 0)
    about = Metadata(
        kernel=Kernel(release="6.1.0"),
        machine=Machine(cpus=1),
        pools=[PoolInfo(allocator=allocator or backend, empty_at_start=True)],
    )
    names = ("ts_ns", "dur_ns", "op", "size", "handle", "ret")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    with TraceWriter(path, about) as writer:
        writer.write(
            {
                **columns,
                "handle": np.array(columns["handle"], np.uint64),
                "tid": np.ones(len(rows), np.int64),
            }
        )
    return shrinks
