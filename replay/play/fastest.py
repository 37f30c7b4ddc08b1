# SPDX-License-Identifier: GPL-2.0-only
"""Replays in the native core where that is possible, else in Python; the results are equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ztrace.replay.errors import ReplayError
from ztrace.replay.figures.result import Every, Result
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
    timing = timing and fastest_engine(backend) == "native"
    [result] = replay_each(reader, [backend], every=every, timing=timing, advance=advance)
    return result


def replay_each(
    source: Source,
    backends: Sequence[str],
    *,
    engine: str | None = None,
    every: Every | None = None,
    timing: bool = False,
    looks: int = 0,
    advance: Callable[[int], object] = lambda rows: None,
    slower: Callable[[str], object] = lambda why: None,
) -> list[Result]:
    """Replay through each backend, decoding once for all that the core has; as engine.replay.

    ``engine``: ``native``, ``python``, or None for the core where it is, after which ``slower``
    is told why it is not. ``timing`` and ``looks`` (about how many) need the core. ``advance`` gets
    twice the trace's rows in all. ReplayError for ``native`` and a backend that the core has not.
    """
    missing = reason_missing()
    if missing and engine is None and not timing:
        slower(f"{missing}; the models in Python take longer")
    python = engine == "python" or (missing and engine is None and not timing)
    in_core = [] if python else [backend for backend in backends if can_replay(backend)]
    if engine == "native" and len(in_core) < len(backends):
        [other, *_] = [backend for backend in backends if backend not in in_core]
        raise ReplayError(f"the native core has no {other}; use --engine python")
    found: dict[str, Result] = {}
    runs = len(backends) - len(in_core) + bool(in_core)

    def share(rows: int) -> None:
        advance(rows // runs)

    if in_core:
        replayed = replay_native(
            source, in_core, every=every, timing=timing, looks=looks, advance=share
        )
        found |= zip(in_core, replayed, strict=True)
    for backend in backends:
        if backend not in found:
            from ztrace.replay.play.engine import replay

            found[backend] = replay(source, backend, every=every, advance=share)
    return [found[backend] for backend in backends]
