# SPDX-License-Identifier: GPL-2.0-only
"""What a replay measures, and the arithmetic over time behind it.

Memory is a step function of time: it changes when a call returns. Means are weighted by time,
from the entry of the first call that was replayed to the return of the last one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ztrace.replay.errors import ReplayError
from ztrace.replay.figures.timing import Timing

Ints = npt.NDArray[np.int64]

END, OBJECTS, STORED, HELD, MODEL, KERNEL = range(6)
"""Columns of a point: ns, objects, then bytes; KERNEL is -1 where the kernel's total is unknown."""

WIDTH = 6
SERIES_LIMIT = 1_000_000
"""Most rows of a time series."""

CLASS_COUNTS = ("blocks", "blocks_ever", "used_slots", "free_slots", "stranded_slots")
"""Columns of a backend's ``classes`` that are summed over pools; others describe the class."""


@dataclass(frozen=True)
class Every:
    """Distance of the rows of a time series: ``ns``, or ``percent`` of the trace's time."""

    ns: int | None = None
    percent: float | None = None

    def boundaries(self, first_ns: int, last_ns: int) -> Ints:
        """Return the moments of the series in ns; the last one is the trace's end.

        Raises ReplayError for a distance that is not positive or gives over a million rows.
        """
        span = last_ns - first_ns
        step = self.ns if self.percent is None else span * self.percent / 100
        if step is None or not (self.ns or self.percent or 0) > 0:
            raise ReplayError("--every: the distance must be positive; write 100ms or 5%")
        rows = int(span / step) if step else 0
        if rows >= SERIES_LIMIT:
            raise ReplayError(
                f"--every: gives {rows:,} rows over {span / 1e9:.3f} s; take a larger distance"
            )
        moments = [first_ns + round(k * step) for k in range(1, rows + 1)]
        return np.array([*(m for m in moments if m < last_ns), last_ns], np.int64)


@dataclass(frozen=True)
class Moment:
    """The state at ``t_ns`` (the trace's clock). Sizes in bytes, over all replayed pools.

    ``calls`` counts allocator calls that have returned, None where it was not counted.
    ``model_total`` is the models' own figure, ``kernel_total`` the last one the kernel gave,
    None if any pool has not given one.
    """

    t_ns: int
    calls: int | None
    objects: int
    stored_bytes: int
    held_bytes: int
    model_total: int
    kernel_total: int | None
    density: float | None

    @classmethod
    def at(
        cls, point: Sequence[int], page_bytes: int, t_ns: int | None, calls: int | None
    ) -> Moment:
        """The state of a point: ns, objects, bytes stored, held, of the models, of the kernel.

        A kernel's total below 0 is not known. ``t_ns``: when, if not at the point's own time.
        """
        end_ns, objects, stored, held, model, kernel = point
        return cls(
            t_ns=end_ns if t_ns is None else t_ns,
            calls=calls,
            objects=objects,
            stored_bytes=stored,
            held_bytes=held,
            model_total=model,
            kernel_total=None if kernel < 0 else kernel,
            density=objects * page_bytes / held if held else None,
        )


@dataclass(frozen=True)
class Level:
    """A figure over time: greatest value and the first moment of it, value at the end, mean.

    ``mean`` is weighted by time, None if no time passed.
    """

    peak: int
    peak_ns: int
    end: int
    mean: float | None


@dataclass(frozen=True)
class Look:
    """What a model's slots were used for, over all pools, when a call had returned at ``t_ns``.

    ``stranded_bytes``: free slots that malloc does not find, None of a model that tells of none.
    ``classes``: (size of a slot, slots in all, those free) of each class that has blocks.
    """

    t_ns: int
    stranded_bytes: int | None
    classes: list[tuple[int, int, int]]


@dataclass
class Agreement:
    """How often the model gave the kernel's answer; ``first`` describes the first difference."""

    equal: int = 0
    compared: int = 0
    first: str | None = None

    def note(self, same: bool, what: str) -> None:
        """Count one comparison; ``what`` describes it in case it is the first to differ."""
        self.compared += 1
        if same:
            self.equal += 1
        elif self.first is None:
            self.first = what

    def add(self, other: Agreement) -> None:
        """Count another's comparisons too."""
        self.equal += other.equal
        self.compared += other.compared
        self.first = self.first if self.first is not None else other.first


