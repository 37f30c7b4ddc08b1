# SPDX-License-Identifier: GPL-2.0-only
"""Drives an allocator model with the calls of a trace.

Rows are played in file order, the order in which the recorder saw calls return. On one CPU
that is the order in which they took effect. On several it need not be, since calls overlap;
then the model may place objects differently than the kernel did, and the result says so.
Which objects are live, and what a free means that is late, is :mod:`replay.read.lives`' matter.
Two things are not done row by row:

*   A shrink. The kernel calls back for each object that it wants evicted, and those calls
    return before the shrink does. The model's shrink is called where the recorded one began;
    each time it asks for an eviction, the rows up to the end of the recorded one
    (``writeback``, in 6.1 zswap_writeback_entry()) are played, and it is told the recorded
    result. This is exact as long as the model asks for the objects that the kernel evicted;
    once it asks for another one it is refused (-EEXIST), the rest is played as plain calls and
    the shrink counts as diverged. A shrink recorded on another allocator chose by other rules:
    it is not driven, its frees are played as plain ones. Neither is one of two that overlap.

*   A compaction that the recorded allocator's kernel did by itself (replay/play/compaction.py). It
    is played in that allocator's model alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from ztrace.allocator import HazardError, Pool, create
from ztrace.replay.figures.result import (
    HELD,
    OBJECTS,
    STORED,
    WIDTH,
    Every,
    Result,
    Timeline,
)
from ztrace.replay.play.backends import compacts, models, resolve
from ztrace.replay.play.header import zswap_release
from ztrace.replay.play.pool_run import Object, PoolRun
from ztrace.replay.play.recorded import about, as_played, check_replayable, more_bytes
from ztrace.replay.play.shrinks import Shrinking
from ztrace.replay.read.lives import FREE_WAITS_ROWS, Lives, errno_name, explaining, is_whole
from ztrace.replay.read.rows import (
    COMPACT,
    FREE,
    MALLOC,
    MAP,
    NO_TOTAL,
    SHRINK,
    UNMAP,
    Rows,
    Survey,
    segments,
    survey,
)
from ztrace.replay.read.source import INSERT, Source
from ztrace.traces.reader import TraceReader
from ztrace.traces.schema import OPS

Watch = Callable[[int, Pool, int, int], None]
"""Gets pool, model, row and its return in ns after each call that a model was driven with."""

_USES = (MAP, UNMAP)


def replay(
    reader: Source,
    backend: str,
    *,
    every: Every | None = None,
    make_pool: Callable[[], Pool] | None = None,
    watch: Watch | None = None,
    advance: Callable[[int], object] = lambda rows: None,
) -> Result:
    """Replay a trace through models of ``backend``, one for each pool with allocator calls.

    ``every`` asks for a time series. ``make_pool`` makes the models instead of
    ``allocator.create(backend)``; ``watch`` is called after each call. ``advance`` gets numbers
    of rows done; in all twice the trace's rows, since a quick pass looks for its extent and
    shrinks first.

    Raises ReplayError for a trace without allocator calls, of another page size, or with calls
    that cannot have happened: an impossible size; or, if the trace neither began late nor lost
    events (then they are counted), an unknown handle or one given out twice.
    Raises BackendError for an unknown backend, TraceError for a damaged trace.
    """
    start = perf_counter()
    make = make_pool or (lambda: create(backend))
    page_bytes = make().page_bytes
    found = survey(reader, advance)
    check_replayable(reader, found, backend, page_bytes)
    moments = np.zeros(0, np.int64)
    if every is not None:
        moments = every.boundaries(found.first_ns, found.last_ns)
    timeline = Timeline(found.first_ns, found.last_ns, page_bytes, moments)

    def make_for(allocator: str) -> Pool:
        """The model of one pool."""
        if make_pool is not None:
            return make_pool()
        return create(as_played(backend, allocator, reader.metadata, found))

    engine = _Engine(reader, backend, make_for, timeline, watch)
    plays = compacts(backend, [pool.allocator for pool in reader.metadata.pools])
    with explaining(reader):
        for rows in segments(reader, found.shrinks, page_bytes, compactions=plays):
            engine.feed(rows)
            advance(rows.rows)
    engine.finish(found.last_ns)
    return _result(reader, backend, found, engine, perf_counter() - start)


def replay_trace(path: str | os.PathLike[str], backend: str, **options: Any) -> Result:
    """Open the trace at ``path`` and :func:`replay` it; same options, same errors.

    What the backend does not say, the trace does (:func:`replay.play.backends.resolve`).
    """
    with TraceReader(path) as reader:
        return replay(reader, resolve(backend, reader.metadata), **options)


class _Engine:
    """The state of a replay; see the module."""

    def __init__(
        self,
        reader: Source,
        backend: str,
        make: Callable[[str], Pool],
        timeline: Timeline,
        watch: Watch | None = None,
    ) -> None:
        metadata = reader.metadata
        self.watch = watch
        self.path = str(reader.path)
        self.names = [pool.allocator for pool in metadata.pools]
        self.headers = [pool.header_bytes for pool in metadata.pools]
        self.release = zswap_release(metadata)
        self.whole = is_whole(metadata)
        self.all_objects = metadata.has_all_objects()
        self.backend = backend
        self.make = make
        self.timeline = timeline
        self.runs: list[PoolRun | None] = [None] * 256  # None: not met yet, or stopped
        self.met: list[PoolRun] = []
        self.objects = self.stored = self.held = self.total = 0
        self.kernel_total = NO_TOTAL
        self.snapshot_above = 0
        self.held_near_peak = 0
        self.points: list[int] = []

    # -- pieces of the trace ----------------------------------------------------------------

    def feed(self, rows: Rows) -> None:
        """Play one piece of the trace."""
        for number in rows.pools:
            if not any(run.result.pool == number for run in self.met):
                self._meet(number)
        played = 0
        for first, last in rows.shrinks:
            self._play(rows, played, first)
            self._shrink(rows, first, last)
            played = last + 1
        self._play(rows, played, len(rows))
        if len(rows):
            self._settle(rows.number[-1] - FREE_WAITS_ROWS, rows.end_ns[-1])
        self.timeline.add(self._taken_points(), rows.ends, rows.driven)

    def finish(self, last_ns: int) -> None:
        """End the replay: nothing more will come, the last call returned at ``last_ns``."""
        self._settle(None, last_ns)
        self.timeline.add(self._taken_points(), np.zeros(0, np.int64), np.zeros(0, np.bool_))
        self.timeline.finish()
        for run in self.met:
            run.result.stats = run.model.stats()
            run.result.reissued = run.lives.reissued
            if run.compaction is not None:
                run.result.compactions = run.compaction.done
                run.result.compactions_unmatched = run.compaction.unmatched
            hazards = run.model.hazards
            for name, count in hazards.counts.items():
                run.result.hazards[name] = (count, hazards.first.get(name, ""))

    def _taken_points(self) -> npt.NDArray[np.int64]:
        """The points since the last time, shape (n, 6)."""
        points = np.array(self.points, np.int64).reshape(-1, WIDTH)
        self.points.clear()
        return points

    def _meet(self, number: int) -> None:
        allocator = self.names[number] if number < len(self.names) else "unknown"
        compared = self.all_objects and models(self.backend, allocator)
        lives: Lives[Object] = Lives(
            self.path, whole=self.whole, lost=lambda old: self._drop(run, old)
        )
        model = self.make(allocator)
        run = PoolRun(number, allocator, self.backend, model, lives, compared=compared)
        if number < len(self.headers):
            run.more_bytes = more_bytes(self.backend, allocator, self.release, self.headers[number])
        self.runs[number] = run
        self.met.append(run)

    # -- plain calls ------------------------------------------------------------------------

    def _play(self, rows: Rows, start: int, stop: int) -> None:
        """Play rows ``start`` to ``stop`` one by one. The hot loop: about 1 us a row."""
        runs = self.runs
        todo = zip(
            rows.op[start:stop],
            rows.pool[start:stop],
            rows.handle[start:stop],
            rows.ret[start:stop],
            rows.total[start:stop],
            rows.number[start:stop],
            rows.end_ns[start:stop],
            rows.size[start:stop],
            rows.ts_ns[start:stop],
            rows.cpu[start:stop],
            rows.place[start:stop],
            strict=True,
        )
        op = pool = handle = number = 0
        while True:
            try:
                for op, pool, handle, ret, total, number, end_ns, size, ts_ns, cpu, place in todo:
                    run = runs[pool]
                    if run is None:
                        continue
                    if run.compaction is not None:
                        run.compaction.on_cpu(cpu)
                    if op in _USES:
                        known = run.live.get(handle)
                        if known is None:
                            run.lives.miss(op, handle, number)
                        elif op == MAP:
                            run.map(known[0])
                            if run.compaction is not None:
                                run.compaction.mapped(known[0], place)
                        else:
                            run.unmap(known[0])
                        if total < 0 and self.watch is None:
                            continue
                    elif op == MALLOC:
                        if ret < 0:
                            run.fail(size, ret, number)
                        else:
                            self._malloc(run, size, handle, number, end_ns)
                    elif op == FREE:
                        known = run.take(handle, ts_ns)
                        if known is None:
                            run.lives.miss(op, handle, number)
                        else:
                            run.free(known[0])
                            self.objects -= 1
                            self.stored -= known[1]
                    elif op == SHRINK:
                        run.result.shrinks_not_replayed += 1
                    elif op == INSERT:
                        run.begin(handle, size)
                        continue
                    elif op == COMPACT:
                        if run.compaction is not None:
                            run.compaction.play(place, bool(size))
                        elif total < 0:
                            continue
                    self._point(run, end_ns, total, number)
                return
            except HazardError as hazard:
                self._stop(pool, f"row {number}: {OPS[op]}", hazard)

    def _malloc(self, run: PoolRun, size: int, handle: int, number: int, end_ns: int) -> None:
        """Play a malloc that gave ``handle``."""
        result = run.result
        try:
            size += run.more_bytes
            given = run.end(handle) if handle in run.begun else run.malloc(size)
        except OSError as refusal:
            result.refused += 1
            run.lives.refuse(handle)
            if result.compared:
                answer = errno_name(-(refusal.errno or 0))
                what = f"row {number}: malloc({size}) gave {handle:#x}, model: {answer}"
                result.handles.note(False, what)
            return
        if result.compared and run.handles_tell:
            agreement = result.handles
            agreement.compared += 1
            if given == handle:
                agreement.equal += 1
            elif agreement.first is None:
                agreement.first = (
                    f"row {number}: malloc({size}) gave {handle:#x}, model: {given:#x}"
                )
        run.lives.give(handle, (given, size), end_ns, number)
        result.mallocs += 1
        self.objects += 1
        self.stored += size

    def _point(self, run: PoolRun, end_ns: int, total: int, number: int) -> None:
        """Take over what the model holds after a call, and compare it with the kernel's total."""
        model = run.model
        held, model_total = model.held_bytes, model.total_bytes
        if held != run.held:
            self.held += held - run.held
            run.held = held
            if self.held > self.snapshot_above:
                self._snapshot()
        if model_total != run.model_total:
            self.total += model_total - run.model_total
            run.model_total = model_total
        if total >= 0:
            result = run.result
            if result.compared:
                agreement = result.totals
                agreement.compared += 1
                if total == model_total:
                    agreement.equal += 1
                elif agreement.first is None:
                    agreement.first = f"row {number}: kernel {total}, model {model_total}"
            difference = model_total - total
            if result.total_difference is None or abs(difference) > abs(result.total_difference):
                result.total_difference = difference
            if total != run.recorded_total:
                run.recorded_total = total
                self.kernel_total = self._kernel_total()
        self.points.extend(
            (end_ns, self.objects, self.stored, self.held, self.total, self.kernel_total)
        )
        if self.watch is not None:
            self.watch(run.result.pool, model, number, end_ns)

    def _kernel_total(self) -> int:
        """Sum of the totals last recorded; none while any pool has none."""
        totals = [run.recorded_total for run in self.met]
        return NO_TOTAL if NO_TOTAL in totals else sum(totals)

    def _snapshot(self) -> None:
        """Keep the models' statistics near the peak; every time they grew by 1/128 is enough."""
        self.snapshot_above = self.held + (self.held >> 7)
        self.held_near_peak = self.held
        for run in self.met:
            run.result.stats_near_peak = run.model.stats()

    # -- calls out of the ordinary ----------------------------------------------------------

    def _drop(self, run: PoolRun, old: Object) -> None:
        """Let go of an object whose free never came."""
        run.free(old[0])
        self.objects -= 1
        self.stored -= old[1]

    def _settle(self, before: int | None, now_ns: int) -> None:
        """Give up waiting for frees of handles given out again in rows under ``before``."""
        for run in self.met:
            number = run.result.pool
            for handle in run.lives.overdue(before):
                if self.runs[number] is not run:
                    break  # stopped
                row = run.lives.leaving[handle].row
                try:
                    run.lives.give_up(handle)
                except HazardError as hazard:
                    self._stop(number, f"row {row}: reissue", hazard)
                self._point(run, now_ns, NO_TOTAL, row)

    def _stop(self, pool: int, where: str, hazard: HazardError) -> None:
        """End a pool's replay; its last state stays in the figures."""
        run = self.runs[pool]
        assert run is not None
        run.result.stopped = f"{where}: {hazard}"
        run.model.hazards.counts.setdefault(hazard.name, 1)
        run.model.hazards.first.setdefault(hazard.name, hazard.what)
        self.runs[pool] = None

    # -- shrink -----------------------------------------------------------------------------

    def _shrink(self, rows: Rows, first: int, last: int) -> None:
        """Play the shrink that row ``last`` records and the rows that returned while it ran."""
        number, ret = rows.number[last], rows.ret[last]
        pool = rows.pool[last]
        run = self.runs[pool]
        if run is None or not run.result.compared:
            self._play(rows, first, last + 1)
            return
        shrinking = Shrinking(
            *(run, rows, first, last),
            play=lambda start, stop: self._play(rows, start, stop),
            stopped=lambda: self.runs[pool] is None,
        )
        try:
            answer = shrinking.drive()
        except HazardError as hazard:
            if self.runs[pool] is run:
                self._stop(pool, f"row {number}: shrink", hazard)
            self._play(rows, shrinking.played, last + 1)
            return
        played = shrinking.played
        begun = rows.end_ns[played - 1] if played > first else rows.ts_ns[last]
        self._point(run, begun, NO_TOTAL, number)
        self._play(rows, played, last)
        run.result.shrinks_diverged += shrinking.diverged
        run.result.shrinks.note(
            answer == ret, f"row {number}: shrink returned {ret}, model: {answer}"
        )
        self._point(run, rows.end_ns[last], rows.total[last], number)


def _result(reader: Source, backend: str, found: Survey, engine: _Engine, wall_s: float) -> Result:
    timeline = engine.timeline
    return Result(
        **about(reader, backend, found),
        pools=sorted((run.result for run in engine.met), key=lambda pool: pool.pool),
        objects=timeline.level(OBJECTS),
        stored_bytes=timeline.level(STORED),
        held_bytes=timeline.level(HELD),
        at_peak=timeline.at_peak(),
        at_end=timeline.at_end(),
        mean_density=timeline.mean_density(),
        held_near_peak=engine.held_near_peak,
        series=timeline.series,
        wall_s=wall_s,
    )
