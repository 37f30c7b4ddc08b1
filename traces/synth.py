# SPDX-License-Identifier: GPL-2.0-only
"""Synthetic traces: mallocs and frees of any number, drawn from distributions, seeded.

A population is held near ``live`` objects. Time is counted in mallocs: object ``i`` is allocated
at time ``i`` and freed after a lifetime drawn with mean ``live``, so as many die as are born. The
first ``live`` objects fill the pool; they get what is left of a lifetime for an object met in a
population that has existed for ever, so the population neither sags nor swells afterwards.

Sizes and lifetimes are drawn independently. Both can be fitted to a trace: sizes by their exact
frequencies, lifetimes by 1024 quantiles of those that ended, stretched to the mean asked for.
Sizes can also be those of real pages (:mod:`traces.pages`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ztrace.traces.columns import values
from ztrace.traces.errors import TraceError
from ztrace.traces.metadata import Kernel, Machine, Metadata, PoolInfo
from ztrace.traces.pages import Pages
from ztrace.traces.reader import TraceReader
from ztrace.traces.returns import check_returns
from ztrace.traces.schema import OP_CODE
from ztrace.traces.writer import ENCODINGS, TraceWriter

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

PAGE_BYTES = 4096
"""What a distribution of sizes is for, unless it says otherwise."""

STEP_NS = 1000
"""Distance of two calls."""

DUR_NS = 500
QUANTILES = 1024
SAMPLED = 1_000_000
"""Most draws that a goodness of fit is computed from; the first ones."""

_COMPRESSION_LEVEL = 3
# Without loads each handle occurs twice, far apart, which zstd does not find: split into bytes a
# row of 10^7 takes 3.64 bytes instead of 4.21, and is decoded in 22 ns instead of 29.
_ENCODINGS = {**ENCODINGS, "handle": "BYTE_STREAM_SPLIT", "size": "BYTE_STREAM_SPLIT"}
_CHUNK = 131072  # mallocs generated at a time, at least
_RESIDUAL_SAMPLE = 65536
_MALLOC, _FREE = OP_CODE["malloc"], OP_CODE["free"]


@dataclass(frozen=True)
class Sizes:
    """A distribution of sizes in bytes: ``cumulative[s - 1]`` is the share of sizes up to s."""

    text: str
    cumulative: Floats
    compressor: str = "none"

    @property
    def page_bytes(self) -> int:
        """The largest size that it knows, which is a page's."""
        return len(self.cumulative)

    def draw(self, random: np.random.Generator, count: int) -> Ints:
        """Draw sizes, 1 to ``page_bytes``."""
        drawn = np.searchsorted(self.cumulative, random.random(count), side="right") + 1
        return np.minimum(drawn, self.page_bytes)


@dataclass(frozen=True)
class Lifetimes:
    """A distribution of lifetimes with mean 1, by its quantile function at equal steps."""

    text: str
    quantiles: Floats

    def draw(self, random: np.random.Generator, count: int) -> Floats:
        """Draw lifetimes, interpolated between the quantiles."""
        at = random.random(count) * (len(self.quantiles) - 1)
        low = at.astype(np.int64)
        share = at - low
        return self.quantiles[low] * (1 - share) + self.quantiles[low + 1] * share


@dataclass(frozen=True)
class Observed:
    """What a trace's objects were: sizes in bytes; lifetimes, in mallocs, of those freed."""

    sizes: Ints
    lifetimes: Floats
    page_bytes: int = PAGE_BYTES


@dataclass(frozen=True)
class Fit:
    """How well draws follow what they were fitted to: Kolmogorov-Smirnov distances, 0 to 1."""

    sizes: float | None = None
    lifetimes: float | None = None


def observe(path: Path) -> Observed:
    """Collect sizes and lifetimes of a trace; TraceError if it has no malloc that succeeded."""
    sizes: list[Ints] = []
    ends: list[Floats] = []
    born: dict[int, int] = {}
    count = rows = 0
    with TraceReader(path) as reader:
        page_bytes = reader.metadata.machine.page_bytes or PAGE_BYTES
        for batch in reader.batches(["op", "size", "handle", "ret"]):
            op = batch.column("op").indices.to_numpy()
            ret = batch.column("ret").to_numpy()
            check_returns(op, ret, rows, str(path))
            rows += len(op)
            size = values(batch.column("size"))
            handle = values(batch.column("handle"))
            made = (op == _MALLOC) & (ret >= 0) & (size > 0) & (size <= page_bytes)
            sizes.append(size[made].astype(np.int64))
            wanted = made | (op == _FREE)
            lived = []
            for name, is_malloc in zip(handle[wanted].tolist(), made[wanted].tolist(), strict=True):
                if is_malloc:
                    born[name] = count
                    count += 1
                elif (begin := born.pop(name, None)) is not None:
                    lived.append(count - begin)
            ends.append(np.array(lived, np.float64))
    if not count:
        raise TraceError(f"{path}: no malloc to fit to; name a trace with the allocator's calls")
    return Observed(np.concatenate(sizes), np.concatenate(ends), page_bytes)


