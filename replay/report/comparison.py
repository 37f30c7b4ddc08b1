# SPDX-License-Identifier: GPL-2.0-only
"""Two recordings side by side: what changed, how sure that is, and whether it is for the worse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from replay.report.claims import difference
from replay.report.gather import Recording
from replay.report.recorded import QUANTILES
from replay.report.statistics import Floats, interval, mann_whitney, ratio_draws, stream_of

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
    reason = difference(a, b)
    timed = not (a.emulated or b.emulated)
    changes = [
        *_durations(a, b, threshold, confidence, timed),
        *_memory(a, b, threshold, confidence),
    ]
    return {
        "a": a.label,
        "b": b.label,
        "threshold": threshold,
        "confidence": confidence,
        "lost_events": {"a": a.document["lost_total"], "b": b.document["lost_total"]},
        "not_alike": reason,
        "durations_count": timed,
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


def _memory(a: Recording, b: Recording, threshold: float, confidence: float) -> Iterator[Change]:
    """Densities: the kernel's and those of the models that both were replayed through."""
    pairs = [(name, name, False) for name in a.memory if name in b.memory]
    if a.own and b.own and a.memory[a.own].has_kernel and b.memory[b.own].has_kernel:
        pairs.insert(0, (a.own, b.own, True))
    for ours, theirs, kernel in pairs:
        values, draws = [], []
        for side, one, name in (("a", a, ours), ("b", b, theirs)):
            memory = one.memory[name]
            held = memory.kernel if kernel else memory.held
            known = ~np.isnan(held)
            pages, held = memory.objects[known] * memory.page_bytes, held[known]
            values.append(float(pages.sum() / held.sum()) if held.any() else 0.0)
            draws.append(ratio_draws(pages, held, stream_of(side, one.label)))
        found = _change(
            f"density, {'kernel' if kernel else ours}",
            "ratio",
            (values[0], values[1]),
            (draws[0], draws[1]),
            None,
            limit=(threshold, confidence),
            sign=-1,
        )
        if found is not None:
            yield found
