# SPDX-License-Identifier: GPL-2.0-only
"""What an allocator could be for recorded workloads, chosen in the first half of each trace's time
and tried on the second.

One figure decides: the memory held, mean over time, by replay; blocks and zspages that are partly
full are in it. What is recommended is what was tried, and only if it held less on the time that it
has not seen, with confidence; else to keep what there is.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ztrace.allocator import create
from ztrace.allocator.registry import our_traits, recorded_traits
from ztrace.allocator.specification import Specification
from ztrace.allocator.table import c_initialiser
from ztrace.allocator.traits import Traits
from ztrace.replay.errors import ReplayError
from ztrace.replay.figures.qualified import differences, of_result
from ztrace.replay.figures.result import Every, Result
from ztrace.replay.play.backends import chosen, fitting, own_model
from ztrace.replay.play.fastest import replay_each
from ztrace.replay.report.statistics import Floats, Interval, interval, ratio_draws, stream_of
from ztrace.replay.tune.search import (
    Candidate,
    Limited,
    Table,
    best_designs,
    has_choices,
    table_limits,
    tables,
)
from ztrace.replay.tune.sizes import live_sizes
from ztrace.traces.metadata import Metadata
from ztrace.traces.reader import TraceReader

SLICES = 10
"""Slices of the second half whose gains are shown."""

MOMENTS = 2000
"""Moments of a trace at which held bytes are looked at, evenly in time."""

_AT_ONCE = 16  # models in memory at a time


@dataclass(frozen=True)
class Gain:
    """Share of the held bytes that is saved; negative if more is held.

    ``low`` to ``high`` hold it with 95 % confidence, drawn over stretches of time; None if the
    second halves are too short. ``slices``: the gain in each tenth of the time measured.
    """

    value: float
    low: float | None
    high: float | None
    slices: list[float]


@dataclass(frozen=True)
class Held:
    """What a backend held, summed over the traces: mean over time, and peaks of each, bytes.

    ``spanning``: share of the objects that were stored in two pages, None where it does not tell.
    """

    backend: str
    mean_bytes: float
    peak_bytes: int
    spanning: float | None
    refused: int


@dataclass(frozen=True)
class Trial:
    """A choice, its gain in the first half, by which it was chosen, and in the second.

    ``how``: what to set or to write into the source, ``by_source``: whether that is needed.
    ``better``: the second half says so.
    """

    held: Held
    first_half: float
    second_half: Gain
    how: list[str]
    by_source: bool
    table: Table | None

    @property
    def better(self) -> bool:
        """Whether the held-out time says, with confidence, that it holds less."""
        return self.second_half.low is not None and self.second_half.low > 0


@dataclass(frozen=True)
class Tuning:
    """``now``: the backend as it is; ``trials``: without a change of its source, then with one.

    ``others``: what the backends hold that were asked for besides.
    """

    now: Held
    trials: list[Trial]
    others: list[Held]

    @property
    def best(self) -> Trial | None:
        """What is recommended; None: to keep what there is."""
        good = [trial for trial in self.trials if trial.better]
        return max(good, key=lambda trial: trial.second_half.value, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        best = self.best
        plain = asdict(self)
        for trial, document in zip(self.trials, plain["trials"], strict=True):
            document["better"] = trial.better
        return {**plain, "best": None if best is None else self.trials.index(best)}


@dataclass(frozen=True)
class Tuned:
    """All backends' tuning. ``qualified``: what limits the figures."""

    traces: list[str]
    tunings: list[Tuning]
    lost_events: int | None
    qualified: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "traces": self.traces,
            "lost_events": self.lost_events,
            "qualified": self.qualified,
            "tunings": [one.to_dict() for one in self.tunings],
        }


def tunable(backends: Iterable[str], metadata: Metadata) -> list[str]:
    """The backends to tune for a trace: those named, else the recorded one, or zsmalloc.

    Of ``all`` those of which there is something to choose. ReplayError for another one.
    """
    named = list(backends)
    if named:
        found = chosen(named, metadata)
        if "all" in named:
            return [one for one in found if has_choices(one)]
    else:
        own = own_model(metadata)
        if own is not None and has_choices(own):
            return [own]
        found = [one for one in _designed(metadata) if one is not None][:1]
    for one in found:
        if not has_choices(one):
            raise ReplayError(
                f"{one}: there is nothing to choose of it; tune another with --backend"
            )
    return found


