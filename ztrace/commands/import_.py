# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace import``: CSV, or rows that another program wrote, to trace."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ztrace.console import bytes_text, console, progress
from ztrace.options import PATH, force_option
from ztrace.outputs import OUTPUT, Command
from ztrace.text import counted
from ztrace.traces.csvfile import import_csv, import_metadata
from ztrace.traces.reader import TraceReader
from ztrace.traces.rewritten import import_rewritten
from ztrace.traces.writer import TraceWriter

PAGES = ("4096", "8192", "16384", "32768", "65536")


@click.command(
    "import", cls=Command, epilog="Example: ztrace import events.csv.zst -o trace.parquet"
)
@click.argument("source", type=click.Path(allow_dash=True, path_type=Path))
@click.option("-o", "--output", required=True, type=OUTPUT, help="The trace to write.")
@force_option
@click.option("--allocator", help="Allocator that the calls went to.  [default: unknown]")
@click.option("--starts-empty", is_flag=True, help="The pool was empty before the first row.")
@click.option(
    "--page-bytes", type=click.Choice(PAGES), help="The machine's page size, where it is not 4096."
)
@click.option(
    "--sort", is_flag=True, help="Put rows in the order in which the calls returned, in memory."
)
@click.option(
    "--like",
    type=PATH,
    metavar="TRACE",
    help="SOURCE has rows of this trace, chosen and written as Parquet by another program.",
)
def command(
    source: Path,
    output: Path,
    force: bool,
    allocator: str | None,
    starts_empty: bool,
    page_bytes: str | None,
    sort: bool,
    like: Path | None,
) -> None:
    """Turn SOURCE, a CSV file (- is stdin), into a trace.

    The first line names the columns: ts_ns and op, and any of dur_ns pool key size handle ret
    place total lock_ns cpu tid cgroup. Values are integers, decimal or 0x…; empty means null.
    The file may be compressed by gzip, zstd, bz2 or xz.

    With --like SOURCE is Parquet, as DuckDB, Polars or pandas write it: the rows are its own, all
    else that a trace says is of the trace that they were taken from.
    """
    if like is not None:
        if allocator or starts_empty or page_bytes or sort:
            raise click.UsageError("--like takes all but the rows from its trace")
        with TraceReader(like) as original, progress(source.name, None) as advance:
            metadata = import_rewritten(source, original, output, force=force, advance=advance)
            for name, value in metadata.selection().items():
                console().print(f"{name}: {value}", soft_wrap=True)
    else:
        stdin = str(source) == "-"
        total = source.stat().st_size if not stdin and source.is_file() else None
        metadata = import_metadata(
            allocator or "unknown", starts_empty=starts_empty, page_bytes=int(page_bytes or 0)
        )
        with (
            progress(source.name, total) as advance,
            TraceWriter(output, metadata, force=force) as writer,
        ):
            before = len(metadata.notes)
            import_csv(sys.stdin.buffer if stdin else source, writer, sort=sort, advance=advance)
        for note in writer.metadata.notes[before:]:
            console().print(note, soft_wrap=True)
    with TraceReader(output) as made:
        rows, size = counted(made.num_rows, "row"), bytes_text(made.bytes)
    console().print(f"{output}: {rows}, {size}", soft_wrap=True)
