# SPDX-License-Identifier: GPL-2.0-only
"""The recording loop: gate open, ring to spool, gate shut. Nothing here knows of Parquet."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztrace.tracer import machine
from ztrace.tracer.crosscheck import check_counters
from ztrace.tracer.errors import TracerError
from ztrace.tracer.filters import Filters
from ztrace.tracer.fresh_pool import fresh_pool
from ztrace.tracer.histogram import by_kind as tally_by_kind
from ztrace.tracer.histogram import summary
from ztrace.tracer.outputs import FLIGHT_BYTES, Flight, Limits, Nowhere, Spools, first_rows
from ztrace.tracer.probing import Probing
from ztrace.tracer.ring import (
    FAILED,
    HAS_AUX,
    KINDS,
    OP_FREE,
    OP_LOAD,
    OP_MALLOC,
    OP_NAMES,
    OP_STORE,
    OP_TOTAL,
    Records,
    by_kind,
    named,
)

POLL_S = 0.05
STATE_S = 1.0  # the most that is missing after a kill
TIMED_EVENTS = 20_000  # the probes' own cost is measured while these come
SETTLE_S = 0.1  # time for calls in flight to return after the gate is shut

MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4


@dataclass
class Progress:
    """What a status line shows while recording.

    ``stores`` and ``loads`` count successful ones. ``recent`` is what came since the last look:
    durations in ns by op code; ``pool_bytes`` the pool's last size that was seen, if any.
    """

    events: int = 0
    seconds: float = 0.0
    lost: int = 0
    stores: int = 0
    loads: int = 0
    pool_bytes: int | None = None
    recent: dict[int, list[NDArray[np.uint32]]] = field(default_factory=dict)

    def percentile_ns(self, op: str, percent: float) -> float | None:
        """A percentile of the recent durations of an op, None if there were none."""
        parts = self.recent.get(OP_NAMES.index(op))
        return float(np.percentile(np.concatenate(parts), percent)) if parts else None


@dataclass
class Recorded:
    """How a recording ended.

    ``state``: the last losses, pools and counters, and the histograms where they were asked for.
    ``command_status`` is None when no command was run. ``spools``: the files written.
    """

    events: int
    state: dict[str, Any]
    command_status: int | None
    seconds: float
    spools: list[Path]


@dataclass
class Plan:
    """What to record and for how long. With ``histogram`` no event is kept anywhere."""

    spool: Path | None  # None: keep nothing
    source: str = "zswap"
    probe_kind: str | None = None  # None: the best one for each function
    fresh_pool: bool = False
    command: Sequence[str] = ()
    duration_s: float | None = None
    ring_bytes: int = 16 << 20
    filters: Filters = field(default_factory=Filters)
    limits: Limits = field(default_factory=Limits)
    histogram: bool = False
    tool: str = "ztrace"
    on_ready: Callable[[int, list[str]], None] = lambda probes, missing: None
    on_progress: Callable[[Progress], None] = lambda progress: None
    extra: dict[str, Any] = field(default_factory=dict)


class _Stop:
    """Set by the first SIGINT, SIGTERM or SIGHUP, in a flight also by SIGUSR1."""

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = self.asked or signal.Signals(number)


@contextlib.contextmanager
def _stop_on_signals(*more: signal.Signals) -> Iterator[_Stop]:
    stop = _Stop()
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *more)
    before = {number: signal.signal(number, stop) for number in caught}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _locked_memory() -> Iterator[None]:
    """Keep the recorder's pages in memory: it must not swap while it records swapping."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)
    try:
        yield
    finally:
        libc.munlockall()


def record(plan: Plan) -> Recorded:
    """Record into ``plan.spool`` until the command ends, the time is up or a signal comes.

    TracerError if this machine cannot be recorded; the spool stays whatever happens.
    """
    if os.geteuid() != 0:
        raise TracerError("recording needs root (it loads BPF programs): sudo ztrace record …")
    kinds = plan.probe_kind and (plan.probe_kind,)
    if plan.command and shutil.which(plan.command[0]) is None:
        raise TracerError(f"{plan.command[0]}: no such command")
    flight = () if plan.limits.flight_ns is None else (signal.SIGUSR1,)
    with (
        _stop_on_signals(*flight) as stop,
        Probing(
            plan.ring_bytes, plan.source, kinds, plan.filters, histogram=plan.histogram
        ) as probing,
    ):
        output = _output(plan)
        try:
            with _locked_memory():
                return _run(plan, probing, output, stop)
        finally:
            output.close()


