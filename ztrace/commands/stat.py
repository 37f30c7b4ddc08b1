# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace stat``: counts, sizes and durations of the recorded calls."""

from __future__ import annotations

from pathlib import Path

import click

from ztrace.console import (
    about,
    console,
    lost_lines,
    print_json,
    progress,
)
from ztrace.outputs import Command
from ztrace.present.stat import show_summary
from ztrace.traces.reader import TraceReader
from ztrace.traces.summary import summarize


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
    show_summary(out, str(trace), summary)
    if summary.misplaced is not None:
        out.print(str(summary.misplaced.error(str(trace))), soft_wrap=True)
    for line in lost_lines(metadata):
        out.print(line)
