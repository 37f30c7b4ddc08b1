# SPDX-License-Identifier: GPL-2.0-only
"""A block table fitted to traces, and tried: replays tell what blocks that are not full cost.

Two tables are fitted. One, to the first half of each trace's time: what it gains over the posted
table is measured on the second half, which it has not seen. The other, to the whole traces, is
the one to use.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ztrace.allocator.specification import family
from ztrace.allocator.table import c_initialiser, table_text
from ztrace.allocator.ztree.model import POSTED_TABLE
from ztrace.replay.errors import ReplayError
from ztrace.replay.figures.qualified import differences, of_result
from ztrace.replay.figures.result import Every, Result
from ztrace.replay.play.backends import chosen
from ztrace.replay.play.backends import every as every_backend
from ztrace.replay.play.fastest import replay_each
from ztrace.replay.report.statistics import Floats, Interval, interval, ratio_draws, stream_of
from ztrace.replay.research.block_table import Limits, best_table, static_bytes
from ztrace.replay.tune.sizes import live_sizes
from ztrace.traces.metadata import Metadata
from ztrace.traces.reader import TraceReader

Table = list[tuple[int, int]]

SLICES = 10
"""Slices of the second half whose gains are shown."""

MOMENTS = 2000
"""Moments of a trace at which held bytes are looked at, evenly in time."""

POSTED, TUNED, HALF = "posted", "tuned", "tuned on the first half"


@dataclass(frozen=True)
class Held:
    """What a backend held, summed over the traces: mean over time, and peaks of each, bytes.

    ``refused``: objects that only this backend did not take; ``stopped``: replays that ended
    early.
    """

    backend: str
    mean_bytes: float
    peak_bytes: int
    refused: int
    stopped: int


@dataclass(frozen=True)
class Gain:
    """Share of the posted table's held bytes that is saved; negative if more is held.

    ``low`` to ``high`` hold it with 95 % confidence, drawn over stretches of time; None if the
    second halves are too short. ``slices``: the gain in each tenth of the time measured.
    """

    value: float
    low: float | None
    high: float | None
    slices: list[float]


@dataclass(frozen=True)
class Tuning:
    """A fitted table and what it is worth. Static bytes are those in full blocks, a mean over time.

    ``table`` is fitted to the whole traces, ``half_table`` to their first halves. ``qualified``:
    what limits the figures.
    """

    traces: list[str]
    limits: Limits
    table: Table
    half_table: Table
    static: dict[str, float]
    held: list[Held]
    gain: Gain
    lost_events: int | None
    qualified: list[str]

    @property
    def static_gain(self) -> float:
        """Share of the posted table's bytes in full blocks that the table saves."""
        return 1 - self.static[TUNED] / self.static[POSTED]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            **asdict(self),
            "static_gain": self.static_gain,
            "initialiser": c_initialiser(self.table),
        }