def _output(plan: Plan) -> Nowhere:
    if plan.spool is None or plan.histogram:
        return Nowhere()
    if plan.limits.flight_ns is not None:
        most_bytes = plan.limits.max_bytes or FLIGHT_BYTES
        return Flight(plan.spool, plan.limits.flight_ns, most_bytes)
    return Spools(plan.spool)


def _run(plan: Plan, probing: Probing, output: Nowhere, stop: _Stop) -> Recorded:
    session = Session(plan, probing, output)
    command = None
    try:
        session.start()
        session.open()
        with _new_pool(plan, probing, session):
            plan.on_ready(len(probing.attached), [str(lack) for lack in probing.missing])
            command = _start_command(plan.command)
            _watch(plan, session, stop, command)
            session.shut()
        time.sleep(SETTLE_S)
        session.drain()
        state = session.end(stop.asked)
    except OSError as error:
        raise TracerError(
            f"{plan.spool}: {error.strerror} after {session.progress.seconds:.0f} s; what was "
            "recorded until then is in it: make room, then ztrace recover"
        ) from error
    finally:
        session.shut()
        if command is not None and command.poll() is None:
            command.terminate()
    status = command.wait() if command is not None else None
    progress = session.progress
    spools = output.paths if isinstance(output, Spools | Flight) else []
    return Recorded(progress.events, state, status, progress.seconds, spools)


@contextlib.contextmanager
def _new_pool(plan: Plan, probing: Probing, session: Session) -> Iterator[None]:
    """A fresh pool while recording, if the plan wants one."""
    if not plan.fresh_pool:
        yield
        return
    with fresh_pool(lambda: sum(pool.created for pool in probing.pools())) as note:
        session.notes.append(note)
        yield


def _watch(
    plan: Plan, session: Session, stop: _Stop, command: subprocess.Popen[bytes] | None
) -> None:
    """Move events to the spool until there is a reason to stop."""
    saved = time.monotonic()
    while not stop.asked and session.ended is None:
        time.sleep(POLL_S)
        session.drain()
        now = time.monotonic()
        if now - saved >= STATE_S:
            saved = now
            session.save()
            plan.on_progress(session.progress)
            session.progress.recent.clear()
        if command is not None and command.poll() is not None:
            return
        if plan.duration_s is not None and session.progress.seconds >= plan.duration_s:
            return


Losses = dict[str, dict[str, int]]
"""By cause, and by CPU or op."""


@dataclass(frozen=True)
class _Seam:
    """What was known as the file that is written now began."""

    lost: Losses
    left_out: Losses
    counters: dict[str, int]
    pools: int = 0
    events: int = 0
    seconds: float = 0.0


