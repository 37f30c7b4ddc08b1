# SPDX-License-Identifier: GPL-2.0-only
"""How long a trace's objects of each size were live: what a block table is fitted to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

from ztrace.replay.errors import ReplayError
from ztrace.replay.play.recorded import more_bytes
from ztrace.replay.read.rows import FREE, MALLOC, segments, survey
from ztrace.traces.reader import TraceReader


@dataclass
class LiveSizes:
    """Size in bytes -> ns during which objects of it were live, summed over the objects.

    ``halves`` are the trace's, cut in the middle of its time, ``span_ns`` long together. Sizes
    are those that zswap gives ztree, with its header where the recorded kernel has one.
    """

    span_ns: int
    halves: tuple[Counter[int], Counter[int]] = field(
        default_factory=lambda: (Counter(), Counter())
    )

    def first_half(self) -> dict[int, Fraction]:
        """Size -> mean number of live objects in the first half."""
        return {size: Fraction(2 * ns, self.span_ns) for size, ns in self.halves[0].items()}

    def whole(self) -> dict[int, Fraction]:
        """Size -> mean number of live objects over the whole trace."""
        both = self.halves[0] + self.halves[1]
        return {size: Fraction(ns, self.span_ns) for size, ns in both.items()}


def live_sizes(
    reader: TraceReader, advance: Callable[[int], object] = lambda rows: None
) -> LiveSizes:
    """Follow the objects of a trace; ``advance`` gets rows, in all twice the trace's.

    An object is live from the return of its malloc to that of its free, or to the trace's end.
    What ztree could not take for its size is left out. ReplayError for a trace without
    allocator calls or time.
    """
    metadata = reader.metadata
    page_bytes = metadata.machine.page_bytes or 4096
    found = survey(reader, advance)
    first_ns, last_ns = found.first_ns, found.last_ns
    if last_ns <= first_ns:
        raise ReplayError(f"{reader.path}: no allocator calls over any time; nothing to learn from")
    middle_ns = (first_ns + last_ns) // 2
    sizes = LiveSizes(last_ns - first_ns)
    before, after = sizes.halves
    more = [
        more_bytes("ztree", pool.allocator, metadata.kernel.release, pool.header_bytes)
        for pool in metadata.pools
    ]
    live: dict[tuple[int, int], tuple[int, int]] = {}  # (pool, handle) -> (size, since)

    def end(size: int, since: int, until: int) -> None:
        if since < middle_ns:
            before[size] += max(0, min(until, middle_ns) - since)
        if until > middle_ns:
            after[size] += max(0, until - max(since, middle_ns))

    for rows in segments(reader, [], page_bytes, compactions=False):
        todo = zip(rows.op, rows.pool, rows.handle, rows.ret, rows.size, rows.end_ns, strict=True)
        for op, pool, handle, ret, size, end_ns in todo:
            if op == FREE or (op == MALLOC and ret >= 0):
                known = live.pop((pool, handle), None)
                if known is not None:
                    end(*known, end_ns)
            if op == MALLOC and ret >= 0:
                given = size + (more[pool] if pool < len(more) else 0)
                if 0 < given <= page_bytes:
                    live[pool, handle] = given, end_ns
        advance(rows.rows)
    for known in live.values():
        end(*known, last_ns)
    return sizes
