# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace import``: CSV, what other tracers wrote, or rows of another program, to trace."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ztrace.console import bytes_text, console, lost_lines, progress
from ztrace.options import PATH, force_option
from ztrace.outputs import OUTPUT, Command
from ztrace.streams import show
from ztrace.text import counted
from ztrace.tracer.eventlines import FORMATS, import_lines, recipe
from ztrace.traces.csvfile import import_csv, import_metadata
from ztrace.traces.reader import TraceReader
from ztrace.traces.rewritten import import_rewritten
from ztrace.traces.writer import TraceWriter

PAGES = ("4096", "8192", "16384", "32768", "65536")


def print_recipe(context: click.Context, parameter: click.Parameter, name: str | None) -> None:
    """Print a script and be done; nothing else is asked for."""
    if name is not None and not context.resilient_parsing:
        show(recipe(name), nl=False)
        context.exit()


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
    "--format",
    "form",
    type=click.Choice(["csv", *FORMATS]),
    default="csv",
    show_default=True,
    help="ftrace: text of trace-cmd report, perf script or the kernel's own trace.",
)
@click.option(
    "--recipe",
    type=click.Choice(FORMATS),
    is_eager=True,
    expose_value=False,
    callback=print_recipe,
    help="Print the script that records for this format where bcc cannot be installed.",
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
    form: str,
    sort: bool,
    like: Path | None,
) -> None:
    """Turn SOURCE, a CSV file (- is stdin), into a trace.

    The first line names the columns: ts_ns and op, and any of dur_ns pool key size handle ret
    place total lock_ns cpu tid cgroup. Values are integers, decimal or 0x…; empty means null.
    The file may be compressed by gzip, zstd, bz2 or xz.

    With --format SOURCE is what another tracer recorded of the same functions; --recipe prints a
    script that makes it record them. The pool's size and places are not in such a recording.

    With --like SOURCE is Parquet, as DuckDB, Polars or pandas write it: the rows are its own, all
    else that a trace says is of the trace that they were taken from.
    """
    if like is not None:
        if allocator or starts_empty or page_bytes or sort or form != "csv":
            raise click.UsageError("--like takes all but the rows from its trace")
        with TraceReader(like) as original, progress(source.name, None) as advance:
            metadata = import_rewritten(source, original, output, force=force, advance=advance)
            for name, value in metadata.selection().items():
                console().print(f"{name}: {value}", soft_wrap=True)
    else:
        stdin = str(source) == "-"
        if form != "csv" and (stdin or sort):
            raise click.UsageError(f"--format {form} takes a file, and needs no --sort")
        total = source.stat().st_size if not stdin and source.is_file() else None
        metadata = import_metadata(
            allocator or "unknown", starts_empty=starts_empty, page_bytes=int(page_bytes or 0)
        )
        with progress(source.name, total) as advance:
            if form == "csv":
                before = len(metadata.notes)
                with TraceWriter(output, metadata, force=force) as writer:
                    stream = sys.stdin.buffer if stdin else source
                    import_csv(stream, writer, sort=sort, advance=advance)
                said = writer.metadata.notes[before:]
            else:
                metadata = import_lines(
                    source, output, form, metadata, force=force, advance=advance
                )
                said = [*metadata.notes, *lost_lines(metadata)[1:]]
        for note in said:
            console().print(note, soft_wrap=True)
    with TraceReader(output) as made:
        rows, size = counted(made.num_rows, "row"), bytes_text(made.bytes)
    console().print(f"{output}: {rows}, {size}", soft_wrap=True)
