# SPDX-License-Identifier: GPL-2.0-only
"""Curves of writeback by age, for the console."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from ztrace.console import bytes_text, count_text, lost_lines, ns_text, partial_lines, table
from ztrace.replay.figures.qualified import of_trace
from ztrace.replay.limit import NotTold
from ztrace.replay.limit.ages import Ages
from ztrace.traces.metadata import Metadata

_HEADERS = ("written back at", "pages", "of stored", "refaults", "of written", "freed")


def show_ages(out: Console, curves: Sequence[Ages], told: NotTold, metadata: Metadata) -> None:
    """Print a table for all pages, and one for each cgroup where there are several."""
    for line in (*lost_lines(metadata), *partial_lines(metadata), *of_trace(metadata)):
        out.print(line)
    for line in told.lines():
        out.print(line)
    for one in curves:
        whose = "all pages" if one.cgroup is None else f"cgroup {one.cgroup}"
        out.print(f"{whose}: {count_text(one.stored)} stored, {bytes_text(one.mean_bytes)} in mean")
        rows = [
            [
                ns_text(age.age_ns),
                count_text(age.written_back),
                _percent(age.written_back, one.stored),
                count_text(age.refaults),
                _percent(age.refaults, age.written_back),
                f"{age.freed:.1%}",
            ]
            for age in one.curve
        ]
        out.print(table(_HEADERS, rows))
    out.print(
        "pages that lay so long in zswap would be written back; refaults: of these, loaded later. "
        "freed: of the compressed bytes in memory, mean over time. A cgroup is that of the task "
        "whose call stored the page."
    )


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
