# SPDX-License-Identifier: GPL-2.0-only
"""How long calls took and what the pool held, from what a kernel answered.

The same history does the same work in each round, so a call's own time is its least over the
rounds; what is above that is the machine's: ticks, other programs, cold caches. Where several
threads played, what one call does depends on the others, and rounds are not alike: then each
round is looked at alone, and the middle one of the figures is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ztrace.replay.measured.calls import (
    COMPACT,
    FREE,
    MALLOC,
    MAP,
    SHRINK,
    UNMAP,
    WRITEBACK,
    Calls,
)

SHARES = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "p9999": 0.9999, "max": 1.0}
PAGE_BYTES = 4096
OPS = {
    "malloc": MALLOC,
    "free": FREE,
    "map": MAP,
    "unmap": UNMAP,
    "shrink": SHRINK,
    "compact": COMPACT,
}
NOT_PLAYED = 1 << 30
"""The least ``ret`` that means that nothing was called, and the one for an allocator that has no
such call: tracer/program/files.py. What returned may be above 0, as a shrink of ztree."""
CANNOT = NOT_PLAYED + 1

# Two rounds agree on a call if they differ by less than this share and one step of the clock.
AGREES = 0.1


N = TypeVar("N", int, float)


class Break(Protocol):
    """How an allocator broke, see ``ztrace.tracer.program.files``."""

    @property
    def round(self) -> int: ...
    @property
    def thread(self) -> int: ...
    @property
    def call(self) -> int | None: ...
    @property
    def said(self) -> str: ...


class Answers(Protocol):
    """What ``ztrace.tracer.program`` brings back; arrays of shape (calls,), see there."""

    @property
    def begin_cycles(self) -> NDArray[np.uint64]: ...
    @property
    def handle(self) -> NDArray[np.uint64]: ...
    @property
    def place(self) -> NDArray[np.uint64]: ...
    @property
    def total_bytes(self) -> NDArray[np.uint64]: ...
    @property
    def held_pages(self) -> NDArray[np.uint32]: ...
    @property
    def ret(self) -> NDArray[np.int32]: ...
    @property
    def cycles(self) -> NDArray[np.uint32]: ...
    @property
    def events(self) -> NDArray[Any]: ...
    @property
    def clock_cycles(self) -> int: ...
    @property
    def ns_per_cycle(self) -> float: ...
    @property
    def lock_cycles(self) -> NDArray[np.uint32] | None: ...
    @property
    def waited_cycles(self) -> NDArray[np.uint32] | None: ...
    @property
    def broken(self) -> Break | None: ...


@dataclass(frozen=True)
class Times:
    """Percentiles of one kind of call in ns and in cycles of the clock; ``count`` calls.

    ``single_max_ns``: the longest single call of each round, which the machine has a part in.
    ``waited_share`` of the calls of all rounds waited for a lock of the allocator's, half of these
    for less than ``waited_p50_ns``; ``waited_ns`` is the mean over all calls. None where
    nobody else could have a lock.
    """

    count: int
    ns: dict[str, float]
    cycles: dict[str, int]
    single_max_ns: list[float] = field(default_factory=list)
    waited_share: float | None = None
    waited_p50_ns: float | None = None
    waited_ns: float | None = None


@dataclass(frozen=True)
class Figures:
    """What one allocator did in one kernel.

    ``calls`` played, of which ``refused`` mallocs; ``no_shrink`` shrinks were not, since there the
    allocator has none; ``rounds`` timed. ``times`` by op; ``by_size``:
    (least size, greatest size, op) -> times. ``clock_ns`` is subtracted from all times and
    ``step_ns`` is the clock's step. ``disagree``: share of calls whose least time was met in one
    round alone. ``pages_peak``, ``pages_mean``: taken from the page allocator, over calls;
    ``density``: bytes of objects in a byte of these pages, over calls; None if several threads
    played.
    """

    calls: int
    refused: int
    no_shrink: int
    rounds: int
    threads: int
    times: dict[str, Times]
    by_size: dict[tuple[int, int, str], Times]
    clock_ns: float
    step_ns: float
    ns_per_cycle: float
    disagree: float | None
    pages_peak: int | None
    pages_mean: float | None
    density: float | None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        plain = asdict(self)
        plain["by_size"] = [
            {"from_bytes": low, "to_bytes": high, "op": op, **asdict(times)}
            for (low, high, op), times in self.by_size.items()
        ]
        return plain


def least_cycles(calls: Calls, answers: Answers) -> NDArray[np.int64]:
    """Each call's time in cycles, without the clock's cost: its least over the timed rounds, or
    that of the placing round where several threads played or the allocator broke in it."""
    alone = len(calls.first) == 2
    timed = alone and len(answers.cycles) > 1
    cycles = answers.cycles[1:].min(axis=0) if timed else answers.cycles[0]
    own: NDArray[np.int64] = np.maximum(cycles.astype(np.int64) - answers.clock_cycles, 0)
    return own


def figures(calls: Calls, answers: Answers, *, sizes: int = 0) -> Figures:
    """Figures of one allocator; ``sizes``: how many ranges of size to tell malloc and free by."""
    alone = len(calls.first) == 2
    played = (answers.ret < NOT_PLAYED) & (calls.op != WRITEBACK)
    rounds = answers.cycles[1:]
    least = least_cycles(calls, answers)
    kinds = {name: played & (calls.op == code) for name, code in OPS.items()}

    def times(chosen: NDArray[np.bool_]) -> Times:
        return _times(least, rounds, chosen, answers, alone)

    by_size = {}
    for low, high in _ranges(sizes):
        within = (calls.size_bytes >= low) & (calls.size_bytes <= high)
        for name in ("malloc", "free"):
            chosen = kinds[name] & within
            if chosen.any():
                by_size[low, high, name] = times(chosen)
    peak = mean = density = None
    if alone:
        held = answers.held_pages.astype(np.int64)
        peak, mean = int(held.max()), float(held.mean())
        stored = _stored_bytes(calls, answers)
        density = float(stored.sum() / (max(1, int(held.sum())) * PAGE_BYTES))
    return Figures(
        calls=int(played.sum()),
        refused=int(((calls.op == MALLOC) & (answers.ret < 0)).sum()),
        no_shrink=int(((calls.op == SHRINK) & (answers.ret == CANNOT)).sum()),
        rounds=len(rounds),
        threads=len(calls.first) - 1,
        times={name: times(chosen) for name, chosen in kinds.items() if chosen.any()},
        by_size=by_size,
        clock_ns=answers.clock_cycles * answers.ns_per_cycle,
        step_ns=_step(rounds) * answers.ns_per_cycle,
        ns_per_cycle=answers.ns_per_cycle,
        disagree=_disagree(rounds[:, played], _step(rounds)) if alone and len(rounds) > 1 else None,
        pages_peak=peak,
        pages_mean=mean,
        density=density,
    )


def _ranges(count: int) -> list[tuple[int, int]]:
    if not count:
        return []
    edges = [PAGE_BYTES * i // count for i in range(count + 1)]
    return [(low + 1, high) for low, high in pairwise(edges)]


def _times(
    least: NDArray[np.int64],
    rounds: NDArray[np.uint32],
    chosen: NDArray[np.bool_],
    answers: Answers,
    alone: bool,
) -> Times:
    scale = answers.ns_per_cycle
    cycles = middle([percentiles(one) for one in own_cycles(answers, least, chosen, alone)])
    waited = None if answers.waited_cycles is None else answers.waited_cycles[1:, chosen]
    longest = rounds[:, chosen].max(axis=1).astype(np.int64) - answers.clock_cycles
    return Times(
        count=int(chosen.sum()),
        ns={name: value * scale for name, value in cycles.items()},
        cycles=cycles,
        single_max_ns=[max(0, value) * scale for value in longest.tolist()],
        **({} if waited is None else _waits(waited, scale)),
    )


def own_cycles(
    answers: Answers, least: NDArray[np.int64], chosen: NDArray[np.bool_], alone: bool
) -> NDArray[np.int64]:
    """Times of the chosen calls, in rows to be looked at one by one: their ``least``; where several
    threads played, no round's calls are another's, and each timed round is a row."""
    if alone:
        return least[None, chosen]
    own: NDArray[np.int64] = answers.cycles[1:, chosen].astype(np.int64) - answers.clock_cycles
    return np.maximum(own, 0)


def middle(each: Sequence[Mapping[str, N]]) -> dict[str, N]:
    """Of each figure the middle one."""
    return {name: sorted(one[name] for one in each)[len(each) // 2] for name in each[0]}


def _waits(waited: NDArray[np.uint32], scale: float) -> dict[str, float]:
    met = waited[waited > 0]
    return {
        "waited_share": len(met) / waited.size,
        "waited_p50_ns": float(np.median(met)) * scale if len(met) else 0.0,
        "waited_ns": float(waited.mean()) * scale,
    }


def percentiles(cycles: NDArray[np.int64]) -> dict[str, int]:
    """Of each share, the least value that so many of the calls do not exceed."""
    values = np.sort(cycles)
    last = len(values) - 1
    return {
        name: int(values[min(last, max(0, int(np.ceil(share * len(values))) - 1))])
        for name, share in SHARES.items()
    }


def _step(rounds: NDArray[np.uint32]) -> int:
    """The least difference between two readings: the clock does not count single cycles."""
    values = np.unique(rounds[0, : 1 << 18])
    steps = np.diff(values)
    return int(steps.min()) if len(steps) else 0


def _disagree(rounds: NDArray[np.uint32], step: int) -> float:
    """Share of calls whose least time no second round comes near to."""
    if not rounds.shape[1]:
        return 0.0
    two = np.partition(rounds, 1, axis=0)[:2].astype(np.int64)
    return float((two[1] > two[0] * (1 + AGREES) + step).mean())


def _stored_bytes(calls: Calls, answers: Answers) -> NDArray[np.int64]:
    """Bytes of live objects after each call."""
    change = np.zeros(len(calls.op), np.int64)
    done = answers.ret == 0
    size = calls.size_bytes.astype(np.int64)
    given, freed = done & (calls.op == MALLOC), done & (calls.op == FREE)
    change[given], change[freed] = size[given], -size[freed]
    return change.cumsum()
