# SPDX-License-Identifier: GPL-2.0-only
"""Replay by the native core: a trace is decoded once, while several models work on what came.

One thread decodes batches, one for each backend plays them in the core, which needs no GIL. At
most :data:`BATCHES_AHEAD` batches wait, so memory does not depend on the trace's length. The
rules are those of :mod:`replay.play.engine`, and so is the result: everything equal, but that means
over time are exact here and rounded by each step there.

A time series, shrinks and compactions need to know the trace in advance, and so do the lists of
z3fold's CPUs. Where that is plain from the beginning, as it is not of shrinks and zsmalloc's
compactions, a quick pass looks for it; after the first of those met the work begins anew.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ctypes import (
    POINTER,
    byref,
    c_int64,
    c_uint64,
    c_void_p,
)
from dataclasses import dataclass
from queue import Queue
from threading import Event, Thread
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ztrace.allocator import native
from ztrace.allocator.native.library import (
    NO_MEMORY,
    Config,
    library,
)
from ztrace.allocator.native.pool import binding, config_of, kind_of, met_hazards
from ztrace.allocator.registry import Builtin, builtin
from ztrace.allocator.traits import Tells
from ztrace.replay.errors import ReplayError
from ztrace.replay.figures.result import Agreement, Every, Level, Look, Moment, PoolResult, Result
from ztrace.replay.figures.timing import CLASSES, Timing, histogram, latency
from ztrace.replay.play.backends import compacts, compacts_pages, handles_tell, models
from ztrace.replay.play.header import zswap_release
from ztrace.replay.play.interface import (
    BAD_SIZE,
    COMPACT_KIND,
    COUNT_BITS,
    KINDS,
    NAMES,
    NO_HANDLE_CODE,
    PLAYER,
    REISSUED,
    SURVEY,
    TELLS,
    UNKNOWN,
    AgreementStruct,
    ColumnsStruct,
    ErrorStruct,
    OptionsStruct,
    PointStruct,
    PoolResultStruct,
    ResultStruct,
    TimingStruct,
)
from ztrace.replay.play.recorded import (
    about,
    as_played,
    check_replayable,
    more_bytes,
)
from ztrace.replay.read.arrow import point_at
from ztrace.replay.read.checked import checked
from ztrace.replay.read.lives import (
    FREE_WAITS_ROWS,
    UnknownHandle,
    explaining,
    is_whole,
    reissued_handle,
)
from ztrace.replay.read.rows import (
    COMPACT,
    Span,
    Survey,
    cut,
    impossible_size,
    survey,
    without_handle,
)
from ztrace.replay.read.source import INSERT, Source
from ztrace.traces.reader import TraceReader
from ztrace.traces.schema import OPS, SCHEMA

_ROWS = 65536
"""Rows of a batch, fewer where looks are asked for."""

BATCHES_AHEAD = 4
"""Batches that are decoded before a backend has taken them."""

COLUMNS = ("ts_ns", "dur_ns", "op", "pool", "size", "handle", "ret", "total", "cpu")
"""What a replay reads of a trace; with shrinks ``tid`` too, with compactions ``place``."""

_EARLIEST = -(2**62)


def reason_missing() -> str | None:
    """Why the core cannot replay, in a line; None if it can."""
    return native.reason_missing(PLAYER)


def can_replay(backend: str) -> bool:
    """Whether the core has this backend: a built-in one. BackendError for an impossible one."""
    return builtin(backend) is not None


def replay_native(
    reader: Source,
    backends: Sequence[str],
    *,
    every: Every | None = None,
    timing: bool = False,
    looks: int = 0,
    advance: Callable[[int], object] = lambda rows: None,
) -> list[Result]:
    """Replay a trace through several backends at once; arguments and errors of engine.replay.

    All backends must be the core's (:func:`can_replay`). NativeMissing if there is no core.
    ``timing`` measures each malloc and free of a model, one backend after the other. ``looks``:
    how often to note what slots are used for, evenly over the rows.
    """
    core = library(PLAYER)
    chosen = [_model(backend) for backend in backends]
    recorded = reader.metadata.machine.page_bytes
    known = None
    if (
        every is not None
        or any(recorded not in (0, config.page_bytes) for _, config in chosen)
        or _places(reader, backends)
    ):
        known = survey(reader, advance)
        for backend, (_, config) in zip(backends, chosen, strict=True):
            check_replayable(reader, known, backend, config.page_bytes)
    # What is timed plays alone: side by side models would disturb each other.
    groups = [[one] for one in backends] if timing else [list(backends)]

    def share(rows: int) -> None:
        advance(rows // len(groups))

    found = []
    for group in groups:
        found += _play_together(core, reader, group, known, every, timing, share, looks)
    return found


def replay_placing(
    reader: Source,
    backend: str,
    tells: Mapping[int, Tells],
    advance: Callable[[int], object] = lambda rows: None,
) -> list[tuple[PoolResult, Agreement]]:
    """Replay a trace and compare where objects lie; arguments and errors of :func:`replay_native`.

    ``tells``: pool -> what of its rows tells where. Returned are the pools that calls were made
    to, each with the places that were compared. What differs is not described.
    """
    core = library(PLAYER)
    known = survey(reader, advance)
    play = _Play(core, reader, backend, *_model(backend), known, None, tells=tells)
    try:
        with explaining(reader):
            _run(_batches(reader, (*COLUMNS, "place"), known), [play], True, advance)
            pools = play.finish(0.0).pools
        return [(pool, play.places[pool.pool]) for pool in pools]
    finally:
        play.close()


def _play_together(
    core: ctypes.CDLL,
    reader: Source,
    backends: Sequence[str],
    known: Survey | None,
    every: Every | None,
    timing: bool,
    advance: Callable[[int], object],
    looks: int,
) -> list[Result]:
    """Decode a trace once and play it through some backends; it is surveyed if it must be."""
    while True:
        start = perf_counter()
        plays = [
            _Play(core, reader, backend, *_model(backend), known, every, timing, looks=looks)
            for backend in backends
        ]
        rows = _ROWS if not looks else min(_ROWS, reader.num_rows // looks + 1)
        try:
            columns = (*COLUMNS, "place") if _places(reader, backends) else COLUMNS
            with explaining(reader):
                _run(_batches(reader, columns, known, rows), plays, known is not None, advance)
                return [play.finish(perf_counter() - start) for play in plays]
        except _SurveyFirst:
            known = survey(reader, lambda rows: None)
        finally:
            for play in plays:
                play.close()


def core_seconds(reader: TraceReader, backend: str) -> float:
    """How long the core works on a trace without shrinks, decoding not counted."""
    core = library(PLAYER)
    play = _Play(core, reader, backend, *_model(backend), None, None)
    spent = 0.0
    try:
        for batch in _batches(reader, COLUMNS, None):
            start = perf_counter()
            play.feed(batch)
            spent += perf_counter() - start
    finally:
        play.close()
    return spent


def _model(backend: str) -> tuple[Builtin, Config]:
    model = builtin(backend)
    if model is None:
        raise ReplayError(f"{backend}: not one of the native core's backends; --engine python")
    kind = kind_of(model.name, model.arguments)
    return model._replace(name=kind), config_of(model.name, model.arguments)


def _places(reader: Source, backends: Sequence[str]) -> bool:
    """Whether a model is to follow its recorded CPUs, and pages by their places."""
    names = [pool.allocator for pool in reader.metadata.pools]
    return any(compacts_pages(backend) and compacts(backend, names) for backend in backends)


class _SurveyFirst(Exception):
    """There are shrinks or compactions, which nobody has looked for."""


# -- batches -----------------------------------------------------------------------------------


@dataclass
class _Batch:
    """A piece of the trace as the core takes it; ``keep`` owns the memory."""

    columns: ColumnsStruct
    keep: list[Any]
    rows: int


def _batches(
    reader: Source, columns: Sequence[str], known: Survey | None, rows: int = _ROWS
) -> Iterator[_Batch]:
    """The whole trace, cut where the Python engine cuts it."""
    first = 0
    if known is None or not known.shrinks:
        for batch in checked(reader, columns, rows):
            yield _batch(batch, first, [])
            first += batch.num_rows
        return
    for first, table, spans in cut(checked(reader, (*columns, "tid"), rows), known.shrinks):
        for batch in table.combine_chunks().to_batches():
            yield _batch(batch, first, spans)


def _batch(batch: pa.RecordBatch, first: int, spans: Sequence[Span]) -> _Batch:
    columns = ColumnsStruct(rows=batch.num_rows, first_row=first)
    keep: list[Any] = [batch]
    point_at(columns, batch, [name for name in batch.schema.names if name in SCHEMA.names])
    if spans:
        pairs = np.array(spans, np.uint64) - np.uint64(first)
        keep.append(pairs)
        columns.spans, columns.spans_len = pairs.ctypes.data, len(spans)
    return _Batch(columns, keep, batch.num_rows)


def _run(
    batches: Iterable[_Batch],
    plays: Sequence[_Play],
    surveyed: bool,
    advance: Callable[[int], object],
) -> None:
    """Decode here, play in a thread for each backend; the first error of any ends it all."""
    queues: list[Queue[_Batch | None]] = [Queue(BATCHES_AHEAD) for _ in plays]
    failed = Event()
    errors: list[BaseException] = []

    def work(play: _Play, queue: Queue[_Batch | None]) -> None:
        while (batch := queue.get()) is not None:
            if failed.is_set():
                continue  # so that the decoder, which may be waiting, goes on
            try:
                play.feed(batch)
            except BaseException as error:
                errors.append(error)
                failed.set()

    threads = [
        Thread(target=work, args=pair, daemon=True) for pair in zip(plays, queues, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        for batch in batches:
            for queue in queues:
                queue.put(batch)
            if failed.is_set():
                break
            # In all twice the trace's rows, whether or not there was a first pass.
            advance(batch.rows if surveyed else 2 * batch.rows)
    except BaseException:
        failed.set()
        raise
    finally:
        for queue in queues:
            queue.put(None)
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


# -- one backend -------------------------------------------------------------------------------


class _Play:
    """One backend's player in the core."""

    def __init__(
        self,
        core: ctypes.CDLL,
        reader: Source,
        backend: str,
        model: Builtin,
        config: Config,
        known: Survey | None,
        every: Every | None,
        timing: bool = False,
        tells: Mapping[int, Tells] | None = None,
        looks: int = 0,
    ) -> None:
        self.looks_wanted, self.looks = looks > 0, list[Look]()
        self.core = core
        self.reader = reader
        self.backend = backend
        self.model = model
        self.page_bytes: int = config.page_bytes
        metadata = reader.metadata
        self.names = [pool.allocator for pool in metadata.pools]
        self.all_objects = metadata.has_all_objects()
        self.places: dict[int, Agreement] = {}  # by pool, of those that ``tells`` names
        self.moments: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        if every is not None and known is not None:
            self.moments = every.boundaries(known.first_ns, known.last_ns)
        options = OptionsStruct(
            handles_tell=handles_tell(backend),
            whole=is_whole(metadata),
            surveyed=known is not None,
            timing=timing,
            page_bytes=self.page_bytes,
            patience_rows=FREE_WAITS_ROWS,
            first_ns=_EARLIEST if known is None else known.first_ns,
            moments=self.moments.ctypes.data,
            moments_len=len(self.moments),
        )
        for code, kind in KINDS.items():
            options.kind_of[code] = kind
        for number in range(256):
            allocator = self._allocator(number)
            options.compared[number] = self.all_objects and models(backend, allocator)
            options.compacts[number] = compacts(backend, [allocator])
            if number < len(metadata.pools):
                header = metadata.pools[number].header_bytes
                more = more_bytes(backend, allocator, zswap_release(metadata), header)
                options.more_bytes[number] = max(min(more, 2**30), -(2**30))
        if compacts(backend, self.names):
            options.kind_of[COMPACT] = COMPACT_KIND
            options.recorded = self._recorded(config, known)
        for number, told in (tells or {}).items():
            options.tells[number] = TELLS[told]
            options.recorded.has_pages = True
        self.player = c_void_p(core.zp_create(model.name.encode(), byref(config), byref(options)))
        if not self.player:
            raise MemoryError(f"{backend}: the native core has no memory left")

    def _allocator(self, number: int) -> str:
        return self.names[number] if number < len(self.names) else "unknown"

    def _recorded(self, config: Config, known: Survey | None) -> Config:
        """What a pool is made from whose recorded CPUs and compactions are played."""
        if known is None:  # then there are none, or the core says so
            found = Config.from_buffer_copy(config)
            found.by_ref = True
            return found
        spec = as_played(self.backend, self.model.name, self.reader.metadata, known)
        found = _model(spec)[1]
        # A pool that is compacted as a whole moves objects away from under their references.
        found.by_ref = compacts_pages(self.backend)
        return found

    def close(self) -> None:
        """Give the core's memory back."""
        if self.player:
            self.core.zp_destroy(self.player)
            self.player = c_void_p()

    def feed(self, batch: _Batch) -> None:
        """Play a batch; the GIL is released meanwhile."""
        self._check(self.core.zp_feed(self.player, byref(batch.columns)))
        if self.looks_wanted:
            self._look()

    def _look(self) -> None:
        """Note what the slots of all pools are used for."""
        raw: ResultStruct = self.core.zp_result_of(self.player).contents
        slots: dict[int, list[int]] = {}
        stranded = None
        for at in range(raw.pools):
            stats = self._stats(self.core.zp_model_of(self.player, at))
            if "stranded_bytes" in stats:
                stranded = (stranded or 0) + stats["stranded_bytes"]
            for row in stats["classes"]:
                if "slot_bytes" in row and row["blocks"]:
                    both = slots.setdefault(row["slot_bytes"], [0, 0])
                    both[0] += row["used_slots"] + row["free_slots"]
                    both[1] += row["free_slots"]
        classes = [(size, both[0], both[1]) for size, both in sorted(slots.items())]
        self.looks.append(Look(raw.last_ns, stranded, classes))

    def _stats(self, model: int) -> dict[str, Any]:
        """The model's statistics at this moment."""
        count = self.core.zc_stats(model, None)
        figures = (c_int64 * count)()
        self.core.zc_stats(model, figures)
        found: dict[str, Any] = binding(self.model.name).stats(list(figures), self.page_bytes)
        return found

    def _check(self, code: int) -> None:
        if code == 0:
            return
        if code == NO_MEMORY:
            raise MemoryError(f"{self.backend}: the native core has no memory left")
        if code == SURVEY:
            raise _SurveyFirst
        error = ErrorStruct()
        self.core.zp_error_of(self.player, byref(error))
        where, row = str(self.reader.path), error.row
        name = NAMES.get(error.kind, "call")
        if code == NO_HANDLE_CODE:
            raise without_handle(where, row, name)
        if code == BAD_SIZE:
            raise impossible_size(where, row, error.size, self.page_bytes)
        if code == UNKNOWN:
            raise UnknownHandle(where, row, name, error.handle)
        if code == REISSUED:
            raise reissued_handle(where, row, error.handle)
        raise ReplayError(f"{where}: row {row}: cannot be played (code {code})")

    # -- results ---------------------------------------------------------------------------------

    def finish(self, wall_s: float) -> Result:
        """End the replay and put its result together."""
        raw: ResultStruct = self.core.zp_result_of(self.player).contents
        found = _found(raw)
        check_replayable(self.reader, found, self.backend, self.page_bytes)
        self._check(self.core.zp_finish(self.player, found.last_ns))
        pools = [self._pool(at) for at in range(raw.pools)]
        areas = [high << 64 | low for high, low in zip(raw.area_high, raw.area_low, strict=True)]
        span = found.last_ns - found.first_ns
        latest = _state(raw.latest, found.first_ns)
        peaks = [_state(peak, found.first_ns) for peak in raw.peaks]

        def level(at: int) -> Level:
            return Level(
                peak=peaks[at][1 + at],
                peak_ns=peaks[at][0],
                end=latest[1 + at],
                mean=areas[at] / span if span > 0 else None,
            )

        return Result(
            **about(self.reader, self.backend, found),
            pools=sorted(pools, key=lambda pool: pool.pool),
            objects=level(0),
            stored_bytes=level(1),
            held_bytes=level(2),
            at_peak=self._moment(peaks[2]),
            at_end=self._moment(latest, found.last_ns, raw.calls),
            mean_density=areas[0] * self.page_bytes / areas[2] if areas[2] else None,
            held_near_peak=raw.held_near_peak,
            series=self._series(found.first_ns),
            wall_s=wall_s,
            timing=self._timing(len(pools)),
            looks=self.looks,
        )

    def _timing(self, pools: int) -> Timing | None:
        found = self.core.zp_timing_of(self.player)
        if not found:
            return None
        raw: TimingStruct = found.contents
        latencies = [
            latency(
                *(call, number, self.page_bytes, list(raw.counts[at][number])),
                *(raw.most_ticks[at][number], raw.ns_per_tick),
            )
            for at, call in enumerate(("malloc", "free"))
            for number in range(CLASSES)
        ]
        work = [0, 0]
        for at in range(pools):
            figures = (c_uint64 * 2)()
            self.core.zp_work_of(self.player, at, figures)
            work = [sum(pair) for pair in zip(work, figures, strict=True)]
        return Timing(
            clock_ns=raw.overhead_ticks * raw.ns_per_tick,
            latencies=[one for one in latencies if one is not None],
            work={"slots_scanned": work[0], "tree_levels": work[1]} if any(work) else {},
            whole={
                call: histogram(raw.counts[at], raw.most_ticks[at], raw.ns_per_tick)
                for at, call in enumerate(("malloc", "free"))
            },
        )

    def _moment(
        self, state: Sequence[int], t_ns: int | None = None, calls: int | None = None
    ) -> Moment:
        return Moment.at(state, self.page_bytes, t_ns, calls)

    def _series(self, first_ns: int) -> list[Moment]:
        calls = POINTER(c_uint64)()
        points = self.core.zp_series_of(self.player, byref(calls))
        return [
            self._moment(_state(points[at], first_ns), moment, calls[at])
            for at, moment in enumerate(self.moments.tolist())
        ]

    def _pool(self, at: int) -> PoolResult:
        raw: PoolResultStruct = self.core.zp_pool_of(self.player, at).contents
        allocator = self._allocator(raw.pool)
        model = self.core.zp_model_of(self.player, at)
        stats = binding(self.model.name).stats
        near_peak = self.core.zp_near_peak_of(self.player, at)[: self.core.zc_stats(model, None)]
        self.places[raw.pool] = _agreement(raw.places)
        return PoolResult(
            pool=raw.pool,
            allocator=allocator,
            compared=self.all_objects and models(self.backend, allocator),
            handles=_agreement(raw.handles),
            totals=_agreement(raw.totals),
            errors=_agreement(raw.errors),
            shrinks=_agreement(raw.shrinks),
            total_difference=raw.total_difference if raw.has_difference else None,
            unknown=_unknown(raw),
            mallocs=raw.mallocs,
            reissued=raw.reissued,
            refused=raw.refused,
            failed=self._failed(at),
            shrinks_not_replayed=raw.shrinks_not_replayed,
            shrinks_diverged=raw.shrinks_diverged,
            compactions=raw.compactions,
            compactions_unmatched=raw.compactions_unmatched,
            hazards=self._hazards(model),
            stopped=raw.stopped.decode() or None,
            stats=self._stats(model),
            stats_near_peak=stats(near_peak, self.page_bytes) if raw.snapshots else {},
        )

    def _failed(self, at: int) -> dict[str, int]:
        met: list[tuple[int, int, int]] = []
        position, count = c_uint64(), c_uint64()
        while ret := self.core.zp_failed_of(self.player, at, byref(position), byref(count)):
            rank, times = divmod(count.value, 1 << COUNT_BITS)
            met.append((rank, ret, times))
        return {errno.errorcode.get(-ret, str(ret)): times for _, ret, times in sorted(met)}

    def _hazards(self, model: int) -> dict[str, tuple[int, str]]:
        return {
            one.name.decode(): (one.count, one.first.decode())
            for one in met_hazards(self.core, model)
        }


