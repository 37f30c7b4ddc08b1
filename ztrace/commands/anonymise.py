# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace anonymise``: a trace to give away."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from ztrace.allocator.registry import our_traits, recorded_traits
from ztrace.allocator.traits import Handle, Tells
from ztrace.console import bytes_text, console, progress
from ztrace.outputs import OUTPUT, Command
from ztrace.text import counted
from ztrace.traces.anonymise import Forms, anonymise
from ztrace.traces.reader import TraceReader
from ztrace.traces.writer import TraceWriter


@click.command(
    "anonymise", cls=Command, epilog="Example: ztrace anonymise trace.parquet -o public.parquet"
)
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=OUTPUT, help="The trace to write.")
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option(
    "--keep-machine",
    is_flag=True,
    help="Keep the kernel's full release and build, its configuration's digest, the CPU model "
    "and the size of memory.",
)
@click.option(
    "--keep-handles",
    is_flag=True,
    help="Keep the handles of pools whose allocator the trace does not name; they may be "
    "addresses.",
)
def command(trace: Path, output: Path, force: bool, keep_machine: bool, keep_handles: bool) -> None:
    """Write TRACE without what tells whose it is; replay and validate answer as before.

    Sizes, lifetimes, order, reuse of places, durations and times from the first call on stay.
    Tasks, cgroups, swap slots and kernel addresses get new numbers, equal ones equal numbers;
    the time of day, the command, notes and details of the machine are dropped. ztree's handles
    stay: they are no addresses. docs/files.md in the source lists all.
    """
    with (
        TraceReader(trace) as reader,
        progress(trace.name, 2 * reader.num_rows) as advance,
        TraceWriter(output, reader.metadata, force=force) as writer,
    ):
        anonymise(
            reader,
            writer,
            _forms(pool.allocator for pool in reader.metadata.pools),
            keep_machine=keep_machine,
            keep_handles=keep_handles,
            advance=advance,
        )
        allocators = {pool.allocator for pool in reader.metadata.pools} or {"unknown"}
    size = output.stat().st_size
    console().print(f"{output}: {counted(writer.rows, 'row')}, {bytes_text(size)}", soft_wrap=True)
    if "unknown" in allocators and not keep_handles:
        known = " or ".join(one.name for one in our_traits() if one.handle is Handle.PLACE)
        console().print(
            "a pool's allocator is not known: its handles are renamed as addresses are; if they "
            f"are numbers as those of {known}, --keep-handles keeps them",
            soft_wrap=True,
        )


def _forms(allocators: Iterable[str]) -> Forms:
    """What the numbers of the recorded allocators are."""
    known = [recorded_traits(name) for name in allocators]
    return Forms(
        numbers={one.name for one in known if one.handle is Handle.PLACE},
        slots={one.name for one in known if one.tells is Tells.MALLOC},
    )
