# SPDX-License-Identifier: GPL-2.0-only
"""The recording loop: gate open, ring to spool, gate shut. Nothing here knows of Parquet."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from tracer import machine
from tracer.errors import TracerError
from tracer.probing import Probing
from tracer.ring import OP_TOTAL
from tracer.spool import SpoolWriter

POLL_S = 0.05
STATE_S = 1.0  # the most that is missing after a kill
SETTLE_S = 0.1  # time for calls in flight to return after the gate is shut

MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4


@dataclass
class Progress:
    """What a status line shows while recording."""

    events: int = 0
    seconds: float = 0.0
    lost: int = 0


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

    spool: Path
    source: str = "zswap"
    probe_kind: str | None = None  # None: the best one for each function
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
    with _stop_on_signals() as stop, Probing(plan.ring_bytes, plan.source, kinds) as probing:
        spool = SpoolWriter(plan.spool)
        try:
            with _locked_memory():
                return _run(plan, probing, spool, stop)
        finally:
            spool.close()


def _run(plan: Plan, probing: Probing, spool: SpoolWriter, stop: _Stop) -> Recorded:
    before = machine.counters()
    spool.start(_start_document(plan, probing, before))
    plan.on_ready(len(probing.attached), [probe.symbol for probe in probing.missing])
    progress = Progress()
    began = time.monotonic()
    probing.open_gate()
    command = _start_command(plan.command)
    try:
        saved = began
        while not stop.asked:
            time.sleep(POLL_S)
            progress.events += _drain(probing, spool)
            now = time.monotonic()
            progress.seconds = now - began
            if now - saved >= STATE_S:
                saved = now
                state = _state_document(probing, before, progress.seconds)
                spool.state(state)
                progress.lost = _total(state["lost"])
                plan.on_progress(progress)
            if command is not None and command.poll() is not None:
                break
            if plan.duration_s is not None and progress.seconds >= plan.duration_s:
                break
    finally:
        probing.open_gate(False)
        if command is not None and command.poll() is None:
            command.terminate()
        time.sleep(SETTLE_S)
        progress.events += _drain(probing, spool)
        progress.seconds = time.monotonic() - began
        state = _state_document(probing, before, progress.seconds)
        unfinished = probing.unfinished()
        if unfinished:
            state["lost"]["unfinished"] = {"all": unfinished}
        spool.state(state)
    status = command.wait() if command is not None else None
    return Recorded(progress.events, state["lost"], status, progress.seconds)


def _start_command(command: Sequence[str]) -> subprocess.Popen[bytes] | None:
    if not command:
        return None
    try:
        return subprocess.Popen(list(command))
    except OSError as error:
        raise TracerError(f"{command[0]}: {error.strerror}") from error


def _drain(probing: Probing, spool: SpoolWriter) -> int:
    """Move what is in the ring to the spool; returns the number of rows this will make."""
    records = probing.ring.take()
    if not len(records):
        return 0
    spool.records(records)
    return int((records["op"] < OP_TOTAL).sum())


def _start_document(plan: Plan, probing: Probing, before: dict[str, int]) -> dict[str, Any]:
    return {
        "tool": plan.tool,
        "source": plan.source,
        "kernel": machine.kernel(),
        "machine": machine.machine(),
        "parameters": machine.zswap_parameters(),
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


def _state_document(probing: Probing, before: dict[str, int], seconds: float) -> dict[str, Any]:
    parameters = machine.zswap_parameters()
    stored_before = before.get("zswap.stored_pages", 0)
    return {
        "lost": probing.lost(),
        "parameters": parameters,
        "duration_ns": int(seconds * 1e9),
        "counters": {"start": before, "end": machine.counters()},
        "pools": [
            {
                "allocator": pool.allocator,
                "compressor": parameters.get("compressor", "unknown"),
                "created_in_recording": pool.created,
                "empty_at_start": pool.created or stored_before == 0,
                "header_bytes": pool.header_bytes,
            }
            for pool in probing.pools()
        ],
    }


def _total(lost: dict[str, dict[str, int]]) -> int:
    return sum(sum(per_cpu.values()) for per_cpu in lost.values())