class Timeline:
    """Takes points in order and keeps means, peaks and a time series. Memory does not grow.

    ``boundaries`` are the ascending moments of the series in ns, possibly none.
    """

    def __init__(self, first_ns: int, last_ns: int, page_bytes: int, boundaries: Ints) -> None:
        self._first_ns = first_ns
        self._last_ns = last_ns
        self._page_bytes = page_bytes
        self._boundaries = boundaries
        self._reached = 0
        self._latest = np.array([[first_ns, 0, 0, 0, 0, -1]], np.int64)
        self._areas = np.zeros(3)
        self._peaks = np.zeros((3, WIDTH), np.int64)
        self._peaks[:, END] = first_ns
        self._calls = 0
        self._ends_at = first_ns
        self.series: list[Moment] = []

    def add(self, points: Ints, ends: Ints, driven: npt.NDArray[np.bool_]) -> None:
        """Add one piece of the trace.

        ``points``: shape (n, 6), the state after each change. ``ends``: ns, when each row
        returned; ``driven``: whether it is an allocator call. Times that step back (rows of
        several CPUs) are held at the latest one before.
        """
        steps = np.concatenate([self._latest, points])
        steps[:, END] = np.maximum.accumulate(steps[:, END])
        self._integrate(steps)
        for i, column in enumerate((OBJECTS, STORED, HELD)):
            at = int(steps[:, column].argmax())
            if steps[at, column] > self._peaks[i, column]:
                self._peaks[i] = steps[at]
        self._latest = steps[-1:].copy()
        if len(self._boundaries) and len(ends):
            self._sample(steps, np.maximum(np.maximum.accumulate(ends), self._ends_at), driven)
        self._calls += int(driven.sum())

    def finish(self) -> None:
        """Carry the last state to the end of the trace."""
        end = self._latest.copy()
        end[0, END] = max(self._last_ns, int(end[0, END]))
        self._integrate(np.concatenate([self._latest, end]))
        for moment in self._boundaries[self._reached :].tolist():
            self.series.append(self._moment(self._latest[0], moment, self._calls))
        self._reached = len(self._boundaries)

    def level(self, column: int) -> Level:
        """The figure in ``column``: OBJECTS, STORED or HELD."""
        i = column - OBJECTS
        span = self._last_ns - self._first_ns
        return Level(
            peak=int(self._peaks[i, column]),
            peak_ns=int(self._peaks[i, END]),
            end=int(self._latest[0, column]),
            mean=float(self._areas[i]) / span if span > 0 else None,
        )

    def at_peak(self) -> Moment:
        """The state when most memory was held."""
        return self._moment(self._peaks[HELD - OBJECTS])

    def at_end(self) -> Moment:
        """The last state."""
        return self._moment(self._latest[0], self._last_ns, self._calls)

    def mean_density(self) -> float | None:
        """Mean pages stored over mean pages held."""
        objects, _, held = self._areas.tolist()
        return objects * self._page_bytes / held if held else None

    def _integrate(self, steps: Ints) -> None:
        self._areas += np.diff(steps[:, END]) @ steps[:-1, OBJECTS:MODEL].astype(np.float64)

    def _sample(self, steps: Ints, ends: Ints, driven: npt.NDArray[np.bool_]) -> None:
        """Take the moments of the series that lie before the last row's return."""
        self._ends_at = int(ends[-1])
        to = int(np.searchsorted(self._boundaries, self._ends_at, side="left"))
        due = self._boundaries[self._reached : to]
        rows = np.searchsorted(steps[:, END], due, side="right") - 1
        calls = np.concatenate([[0], np.cumsum(driven)])[np.searchsorted(ends, due, side="right")]
        for moment, row, count in zip(due.tolist(), rows.tolist(), calls.tolist(), strict=True):
            self.series.append(self._moment(steps[max(row, 0)], moment, self._calls + count))
        self._reached = max(self._reached, to)

    def _moment(self, point: Ints, t_ns: int | None = None, calls: int | None = None) -> Moment:
        return Moment.at(point.tolist(), self._page_bytes, t_ns, calls)


