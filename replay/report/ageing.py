# SPDX-License-Identifier: GPL-2.0-only
"""Ageing: what an old pool holds over what a fresh one would hold for the same live objects.

At a number of moments the objects that are live are allocated again, oldest first, in an empty
model. Held then over held fresh is 1 where history costs nothing; that the mix of sizes changes,
which moves density too, has no part in it. Its slope over *turnovers* (mallocs over mean live
objects) is the deterioration. A pool that drains holds little that is live beside what is
stranded, so only moments with at least three quarters of the most live objects count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ztrace.allocator import create
from ztrace.replay.play.fastest import replay_fastest
from ztrace.replay.play.header import header_bytes, zswap_release
from ztrace.replay.read.objects import Follower, calls_of
from ztrace.replay.read.rows import MALLOC
from ztrace.replay.report.statistics import Floats, Interval, as_dict, rounded, slope, stream_of
from ztrace.traces.metadata import Metadata, PoolInfo
from ztrace.traces.reader import TraceReader
from ztrace.traces.schema import conform

MOMENTS = 24
MOST_FILLED = 200_000
"""Objects filled into a fresh model; of more, evenly many are taken and the result scaled."""

LIVE_SHARE = 0.75
LEAST_TURNOVERS = 3.0
TOLERATED = 0.05
"""Growth over the whole recording below which nothing has deteriorated that matters."""

Ints = npt.NDArray[np.int64]


@dataclass
class Ageing:
    """``fresh``: backend -> bytes a fresh model holds at each moment; ``live`` objects then."""

    moment: list[int] = field(default_factory=list)  # index into the replay's series
    mallocs: list[int] = field(default_factory=list)
    live: list[int] = field(default_factory=list)
    fresh: dict[str, list[float]] = field(default_factory=dict)

    def trend(self, backend: str, held: Floats, label: str, name: str) -> dict[str, Any] | None:
        """The trend of one pool's bytes held, given at every moment of the replay's series.

        ``name`` is whose they are: the backend, or the kernel.

        ``slope``: growth per turnover with its interval; ``growth``: that times the turnovers
        seen. None if nothing was filled for this backend or fewer moments count than are needed.
        """
        fresh = np.array(self.fresh.get(backend, []), np.float64)
        if not len(fresh):
            return None
        live = np.array(self.live, np.float64)
        aged = held[self.moment]
        counted = (live >= LIVE_SHARE * live.max()) & (fresh > 0) & ~np.isnan(aged)
        if counted.sum() < 2:
            return None
        turnovers = np.array(self.mallocs, np.float64)[counted] / live[counted].mean()
        turnovers -= turnovers[0]
        ratio = aged[counted] / fresh[counted]
        found = slope(turnovers, ratio, stream_of("ageing", label, name))
        span = float(turnovers[-1])
        growth = None
        if found is not None:
            growth = Interval(*(part * span for part in found))
        return {
            "name": name,
            "turnovers": span,
            "moments": int(counted.sum()),
            "mean_ratio": float(ratio.mean()),
            "slope": as_dict(found),
            "growth": as_dict(growth),
            "at_turnover": rounded(turnovers),
            "ratio": rounded(ratio),
        }


def follow(
    reader: TraceReader,
    backends: Mapping[str, str],
    times_ns: Sequence[int],
    advance: Callable[[int], object],
) -> Ageing:
    """Fill fresh models at MOMENTS of the moments ``times_ns``; backends: label -> allocator of
    the pool it is the recorded model of, or an empty string.

    ``advance`` gets rows, in all the recording's.
    """
    found = Ageing(fresh={backend: [] for backend in backends})
    if not times_ns:
        return found
    step = max(1, len(times_ns) // MOMENTS)
    found.moment = list(range(step - 1, len(times_ns), step))[:MOMENTS]
    due = [times_ns[i] for i in found.moment]
    headers = {b: _header(reader.metadata, b, own) for b, own in backends.items()}
    recorded = np.zeros(256, np.int64)
    for number, pool in enumerate(reader.metadata.pools[:256]):
        recorded[number] = pool.header_bytes
    follower = Follower(reader)

    def fill() -> None:
        """Fill what is live now into fresh models."""
        live = follower.live()
        sizes = np.maximum(1, live["size"] - recorded[live["pool"]])
        found.mallocs.append(follower.mallocs)
        found.live.append(len(live))
        for backend, header in headers.items():
            found.fresh[backend].append(fresh_bytes(backend, sizes, header))

    for piece in calls_of(reader, reader.metadata.machine.page_bytes or 4096):
        rest = piece
        while len(found.live) < len(due):
            later = rest.ends_ns > due[len(found.live)]
            if not later.any():
                break
            before, rest = rest.cut(int(later.argmax()))
            follower.feed(before)
            fill()
        follower.feed(rest)
        advance(piece.rows)
    while len(found.live) < len(due):
        fill()
    return found


def _header(metadata: Metadata, backend: str, own: str) -> int:
    """What zswap adds to an object for this backend, bytes; as recorded for the recorded one."""
    for pool in metadata.pools:
        if own and pool.allocator == own:
            return pool.header_bytes
    return header_bytes(backend, zswap_release(metadata))


class _Objects:
    """Objects as a trace of nothing but mallocs."""

    path = Path("live objects")

    def __init__(self, sizes: Ints) -> None:
        self.metadata = Metadata(pools=[PoolInfo("none", "none", True, True)])
        self.num_rows = len(sizes)
        self._sizes = sizes

    def batches(self, columns: Sequence[str], rows: int = 65536) -> Iterator[pa.RecordBatch]:
        """All in one."""
        order = np.arange(self.num_rows)
        found = {
            "ts_ns": order,
            "op": np.full(self.num_rows, MALLOC, np.int8),
            "size": self._sizes,
            "handle": order + 1,
        }
        kept = {name: column for name, column in found.items() if name in columns}
        yield conform(kept, where=str(self.path), columns=columns)


def fresh_bytes(backend: str, sizes: Ints, header: int) -> float:
    """Bytes that a fresh model holds after objects of these sizes; what it refuses is left out."""
    taken = sizes[:: max(1, -(-len(sizes) // MOST_FILLED))] + header
    fitting = taken[taken <= create(backend).page_bytes]  # nothing takes more
    if not len(fitting):
        return 0.0
    return replay_fastest(_Objects(fitting), backend).at_end.held_bytes * len(sizes) / len(taken)
