# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace advise``: what could be changed for a recorded workload, and what it would give."""

from __future__ import annotations

from pathlib import Path

import click

from ztrace import options
from ztrace.console import about, console, print_json, progress
from ztrace.outputs import Command
from ztrace.present.advised import show_advice
from ztrace.replay.advise import advise, measured_times
from ztrace.traces.reader import TraceReader

EXAMPLE = "Example: ztrace advise trace.parquet --measured measured-zsmalloc.parquet"
PASSES = 3


@click.command("advise", cls=Command, epilog=EXAMPLE)
@click.argument("traces", nargs=-1, required=True, type=options.PATH)
@click.option(
    "--measured",
    multiple=True,
    type=options.PATH,
    metavar="FILE",
    help="What ztrace measure recorded of an allocator, for its times; may be given again.",
)
@options.json_option
def command(traces: tuple[Path, ...], measured: tuple[Path, ...], as_json: bool) -> None:
    """Rank what could be changed for the workload of each of the TRACES.

    Each is played through the allocators that its kernel has and through zsmalloc's other chain
    sizes, and under lower pool limits. What a line would give is memory held, with its range over
    the trace's time, and what to set for it. Nothing is advised that holds more at any time.
    """
    times = measured_times(measured)
    documents = []
    for number, trace in enumerate(traces):
        with TraceReader(trace) as reader:
            metadata, rows = reader.metadata, reader.num_rows
            with progress(trace.name, PASSES * rows) as advance:
                found = advise(reader, times=times, advance=advance)
        if as_json:
            documents.append({**about(trace, rows, metadata), **found.to_dict()})
            continue
        out = console()
        if number:
            out.print()
        show_advice(out, found, metadata)
    if as_json:
        print_json(documents)
