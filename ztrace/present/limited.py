# SPDX-License-Identifier: GPL-2.0-only
"""Outcomes of one trace under one pool limit, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from ztrace.console import bytes_text, count_text, lost_lines, ns_text, partial_lines, table
from ztrace.present.comparison import ratio
from ztrace.replay.figures.qualified import of_trace
from ztrace.replay.limit import AT_ONCE, Outcome, Rules
from ztrace.replay.play.backends import models
from ztrace.traces.metadata import Metadata

_HEADERS = (
    *("backend", "pages", "held MiB", "rejected", "written", "refaults", "freed", "disk MiB"),
)
_MIB = 1 << 20
_RULES = {
    Rules.DRIVER: "6.1, in which the allocator's driver chooses what is written back",
    Rules.LRU: "6.12, in which zswap's own list decides what is written back",
}


def show_limited(
    out: Console, outcomes: Sequence[Outcome], late: Sequence[Outcome], metadata: Metadata
) -> None:
    """Print outcomes with a worker that keeps up and, below, with one that does not."""
    first = outcomes[0]
    recorded = ", ".join(dict.fromkeys(pool.allocator for pool in metadata.pools))
    out.print(
        f"{first.trace}: recorded on {recorded}, kernel {metadata.kernel.release}", soft_wrap=True
    )
    for line in (*lost_lines(metadata), *partial_lines(metadata), *of_trace(metadata)):
        out.print(line)
    limit, accept = (pages * first.page_bytes for pages in (first.limit_pages, first.accept_pages))
    out.print(f"pool limit {bytes_text(limit)}, accepts again at {bytes_text(accept)}")
    out.print(f"rules of {_RULES[first.rules]}")
    out.print()
    if not any(one.reached for one in (*outcomes, *late)):
        out.print("the limit was never reached: it changed nothing")
        late = ()
    out.print(table(_HEADERS, map(_row, outcomes)))
    out.print(
        "pages: in the pool, held: by it; means over time. rejected: stores, for the limit.\n"
        "written: pages written back, refaults: of these, read again. freed: pages that the\n"
        "pool shrank by for each. disk: written and read, whatever the cause. *: ended early.",
        soft_wrap=True,
    )
    if late:
        out.print()
        out.print(f"the same{_late(late[0])}:")
        out.print(table(_HEADERS, map(_row, late)))
    out.print()
    if metadata.parameters.get("shrinker_enabled") == "Y":
        out.print(
            "the recorded kernel also wrote back under memory pressure (shrinker_enabled), which "
            "depends on more than the trace has: it is not played",
            soft_wrap=True,
        )
    for line in _notes(outcomes):
        out.print(line, soft_wrap=True)
    for line in _against_kernel(outcomes, late, metadata):
        out.print(line, soft_wrap=True)


def _late(outcome: Outcome) -> str:
    """How the worker keeps up; nothing if it always does."""
    worker = outcome.worker
    if worker == AT_ONCE:
        return ""
    return f" with a worker {ns_text(worker.delay_ns)} late, {ns_text(worker.page_ns)} a page"


def _row(outcome: Outcome) -> list[str]:
    counts = outcome.counts
    return [
        f"{outcome.backend}*" if outcome.stopped else outcome.backend,
        f"{outcome.mean_entries:,.0f}",
        f"{outcome.mean_held_bytes / _MIB:,.1f}",
        count_text(counts.rejected),
        count_text(counts.written_back),
        count_text(counts.refaults),
        ratio(outcome.freed_per_eviction),
        f"{outcome.disk_bytes / _MIB:,.1f}",
    ]


def _notes(outcomes: Sequence[Outcome]) -> list[str]:
    """What limits the figures, and faults of allocators met on the way."""
    own = (f"{one.backend}: {line}" for one in outcomes for line in one.own_lines())
    return [*outcomes[0].not_told.lines(), *own]


def _against_kernel(
    outcomes: Sequence[Outcome], late: Sequence[Outcome], metadata: Metadata
) -> list[str]:
    """The kernel's own counts, where it had this limit."""
    kernel = outcomes[0].kernel
    if kernel is None or not outcomes[0].as_recorded:
        return []
    lines = [
        f"the kernel under this limit: written back {count_text(kernel.written_back)}, limit hits "
        f"{count_text(kernel.limit_hits)}, rejected {count_text(outcomes[0].not_told.sizes)}"
    ]
    allocators = {pool.allocator for pool in metadata.pools}
    for one in (*outcomes, *late):
        if any(models(one.backend, allocator) for allocator in allocators):
            counts = one.counts
            lines.append(
                f"{one.backend}{_late(one)}: written back {count_text(counts.written_back)}, "
                f"limit hits {count_text(counts.limit_hits)}, rejected "
                f"{count_text(counts.rejected)}"
            )
    return lines