def tune(
    readers: Sequence[TraceReader],
    limits: Limits,
    *,
    against: Sequence[str] | None = None,
    advance: Callable[[int], object] = lambda rows: None,
) -> Tuning:
    """Fit a block table to traces and measure what it gains.

    ``limits.page_bytes`` must be the traces'. ``against``: backends to compare with; None for
    the successors of ztree that fit. Traces weigh by what they hold on average. ``advance`` gets
    rows, in all those of :func:`work`. ReplayError for traces that cannot be used.
    """
    metadata = readers[0].metadata
    rivals = successors(metadata) if against is None else chosen(against, metadata)
    whole: dict[int, Fraction] = defaultdict(Fraction)
    first: dict[int, Fraction] = defaultdict(Fraction)
    for reader in readers:
        recorded = reader.metadata.machine.page_bytes
        if recorded not in (0, limits.page_bytes):
            raise ReplayError(
                f"{reader.path}: recorded with pages of {recorded} bytes, not {limits.page_bytes}; "
                "a block table is for one page size"
            )
        sizes = live_sizes(reader, advance)
        for total, part in ((whole, sizes.whole()), (first, sizes.first_half())):
            for size, count in part.items():
                total[size] += count
    if not any(first.values()):
        raise ReplayError(
            f"{', '.join(str(reader.path) for reader in readers)}: no object is live for any time "
            "in the first half: a table is fitted to how long objects are live; give a trace whose "
            "ts_ns and dur_ns are a clock's"
        )
    table, half_table = best_table(whole, limits), best_table(first, limits)
    posted = "ztree" if limits.page_bytes == 4096 else f"ztree:page_bytes={limits.page_bytes}"
    with tempfile.TemporaryDirectory(prefix="ztrace-tune-") as folder:
        specs = {POSTED: posted}
        for name, fitted in ((TUNED, table), (HALF, half_table)):
            path = Path(folder) / f"{name.replace(' ', '-')}.table"
            path.write_text(table_text(fitted))
            specs[name] = f"ztree:page_bytes={limits.page_bytes},table={path}"
        specs |= {rival: rival for rival in rivals}
        of_traces = [
            replay_each(
                r, list(specs.values()), every=Every(percent=100 / MOMENTS), advance=advance
            )
            for r in readers
        ]
    results = dict(zip(specs, map(list, zip(*of_traces, strict=True)), strict=True))
    return Tuning(
        traces=[str(reader.path) for reader in readers],
        limits=limits,
        table=table,
        half_table=half_table,
        static={
            POSTED: float(static_bytes(whole, POSTED_TABLE, limits)),
            TUNED: float(static_bytes(whole, table, limits)),
        },
        held=[_held(name, played) for name, played in results.items() if name != HALF],
        gain=_gain(results[POSTED], results[HALF]),
        lost_events=_lost(readers),
        qualified=[
            f"{reader.path.name}: {line}"
            for reader, result in zip(readers, results[POSTED], strict=True)
            for line in (*differences(result), *of_result(result))
        ],
    )


def successors(metadata: Metadata) -> list[str]:
    """ztree's later versions and successors that model the recorded machine's pages."""
    posted = ("ztree", f"ztree:page_bytes={metadata.machine.page_bytes}")
    fitting = (spec for spec in every_backend(metadata) if family(spec) in ("ztree", "zblock"))
    return [spec for spec in fitting if spec not in posted]


def work(rows: int) -> int:
    """What ``advance`` gets for a trace of that many rows."""
    return 4 * rows


def _lost(readers: Sequence[TraceReader]) -> int | None:
    """Events lost of all traces; None where nobody counted those of one."""
    counts = [reader.metadata.lost_events() for reader in readers]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _held(name: str, results: Sequence[Result]) -> Held:
    return Held(
        backend=name,
        mean_bytes=sum(result.held_bytes.mean or 0.0 for result in results),
        peak_bytes=sum(result.held_bytes.peak for result in results),
        refused=sum(result.count("refused") for result in results),
        stopped=sum(bool(pool.stopped) for result in results for pool in result.pools),
    )


def _second_half(results: Sequence[Result]) -> list[Floats]:
    """Bytes held at the moments of each trace's second half."""
    return [
        np.array([moment.held_bytes for moment in result.series[MOMENTS // 2 :]], np.float64)
        for result in results
    ]


def _gain(posted: Sequence[Result], tuned: Sequence[Result]) -> Gain:
    before, after = _second_half(posted), _second_half(tuned)
    below, above = np.concatenate(before), np.concatenate(after)
    value = 1 - float(above.sum() / below.sum()) if below.any() else 0.0
    draws = ratio_draws(above, below, stream_of("tune"))
    found: Interval | None = interval(value, None if draws is None else 1 - draws)
    slices = []
    for tenth in range(SLICES):
        parts = [
            (np.array_split(b, SLICES)[tenth].sum(), np.array_split(a, SLICES)[tenth].sum())
            for b, a in zip(before, after, strict=True)
        ]
        held = sum(b for b, _ in parts)
        slices.append(1 - float(sum(a for _, a in parts) / held) if held else 0.0)
    return Gain(value, found and found.low, found and found.high, slices)
