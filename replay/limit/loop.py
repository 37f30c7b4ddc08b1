# SPDX-License-Identifier: GPL-2.0-only
"""One trace under a limit in an allocator, and beside it what the recorded kernel counted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from ztrace.allocator import HazardError, create
from ztrace.allocator.registry import builtin
from ztrace.replay.errors import ReplayError
from ztrace.replay.figures.qualified import BEGAN_LATE
from ztrace.replay.limit.demand import (
    Demand,
    EarlierSlots,
    NotTold,
    Reading,
    batches,
    uses_frontswap,
)
from ztrace.replay.limit.native import Demands, NativeReading, NativeZswap, reason_missing
from ztrace.replay.limit.zswap import Counts, Limit, Rules, Worker, Zswap
from ztrace.replay.play.header import header_bytes
from ztrace.replay.play.recorded import check_page_bytes
from ztrace.replay.read.source import Source
from ztrace.text import counted
from ztrace.traces.metadata import Metadata

WRITTEN_BACK, LIMIT_HIT = "zswap.written_back_pages", "zswap.pool_limit_hit"


@dataclass(frozen=True)
class Counted:
    """The recorded kernel's own counts, under its own limit."""

    written_back: int
    limit_hits: int


@dataclass
class Hazard:
    """A fault of the allocator: how often it was met, the demand's row and what it was first."""

    count: int
    row: int
    first: str


@dataclass
class Outcome:
    """What became of a trace's pages. Means are over its time, ``held_bytes`` the memory really
    held, ``entries`` the pages stored in it; ``stopped``: why the kernel would not have gone on,
    means are until then. ``as_recorded``: the limit is the recorded kernel's own. ``starts_empty``:
    as the trace's metadata say.
    """

    trace: str
    backend: str
    rules: Rules
    limit_pages: int
    accept_pages: int
    page_bytes: int
    worker: Worker
    counts: Counts
    mean_entries: float = 0.0
    mean_held_bytes: float = 0.0
    peak_held_bytes: int = 0
    stopped: str | None = None
    hazards: dict[str, Hazard] = field(default_factory=dict)
    not_told: NotTold = field(default_factory=NotTold)
    kernel: Counted | None = None
    as_recorded: bool = False
    starts_empty: bool = True

    @property
    def reached(self) -> bool:
        """Whether the pool was ever at the limit."""
        return self.counts.limit_hits > 0

    @property
    def disk_bytes(self) -> int:
        """Written and read."""
        return (self.counts.written_pages + self.counts.read_pages) * self.page_bytes

    @property
    def freed_per_eviction(self) -> float | None:
        """Pages that the pool shrank by for each page written back."""
        written = self.counts.written_back
        return self.counts.pages_freed / written if written else None

    def own_lines(self) -> list[str]:
        """What limits this backend's figures, and faults of its allocator met on the way."""
        counts, lines = self.counts, []
        if counts.refused:
            its = "its" if counts.refused == 1 else "their"
            lines.append(f"refused {counted(counts.refused, 'page')} for {its} size")
        if counts.reclaim_fails and counts.written_back:
            lines.append(
                f"zswap counted {counts.reclaim_fails:,} of {counted(counts.jobs, 'job')} as failed"
            )
        elif counts.reclaim_fails:
            lines.append(f"cannot write back; {counted(counts.jobs, 'job')} failed")
        if self.hazards:
            met = ", ".join(
                f"{name} {met.count:,} x from row {met.row:,}" for name, met in self.hazards.items()
            )
            lines.append(f"hazards met (docs/hazards.md in the source): {met}")
        if self.stopped:
            lines.append(f"figures end at {self.stopped}")
        return lines

    @property
    def qualified(self) -> list[str]:
        """Everything that limits the figures, a line each."""
        late = [] if self.starts_empty else [BEGAN_LATE]
        return [*late, *self.not_told.lines(), *self.own_lines()]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        written, read = self.counts.written_pages, self.counts.read_pages
        return {
            **asdict(self),
            "reached": self.reached,
            "disk_written_bytes": written * self.page_bytes,
            "disk_read_bytes": read * self.page_bytes,
            "freed_per_eviction": self.freed_per_eviction,
            "qualified": self.qualified,
        }


def recorded_rules(metadata: Metadata) -> Rules:
    """The rules of the recorded kernel. ReplayError if it is not known."""
    return Rules.DRIVER if uses_frontswap(metadata) else Rules.LRU


def recorded_limit(
    metadata: Metadata, percent: int | None = None, accept: int | None = None
) -> Limit:
    """``percent`` of the recorded machine's memory, and ``accept`` of that; as recorded if None.

    ReplayError if the trace does not say.
    """
    pages = metadata.machine.memory_bytes // (metadata.machine.page_bytes or 4096)
    if not pages:
        raise ReplayError("the trace does not say how much memory there was: give --limit in bytes")

    def parameter(name: str) -> int:
        value = metadata.parameters.get(name, "")
        if not re.fullmatch(r"\d+", value):
            raise ReplayError(f"the trace does not say what {name} was; give it")
        return int(value)

    return Limit(
        pages,
        parameter("max_pool_percent") if percent is None else percent,
        parameter("accept_threshold_percent") if accept is None else accept,
    )


class Play(NamedTuple):
    """One zswap: above which model, how its worker keeps up, its limit, and by whose rules."""

    backend: str
    worker: Worker
    limit: Limit
    rules: Rules


