# SPDX-License-Identifier: GPL-2.0-only
"""How long a trace's objects of each size were live: what a block table is fitted to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from ztrace.replay.errors import ReplayError
from ztrace.replay.play.header import zswap_release
from ztrace.replay.play.recorded import more_bytes
from ztrace.replay.read.lives import explaining
from ztrace.replay.read.objects import Follower, Objects, calls_of
from ztrace.replay.read.rows import survey
from ztrace.traces.reader import TraceReader

Ints = npt.NDArray[np.int64]

_LOW_BITS = 31
_LOW = (1 << _LOW_BITS) - 1


@dataclass
class LiveSizes:
    """Size in bytes -> ns during which objects of it were live, summed over the objects.

    ``halves`` are the trace's, cut in the middle of its time, ``span_ns`` long together. Sizes
    are those that zswap gives the allocator, with its header where the recorded kernel has one.
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
    reader: TraceReader,
    backend: str = "ztree",
    largest: int | None = None,
    advance: Callable[[int], object] = lambda rows: None,
) -> LiveSizes:
    """Follow the objects of a trace, as ``backend`` would get them.

    ``largest``: bytes of the largest object that it takes, None: a page. ``advance`` gets rows, in
    all twice the trace's.

    An object is live from the return of its malloc to that of its free, or to the trace's end.
    What it could not take for its size is left out. ReplayError for a trace without
    allocator calls or time.
    """
    metadata = reader.metadata
    page_bytes = metadata.machine.page_bytes or 4096
    found = survey(reader, advance)
    first_ns, last_ns = found.first_ns, found.last_ns
    if last_ns <= first_ns:
        raise ReplayError(f"{reader.path}: no allocator calls over any time; nothing to learn from")
    sizes = LiveSizes(last_ns - first_ns)
    middle_ns = (first_ns + last_ns) // 2
    halves = [_Half(first_ns, middle_ns), _Half(middle_ns, last_ns)]
    more = np.zeros(256, np.int64)
    for number, pool in enumerate(metadata.pools[:256]):
        header = pool.header_bytes
        more[number] = more_bytes(backend, pool.allocator, zswap_release(metadata), header)

    def note(objects: Objects) -> None:
        given = objects["size"] + more[objects["pool"]]
        taken = (given > 0) & (given <= (page_bytes if largest is None else largest))
        for half in halves:
            half.note(given[taken], objects["given_ns"][taken], objects["ended_ns"][taken])

    follower = Follower(reader)
    with explaining(reader):
        for piece in calls_of(reader, page_bytes):
            note(follower.feed(piece))
            advance(piece.rows)
    note(follower.finish())
    left = follower.live()
    left["ended_ns"] = last_ns
    note(left)
    for into, half in zip(sizes.halves, halves, strict=True):
        into.update(half.sums)
    return sizes


@dataclass
class _Half:
    """A stretch of time, and ns of objects' lives in it by their size."""

    from_ns: int
    to_ns: int
    sums: Counter[int] = field(default_factory=Counter)

    def note(self, size: Ints, given_ns: Ints, ended_ns: Ints) -> None:
        """Add objects."""
        lived = np.minimum(ended_ns, self.to_ns) - np.maximum(given_ns, self.from_ns)
        some = lived > 0
        size, lived = size[some], lived[some]
        # Sums of doubles are exact as long as they are whole and below 2^53.
        low, high = lived & _LOW, lived >> _LOW_BITS
        sums = [np.bincount(size, part).astype(np.int64).tolist() for part in (low, high)]
        for at in np.unique(size).tolist():
            self.sums[at] += sums[0][at] + (sums[1][at] << _LOW_BITS)
