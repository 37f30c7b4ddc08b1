# SPDX-License-Identifier: GPL-2.0-only
"""A replay in the native core where that is possible, else in Python; the results are equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ztrace.replay.figures.result import Every, Result
from ztrace.replay.play.engine import replay
from ztrace.replay.play.native import can_replay, reason_missing, replay_native
from ztrace.replay.read.source import Source


def fastest_engine(backend: str) -> str:
    """``native`` where the core is there and has the backend, else ``python``."""
    return "python" if reason_missing() or not can_replay(backend) else "native"


def replay_fastest(
    reader: Source,
    backend: str,
    *,
    every: Every | None = None,
    timing: bool = False,
    advance: Callable[[int], object] = lambda rows: None,
) -> Result:
    """As engine.replay; ``timing`` also measures the core's calls, and nothing in Python."""
    if fastest_engine(backend) == "python":
        return replay(reader, backend, every=every, advance=advance)
    [result] = replay_native(reader, [backend], every=every, timing=timing, advance=advance)
    return result


def replay_each(
    reader: Source,
    backends: Sequence[str],
    *,
    every: Every | None = None,
    advance: Callable[[int], object] = lambda rows: None,
) -> list[Result]:
    """As :func:`replay_fastest` of each backend; the trace is decoded once for all of the core's.

    ``advance`` gets twice the trace's rows in all.
    """
    in_core = [backend for backend in backends if fastest_engine(backend) == "native"]
    runs = len(backends) - len(in_core) + bool(in_core)
    found: dict[str, Result] = {}

    def share(rows: int) -> None:
        advance(rows // runs)

    if in_core:
        replayed = replay_native(reader, in_core, every=every, advance=share)
        found |= zip(in_core, replayed, strict=True)
    for backend in backends:
        if backend not in found:
            found[backend] = replay(reader, backend, every=every, advance=share)
    return [found[backend] for backend in backends]
