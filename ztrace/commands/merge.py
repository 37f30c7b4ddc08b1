# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace merge``: several traces to one."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from ztrace.console import bytes_text, console, lost_lines, progress
from ztrace.outputs import OUTPUT, Command
from ztrace.text import counted
from ztrace.traces.merging import merge
from ztrace.traces.reader import TraceReader
from ztrace.traces.writer import TraceWriter


@click.command(
    "merge",
    cls=Command,
    epilog="Example: ztrace merge trace.parquet trace.1.parquet -o whole.parquet",
)
@click.argument(
    "parts", metavar="TRACE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("-o", "--output", required=True, type=OUTPUT, help="The trace to write.")
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
def command(parts: tuple[Path, ...], output: Path, force: bool) -> None:
    """Put pieces of one recording together, or recordings of one machine side by side.

    Pieces of one recording are taken one after the other, in order of time whatever the order
    of the arguments. Different recordings of one boot are merged in order of the calls' returns;
    each brings its own pools, which get new numbers. Losses are added.
    """
    if len(parts) < 2:
        raise click.UsageError("name two traces or more")
    with ExitStack() as stack:
        readers = [stack.enter_context(TraceReader(path)) for path in parts]
        work = 2 * sum(reader.num_rows for reader in readers)
        advance = stack.enter_context(progress(output.name, work))
        writer = stack.enter_context(TraceWriter(output, readers[0].metadata, force=force))
        merge(readers, writer, advance=advance)
    out = console()
    size = output.stat().st_size
    rows = f"{counted(writer.rows, 'row')} from {counted(len(parts), 'trace')}"
    out.print(f"{output}: {rows}, {bytes_text(size)}", soft_wrap=True)
    if writer.metadata.lost_events() != 0:
        for line in lost_lines(writer.metadata):
            out.print(line)
