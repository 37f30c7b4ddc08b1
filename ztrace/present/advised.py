# SPDX-License-Identifier: GPL-2.0-only
"""Shows what could be changed for a workload: what is worth most first."""

from __future__ import annotations

from rich.console import Console

from ztrace.console import bytes_text, count_text, lost_lines, ns_text, table
from ztrace.replay.advise import SHOWN, Advice, Choice
from ztrace.text import counted
from ztrace.traces.metadata import Metadata


def show_advice(out: Console, advice: Advice, metadata: Metadata, shown: int = SHOWN) -> None:
    """Print the answer, the choices, pool limits, what to set, and what is not told."""
    out.print(f"{advice.trace}: recorded on {advice.recorded}", soft_wrap=True)
    for line in lost_lines(metadata):
        out.print(line)
    out.print(advice.answer, soft_wrap=True)
    out.print()
    rows = advice.shown(shown)
    timed = any(one.timed for one in rows)
    headers = ["", "allocator", "mean held", "change", "over time", "peak", "density"]
    if timed:
        headers += ["malloc", "free"]
    out.print(table(headers, [_row(at, one, timed) for at, one in enumerate(rows)], texts=2))
    out.print(
        "held: pages of the pool; change: of their mean against what was recorded, and\n"
        "its range over the trace's time; density: objects a page. What refuses objects\n"
        "that were held (their number) leaves them to the disk.",
        soft_wrap=True,
    )
    if left := len(advice.choices) - len(rows):
        out.print(f"{counted(left, 'setting')} that hold more: --json has them")
    better = [(at, one) for at, one in enumerate(rows) if one.better]
    if better:
        out.print()
        for at, one in better:
            out.print(f"to set {at}: {one.how}", soft_wrap=True)
    if advice.limits:
        out.print()
        _show_limits(out, advice)
    out.print()
    for line in advice.qualified:
        out.print(f"note: {line}", soft_wrap=True)
    for line in advice.untold:
        out.print(f"not told here: {line}", soft_wrap=True)


def _row(at: int, one: Choice, timed: bool) -> list[str]:
    recorded = at == 0
    row = [
        "now" if recorded else str(at),
        one.backend,
        bytes_text(one.mean_bytes),
        "-" if recorded else f"{one.change:+.1%}",
        "-" if recorded else _over_time(one),
        bytes_text(one.peak_bytes),
        "-" if one.density is None else f"{one.density:.2f}",
    ]
    if timed:
        row += [ns_text(one.timed.malloc_ns), ns_text(one.timed.free_ns)] if one.timed else ["", ""]
    return row


def _over_time(one: Choice) -> str:
    if one.failed:
        return f"refuses {count_text(one.failed)}"
    return f"{one.least:+.0%} to {one.most:+.0%}"


def _show_limits(out: Console, advice: Advice) -> None:
    rows = [
        [
            f"{one.share} % of the peak",
            bytes_text(one.limit_bytes),
            "" if one.of_memory is None else f"{one.of_memory:.1%}",
            count_text(one.rejected),
            count_text(one.written_back),
            count_text(one.refaults),
        ]
        for one in advice.limits
    ]
    headers = ("pool limit", "", "of memory", "rejected", "written back", "refaults")
    out.print(table(headers, rows, texts=1))
    out.print(
        "rejected: stores, for the limit; refaults: pages written back that were read again.\n"
        "zswap is told the limit in whole percent of memory: max_pool_percent.",
        soft_wrap=True,
    )
