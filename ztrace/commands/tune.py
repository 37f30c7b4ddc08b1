# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace tune``: what zsmalloc, zblock or ztree could be for given traces."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from ztrace import options
from ztrace.console import console, print_json, progress
from ztrace.outputs import OUTPUT, Command
from ztrace.present.tuned import recommended_text, show_tuned
from ztrace.replay.play.backends import chosen
from ztrace.replay.tune import Limited, has_table, tunable, tune, work
from ztrace.traces.reader import TraceReader
from ztrace.traces.writer import AtomicFile

COSTLY_ORDER = 3
"""Most pages, as a power of two, that the kernel's page allocator gives readily:
PAGE_ALLOC_COSTLY_ORDER in include/linux/mmzone.h."""


@click.command("tune", cls=Command, epilog="Example: ztrace tune trace.parquet --backend all")
@click.argument("traces", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.backends_option("Give several, or all; else the recorded one, or zsmalloc.")
@click.option("--types", type=int, help="Most block types of a table.")
@click.option("--least-slots", type=int, help="Of a block.")
@click.option("--most-slots", type=int, help="Of a block.")
@click.option("--most-order", type=click.IntRange(0, COSTLY_ORDER), help="Of a block.")
@click.option(
    "--against",
    multiple=True,
    metavar="NAME",
    help="Tell what this backend holds, too; may be given again.",
)
@click.option("-o", "--output", type=OUTPUT, help="Write the table for --backend.")
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@options.json_option
def command(
    traces: tuple[Path, ...],
    backends: tuple[str, ...],
    types: int | None,
    least_slots: int | None,
    most_slots: int | None,
    most_order: int | None,
    against: tuple[str, ...],
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Find what holds the objects of TRACES in the least memory.

    Of zsmalloc the chain size that a kernel is built with, and its classes and chains, which are in
    its source; of zblock and ztree the table of block types. It is chosen by what is held in the
    first half of each trace's time, and recommended if it holds less in the second half, too; else
    you are told to keep what you have. Limits of tables are those of the backend's own one, unless
    they are given.
    """
    with ExitStack() as stack:
        readers = [stack.enter_context(TraceReader(path)) for path in traces]
        first = readers[0].metadata
        found = tunable(backends, first)
        if output is not None and len(found) > 1:
            raise click.UsageError("-o: a table is one backend's; name it with --backend")
        if output is not None and not has_table(found[0]):
            raise click.UsageError(f"-o: {found[0]} has no table of block types; leave -o out")
        file = None
        if output is not None:  # opened first: an existing file is refused before the work
            file = stack.enter_context(AtomicFile(output, force=force))
        limited = Limited(types, least_slots, most_slots, most_order)
        rows = sum(reader.num_rows for reader in readers)
        with progress("tune", work(rows, found)) as advance:
            tuned = tune(
                readers, found, limited=limited, against=chosen(against, first), advance=advance
            )
        if file is not None:
            file.write(recommended_text(tuned.tunings[0], traces).encode())
    if as_json:
        print_json(tuned.to_dict())
    else:
        show_tuned(console(), tuned, output)
