# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace slice``: a part of a trace."""

from __future__ import annotations

import re
from pathlib import Path

import click

from ztrace.console import bytes_text, console, count_text, progress
from ztrace.outputs import OUTPUT, Command
from ztrace.streams import say
from ztrace.text import counted
from ztrace.traces.reader import TraceReader
from ztrace.traces.schema import OP_CODE, OPS
from ztrace.traces.slicing import Moment, Selection, slice_trace
from ztrace.traces.writer import TraceWriter
from ztrace.units import duration

_LARGEST_NS = 2**62


def _moment(text: str) -> Moment:
    """``1.5s`` from the trace's start; a bare number is ns as in column ts_ns."""
    absolute = re.fullmatch(r"-?\d{1,19}", text.strip())
    moment = Moment(int(text), True) if absolute else Moment(duration(text))
    if abs(moment.ns) > _LARGEST_NS:
        raise click.BadParameter(f"{text!r} is too far away; write for instance 10s")
    return moment


def _number(bits: int) -> click.IntRange:
    return click.IntRange(0, (1 << bits) - 1)


@click.command(
    "slice",
    cls=Command,
    epilog="Example: ztrace slice trace.parquet -o part.parquet --from 10s --to 20s",
)
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=OUTPUT, help="The trace to write.")
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option(
    "--from",
    "begin",
    type=_moment,
    metavar="T",
    help="Begin with the first call that returned at T or later: 10s, 1.5s, 250ms after the "
    "trace's start, or a number of ns as in column ts_ns.",
)
@click.option(
    "--to", "end", type=_moment, metavar="T", help="End before the first that returned at T."
)
@click.option(
    "--cgroup",
    "cgroups",
    type=_number(64),
    multiple=True,
    metavar="ID",
    help="Objects that this cgroup allocated.",
)
@click.option(
    "--tid",
    "--pid",
    "tids",
    type=_number(32),
    multiple=True,
    metavar="ID",
    help="Objects that this thread allocated. A trace knows threads; a process's first one has "
    "its pid.",
)
@click.option(
    "--pool", "pools", type=_number(8), multiple=True, metavar="N", help="Calls to this pool."
)
@click.option(
    "--op",
    "ops",
    type=click.Choice(OPS),
    multiple=True,
    metavar="OP",
    help=f"Calls of this op: {', '.join(OPS)}.",
)
def command(
    trace: Path,
    output: Path,
    force: bool,
    begin: Moment | None,
    end: Moment | None,
    cgroups: tuple[int, ...],
    tids: tuple[int, ...],
    pools: tuple[int, ...],
    ops: tuple[str, ...],
) -> None:
    """Write the rows of TRACE that pass all filters; an option given twice means either.

    --cgroup and --tid keep whole lives: every call on an object or a swap slot whose owner
    allocated it, whoever makes the call. Shrinks and compactions are of a whole pool and stay
    out. A slice that begins later says that its pools are not known to be empty at the start;
    replay and validate then take calls on older objects as unknown.
    """
    codes = tuple(OP_CODE[name] for name in ops)
    selection = Selection(begin, end, tids, cgroups, pools, codes)
    if selection == Selection():
        raise click.UsageError("say what to keep: --from, --to, --cgroup, --tid, --pool or --op")
    with (
        TraceReader(trace) as reader,
        progress(trace.name, 2 * reader.num_rows) as advance,
        TraceWriter(output, reader.metadata, force=force) as writer,
    ):
        misplaced = slice_trace(reader, writer, selection, advance=advance)
        total = reader.num_rows
    if misplaced is not None:
        say(f"{misplaced.error(str(trace))}; calls within these times may be missing in the slice")
    rows = f"{count_text(writer.rows)} of {counted(total, 'row')}"
    size = output.stat().st_size
    console().print(f"{output}: {rows}, {bytes_text(size)}", soft_wrap=True)
