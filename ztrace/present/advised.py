# SPDX-License-Identifier: GPL-2.0-only
"""Shows what could be changed for a workload: what is worth most first."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from ztrace.console import bytes_text, count_text, lost_lines, ns_text, table
from ztrace.replay.advise import Advice, Choice
from ztrace.text import counted
from ztrace.traces.metadata import Metadata

WORTH = 0.01
"""A choice that saves less than this share of memory is not named as one."""

SHOWN = 8


def show_advice(out: Console, advice: Advice, metadata: Metadata, shown: int = SHOWN) -> None:
    """Print the answer, the choices, pool limits, what to set, and what is not told."""
    now, *others = advice.choices
    out.print(f"{advice.trace}: recorded on {advice.recorded}", soft_wrap=True)
    for line in lost_lines(metadata):
        out.print(line)
    out.print(_answer(now, others), soft_wrap=True)
    out.print()
    # Settings of one allocator are many; each allocator is shown.
    rows = [now, *(one for at, one in enumerate(others) if at < shown or not _is_setting(one))]
    timed = any(one.timed for one in rows)
    headers = ["", "allocator", "mean held", "change", "over time", "peak", "density"]
    if timed:
        headers += ["malloc", "free"]
    out.print(table(headers, [_row(at, one, timed) for at, one in enumerate(rows)], texts=2))
    out.print(
        "held: pages of the pool; change: of their mean against what was recorded, and its\n"
        "range over the trace's time; density: objects a page. What refuses objects that\n"
        "were held (their number) leaves them to the disk.",
        soft_wrap=True,
    )
    if left := len(others) + 1 - len(rows):
        out.print(f"{counted(left, 'setting')} that hold more: --json has them")
    better = [(at, one) for at, one in enumerate(rows) if _is_better(one)]
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


def _is_setting(one: Choice) -> bool:
    return "=" in one.backend


def _is_better(one: Choice) -> bool:
    """Whether it is worth a change: all objects in less memory in mean, and never in more."""
    return bool(one.how) and not one.failed and one.change < -WORTH and one.most <= 0


def _answer(now: Choice, others: Sequence[Choice]) -> str:
    best = min(filter(_is_better, others), key=lambda one: one.mean_bytes, default=None)
    if best is None:
        return "Keep what you have: nothing that this kernel has holds less all the time."
    return (
        f"{best.backend} would hold {-best.change:.1%} less than {now.backend}: "
        f"{bytes_text(best.mean_bytes)} instead of {bytes_text(now.mean_bytes)}, in mean."
    )


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
