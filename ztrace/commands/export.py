# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace export``: trace to CSV, and to forms that other programs read."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ztrace.console import lost_lines, progress
from ztrace.outputs import Command, OutputPath
from ztrace.streams import say
from ztrace.traces.csvfile import export_csv
from ztrace.traces.reader import TraceReader


@click.command(
    "export", cls=Command, epilog="Example: ztrace export trace.parquet -o events.csv.zst"
)
@click.argument("trace", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=OutputPath(allow_dash=True, path_type=Path),
    help="The CSV to write; .gz or .zst compresses it. Default stdout.",
)
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "oracleGeneral", "perfetto"]),
    default="csv",
    show_default=True,
    help="oracleGeneral is libCacheSim's: zswap's stores and loads, by swap slot. perfetto: every "
    "call, for ui.perfetto.dev.",
)
def command(trace: Path, output: Path | None, force: bool, form: str) -> None:
    """Write all rows of TRACE as CSV, null as an empty field, or its requests for pages as a
    trace for simulators of caches, or its calls for Perfetto.
    """
    if output is not None and str(output) == "-":
        output = None
    if form != "csv" and output is None:
        raise click.UsageError(f"{form} is binary: name a file with -o")
    with TraceReader(trace) as reader, progress(trace.name, reader.num_rows) as advance:
        if output is None:
            export_csv(reader, sys.stdout.buffer, advance=advance)
            sys.stdout.buffer.flush()
        elif form == "oracleGeneral":
            from ztrace.traces.oracle import export_oracle

            export_oracle(reader, output, force=force)
        elif form == "perfetto":
            from ztrace.traces.perfetto import export_perfetto

            export_perfetto(reader, output, force=force, advance=advance)
        else:
            export_csv(reader, output, force=force, advance=advance)
        metadata = reader.metadata
    # CSV has no place for it, so it is said beside.
    if metadata.lost_total():
        for line in lost_lines(metadata):
            say(f"{trace}: {line}")