@dataclass
class PoolResult:
    """What one pool of the trace did in its model.

    ``compared``: the trace was recorded on this backend's allocator (or on an unknown one), with
    all objects, so that answers must be equal. ``handles``, ``totals``, ``errors`` and
    ``shrinks`` count mallocs that succeeded, rows with the kernel's total, mallocs that failed
    with EINVAL or ENOSPC, and shrinks. ``total_difference`` is the model's total minus the
    kernel's, in bytes, where its absolute value was greatest; None if there was none to compare.
    ``mallocs``: objects that the model took. ``unknown``: op -> calls with a handle that nobody
    gave out. ``reissued``: objects dropped because their handle was given out again. ``refused``:
    objects that the kernel took and the model did not. ``failed``: errno name -> failed mallocs;
    ENOMEM ones and those of other allocators never reach the model.
    ``shrinks_not_replayed`` and ``shrinks_diverged``: not
    driven, and driven until the model wanted to evict something else than the kernel.
    ``compactions`` of the recorded allocator that its own model has done; of
    ``compactions_unmatched`` the model does not know the page, or has it not queued.
    ``hazards``: name -> (count, first). ``stopped``: why the replay of this pool ended early.
    ``stats``, ``stats_near_peak``: the model's, at the end and when it was near the peak.
    """

    pool: int
    allocator: str
    compared: bool
    handles: Agreement = field(default_factory=Agreement)
    totals: Agreement = field(default_factory=Agreement)
    errors: Agreement = field(default_factory=Agreement)
    shrinks: Agreement = field(default_factory=Agreement)
    total_difference: int | None = None
    mallocs: int = 0
    unknown: dict[str, int] = field(default_factory=dict)
    reissued: int = 0
    refused: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    shrinks_not_replayed: int = 0
    shrinks_diverged: int = 0
    compactions: int = 0
    compactions_unmatched: int = 0
    hazards: dict[str, tuple[int, str]] = field(default_factory=dict)
    stopped: str | None = None
    stats: dict[str, Any] = field(default_factory=dict)
    stats_near_peak: dict[str, Any] = field(default_factory=dict)

    @property
    def failed_enomem(self) -> int:
        """Mallocs that failed for want of memory; the model was not asked."""
        return self.failed.get("ENOMEM", 0)


@dataclass(frozen=True)
class Work:
    """What the models did over a replay: common counters of all backends (Pool.stats).

    ``mallocs``: objects taken; ``pages``: allocated in all; ``searched``: lists or blocks that
    were looked at for room; ``moved``: objects moved by compaction. None where a backend does
    not count it.
    """

    mallocs: int
    pages: int | None
    searched: int | None
    moved: int | None

    def per_malloc(self, count: int | None) -> float | None:
        """A count over the objects taken; None if there is no count, or no object."""
        return None if count is None or not self.mallocs else count / self.mallocs


@dataclass(frozen=True)
class Spanning:
    """Objects in two pages, which a reader has to put together, of models that know of such.

    ``mallocs``: objects that lay so when they were stored, ``share`` of all; ``maps``: times that
    such a one was mapped, ``copied_bytes`` for it.
    """

    mallocs: int
    share: float | None
    maps: int
    copied_bytes: int


