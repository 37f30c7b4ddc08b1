# SPDX-License-Identifier: GPL-2.0-only
"""Intervals and tests of reports: quantiles of histograms, slopes, ratios, two distributions.

Calls that follow each other are alike, so nothing here draws single calls: a recording is cut
into stretches of time and whole stretches are drawn (block bootstrap). All draws are seeded; the
same recordings give the same report.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

SEED = 20210916
DRAWS = 1000
CONFIDENCE = 0.95
LEAST_BLOCKS = 8
"""An interval from fewer stretches than this is not given."""


class Interval(NamedTuple):
    """A figure and the interval that holds it with the stated confidence."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Plain JSON types."""
        return self._asdict()


class RankTest(NamedTuple):
    """Mann-Whitney: ``p`` two-sided; ``share``: how often a call of B lasts longer than one of A.

    Ties count half, so 0.5 means no difference.
    """

    p: float
    share: float


def rank_bucket(counts: Counts, fraction: float) -> int:
    """The bucket of the nearest-rank quantile of a histogram, shape (buckets,)."""
    rank = max(1, math.ceil(round(float(counts.sum()) * fraction, 6)))
    return int(np.searchsorted(np.cumsum(counts), rank))


def quantile_draws(blocks: Counts, fraction: float, values: Floats, stream: int) -> Floats | None:
    """The quantile in each draw of blocks; None if there are too few of them.

    ``blocks``: shape (blocks, buckets), calls of each stretch of time; ``values``: what a bucket
    stands for. ``stream`` keeps the draws of different data apart.
    """
    used = blocks[blocks.sum(axis=1) > 0]
    if len(used) < LEAST_BLOCKS:
        return None
    columns = np.flatnonzero(used.sum(axis=0))
    below = np.cumsum(used[:, columns], axis=1).astype(np.float64)
    random = np.random.default_rng([SEED, stream])
    chances = np.full(len(used), 1 / len(used))
    weights = random.multinomial(len(used), chances, DRAWS).astype(np.float64)
    found: Floats = np.empty(DRAWS)
    for first in range(0, DRAWS, 100):  # bounds memory at 100 x buckets
        sums = weights[first : first + 100] @ below
        ranks = np.maximum(1, np.ceil(sums[:, -1:] * fraction))
        found[first : first + 100] = values[columns[(sums < ranks).sum(axis=1)]]
    return found


def interval(value: float, draws: Floats | None, confidence: float = CONFIDENCE) -> Interval | None:
    """The percentile interval of bootstrap draws, never without the value itself."""
    if draws is None or np.isnan(draws).all():
        return None
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail]).tolist()
    return Interval(value, min(low, value), max(high, value))


def _block_indices(length: int, block: int, stream: int) -> npt.NDArray[np.intp]:
    """Indices of circular moving blocks, shape (DRAWS, length)."""
    random = np.random.default_rng([SEED, stream])
    starts = random.integers(0, length, (DRAWS, -(-length // block)))
    indices = (starts[:, :, None] + np.arange(block)) % length
    flat: npt.NDArray[np.intp] = indices.reshape(DRAWS, -1)[:, :length]
    return flat


def ratio_draws(numerator: Floats, denominator: Floats, stream: int) -> Floats | None:
    """Draws of sum(numerator) / sum(denominator) over moving blocks of a time series.

    A block is the square root of the series long, which keeps neighbouring moments together.
    Series of one length and stream are drawn alike, so that draws of two can be divided.
    """
    if len(numerator) < LEAST_BLOCKS**2 or not denominator.any():
        return None
    at = _block_indices(len(numerator), math.isqrt(len(numerator)), stream)
    above, below = numerator[at].sum(axis=1), denominator[at].sum(axis=1)
    drawn: Floats = np.full(len(above), np.nan)
    np.divide(above, below, out=drawn, where=below > 0)
    return drawn


def slope(x: Floats, y: Floats, stream: int) -> Interval | None:
    """Least-squares slope of y over x; its interval from moving blocks of the residuals.

    None for fewer than LEAST_BLOCKS points or when x does not move.
    """
    spread = x - x.mean() if len(x) else x
    weight = float(spread @ spread)
    if len(x) < LEAST_BLOCKS or not weight:
        return None
    estimate = float(spread @ y) / weight
    residual = y - y.mean() - estimate * spread
    block = max(2, math.isqrt(len(x)))
    draws = estimate + residual[_block_indices(len(x), block, stream)] @ spread / weight
    return interval(estimate, np.asarray(draws, np.float64))


def mann_whitney(a: Counts, b: Counts) -> RankTest | None:
    """Compare two histograms over the same buckets; normal approximation, corrected for ties."""
    n, m = int(a.sum()), int(b.sum())
    if not n or not m:
        return None
    both = (a + b).astype(np.float64)
    below = np.concatenate([[0.0], np.cumsum(a)[:-1].astype(np.float64)])
    larger = float(b @ (below + a / 2))  # pairs in which B's call lasts longer
    total = n + m
    ties = float((both**3 - both).sum())
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
    z = (larger - n * m / 2) / math.sqrt(variance) if variance > 0 else 0.0
    return RankTest(math.erfc(abs(z) / math.sqrt(2)), larger / (n * m))


def stream_of(*words: str) -> int:
    """A number for a seed that depends on words alone."""
    return zlib.crc32("/".join(words).encode(errors="surrogateescape"))


def as_dict(found: Interval | None) -> dict[str, Any] | None:
    """An interval as plain JSON types."""
    return None if found is None else found.to_dict()


def rounded(values: Sequence[float] | Floats, digits: int = 4) -> list[float]:
    """Series for a page: that many significant digits."""
    return [float(f"{value:.{digits}g}") for value in values]
