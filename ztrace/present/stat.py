# SPDX-License-Identifier: GPL-2.0-only
"""Counts, sizes and durations of recorded calls, for the console."""

from __future__ import annotations

from rich.console import Console

from ztrace.console import (
    bytes_text,
    count_text,
    ns_text,
    pairs,
    table,
)
from ztrace.traces.summary import LARGEST_SIZE, Spread, Summary


def show_summary(out: Console, path: str, summary: Summary) -> None:
    """Print the counts of a trace, then a table each of calls, durations, sizes and failures."""
    facts = [
        ("file", path),
        ("rows", count_text(summary.rows)),
        ("threads", count_text(summary.threads)),
    ]
    if summary.first_ns is not None and summary.last_ns is not None:
        facts.append(("span", ns_text(summary.span_ns)))
    if summary.rows_per_second is not None:
        facts.append(("rows/s", f"{summary.rows_per_second:,.0f}"))
    cpus = ", ".join(f"cpu {cpu}: {count_text(n)}" for cpu, n in summary.rows_by_cpu.items())
    facts.append(("by CPU", cpus or "-"))
    out.print(pairs(facts))
    out.print()
    if not summary.ops:
        return
    out.print(
        table(
            ["op", "calls", "failed", "bytes"],
            [
                [
                    name,
                    count_text(op.calls),
                    count_text(sum(op.failed.values())),
                    bytes_text(op.bytes) if op.size_bytes else "-",
                ]
                for name, op in summary.ops.items()
            ],
        )
    )
    out.print()
    spreads = [(name, op.dur_ns) for name, op in summary.ops.items() if op.dur_ns]
    headers = ["duration", "mean", "min", "p50", "p99", "max"]
    out.print(table(headers, [[name, *_durations(spread)] for name, spread in spreads]))
    out.print()
    sized = [(name, op.size_bytes) for name, op in summary.ops.items() if op.size_bytes]
    if sized:
        headers = ["size (bytes)", "mean", "min", "p50", "p99", "max"]
        out.print(table(headers, [[name, *_sizes(spread)] for name, spread in sized]))
        out.print()
    failed = [
        [name, error, count_text(count)]
        for name, op in summary.ops.items()
        for error, count in op.failed.items()
    ]
    if failed:
        out.print(table(["failed", "error", "calls"], failed, texts=2))
        out.print()


def _durations(spread: Spread) -> list[str]:
    values = (spread.mean, spread.minimum, spread.p50, spread.p99, spread.maximum)
    return ["-" if value is None else ns_text(value) for value in values]


def _sizes(spread: Spread) -> list[str]:
    values = (spread.minimum, spread.p50, spread.p99, spread.maximum)
    shown = [f">{LARGEST_SIZE}" if value is None else count_text(value) for value in values]
    return [f"{spread.mean:,.1f}", *shown]
