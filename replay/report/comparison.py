# SPDX-License-Identifier: GPL-2.0-only
"""Two recordings, or two replays, side by side: what differs, how surely, and is it worse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from ztrace.replay.report.comparable import incomparable
from ztrace.replay.report.gather import Recording
from ztrace.replay.report.memory import Memory
from ztrace.replay.report.recorded import QUANTILES
from ztrace.replay.report.statistics import Floats, interval, mann_whitney, ratio_draws, stream_of

COMPARED = ("p50", "p99", "p99_9")


@dataclass(frozen=True)
class Change:
    """One figure in both recordings. ``change`` is B / A - 1 with its interval, None if too
    little was recorded for one.

    ``p``: Mann-Whitney on all calls of the op, None for memory. It takes calls for independent,
    which those of one recording are not: the interval decides, not p. ``regression``: worse by
    more than the threshold, and the interval excludes no change.
    """

    figure: str
    unit: str
    a: float
    b: float
    change: float
    low: float | None
    high: float | None
    p: float | None
    regression: bool


def compare(a: Recording, b: Recording, threshold: float, confidence: float) -> dict[str, Any]:
    """All figures of both, as plain JSON types. ``threshold`` is a share, 0.05 for 5 %."""
    reason = incomparable(a, b)
    timed = not (a.emulated or b.emulated)
    changes = [
        *_durations(a, b, threshold, confidence, timed),
        *_memory(a, b, threshold, confidence),
    ]
    return {
        **_heading(a, b, threshold, confidence, changes),
        "kind": "recordings",
        "not_alike": reason,
        "durations_count": timed,
    }


def _heading(
    a: Recording, b: Recording, threshold: float, confidence: float, changes: Sequence[Change]
) -> dict[str, Any]:
    return {
        "a": a.label,
        "b": b.label,
        "threshold": threshold,
        "confidence": confidence,
        "lost_events": {"a": a.document["lost_events"], "b": b.document["lost_events"]},
        "qualified": {"a": a.document["qualified"], "b": b.document["qualified"]},
        "changes": [asdict(change) for change in changes],
        "regressions": sum(change.regression for change in changes),
    }


def _change(
    name: str,
    unit: str,
    values: tuple[float, float],
    draws: tuple[Floats | None, Floats | None],
    p: float | None,
    *,
    limit: tuple[float, float],
    sign: int,
) -> Change | None:
    """``limit``: threshold and confidence. ``sign``: 1 if more is worse, -1 if less is, 0 if the
    figure does not count."""
    a, b = values
    if not a:
        return None
    bounds = None
    if draws[0] is not None and draws[1] is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            bounds = interval(b / a - 1, draws[1] / draws[0] - 1, limit[1])
    worse = sign * (b / a - 1) > limit[0]
    sure = bounds is not None and (bounds.low > 0 or bounds.high < 0)
    low, high = (bounds.low, bounds.high) if bounds else (None, None)
    return Change(name, unit, a, b, b / a - 1, low, high, p, bool(worse and sure))


def _durations(
    a: Recording, b: Recording, threshold: float, confidence: float, timed: bool
) -> Iterator[Change]:
    for op, ours in a.recorded.durations.items():
        theirs = b.recorded.durations.get(op)
        if theirs is None:
            continue
        test = mann_whitney(ours.counts, theirs.counts)
        for key in COMPARED:
            values = ours.quantile(key), theirs.quantile(key)
            if values[0] is None or values[1] is None:
                continue
            found = _change(
                f"{op} {key.replace('_', '.')}",
                "ns",
                (values[0], values[1]),
                (
                    ours.draws(QUANTILES[key], f"a/{a.label}/{op}"),
                    theirs.draws(QUANTILES[key], f"b/{b.label}/{op}"),
                ),
                test.p if test else None,
                limit=(threshold, confidence),
                sign=int(timed),
            )
            if found is not None:
                yield found


class _Side(NamedTuple):
    """Memory of one side: what holds it, and bytes held at each moment of the series."""

    memory: Memory
    held: Floats
    stream: int  # equal streams are drawn alike, which compares like with like


def _memory(a: Recording, b: Recording, threshold: float, confidence: float) -> Iterator[Change]:
    """The kernel's memory and that of the models that both were replayed through."""
    limit = threshold, confidence
    streams = stream_of("a", a.label), stream_of("b", b.label)
    if a.own and b.own and a.memory[a.own].has_kernel and b.memory[b.own].has_kernel:
        ours, theirs = a.memory[a.own], b.memory[b.own]
        sides = _Side(ours, ours.kernel, streams[0]), _Side(theirs, theirs.kernel, streams[1])
        yield from _density("density, kernel", sides, limit)
    for name, ours in a.memory.items():
        theirs = b.memory.get(name, ours)
        if name in b.memory:
            sides = _Side(ours, ours.held, streams[0]), _Side(theirs, theirs.held, streams[1])
            yield from _density(f"density, {name}", sides, limit)