# -- distributions -----------------------------------------------------------------------------


def uniform_sizes(low: int, high: int, page_bytes: int = PAGE_BYTES) -> Sizes:
    """All sizes from ``low`` to ``high`` bytes equally often."""
    sizes = np.arange(1, page_bytes + 1)
    return _sizes(f"uniform:{low},{high}", ((sizes >= low) & (sizes <= high)).astype(np.float64))


def gauss_sizes(mean: float, deviation: float, page_bytes: int = PAGE_BYTES) -> Sizes:
    """A bell around ``mean`` bytes, cut to what an allocator takes."""
    sizes = np.arange(1, page_bytes + 1)
    weights = np.exp(-(((sizes - mean) / deviation) ** 2) / 2)
    return _sizes(f"gauss:{mean:g},{deviation:g}", weights)


def fitted_sizes(observed: Observed, name: str) -> Sizes:
    """Sizes as often as they were observed."""
    weights = np.bincount(observed.sizes, minlength=observed.page_bytes + 1)[1:].astype(np.float64)
    return _sizes(f"fit:{name}", weights)


def page_sizes(pages: Pages, name: str) -> Sizes:
    """Sizes as often as real pages compress to them, by the one compressor of ``pages``."""
    [(compressor, sizes)] = pages.sizes.items()
    weights = np.bincount(sizes, minlength=pages.page_bytes + 1)[1:].astype(np.float64)
    return replace(_sizes(f"files:{name}", weights), compressor=compressor)


def _sizes(text: str, weights: Floats) -> Sizes:
    if not weights.sum() > 0:
        raise TraceError(f"--sizes {text}: none of them is 1 to {len(weights)} bytes; correct it")
    return Sizes(text, np.cumsum(weights) / weights.sum())


def exponential_lifetimes() -> Lifetimes:
    """Any live object is as likely as any other to be the next one freed."""
    shares = (np.arange(QUANTILES * 16) + 0.5) / (QUANTILES * 16)
    return _lifetimes("exponential", -np.log1p(-shares))


def uniform_lifetimes() -> Lifetimes:
    """Anything from nothing to twice the mean."""
    return _lifetimes("uniform", np.linspace(0, 2, QUANTILES))


def equal_lifetimes() -> Lifetimes:
    """First in, first out."""
    return _lifetimes("fifo", np.ones(2))


def fitted_lifetimes(observed: Observed, name: str) -> Lifetimes:
    """As observed of objects that were freed, stretched. TraceError if there are none."""
    if len(observed.lifetimes) < 2:
        raise TraceError(f"--churn fit:{name}: nothing was freed there; name another trace")
    shares = np.linspace(0, 1, QUANTILES)
    return _lifetimes(f"fit:{name}", np.quantile(observed.lifetimes, shares))


def _lifetimes(text: str, quantiles: Floats) -> Lifetimes:
    mean = ((quantiles[1:] + quantiles[:-1]) / 2).mean()
    return Lifetimes(text, quantiles / mean)


def distance(ours: npt.NDArray[np.number], theirs: npt.NDArray[np.number]) -> float:
    """Kolmogorov-Smirnov distance of two samples: the widest gap of their distributions."""
    values = np.union1d(ours, theirs)
    shares = [
        np.searchsorted(np.sort(sample), values, side="right") / len(sample)
        for sample in (ours, theirs)
    ]
    return float(np.abs(shares[0] - shares[1]).max())


# -- traces ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What to make: ``events`` rows with about ``live`` objects once ``live`` were allocated."""

    events: int
    live: int
    sizes: Sizes
    lifetimes: Lifetimes
    seed: int = 0

    def metadata(self) -> Metadata:
        """What the trace says about itself."""
        return Metadata(
            kernel=Kernel(release="synthetic"),
            machine=Machine(cpus=1, page_bytes=self.sizes.page_bytes),
            pools=[PoolInfo("synthetic", self.sizes.compressor, True, True)],
            parameters={
                "events": str(self.events),
                "live": str(self.live),
                "sizes": self.sizes.text,
                "churn": self.lifetimes.text,
                "seed": str(self.seed),
            },
            clock="calls",
            duration_ns=self.events * STEP_NS,
            notes=["synthetic: made by ztrace synth, nothing here was recorded"],
        )