class Session:
    """One recording: the gate, what passed it, and the kernel's own counters around it.

    ``ended``: why there is nothing more to record, None while there is.
    """

    def __init__(self, plan: Plan, probing: Probing, output: Nowhere) -> None:
        self._plan, self._probing, self._output = plan, probing, output
        self._taken = np.zeros(KINDS, np.int64)  # events by kind
        self._beyond: dict[str, NDArray[np.int64]] = {}  # a limit -> what came after it
        before = machine.counters()
        self._before = self._opened = self._closing = self._closed = before
        self._seam = _Seam({}, {}, before)
        self._saved: tuple[Losses, Losses] = ({}, {})  # over all files, as last written
        self._pieces = 0  # that have ended
        self._is_shut = False
        self.ended: str | None = None
        self.progress = Progress()
        self.notes = [*map(str, probing.missing), *probing.notes]
        self._began = time.monotonic()

    def start(self) -> None:
        """Write what is known when the recording, or another file of it, begins."""
        if self._pieces == 0:
            self._document = _start_document(self._plan, self._probing)
        document = self._document | {"counters": {"start": self._seam.counters, "end": {}}}
        if self._plan.limits.rotates:
            document["pieces"] = {"first": self._pieces, "last": self._pieces}
        self._output.start(document)

    def open(self) -> None:
        """Let events through."""
        self._began = time.monotonic()
        self._probing.open_gate()
        self._opened = machine.counters()

    def shut(self) -> None:
        """Let no more in; calls that are under way still come. Once is enough."""
        if self._is_shut:
            return
        self._closing = machine.counters()
        self._probing.open_gate(False)
        self._closed = machine.counters()
        self._is_shut = True

    def drain(self) -> None:
        """Move what is in the ring to the output."""
        self.progress.seconds = time.monotonic() - self._began
        if self.progress.events >= TIMED_EVENTS:
            self._probing.stop_timing()
        if self._plan.histogram:
            self._tally(tally_by_kind(self._probing.histograms()[0]))
            return
        records = self._probing.take()
        if not len(records):
            return
        records = self._within_limits(records)
        if isinstance(self._output, Spools) and len(records) and self._is_turn(self._output):
            self._turn(self._output)
        self._output.records(records)
        self._tally(self._taken + by_kind(records))
        self._note(records["op"], records)
        self._look_at_limits(records)

    def _within_limits(self, records: Records) -> Records:
        """Those before the limit that has ended the recording, or ends it now."""
        most = self._plan.limits.max_events
        kept = records[:0] if self._beyond else records
        if most is not None and not self._beyond:
            kept = first_rows(records, most - self.progress.events)
            if len(kept) < len(records):
                self._end_by("max_events")
        for name in self._beyond:
            self._beyond[name] += by_kind(records[len(kept) :])
        return kept

    def _end_by(self, limit: str) -> None:
        self.ended = limit
        self._beyond[limit] = np.zeros(KINDS, np.int64)

    def _look_at_limits(self, records: Records) -> None:
        """End the recording if it is time."""
        limits, output = self._plan.limits, self._output
        for trigger in limits.triggers:
            self.ended = self.ended or trigger.fired(records)
        if not isinstance(output, Spools) or self._beyond:
            return
        if limits.max_events is not None and self.progress.events >= limits.max_events:
            self._end_by("max_events")
        elif limits.max_bytes is not None and output.written_bytes >= limits.max_bytes:
            self._end_by("max_size")

    def _is_turn(self, output: Spools) -> bool:
        """Whether what comes now belongs into another file; none stays without an event."""
        age_ns = int((self.progress.seconds - self._seam.seconds) * 1e9)
        is_empty = self.progress.events == self._seam.events
        return not is_empty and self._plan.limits.is_turn(output.piece_bytes, age_ns)

    def _turn(self, output: Spools) -> None:
        """Go on in another file. What was lost or left out so far belongs to those before."""
        state = self.save(turning=True)
        self._pieces += 1
        # What was counted since that state was written belongs to the next file.
        self._seam = _Seam(
            *self._saved,
            state["counters"]["end"],
            len(state["pools"]),
            self.progress.events,
            self.progress.seconds,
        )
        output.turn()
        self.start()
        self.save()

    def _tally(self, taken: NDArray[np.int64]) -> None:
        """Take over how many events of each kind there are now."""
        self._taken = taken
        progress = self.progress
        progress.events = sum(named(taken).values())
        progress.stores, progress.loads = int(taken[OP_STORE]), int(taken[OP_LOAD])

    def _left_out_kinds(self) -> dict[str, NDArray[np.int64]]:
        """Events left out by choice so far: by what, and by kind."""
        by = {"filters": self._probing.left_out(), **self._beyond}
        return by | {"flight": self._output.given_up}

    def _left_out(self) -> Losses:
        found = {cause: named(kinds) for cause, kinds in self._left_out_kinds().items()}
        return {cause: ops for cause, ops in found.items() if ops}

    def end(self, stopped_by: signal.Signals | None) -> dict[str, Any]:
        """Write the final state and all that is still held; returns all that is known."""
        output = self._output
        if isinstance(output, Flight):
            assert self._plan.limits.flight_ns is not None
            cause = self.ended or (stopped_by.name if stopped_by else "the end of recording")
            seconds = self._plan.limits.flight_ns / 1e9
            self.notes.append(f"flight: the last {seconds:g} s before {cause}")
            if output.cut_short:
                self.notes.append("flight: less than that, --max-size does not hold more")
        state = self.save()
        output.finish()
        return {**self._document, **state}

    def _note(self, op: NDArray[np.uint8], records: Records) -> None:
        """Take what a status line shows from new records."""
        progress = self.progress
        for code in np.unique(op).tolist():
            progress.recent.setdefault(code, []).append(records["dur"][op == code])
        sized = records[((op == OP_MALLOC) | (op == OP_FREE)) & ((records["has"] & HAS_AUX) != 0)]
        if len(sized):
            progress.pool_bytes = int(sized["aux"][-1]) * mmap.PAGESIZE
        totals = records["aux"][op == OP_TOTAL]
        if len(totals):
            progress.pool_bytes = int(totals[-1])

    def save(self, *, turning: bool = False) -> dict[str, Any]:
        """Write the state of things to the output, the last one of its file if ``turning``.

        Returns it. Losses are by cause and CPU.
        """
        probing, seam = self._probing, self._seam
        lost, left_out = probing.lost(), self._left_out()
        counters: dict[str, Any] = {"start": seam.counters}
        if self._is_shut:
            unfinished = probing.unfinished()
            if unfinished:
                lost["unfinished"] = {"all": unfinished}
            counters["end"] = self._closed
            counters["check"] = self._check(lost)
        else:
            counters["end"] = machine.counters()
        parameters = _parameters(self._plan.source)
        state = {
            "final": self._is_shut or turning,
            "lost": _since(lost, seam.lost),
            "left_out": _since(left_out, seam.left_out),
            "notes": self.notes,
            "parameters": parameters,
            "duration_ns": int((self.progress.seconds - seam.seconds) * 1e9),
            "counters": counters,
            "probe_cost_ns": probing.cost_ns() or None,
            "pools": self._pools(_compressor(self._plan.source, parameters)),
        }
        if self._plan.limits.rotates:
            piece = self._pieces
            state["pieces"] = {"first": piece, "last": piece, "more": turning}
        if self._plan.histogram:
            state["histograms"] = summary(*probing.histograms())
        self._output.state(state)
        self._saved = lost, left_out
        self.progress.lost = sum(sum(per_cpu.values()) for per_cpu in lost.values())
        return state

    def _check(self, lost: Losses) -> list[dict[str, Any]]:
        """Recorded, left out and lost beside the kernel's counters, over all files."""
        left_out = sum(self._left_out_kinds().values())
        return check_counters(
            (self._before, self._opened, self._closing, self._closed),
            (self._taken - self._output.given_up)[:FAILED],
            np.asarray(left_out)[:FAILED],
            self._probing.lost_by_op(),
            sum(per_cpu.get("all", 0) for per_cpu in lost.values()),
            self._plan.source,
            [op for op in OP_NAMES if self._counted(op)],
        )

    def _counted(self, op: str) -> bool:
        """Whether the kernel's counters are of what was recorded or left out."""
        plan = self._plan
        probed = any(one.probe.op == op for one in self._probing.attached)
        # Not each of zram's slots that a filter leaves out is seen.
        seen = plan.source == "zswap" or not plan.filters.by_object
        return probed and seen and plan.filters.records(op)

    def _pools(self, compressor: str) -> list[dict[str, Any]]:
        """The pools' part of the metadata: those met before this file held something then."""
        plan = self._plan
        none_stored = _stored(plan.source, self._before) == 0
        partial = plan.filters.by_object or bool(self._output.given_up.any())
        return [
            {
                "allocator": pool.allocator,
                "compressor": compressor,
                "created_in_recording": pool.created and number >= self._seam.pools,
                "empty_at_start": (pool.created or none_stored)
                and number >= self._seam.pools
                and not partial,
                "header_bytes": pool.header_bytes,
            }
            for number, pool in enumerate(self._probing.pools())
        ]


