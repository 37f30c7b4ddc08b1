# SPDX-License-Identifier: GPL-2.0-only
"""One trace under one limit in one allocator, and beside it what the recorded kernel counted."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from allocator import HazardError, Pool, create
from replay.errors import ReplayError
from replay.header import header_bytes
from replay.limit.demand import NotTold, demands, uses_frontswap
from replay.limit.zswap import AT_ONCE, Counts, Limit, Rules, Worker, Zswap
from traces.metadata import Metadata
from traces.reader import TraceReader

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
    means are until then. ``as_recorded``: the limit is the recorded kernel's own.
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

    @property
    def disk_bytes(self) -> int:
        """Written and read."""
        return (self.counts.written_pages + self.counts.read_pages) * self.page_bytes

    @property
    def freed_per_eviction(self) -> float | None:
        """Pages that the pool shrank by for each page written back."""
        written = self.counts.written_back
        return self.counts.pages_freed / written if written else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        written, read = self.counts.written_pages, self.counts.read_pages
        return {
            **asdict(self),
            "disk_written_bytes": written * self.page_bytes,
            "disk_read_bytes": read * self.page_bytes,
            "freed_per_eviction": self.freed_per_eviction,
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


def play(
    reader: TraceReader,
    backend: str,
    limit: Limit,
    rules: Rules,
    *,
    worker: Worker = AT_ONCE,
    advance: Callable[[int], object] = lambda rows: None,
) -> Outcome:
    """Play a trace's demands; ``advance`` gets its rows once.

    Recorded shrinks, writebacks and frees are not looked at. ReplayError for a trace without
    stores, or of another page size than the backend's.
    """
    metadata = reader.metadata
    model = create(backend)
    recorded = metadata.machine.page_bytes
    if recorded and recorded != model.page_bytes:
        raise ReplayError(
            f"{reader.path}: recorded with pages of {recorded} bytes, {backend} models "
            f"{model.page_bytes}; choose a backend of that page size"
        )
    not_told = NotTold()
    zswap = Zswap(
        model,
        limit,
        rules,
        header_bytes=header_bytes(backend, metadata.kernel.release),
        worker=worker,
    )
    outcome = Outcome(
        trace=str(reader.path),
        backend=backend,
        rules=rules,
        limit_pages=limit.max_pages,
        accept_pages=limit.accept_pages,
        page_bytes=model.page_bytes,
        worker=worker,
        counts=zswap.counts,
        not_told=not_told,
        kernel=_counted(metadata),
        as_recorded=_is_recorded(limit, metadata),
    )
    entries, area_entries, area_held = zswap.entries, 0, 0
    first_ns = last_ns = None
    try:
        for one in demands(reader, not_told, advance):
            if last_ns is None:
                first_ns = last_ns = one.at_ns
            elif one.at_ns > last_ns:
                passed = one.at_ns - last_ns
                area_entries += passed * len(entries)
                area_held += passed * model.held_bytes
                last_ns = one.at_ns
            zswap.demand(one)
            if len(model.hazards.counts) != len(outcome.hazards):
                _note_hazards(model, outcome, one.row)
            outcome.peak_held_bytes = max(outcome.peak_held_bytes, model.held_bytes)
    except HazardError as hazard:
        outcome.stopped = f"row {one.row}: {hazard}"
        _note_hazards(model, outcome, one.row)
    if first_ns is not None and last_ns is not None and last_ns > first_ns:
        outcome.mean_entries = area_entries / (last_ns - first_ns)
        outcome.mean_held_bytes = area_held / (last_ns - first_ns)
    for name, met in outcome.hazards.items():
        met.count = model.hazards.counts[name]
    return outcome


def _note_hazards(model: Pool, outcome: Outcome, row: int) -> None:
    """Keep the row that met a hazard first."""
    for name, count in model.hazards.counts.items():
        outcome.hazards.setdefault(name, Hazard(count, row, model.hazards.first.get(name, "")))


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
