# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace import``: CSV to trace."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ztrace.console import bytes_text, console, count_text, progress
from ztrace.outputs import OUTPUT, Command
from ztrace.traces.csvfile import import_csv, import_metadata
from ztrace.traces.writer import TraceWriter


@click.command(
    "import", cls=Command, epilog="Example: ztrace import events.csv.zst -o trace.parquet"
)
@click.argument("source", type=click.Path(allow_dash=True, path_type=Path))
@click.option("-o", "--output", required=True, type=OUTPUT, help="The trace to write.")
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option("--allocator", default="unknown", help="Allocator that the calls went to.")
@click.option("--starts-empty", is_flag=True, help="The pool was empty before the first row.")
def command(source: Path, output: Path, force: bool, allocator: str, starts_empty: bool) -> None:
    """Turn SOURCE, a CSV file (plain, gzip or zstd; - is stdin), into a trace.

    The first line names the columns: ts_ns and op, and any of dur_ns pool key size handle ret
    place total lock_ns cpu tid cgroup. Values are integers, decimal or 0x…; empty means null.
    """
    stdin = str(source) == "-"
    total = source.stat().st_size if not stdin and source.is_file() else None
    metadata = import_metadata(allocator, starts_empty=starts_empty)
    with (
        progress(source.name, total) as advance,
        TraceWriter(output, metadata, force=force) as writer,
    ):
        rows = import_csv(sys.stdin.buffer if stdin else source, writer, advance=advance)
    size = output.stat().st_size
    console().print(f"{output}: {count_text(rows)} rows, {bytes_text(size)}", soft_wrap=True)