def _designed(metadata: Metadata) -> Iterable[str | None]:
    """Of allocators with designs, the models of the recorded machine's pages."""
    names = (one.name for one in our_traits() if has_choices(one.name) and not one.blocks)
    return (fitting(name, metadata) for name in names)


def tune(
    readers: Sequence[TraceReader],
    backends: Sequence[str],
    *,
    limited: Limited | None = None,
    against: Sequence[str] = (),
    advance: Callable[[int], object] = lambda rows: None,
) -> Tuned:
    """Choose for each of the backends what holds the traces' objects in least memory, and try it.

    ``limited``: of tables of block types. ``against``: backends whose memory is told besides.
    Traces weigh by what they hold on average. ``advance`` gets rows, see :func:`work`.
    ReplayError for traces that cannot be used.
    """
    for reader in readers:
        recorded = reader.metadata.machine.page_bytes
        for backend in backends:
            page_bytes = create(backend).page_bytes
            if recorded not in (0, page_bytes):
                raise ReplayError(
                    f"{reader.path}: recorded with pages of {recorded} bytes, not {page_bytes}; "
                    "what fits is for one page size"
                )
    bench = _Bench(readers, advance)
    tunings = [_tune(bench, backend, limited or Limited(), against) for backend in backends]
    return Tuned([str(reader.path) for reader in readers], tunings, _lost(readers), bench.qualified)


def work(rows: int, backends: Sequence[str]) -> int:
    """About what ``advance`` gets for a trace of that many rows."""
    return sum(rows * (4 if _traits(backend).blocks else 16) for backend in backends)


def _traits(backend: str) -> Traits:
    return recorded_traits(Specification.parse(backend).name)


def _tune(bench: _Bench, backend: str, limited: Limited, against: Sequence[str]) -> Tuning:
    with tempfile.TemporaryDirectory(prefix="ztrace-tune-") as folder:
        now = bench.played(Candidate(backend))
        if not now.held.mean_bytes:
            raise bench.timeless("in it")
        candidates = list(_found(bench, backend, limited, Path(folder)))
        trials = [
            Trial(
                bench.played(one).held,
                _saved(now.first_bytes, bench.played(one).first_bytes),
                _gain(now.second_bytes, bench.played(one).second_bytes),
                list(one.how) if one.table is None else [_initialiser(backend, one.table)],
                one.by_source,
                one.table,
            )
            for one in candidates
            if one.backend != backend
        ]
        others = [bench.played(Candidate(one)).held for one in against if one != backend]
    return Tuning(now.held, _without_twins(trials), others)


def _found(bench: _Bench, backend: str, limited: Limited, folder: Path) -> Iterable[Candidate]:
    """The choices that hold least in the first half."""
    traits = _traits(backend)
    if traits.blocks:
        limits = table_limits(backend, limited)
        objects = bench.first_half(backend, limits.largest)
        yield from bench.rank(tables(backend, objects, limits, folder))[:1]
        return
    release = Specification.parse(backend).variant or bench.readers[0].metadata.kernel.release
    designs = traits.designs(release, create(backend).page_bytes)
    yield from best_designs(backend, designs, bench.rank)


def _initialiser(backend: str, table: Table) -> str:
    header = int(getattr(create(backend), "header_bytes", 0))
    return f"{_traits(backend).blocks}[] = {c_initialiser(table, header)};"


def _without_twins(trials: Sequence[Trial]) -> list[Trial]:
    return list({trial.held.backend: trial for trial in reversed(trials)}.values())[::-1]


@dataclass(frozen=True)
class _Played:
    """A replay's figures, over all traces: bytes in the first half, and at the second's moments."""

    held: Held
    first_bytes: float
    second_bytes: list[Floats]
    stopped: bool