def _density(
    figure: str, sides: tuple[_Side, _Side], limit: tuple[float, float]
) -> Iterator[Change]:
    values, draws = [], []
    for memory, held, stream in sides:
        known = ~np.isnan(held)
        pages, kept = memory.objects[known] * memory.page_bytes, held[known]
        values.append(float(pages.sum() / kept.sum()) if kept.any() else 0.0)
        draws.append(ratio_draws(pages, kept, stream))
    found = _change(
        *(figure, "ratio", (values[0], values[1]), (draws[0], draws[1]), None),
        limit=limit,
        sign=-1,
    )
    if found is not None:
        yield found


def compare_replays(
    a: Recording,
    b: Recording,
    backends: tuple[str, str],
    threshold: float,
    confidence: float,
) -> dict[str, Any]:
    """Recording A through one model, B (it may be the same) through another; as :func:`compare`.

    Of one recording both models are drawn at the same moments. The core's times have no
    interval, so they are never a regression.
    """
    ours, theirs = a.memory[backends[0]], b.memory[backends[1]]
    same = a is b
    streams = stream_of("a", a.label), stream_of("a" if same else "b", b.label)
    limit = threshold, confidence
    sides = _Side(ours, ours.held, streams[0]), _Side(theirs, theirs.held, streams[1])
    changes = [
        *_density("density", sides, limit),
        *_held("mean held", sides, limit),
        *_native(a, b, backends, limit),
    ]
    return {
        **_heading(a, b, threshold, confidence, changes),
        "a": f"{a.label} through {backends[0]}",
        "b": f"{b.label} through {backends[1]}",
        "kind": "replays",
        "not_alike": None if same else "of different recordings",
        "durations_count": False,
    }


def _held(figure: str, sides: tuple[_Side, _Side], limit: tuple[float, float]) -> Iterator[Change]:
    values = [float(side.held.mean()) for side in sides]
    draws = [ratio_draws(held, np.ones_like(held), stream) for _, held, stream in sides]
    found = _change(
        *(figure, "bytes", (values[0], values[1]), (draws[0], draws[1]), None),
        limit=limit,
        sign=1,
    )
    if found is not None:
        yield found


def _native(
    a: Recording, b: Recording, backends: tuple[str, str], limit: tuple[float, float]
) -> Iterator[Change]:
    sides = [
        (one.document["native"] or {"models": {}})["models"].get(name, {})
        for one, name in zip((a, b), backends, strict=True)
    ]
    for op in ("malloc", "free"):
        for key in (*COMPARED, "max"):
            values = [side.get(op, {}).get(f"{key}_ns") for side in sides]
            if values[0] is not None and values[1] is not None:
                name = f"{op} {key.replace('_', '.')}, C core"
                both = values[0], values[1]
                found = _change(name, "ns", both, (None, None), None, limit=limit, sign=0)
                if found is not None:
                    yield found