def _found(raw: ResultStruct) -> Survey:
    """What a survey would have found, but for the shrinks."""
    calls = {name: count for name, count in zip(OPS, raw.counts, strict=False) if count}
    cpus = np.unpackbits(np.frombuffer(raw.cpus, np.uint8), bitorder="little")
    found = Survey(
        rows=raw.rows - raw.counts[INSERT],
        calls=calls,
        cpus=np.flatnonzero(cpus).tolist(),
    )
    if found.driven:
        found.first_ns, found.last_ns = raw.first_ns, raw.last_ns
    return found


def _state(point: PointStruct, first_ns: int) -> tuple[int, int, int, int, int, int]:
    """A point as numbers; one that nothing has moved yet is at the beginning."""
    return (
        max(point.end_ns, first_ns),
        *(point.objects, point.stored, point.held),
        *(point.model, point.kernel),
    )


def _unknown(raw: PoolResultStruct) -> dict[str, int]:
    """Calls with unknown handles, in the order in which the kinds were first met."""
    met = sorted((raw.unknown_rank[kind], kind) for kind in NAMES if raw.unknown[kind])
    return {NAMES[kind]: raw.unknown[kind] for _, kind in met}


def _agreement(raw: AgreementStruct) -> Agreement:
    return Agreement(raw.equal, raw.compared, raw.first.decode() or None)
