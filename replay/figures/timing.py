# SPDX-License-Identifier: GPL-2.0-only
"""How long the core's mallocs and frees take on this machine, from its histograms.

A duration is known to a sixteenth of its value; what the clock costs has been subtracted. The
counters beside it do not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

CLASSES, BUCKETS, FINE = 16, 512, 16
SHARES = (0.5, 0.99, 0.999)


@dataclass(frozen=True)
class Latency:
    """Durations of one call for sizes ``from_bytes`` to ``to_bytes``, in ns."""

    call: str
    from_bytes: int
    to_bytes: int
    count: int
    p50_ns: float
    p99_ns: float
    p999_ns: float
    most_ns: float


@dataclass(frozen=True)
class Histogram:
    """All calls of one kind: ``ns``, the middle of each bucket that has any, rising, and how many
    ``calls`` it has; ``most_ns``: the longest."""

    ns: list[float]
    calls: list[int]
    most_ns: float


@dataclass(frozen=True)
class Timing:
    """``clock_ns``: the clock's own cost, subtracted. ``work``: counters of the models.

    ``latencies``: by size; ``whole``: ``malloc`` and ``free``, all sizes together.
    """

    clock_ns: float
    latencies: list[Latency]
    work: Mapping[str, int] = field(default_factory=dict)
    whole: Mapping[str, Histogram] = field(default_factory=dict)


def bucket_ticks(bucket: int) -> float:
    """The middle of a bucket of the core's histograms, in ticks of its clock."""
    high, fine = divmod(bucket, FINE)
    width = 2.0**high / FINE
    return (FINE + fine) * width + max(width - 1, 0) / 2


def histogram(
    counts: Sequence[Sequence[int]], most_ticks: Sequence[int], ns_per_tick: float
) -> Histogram:
    """All classes' calls together; ``counts``: shape (CLASSES, BUCKETS)."""
    calls = np.asarray(counts, np.int64).sum(axis=0)
    longest = max(most_ticks)
    at = np.flatnonzero(calls).tolist()
    return Histogram(
        ns=[min(bucket_ticks(bucket), longest) * ns_per_tick for bucket in at],
        calls=calls[at].tolist(),
        most_ns=longest * ns_per_tick,
    )


def latency(
    call: str,
    number: int,
    page_bytes: int,
    counts: Sequence[int],
    most_ticks: int,
    ns_per_tick: float,
) -> Latency | None:
    """Percentiles of one class, the ``number``-th sixteenth of a page; None if it is empty."""
    total = sum(counts)
    if not total:
        return None
    upto = np.cumsum(counts)
    p50, p99, p999 = (
        min(bucket_ticks(int(np.searchsorted(upto, share * total))), most_ticks) * ns_per_tick
        for share in SHARES
    )
    step = page_bytes // CLASSES
    return Latency(
        call=call,
        from_bytes=number * step + 1,
        to_bytes=(number + 1) * step,
        count=total,
        p50_ns=p50,
        p99_ns=p99,
        p999_ns=p999,
        most_ns=most_ticks * ns_per_tick,
    )