def _since(now: Losses, before: Losses) -> Losses:
    """What was added to counts of counts, zeros left out."""
    found = {
        cause: {
            name: added
            for name, count in counts.items()
            if (added := count - before.get(cause, {}).get(name, 0))
        }
        for cause, counts in now.items()
    }
    return {cause: counts for cause, counts in found.items() if counts}


def _start_command(command: Sequence[str]) -> subprocess.Popen[bytes] | None:
    if not command:
        return None
    try:
        return subprocess.Popen(list(command))
    except OSError as error:
        raise TracerError(f"{command[0]}: {error.strerror}") from error


def _start_document(plan: Plan, probing: Probing) -> dict[str, Any]:
    filters = plan.filters.described(plan.source)
    if plan.limits.flight_ns is not None:
        filters["flight"] = f"{plan.limits.flight_ns / 1e9:g} s"
    return {
        "tool": plan.tool,
        "source": plan.source,
        "kernel": machine.kernel(),
        "machine": machine.machine(),
        "parameters": _parameters(plan.source),
        "probes": {
            one.probe.op: {"kind": one.kind, "symbol": one.probe.symbol}
            for one in probing.attached
            if one.probe.op is not None and plan.filters.records(one.probe.op)
        },
        "clock": "CLOCK_MONOTONIC",
        "filters": filters,
        "sampling": plan.filters.sampling(),
        "command": list(plan.command),
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        **plan.extra,
    }


def _parameters(source: str) -> dict[str, str]:
    return machine.zram_parameters() if source == "zram" else machine.zswap_parameters()


def _compressor(source: str, parameters: dict[str, str]) -> str:
    if source == "zswap":
        return parameters.get("compressor", "unknown")
    used = {value for name, value in parameters.items() if name.endswith(".comp_algorithm")}
    return used.pop() if len(used) == 1 else "unknown"


def _stored(source: str, counters: dict[str, int]) -> int:
    """Pages that zswap, or bytes that all zram devices hold."""
    name = "zswap.stored_pages" if source == "zswap" else ".orig_data_size"
    return sum(count for counter, count in counters.items() if counter.endswith(name))
