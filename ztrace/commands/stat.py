# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace stat``: counts, sizes and durations of the recorded calls."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from ztrace.console import (
    about,
    bytes_text,
    console,
    count_text,
    lost_lines,
    ns_text,
    pairs,
    print_json,
    progress,
    table,
)
from ztrace.outputs import Command
from ztrace.traces.reader import TraceReader
from ztrace.traces.summary import LARGEST_SIZE, Spread, Summary, summarize


@click.command("stat", cls=Command, epilog="Example: ztrace stat trace.parquet --json")
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(trace: Path, as_json: bool) -> None:
    """Count the calls in TRACE: failures, sizes, durations, rows of each CPU.

    Percentiles of sizes are exact up to 64 KiB. Percentiles of durations are at most 1/64
    above the true value.
    """
    with TraceReader(trace) as reader:
        with progress(trace.name, reader.num_rows) as advance:
            summary = summarize(reader, advance)
        metadata = reader.metadata
    if as_json:
        print_json(
            {
                **about(trace, summary.rows, metadata),
                **summary.to_dict(),
            }
        )
        return
    out = console()
    _show(out, str(trace), summary)
    if summary.misplaced is not None:
        out.print(str(summary.misplaced.error(str(trace))), soft_wrap=True)
    for line in lost_lines(metadata):
        out.print(line)


def _show(out: Console, path: str, summary: Summary) -> None:
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
