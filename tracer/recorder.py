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

from tracer import machine
from tracer.crosscheck import check_counters
from tracer.errors import TracerError
from tracer.fresh_pool import fresh_pool
from tracer.probing import FAILED, Probing
from tracer.ring import HAS_AUX, OP_FREE, OP_LOAD, OP_MALLOC, OP_NAMES, OP_STORE, OP_TOTAL, Records
from tracer.spool import Discard, SpoolWriter

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
    """How a recording ended. ``command_status`` is None when no command was run."""

    events: int
    lost: dict[str, dict[str, int]]
    command_status: int | None
    seconds: float


@dataclass
class Plan:
    """What to record and for how long."""

    spool: Path | None  # None: keep nothing
    source: str = "zswap"
    probe_kind: str | None = None  # None: the best one for each function
    fresh_pool: bool = False
    command: Sequence[str] = ()
    duration_s: float | None = None
    ring_bytes: int = 16 << 20
    tool: str = "ztrace"
    on_ready: Callable[[int, list[str]], None] = lambda probes, missing: None
    on_progress: Callable[[Progress], None] = lambda progress: None
    extra: dict[str, Any] = field(default_factory=dict)


class _Stop:
    """Set by the first SIGINT, SIGTERM or SIGHUP."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[_Stop]:
    stop = _Stop()
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
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
    with _stop_on_signals() as stop, Probing(plan.ring_bytes, plan.source, kinds) as probing:
        spool = SpoolWriter(plan.spool) if plan.spool else Discard()
        try:
            with _locked_memory():
                return _run(plan, probing, spool, stop)
        finally:
            spool.close()


def _run(plan: Plan, probing: Probing, spool: SpoolWriter | Discard, stop: _Stop) -> Recorded:
    session = _Session(plan, probing, spool)
    command = None
    try:
        spool.start(_start_document(plan, probing, session.before))
        plan.on_ready(len(probing.attached), [probe.symbol for probe in probing.missing])
        session.open()
        with _new_pool(plan, probing, session):
            command = _start_command(plan.command)
            _watch(plan, session, stop, command)
            session.shut()
        time.sleep(SETTLE_S)
        session.drain()
        lost = session.save()
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
    return Recorded(session.progress.events, lost, status, session.progress.seconds)


@contextlib.contextmanager
def _new_pool(plan: Plan, probing: Probing, session: _Session) -> Iterator[None]:
    """A fresh pool while recording, if the plan wants one."""
    if not plan.fresh_pool:
        yield
        return
    with fresh_pool(lambda: sum(pool.created for pool in probing.pools())) as note:
        session.notes.append(note)
        yield


def _watch(
    plan: Plan, session: _Session, stop: _Stop, command: subprocess.Popen[bytes] | None
) -> None:
    """Move events to the spool until there is a reason to stop."""
    saved = time.monotonic()
    while not stop.asked:
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


class _Session:
    """One recording: the gate, what passed it, and the kernel's own counters around it."""

    def __init__(self, plan: Plan, probing: Probing, spool: SpoolWriter | Discard) -> None:
        self._plan, self._probing, self._spool = plan, probing, spool
        self._recorded = np.zeros(FAILED, np.int64)  # successful calls by op code
        self.before = machine.counters()
        self._opened = self._closing = self._closed = self.before
        self._is_shut = False
        self.progress = Progress()
        self.notes: list[str] = []
        self._began = time.monotonic()

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
        """Move what is in the ring to the spool."""
        self.progress.seconds = time.monotonic() - self._began
        records = self._probing.ring.take()
        if not len(records):
            return
        self._spool.records(records)
        op = records["op"]
        self._recorded += np.bincount(op[records["ret"] == 0], minlength=FAILED)
        self._note(op, records)
        if self.progress.events >= TIMED_EVENTS:
            self._probing.stop_timing()

    def _note(self, op: NDArray[np.uint8], records: Records) -> None:
        """Take what a status line shows from new records."""
        progress = self.progress
        progress.events += int((op < OP_TOTAL).sum())
        progress.stores, progress.loads = (
            int(self._recorded[OP_STORE]),
            int(self._recorded[OP_LOAD]),
        )
        for code in np.unique(op).tolist():
            progress.recent.setdefault(code, []).append(records["dur"][op == code])
        sized = records[((op == OP_MALLOC) | (op == OP_FREE)) & ((records["has"] & HAS_AUX) != 0)]
        if len(sized):
            progress.pool_bytes = int(sized["aux"][-1]) * mmap.PAGESIZE
        totals = records["aux"][op == OP_TOTAL]
        if len(totals):
            progress.pool_bytes = int(totals[-1])

    def save(self) -> dict[str, dict[str, int]]:
        """Write the state of things to the spool; returns what was lost, by cause and CPU."""
        probing = self._probing
        lost = probing.lost()
        counters: dict[str, Any] = {"start": self.before}
        state: dict[str, Any] = {"final": self._is_shut}
        if self._is_shut:
            unfinished = probing.unfinished()
            if unfinished:
                lost["unfinished"] = {"all": unfinished}
            counters["end"] = self._closed
            counters["check"] = check_counters(
                (self.before, self._opened, self._closing, self._closed),
                self._recorded,
                probing.lost_by_op(),
                sum(per_cpu.get("all", 0) for per_cpu in lost.values()),
            )
        else:
            counters["end"] = machine.counters()
        parameters = _parameters(self._plan.source)
        compressor = _compressor(self._plan.source, parameters)
        stored_before = _stored(self._plan.source, self.before)
        state |= {
            "lost": lost,
            "notes": self.notes,
            "parameters": parameters,
            "duration_ns": int(self.progress.seconds * 1e9),
            "counters": counters,
            "probe_cost_ns": probing.cost_ns() or None,
            "pools": [
                {
                    "allocator": pool.allocator,
                    "compressor": compressor,
                    "created_in_recording": pool.created,
                    "empty_at_start": pool.created or stored_before == 0,
                    "header_bytes": pool.header_bytes,
                }
                for pool in probing.pools()
            ],
        }
        self._spool.state(state)
        self.progress.lost = sum(sum(per_cpu.values()) for per_cpu in lost.values())
        return lost


def _start_command(command: Sequence[str]) -> subprocess.Popen[bytes] | None:
    if not command:
        return None
    try:
        return subprocess.Popen(list(command))
    except OSError as error:
        raise TracerError(f"{command[0]}: {error.strerror}") from error


def _start_document(plan: Plan, probing: Probing, before: dict[str, int]) -> dict[str, Any]:
    return {
        "tool": plan.tool,
        "source": plan.source,
        "kernel": machine.kernel(),
        "machine": machine.machine(),
        "parameters": _parameters(plan.source),
        "probes": {
            one.probe.op: {"kind": one.kind, "symbol": one.probe.symbol}
            for one in probing.attached
            if one.probe.op is not None
        },
        "clock": "CLOCK_MONOTONIC",
        "command": list(plan.command),
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "counters": {"start": before, "end": {}},
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