class _Bench:
    """Plays candidates, each once."""

    def __init__(self, readers: Sequence[TraceReader], advance: Callable[[int], object]) -> None:
        self.readers = readers
        self.qualified: list[str] = []
        self._advance = advance
        self._known: dict[str, _Played] = {}

    def first_half(self, backend: str, largest: int) -> dict[int, int | Fraction]:
        """Size -> mean number of objects that were live in the first halves."""
        total: dict[int, int | Fraction] = defaultdict(Fraction)
        for reader in self.readers:
            sizes = live_sizes(reader, backend, largest, self._advance)
            for size, count in sizes.first_half().items():
                total[size] += count
        if not any(total.values()):
            raise self.timeless("in the first half")
        return total

    def timeless(self, when: str) -> ReplayError:
        """No object is live for any time."""
        return ReplayError(
            f"{', '.join(str(reader.path) for reader in self.readers)}: no object is live for any "
            f"time {when}: what fits is told by how long objects are live; give a trace whose "
            "ts_ns and dur_ns are a clock's"
        )

    def played(self, one: Candidate) -> _Played:
        """The figures of a candidate."""
        self._play([one])
        return self._known[one.backend]

    def rank(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Candidates by what they hold in the first half, of those that refuse nothing more."""
        self._play(candidates)
        most = min(self._known[one.backend].held.refused for one in candidates)
        good = [
            one
            for one in candidates
            if not self._known[one.backend].stopped
            and self._known[one.backend].held.refused <= most
        ]
        return sorted(good, key=lambda one: self._known[one.backend].first_bytes)

    def _play(self, candidates: Sequence[Candidate]) -> None:
        new = list(
            dict.fromkeys(one.backend for one in candidates if one.backend not in self._known)
        )
        for first in range(0, len(new), _AT_ONCE):
            part = new[first : first + _AT_ONCE]
            of_traces = [
                replay_each(reader, part, every=Every(percent=100 / MOMENTS), advance=self._advance)
                for reader in self.readers
            ]
            for backend, results in zip(part, zip(*of_traces, strict=True), strict=True):
                if not self._known:
                    self._qualify(results)
                self._known[backend] = _figures(backend, results)

    def _qualify(self, results: Sequence[Result]) -> None:
        self.qualified = [
            f"{reader.path.name}: {line}"
            for reader, result in zip(self.readers, results, strict=True)
            for line in (*differences(result), *of_result(result))
        ]


def _figures(backend: str, results: Sequence[Result]) -> _Played:
    spanning = [found for result in results if (found := result.spanning()) is not None]
    mallocs = sum(result.count("mallocs") for result in results)
    series = [np.array([m.held_bytes for m in result.series], np.float64) for result in results]
    held = Held(
        backend,
        sum(result.held_bytes.mean or 0.0 for result in results),
        sum(result.held_bytes.peak for result in results),
        sum(one.mallocs for one in spanning) / mallocs if spanning and mallocs else None,
        sum(result.count("refused") for result in results),
    )
    return _Played(
        held,
        sum(float(one[: MOMENTS // 2].mean()) if len(one) else 0.0 for one in series),
        [one[MOMENTS // 2 :] for one in series],
        any(pool.stopped for result in results for pool in result.pools),
    )


def _lost(readers: Sequence[TraceReader]) -> int | None:
    """Events lost of all traces; None where nobody counted those of one."""
    counts = [reader.metadata.lost_events() for reader in readers]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _saved(before: float, after: float) -> float:
    return 1 - after / before if before else 0.0


def _gain(before: Sequence[Floats], after: Sequence[Floats]) -> Gain:
    below, above = np.concatenate(before), np.concatenate(after)
    value = _saved(float(below.sum()), float(above.sum()))
    draws = ratio_draws(above, below, stream_of("tune"))
    found: Interval | None = interval(value, None if draws is None else 1 - draws)
    slices = []
    for tenth in range(SLICES):
        parts = [
            (np.array_split(b, SLICES)[tenth].sum(), np.array_split(a, SLICES)[tenth].sum())
            for b, a in zip(before, after, strict=True)
        ]
        slices.append(_saved(float(sum(b for b, _ in parts)), float(sum(a for _, a in parts))))
    return Gain(value, found and found.low, found and found.high, slices)