@dataclass
class Result:
    """A replay's results: figures over all pools, and each pool's own.

    Times are the trace's (ns), except ``wall_s`` and ``timing``, which were measured here and are
    all that differs between two runs. ``held_near_peak`` is what was held, in bytes, when the
    pools' ``stats_near_peak`` were taken: at most 1/128 below the peak. ``lost_events``: None where
    nobody counted. ``looks``: what slots were used for, where that was asked.
    """

    trace: str
    backend: str
    rows: int
    calls: dict[str, int]
    driven: int
    cpus: list[int]
    order: str
    starts_empty: bool
    lost: dict[str, dict[str, int]]
    lost_events: int | None
    all_objects: bool
    sample_period: float
    first_ns: int
    last_ns: int
    pools: list[PoolResult]
    objects: Level
    stored_bytes: Level
    held_bytes: Level
    at_peak: Moment
    at_end: Moment
    mean_density: float | None
    held_near_peak: int
    series: list[Moment]
    wall_s: float
    timing: Timing | None = None
    looks: list[Look] = field(default_factory=list)

    @property
    def handles_equal(self) -> int:
        """Successful mallocs for which the model gave the recorded handle."""
        return self.agreement("handles").equal

    @property
    def handles_compared(self) -> int:
        """Successful mallocs of pools recorded on the backend's own allocator."""
        return self.agreement("handles").compared

    @property
    def totals_equal(self) -> int:
        """Rows whose recorded total the model's equals."""
        return self.agreement("totals").equal

    @property
    def totals_compared(self) -> int:
        """Rows with a total, of pools recorded on the backend's own allocator."""
        return self.agreement("totals").compared

    def agreement(self, name: str) -> Agreement:
        """Sum over the pools of ``handles``, ``totals``, ``errors`` or ``shrinks``."""
        total = Agreement()
        for pool in self.pools:
            total.add(getattr(pool, name))
        return total

    def count(self, name: str) -> int:
        """Sum over the pools of one of their counters."""
        return sum(getattr(pool, name) for pool in self.pools)

    def merged(self, name: str) -> dict[str, int]:
        """Sum over the pools of ``unknown`` or ``failed``, key by key."""
        total: dict[str, int] = {}
        for pool in self.pools:
            for key, count in getattr(pool, name).items():
                total[key] = total.get(key, 0) + count
        return total

    def hazards(self) -> dict[str, tuple[int, str]]:
        """Hazards of all pools by name, in numerical order: count and first description."""
        total: dict[str, tuple[int, str]] = {}
        for pool in self.pools:
            for name, (count, first) in pool.hazards.items():
                before, first = total.get(name, (0, first))
                total[name] = (before + count, first)
        return dict(sorted(total.items(), key=lambda item: (len(item[0]), item[0])))

    def classes(self, when: str = "stats") -> list[dict[str, Any]]:
        """Use of each class, summed over pools; ``when`` is ``stats`` or ``stats_near_peak``."""
        total: dict[Any, dict[str, Any]] = {}
        for pool in self.pools:
            for row in getattr(pool, when).get("classes", []):
                into = total.setdefault(row["class"], {**row, **_no_counts(row)})
                for key in CLASS_COUNTS:
                    if key in row:
                        into[key] += row[key]
        return list(total.values())

    def stat(self, key: str, when: str = "stats") -> int | None:
        """Sum over pools of one figure of the models' statistics; None if they have none."""
        found = [
            pool_stats[key] for pool in self.pools if key in (pool_stats := getattr(pool, when))
        ]
        return sum(found) if found else None

    def work(self) -> Work:
        """The work of all pools' models."""
        counts = map(self.stat, ("pages_allocated", "searched", "objects_moved"))
        return Work(self.count("mallocs"), *counts)

    def spanning(self) -> Spanning | None:
        """Objects in two pages, over all pools; None where the models do not tell."""
        counts = [self.stat(f"spanning_{what}") for what in ("mallocs", "maps")]
        copied, taken = self.stat("copied_bytes"), self.count("mallocs")
        if counts[0] is None or counts[1] is None or copied is None:
            return None
        return Spanning(counts[0], counts[0] / taken if taken else None, counts[1], copied)

    def total_difference(self) -> int | None:
        """The pools' greatest difference, model minus kernel, in bytes."""
        found = [p.total_difference for p in self.pools if p.total_difference is not None]
        return max(found, key=abs, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        plain = asdict(self)
        wall_s, timing = plain.pop("wall_s"), plain.pop("timing")
        del plain["looks"]
        pools, series = plain.pop("pools"), plain.pop("series")
        for pool, result in zip(pools, self.pools, strict=True):
            pool["failed_enomem"] = result.failed_enomem
            pool["hazards"] = _hazards(result.hazards)
        return {
            **plain,
            "handles": asdict(self.agreement("handles")),
            "totals": asdict(self.agreement("totals")),
            "errors": asdict(self.agreement("errors")),
            "shrinks": asdict(self.agreement("shrinks")),
            "total_difference": self.total_difference(),
            "unknown": self.merged("unknown"),
            "failed": self.merged("failed"),
            **{
                name: self.count(name)
                for name in (
                    *("reissued", "refused", "failed_enomem"),
                    *("shrinks_not_replayed", "shrinks_diverged"),
                    *("compactions", "compactions_unmatched"),
                )
            },
            "hazards": _hazards(self.hazards()),
            "classes": self.classes(),
            "classes_near_peak": self.classes("stats_near_peak"),
            "work": asdict(self.work()),
            "spanning": (found := self.spanning()) and asdict(found),
            "stranded_slots": self.stat("stranded_slots"),
            "stranded_bytes": self.stat("stranded_bytes"),
            "stranded_bytes_near_peak": self.stat("stranded_bytes", "stats_near_peak"),
            "pools": pools,
            "series": series,
            "measured_here": {
                "wall_s": wall_s,
                "rows_per_s": self.rows / wall_s,
                "calls_per_s": self.driven / wall_s,
                "timing": timing,
            },
        }


def _no_counts(row: Mapping[str, Any]) -> dict[str, int]:
    return {key: 0 for key in CLASS_COUNTS if key in row}


def _hazards(hazards: Mapping[str, tuple[int, str]]) -> dict[str, dict[str, Any]]:
    return {name: {"count": count, "first": first} for name, (count, first) in hazards.items()}
