# SPDX-License-Identifier: GPL-2.0-only
"""Histograms that the probes keep in the kernel, for where nothing may be written.

Of durations, four buckets for each power of two of ns (each at most a quarter above its lower
end); of sizes, buckets of 64 bytes. Nothing is known of an event but its bucket.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztrace.tracer.ring import FAILED, KINDS, OP_NAMES

BUCKETS, SIZE_BUCKETS, SIZE_STEP = 124, 128, 64

Counts = NDArray[np.int64]


def edges_ns() -> Counts:
    """Lower ends of the buckets of durations in ns, and the end of the last; shape (125,)."""
    exact = np.arange(4)
    rest = [(4 + quarter) << (power - 2) for power in range(2, 32) for quarter in range(4)]
    return np.array([*exact, *rest, 1 << 32], np.int64)


def edges_bytes() -> Counts:
    """Lower ends of the buckets of sizes, and the end of the last; shape (129,)."""
    return np.arange(SIZE_BUCKETS + 1, dtype=np.int64) * SIZE_STEP


def percentile(counts: Counts, edges: Counts, percent: float) -> int | None:
    """The highest value that the bucket with a percentile can hold; None without counts."""
    total = int(counts.sum())
    if not total:
        return None
    rank = max(1, int(np.ceil(total * percent / 100)))
    return int(edges[int(np.searchsorted(np.cumsum(counts), rank)) + 1]) - 1


def buckets(counts: Counts, edges: Counts) -> list[list[int]]:
    """Those that are not empty: lower end, end (not included), count."""
    used = np.flatnonzero(counts)
    return [[int(edges[i]), int(edges[i + 1]), int(counts[i])] for i in used]


def summary(durations: Counts, sizes: Counts) -> dict[str, Any]:
    """As plain JSON types. ``durations``: shape (KINDS, BUCKETS); ``sizes``: (SIZE_BUCKETS,).

    Durations are of all calls of an op, also failed ones; sizes of mallocs that succeeded.
    """
    edges = edges_ns()
    ops = {}
    for code, op in enumerate(OP_NAMES):
        both = durations[code] + durations[code + FAILED]
        if both.any():
            ops[op] = {
                "calls": int(both.sum()),
                "failed": int(durations[code + FAILED].sum()),
                **{f"p{n}_ns": percentile(both, edges, n) for n in (50, 99)},
                "max_ns": percentile(both, edges, 100),
                "buckets_ns": buckets(both, edges),
            }
    return {"ops": ops, "malloc_bytes": buckets(sizes, edges_bytes())}


def by_kind(durations: Counts) -> Counts:
    """Calls by kind (op code, failed ones FAILED higher); shape (KINDS,)."""
    counts: Counts = durations.reshape(KINDS, -1).sum(axis=1)
    return counts
