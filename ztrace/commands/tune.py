# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace tune``: the block table of ztree that fits given traces."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from ztrace.allocator.table import table_text
from ztrace.console import console, print_json, progress
from ztrace.outputs import OUTPUT, Command
from ztrace.present.tuned import show_tuning
from ztrace.replay.play.backends import chosen
from ztrace.replay.tune import Limits, successors, tune, work
from ztrace.traces.reader import TraceReader
from ztrace.traces.writer import AtomicFile

COSTLY_ORDER = 3
"""Most pages, as a power of two, that the kernel's page allocator gives readily:
PAGE_ALLOC_COSTLY_ORDER in include/linux/mmzone.h."""


@click.command("tune", cls=Command, epilog="Example: ztrace tune trace.parquet -o tuned.table")
@click.argument("traces", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--types", type=int, default=16, show_default=True, help="Most block types.")
@click.option("--least-slots", type=int, default=8, show_default=True, help="Of a block.")
@click.option("--most-slots", type=int, default=16, show_default=True, help="Of a block.")
@click.option(
    "--most-order",
    type=click.IntRange(0, COSTLY_ORDER),
    default=3,
    show_default=True,
    help="Of a block.",
)
@click.option(
    "--against",
    multiple=True,
    metavar="NAME",
    help="Compare with this backend instead of ztree's successors; may be given again.",
)
@click.option("-o", "--output", type=OUTPUT, help="Write the table for --backend.")
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    traces: tuple[Path, ...],
    types: int,
    least_slots: int,
    most_slots: int,
    most_order: int,
    against: tuple[str, ...],
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Find the block table that holds the objects of TRACES in the least memory.

    The optimum is exact for objects in full blocks, each weighted by how long it was live.
    Replays then measure what is really held, with the posted table and those of ztree's
    successors beside it. What is gained over the posted table is measured on the second half of
    each trace, with a table that has seen the first half only.
    """
    with ExitStack() as stack:
        readers = [stack.enter_context(TraceReader(path)) for path in traces]
        first = readers[0].metadata
        page_bytes = first.machine.page_bytes or 4096
        limits = Limits(types, least_slots, most_slots, most_order, page_bytes)
        file = None
        if output is not None:  # opened first: an existing file is refused before the work
            file = stack.enter_context(AtomicFile(output, force=force))
        rivals = chosen(against, first) or successors(first)
        rows = sum(reader.num_rows for reader in readers)
        with progress("tune", work(rows)) as advance:
            tuned = tune(readers, limits, against=rivals, advance=advance)
        if file is not None:
            file.write(
                table_text(tuned.table, [f"fitted to {path.name}" for path in traces]).encode()
            )
    if as_json:
        print_json(tuned.to_dict())
    else:
        show_tuning(console(), tuned, output)
