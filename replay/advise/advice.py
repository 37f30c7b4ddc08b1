# SPDX-License-Identifier: GPL-2.0-only
"""A trace played through all that its kernel could have used instead, ranked by memory held.

What a kernel could have used is told by the allocators' traits: those that it has, and how each can
be set. Only what the trace determines is advised; what it does not tell is said, with what would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ztrace.allocator.registry import all_traits, recorded_traits
from ztrace.allocator.specification import Specification
from ztrace.allocator.traits import Traits, release_number
from ztrace.replay.errors import ReplayError
from ztrace.replay.figures.qualified import of_result
from ztrace.replay.figures.result import Every, Result
from ztrace.replay.limit import AT_ONCE, Limit, Play, play, recorded_rules
from ztrace.replay.play.backends import own_model, resolve
from ztrace.replay.play.fastest import replay_each
from ztrace.replay.read.rows import FREE, MALLOC, op_codes
from ztrace.text import bytes_text
from ztrace.traces.metadata import Metadata
from ztrace.traces.reader import TraceReader

NO_MODEL = "recorded on an allocator that ztrace has no model of"

SHARES = (100, 90, 75, 50)
"""Pool limits that are tried, in percent of the most that the recorded allocator held."""

WORTH = 0.01
"""A choice that saves less than this share of memory is not named as one."""

SHOWN = 8
"""How many choices people are shown."""

_MOMENTS = 20  # at which memory is compared


@dataclass(frozen=True)
class Timed:
    """Medians of the real allocator's calls in ns, as ``ztrace measure`` has recorded them."""

    malloc_ns: float
    free_ns: float


@dataclass(frozen=True)
class Choice:
    """One allocator with one setting. ``mean_bytes`` and ``peak_bytes`` are held memory.

    ``change``: of the mean, against what was recorded, and ``least`` and ``most`` of it over the
    trace's time; all are shares, -0.1 is a tenth less. ``density``: objects a page held, over time.
    ``how``: what to set, empty for what was recorded. ``failed``: objects that it refused.
    ``better``: whether it is worth a change: all objects in less memory in mean, never in more.
    """

    backend: str
    how: str
    mean_bytes: float
    peak_bytes: int
    density: float | None
    change: float = 0.0
    least: float = 0.0
    most: float = 0.0
    failed: int = 0
    timed: Timed | None = None
    better: bool = False


@dataclass(frozen=True)
class UnderLimit:
    """What a pool limit of ``share`` percent of the peak would have cost the workload, in pages.

    ``of_memory``: the limit as a share of the machine's memory, None where that is not recorded.
    """

    share: int
    limit_bytes: int
    rejected: int
    written_back: int
    refaults: int
    mean_held_bytes: float
    of_memory: float | None


@dataclass
class Advice:
    """``choices``: the recorded one first, then by mean memory, those that refuse objects last.

    ``answer``: what is worth most, in a sentence. ``untold``: what no trace like this can tell,
    and what would; ``qualified``: what limits the figures.
    """

    trace: str
    recorded: str
    answer: str
    choices: list[Choice]
    limits: list[UnderLimit] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)
    qualified: list[str] = field(default_factory=list)

    def shown(self, most: int) -> list[Choice]:
        """The recorded one and ``most`` others; settings of one allocator are many, and go first:
        each allocator is shown."""
        now, *others = self.choices
        kept = (
            one
            for at, one in enumerate(others)
            if at < most or not Specification.parse(one.backend).items
        )
        return [now, *kept]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        return asdict(self)


def advise(
    reader: TraceReader,
    *,
    times: Mapping[str, Timed] | None = None,
    advance: Callable[[int], object] = lambda rows: None,
) -> Advice:
    """What could be changed for a trace's workload, and what it would give.

    ``times``: by allocator, see :func:`measured_times`. ``advance`` gets three times the rows.
    ReplayError for a trace whose allocator has no model, or without time or calls.
    """
    backends = list(settings(reader.metadata))
    if not backends:
        raise ReplayError(f"{reader.path}: {NO_MODEL}")
    found = replay_each(reader, backends, every=Every(percent=100 / _MOMENTS), advance=advance)
    results = dict(zip(backends, found, strict=True))
    return advice_of(reader, results, times=times, advance=advance)


def advice_of(
    reader: TraceReader,
    results: Mapping[str, Result],
    *,
    times: Mapping[str, Timed] | None = None,
    advance: Callable[[int], object] = lambda rows: None,
) -> Advice:
    """As :func:`advise`, of replays that are there, by backend, with series of equal moments.

    Those of :func:`settings` that are missing are no choice. ``advance`` gets the rows once.
    """
    how = settings(reader.metadata)
    own = next(iter(how), None)
    if own is None or own not in results:
        raise ReplayError(f"{reader.path}: {NO_MODEL}")
    now = results[own]
    if not now.held_bytes.mean:
        raise ReplayError(f"{reader.path}: nothing is held over any time; nothing to advise on")
    choices = [
        _choice(results[backend], how[backend], now, times or {})
        for backend in how
        if backend in results
    ]
    first, others = choices[0], choices[1:]
    others.sort(key=lambda choice: (choice.failed > 0, choice.mean_bytes))
    advice = Advice(
        str(reader.path),
        own,
        _answer(first, others),
        [first, *others],
        qualified=of_result(now),
    )
    try:
        advice.limits = _limits(reader, own, now, advance)
    except ReplayError as error:
        advice.untold.append(f"pool limits: {str(error).removeprefix(f'{reader.path}: ')}")
    if not times:
        advice.untold.append(
            "time a store or load takes: ztrace measure TRACE --allocator NAME -o FILE, then "
            "--measured FILE"
        )
    advice.untold.append("other compressors: ztrace resize TRACE gives it another one's sizes")
    return advice