@dataclass
class Piece:
    """Calls in order: whether each is a malloc, its object's number, its size (0 for frees)."""

    is_malloc: npt.NDArray[np.bool_]
    objects: Ints
    sizes: Ints
    lifetimes: Floats  # drawn for the piece's mallocs, in mallocs


def pieces(plan: Plan) -> Iterator[Piece]:
    """Generate a plan's calls without end. Memory depends on ``live`` alone."""
    random = np.random.default_rng(plan.seed)
    waiting_ids, waiting_ends = np.zeros(0, np.int64), np.zeros(0)
    begin, step = 0, max(_CHUNK, plan.live // 8)
    while True:
        ids = np.arange(begin, begin + step)
        sizes = plan.sizes.draw(random, step)
        lifetimes = plan.lifetimes.draw(random, step) * plan.live
        starts = ids.astype(np.float64)
        ends = starts + lifetimes
        filling = ids < plan.live
        if filling.any():
            ends[filling] = plan.live + _residual(plan, random, int(filling.sum()))
        # After its own malloc, which stands at the whole number.
        ends = np.maximum(ends, starts + 0.5)
        waiting_ids = np.concatenate([waiting_ids, ids])
        waiting_ends = np.concatenate([waiting_ends, ends])
        due = waiting_ends < begin + step
        moments = np.concatenate([starts, waiting_ends[due]])
        objects = np.concatenate([ids, waiting_ids[due]])
        is_malloc = np.arange(len(moments)) < step
        order = np.argsort(moments, kind="stable")
        yield Piece(
            is_malloc[order],
            objects[order],
            np.concatenate([sizes, np.zeros(int(due.sum()), np.int64)])[order],
            lifetimes,
        )
        waiting_ids, waiting_ends = waiting_ids[~due], waiting_ends[~due]
        begin += step


def _residual(plan: Plan, random: np.random.Generator, count: int) -> Floats:
    """What is left of the lifetime of an object met at any moment: long ones are met more often."""
    lifetimes = plan.lifetimes.draw(random, _RESIDUAL_SAMPLE)
    shares = lifetimes / lifetimes.sum()
    met = random.choice(lifetimes, size=count, p=shares)
    return met * random.random(count) * plan.live


def synthesize(
    plan: Plan,
    path: Path,
    *,
    force: bool = False,
    sizes_of: Observed | None = None,
    lifetimes_of: Observed | None = None,
    advance: Callable[[int], object] = lambda rows: None,
) -> Fit:
    """Write a plan's trace; returns how well it fits ``sizes_of`` and ``lifetimes_of``.

    ``advance`` gets numbers of rows written. TraceError if ``path`` exists and not ``force``.
    """
    written = sampled = 0
    sizes: list[Ints] = []
    lifetimes: list[Floats] = []
    with TraceWriter(
        *(path, plan.metadata()), force=force, level=_COMPRESSION_LEVEL, encodings=_ENCODINGS
    ) as writer:
        for piece in pieces(plan):
            count = min(len(piece.objects), plan.events - written)
            malloc = piece.is_malloc[:count]
            writer.write(
                {
                    "ts_ns": (np.arange(count) + written) * STEP_NS,
                    "dur_ns": np.full(count, DUR_NS, np.uint32),
                    "op": np.where(malloc, _MALLOC, _FREE).astype(np.int8),
                    # Objects of an address space: 64 bytes apart, never used twice.
                    "handle": ((piece.objects[:count] + 1) * 64).astype(np.uint64),
                    "size": np.ma.masked_array(piece.sizes[:count], ~malloc),
                }
            )
            if sampled < SAMPLED:
                sizes.append(piece.sizes[:count][malloc])
                lifetimes.append(piece.lifetimes)
                sampled += len(piece.lifetimes)
            written += count
            advance(count)
            if written == plan.events:
                break
    return Fit(
        None if sizes_of is None else distance(np.concatenate(sizes), sizes_of.sizes),
        None
        if lifetimes_of is None
        else _lifetime_distance(np.concatenate(lifetimes), lifetimes_of),
    )


def _lifetime_distance(drawn: Floats, observed: Observed) -> float:
    """Shapes are compared: both are brought to the same mean."""
    theirs = observed.lifetimes
    return distance(drawn / drawn.mean(), theirs / theirs.mean())
