# SPDX-License-Identifier: GPL-2.0-only
"""A replay in the native core where that is possible, else in Python; the results are equal."""

from __future__ import annotations

from collections.abc import Callable

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