def play(
    reader: Source,
    plays: Sequence[Play],
    *,
    engine: str | None = None,
    advance: Callable[[int], object] = lambda rows: None,
) -> list[Outcome]:
    """Play a trace's demands in several zswaps at once; ``advance`` gets its rows.

    Recorded shrinks, writebacks and frees are not looked at. ``engine``: ``native``, ``python``, or
    None for the core where it is and has the backend. ReplayError for a trace without stores, or of
    another page size than a backend's.
    """
    told = NotTold()
    in_core = engine == "native" or (engine is None and not reason_missing())
    runs: list[_PythonRun | _NativeRun] = []
    for one in plays:
        kind = _NativeRun if in_core and builtin(one.backend) is not None else _PythonRun
        runs.append(kind(reader, one, told))
    python = [run for run in runs if isinstance(run, _PythonRun)]
    core = [run for run in runs if isinstance(run, _NativeRun)]
    slowly = Reading(reader.metadata, told) if python else None
    quickly = NativeReading(reader.metadata, told) if core else None
    earlier = EarlierSlots(reader.metadata, told)
    with ThreadPoolExecutor() as threads:
        for first, batch in batches(reader, advance):
            earlier.read(batch)
            if quickly is not None:
                found = quickly.read(batch, first)
                list(threads.map(lambda run, found=found: run.play(found), core))
            if slowly is not None:
                wanted = list(slowly.read(batch, first))
                for run in python:
                    run.play(wanted)
    return [run.finish() for run in runs]


class _Run:
    """One backend's zswap and what is measured of it."""

    def __init__(self, reader: Source, play: Play, told: NotTold) -> None:
        metadata = reader.metadata
        self.model = create(play.backend)
        check_page_bytes(reader, play.backend, self.model.page_bytes)
        self.header_bytes = header_bytes(play.backend, metadata.kernel.release)
        self.outcome = Outcome(
            trace=str(reader.path),
            backend=play.backend,
            rules=play.rules,
            limit_pages=play.limit.max_pages,
            accept_pages=play.limit.accept_pages(play.rules),
            page_bytes=self.model.page_bytes,
            worker=play.worker,
            counts=Counts(),
            not_told=told,
            kernel=_counted(metadata),
            as_recorded=_is_recorded(play.limit, metadata),
            starts_empty=metadata.starts_empty(),
        )

    def _means(self, passed_ns: int, entries_ns: int, held_ns: int) -> None:
        """Take the time that passed, and its products with the pages stored and bytes held."""
        if passed_ns:
            self.outcome.mean_entries = entries_ns / passed_ns
            self.outcome.mean_held_bytes = held_ns / passed_ns


class _PythonRun(_Run):
    """Zswap and the model in Python."""

    def __init__(self, reader: Source, play: Play, told: NotTold) -> None:
        super().__init__(reader, play, told)
        self.zswap = Zswap(
            *(self.model, play.limit, play.rules),
            header_bytes=self.header_bytes,
            worker=play.worker,
        )
        self.outcome.counts = self.zswap.counts
        self.last_ns: int | None = None
        self.passed_ns = self.entries_ns = self.held_ns = 0

    def play(self, demands: Sequence[Demand]) -> None:
        """Play demands; nothing after the model's fault."""
        for one in demands:
            if self.outcome.stopped is not None:
                return
            self._take(one)

    def _take(self, one: Demand) -> None:
        model, outcome = self.model, self.outcome
        if self.last_ns is None:
            self.last_ns = one.at_ns
        passed_ns = max(0, one.at_ns - self.last_ns)
        self.last_ns += passed_ns
        self.passed_ns += passed_ns
        self.entries_ns += passed_ns * len(self.zswap.entries)
        self.held_ns += passed_ns * model.held_bytes
        try:
            self.zswap.demand(one)
        except HazardError as hazard:
            outcome.stopped = f"row {one.row}: {hazard}"
        if len(model.hazards.counts) != len(outcome.hazards):
            for name, what in model.hazards.first.items():
                outcome.hazards.setdefault(name, Hazard(0, one.row, what))
        outcome.peak_held_bytes = max(outcome.peak_held_bytes, model.held_bytes)

    def finish(self) -> Outcome:
        """No demand will come any more."""
        self._means(self.passed_ns, self.entries_ns, self.held_ns)
        for name, met in self.outcome.hazards.items():
            met.count = self.model.hazards.counts[name]
        return self.outcome


class _NativeRun(_Run):
    """Zswap and the model in the core."""

    def __init__(self, reader: Source, play: Play, told: NotTold) -> None:
        super().__init__(reader, play, told)
        self.zswap = NativeZswap(
            *(play.backend, play.limit, play.rules), self.header_bytes, play.worker
        )

    def play(self, demands: Demands) -> None:
        """Play demands; nothing after the model's fault."""
        self.zswap.play(demands)

    def finish(self) -> Outcome:
        """No demand will come any more."""
        outcome, zswap = self.outcome, self.zswap
        outcome.counts = zswap.counts
        outcome.peak_held_bytes = zswap.peak_held_bytes
        self._means(*zswap.areas)
        if zswap.stopped is not None:
            row, hazard = zswap.stopped
            outcome.stopped = f"row {row}: {hazard}"
        outcome.hazards = {name: Hazard(*met) for name, met in zswap.hazards.items()}
        return outcome


def _is_recorded(limit: Limit, metadata: Metadata) -> bool:
    try:
        return limit == recorded_limit(metadata)
    except ReplayError:
        return False


def _counted(metadata: Metadata) -> Counted | None:
    """None where the trace lacks the kernel's counters."""
    start, end = metadata.counters.start, metadata.counters.end
    if WRITTEN_BACK not in end or LIMIT_HIT not in end:
        return None
    return Counted(
        end[WRITTEN_BACK] - start.get(WRITTEN_BACK, 0), end[LIMIT_HIT] - start.get(LIMIT_HIT, 0)
    )