def _answer(now: Choice, others: Sequence[Choice]) -> str:
    best = min((one for one in others if one.better), key=lambda one: one.mean_bytes, default=None)
    if best is None:
        return "Keep what you have: nothing that this kernel has holds less all the time."
    return (
        f"{best.backend} would hold {-best.change:.1%} less than {now.backend}: "
        f"{bytes_text(best.mean_bytes)} instead of {bytes_text(now.mean_bytes)}, in mean."
    )


def settings(metadata: Metadata) -> dict[str, str]:
    """Backend -> what to set: the recorded allocator, with nothing to set, and all else that its
    kernel has or can be built with. Empty if there is no model of what was recorded."""
    own = own_model(metadata)
    return {} if own is None else {own: "", **dict(_settings(metadata, own))}


def _settings(metadata: Metadata, own: str) -> Iterable[tuple[str, str]]:
    """(backend, what to set) of all that the recorded kernel has, or can be built with."""
    for traits in all_traits():
        if traits.out_of_tree or not _has(traits, metadata):
            continue
        select = f"echo {traits.name} > /sys/module/zswap/parameters/zpool"
        plain = resolve(traits.name, metadata)
        recorded = plain == own
        if not recorded:
            yield plain, select
        for setting in traits.settings(metadata.kernel.release):
            spec = Specification.parse(plain).completed(items=setting.items)
            if str(spec) != own:
                yield str(spec), setting.how if recorded else f"{setting.how}; {select}"


def _has(traits: Traits, metadata: Metadata) -> bool:
    """Whether the recorded kernel has an allocator, as far as the lab's kernels tell."""
    if any(pool.allocator == traits.name for pool in metadata.pools):
        return True
    number = release_number(metadata.kernel.release)
    return metadata.source != "zram" and number in {release_number(one) for one in traits.kernels}


def _choice(result: Result, how: str, now: Result, times: Mapping[str, Timed]) -> Choice:
    mean, before = result.held_bytes.mean, now.held_bytes.mean
    assert mean is not None and before
    step = max(1, len(now.series) // _MOMENTS)
    ratios = [
        there.held_bytes / here.held_bytes
        for there, here in zip(
            result.series[step - 1 :: step], now.series[step - 1 :: step], strict=True
        )
        if here.held_bytes
    ]
    change, most, refused = mean / before - 1, max(ratios, default=1.0) - 1, result.count("refused")
    return Choice(
        backend=result.backend,
        how=how,
        mean_bytes=mean,
        peak_bytes=result.held_bytes.peak,
        density=result.mean_density,
        change=change,
        least=min(ratios, default=1.0) - 1,
        most=most,
        failed=refused,
        timed=times.get(Specification.parse(result.backend).name),
        better=bool(how) and not refused and change < -WORTH and most <= 0,
    )


def _limits(
    reader: TraceReader, own: str, now: Result, advance: Callable[[int], object]
) -> list[UnderLimit]:
    """The recorded allocator under several pool limits. ReplayError if the trace cannot tell."""
    metadata = reader.metadata
    page_bytes = metadata.machine.page_bytes or 4096
    peak = now.held_bytes.peak // page_bytes
    memory = metadata.machine.memory_bytes
    rules = recorded_rules(metadata)
    limits = [Limit(max(1, peak * share // 100)) for share in SHARES]
    plays = [Play(own, AT_ONCE, limit, rules) for limit in limits]
    found = []
    for share, limit, outcome in zip(
        SHARES, limits, play(reader, plays, advance=advance), strict=True
    ):
        limit_bytes = limit.memory_pages * page_bytes
        counts = outcome.counts
        found.append(
            UnderLimit(
                share,
                limit_bytes,
                counts.rejected,
                counts.written_back,
                counts.refaults,
                outcome.mean_held_bytes,
                limit_bytes / memory if memory else None,
            )
        )
    return found


def measured_times(paths: Sequence[Path]) -> dict[str, Timed]:
    """Medians of malloc and free by allocator, of files that ``ztrace measure`` wrote.

    ReplayError for a trace that was not measured: a recorder's durations hold its own work.
    """
    found = {}
    for path in paths:
        with TraceReader(path) as reader:
            if reader.metadata.source != "measure":
                raise ReplayError(f"{path}: not measured; ztrace measure writes such files")
            spent: dict[int, list[Any]] = {MALLOC: [], FREE: []}
            for batch in reader.batches(columns=("op", "dur_ns", "ret")):
                op, done = op_codes(batch), batch.column("ret").to_numpy() == 0
                for code, parts in spent.items():
                    parts.append(batch.column("dur_ns").to_numpy()[done & (op == code)])
            malloc, free = (np.concatenate(parts) for parts in spent.values())
            for pool in reader.metadata.pools:
                name = recorded_traits(pool.allocator).name
                if len(malloc) and len(free):
                    found[name] = Timed(float(np.median(malloc)), float(np.median(free)))
    return found
