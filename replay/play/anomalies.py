# SPDX-License-Identifier: GPL-2.0-only
"""Faults of an allocator that a trace runs into: when first, how often, and what they cost.

A replay is watched. Stranded slots, those that are free and that malloc does not find (H10, H11;
of the posted ztree in blocks that are neither current nor last), are memory that is held and of no
use: their bytes are followed over time. Of every hazard the first call that meets it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from ztrace.allocator import Pool
from ztrace.replay.figures.qualified import of_result
from ztrace.replay.figures.result import Agreement, Result
from ztrace.replay.play.engine import replay
from ztrace.replay.read.rows import survey
from ztrace.replay.read.source import Source

MOMENTS = 2000
"""Moments at which stranded slots are counted, evenly in time."""

PARTS = 10
"""Parts of the time that stranding is shown for."""


@dataclass(frozen=True)
class Met:
    """A hazard of one pool: ``row`` and ``t_ns`` of the call that met it first, what that was."""

    pool: int
    name: str
    count: int
    row: int
    t_ns: int
    what: str


@dataclass(frozen=True)
class Part:
    """A tenth of the time, beginning ``from_ns`` after the first call; means over its moments.

    ``stranded_slots`` and ``stranded_bytes`` are free and out of malloc's sight.
    """

    from_ns: int
    held_bytes: float
    stranded_bytes: float
    stranded_slots: float

    @property
    def share(self) -> float:
        """Of what is held, what is stranded."""
        return self.stranded_bytes / self.held_bytes if self.held_bytes else 0.0


@dataclass
class Anomalies:
    """What a watched replay found. ``parts`` is empty for a backend without such a thing.

    ``peak``: the moment with most bytes stranded. ``totals``, ``handles``: the model against the
    kernel, if it was recorded on this backend's allocator.
    """

    backend: str
    met: list[Met]
    parts: list[Part]
    peak: Part | None
    totals: Agreement
    handles: Agreement
    result: Result

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "backend": self.backend,
            "hazards": [asdict(one) for one in self.met],
            "stranded": [{**asdict(part), "share": part.share} for part in self.parts],
            "stranded_peak": self.peak and {**asdict(self.peak), "share": self.peak.share},
            "handles": asdict(self.handles),
            "totals": asdict(self.totals),
            "stopped": [pool.stopped for pool in self.result.pools if pool.stopped],
            "qualified": of_result(self.result),
        }


@dataclass
class _Seen:
    """What is known of one pool; ``stranded`` is the sum of its last moment."""

    model: Pool
    kinds: int = 0
    first: dict[str, tuple[int, int]] = field(default_factory=dict)  # name -> (row, ns)


class _Watcher:
    """Called after each call of the replay, in recorded order."""

    def __init__(self, first_ns: int, last_ns: int) -> None:
        self.first_ns = first_ns
        self.step_ns = max(1, (last_ns - first_ns) / MOMENTS)
        self.due_ns: float = first_ns
        self.pools: dict[int, _Seen] = {}
        self.moments: list[tuple[int, int, int, int]] = []  # ns after the first, held, bytes, slots

    def __call__(self, pool: int, model: Pool, row: int, end_ns: int) -> None:
        seen = self.pools.get(pool)
        if seen is None:
            seen = self.pools[pool] = _Seen(model)
        counts = model.hazards.counts
        if len(counts) != seen.kinds:
            for name in counts:
                seen.first.setdefault(name, (row, end_ns))
            seen.kinds = len(counts)
        if end_ns >= self.due_ns:
            self._look(end_ns)

    def _look(self, now_ns: int) -> None:
        """Note what is stranded; once, however many moments have passed since the last call."""
        held = lost_bytes = slots = 0
        for seen in self.pools.values():
            held += seen.model.held_bytes
            stats = seen.model.stats()
            lost_bytes += stats.get("stranded_bytes", 0)
            slots += stats.get("stranded_slots", 0)
        passed = int((now_ns - self.first_ns) // self.step_ns)
        self.moments.append((now_ns - self.first_ns, held, lost_bytes, slots))
        self.due_ns = self.first_ns + (passed + 1) * self.step_ns

    def met(self) -> Iterator[Met]:
        """All hazards, in order of first calls."""
        found = []
        for number, seen in self.pools.items():
            hazards = seen.model.hazards
            for name, count in hazards.counts.items():
                row, at = seen.first.get(name, (-1, self.first_ns))
                what = hazards.first.get(name, "")
                found.append(Met(number, name, count, row, at - self.first_ns, what))
        yield from sorted(found, key=lambda one: (one.t_ns, one.row))


def find_anomalies(
    reader: Source,
    backend: str,
    advance: Callable[[int], object] = lambda rows: None,
) -> Anomalies:
    """Replay a trace through the Python model of ``backend`` and watch it.

    ``advance`` gets rows, in all three times the trace's. Errors are those of
    :func:`replay.play.engine.replay`.
    """
    found = survey(reader, advance)
    watcher = _Watcher(found.first_ns, found.last_ns)
    result = replay(reader, backend, watch=watcher, advance=advance)
    has = any("stranded_bytes" in seen.model.stats() for seen in watcher.pools.values())
    moments = watcher.moments if has else []
    return Anomalies(
        backend=backend,
        met=list(watcher.met()),
        parts=list(_parts(moments, found.last_ns - found.first_ns)),
        peak=_peak(moments),
        totals=result.agreement("totals"),
        handles=result.agreement("handles"),
        result=result,
    )


def _parts(moments: list[tuple[int, int, int, int]], span_ns: int) -> Iterator[Part]:
    """Means over each tenth of the time; one without a call is as the last moment before it."""
    at, last = 0, (0, 0, 0, 0)
    for part in range(PARTS if moments else 0):
        begin, end = span_ns * part // PARTS, span_ns * (part + 1) // PARTS
        inside = []
        while at < len(moments) and (moments[at][0] <= end or part == PARTS - 1):
            inside.append(moments[at])
            at += 1
        inside = inside or [last]
        last = inside[-1]
        held, lost, slots = (sum(one[i] for one in inside) / len(inside) for i in (1, 2, 3))
        yield Part(begin, held, lost, slots)


def _peak(moments: list[tuple[int, int, int, int]]) -> Part | None:
    if not moments:
        return None
    at, held, lost, slots = max(moments, key=lambda one: one[2])
    return Part(at, held, lost, slots)
