# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace record``: probes on, spool, trace."""

from __future__ import annotations

from typing import Any

import click

from ztrace import options
from ztrace.outputs import OUTPUT, Command
from ztrace.recording import Asked, record_as
from ztrace.units import duration as duration_ns
from ztrace.units import size as size_bytes
from ztrace.units import size_or_duration


@click.command(cls=Command, epilog="Example: sudo ztrace record -o trace.parquet --duration 60s")
@click.option("-o", "--output", type=OUTPUT, help="The trace.")
@click.option(
    "--source",
    type=click.Choice(["zswap", "zram"]),
    default="zswap",
    show_default=True,
    help="Whose calls to record.",
)
@click.option(
    "--probe",
    "probe_kind",
    type=click.Choice(["fentry", "kprobe"]),
    help="Only this kind of probes instead of the best one for each function.",
)
@click.option("--duration", type=duration_ns, help="Stop after this long, e.g. 60s.")
@click.option("--fresh-pool", is_flag=True, help="Make zswap start a new pool to record.")
@click.option(
    "--ring-size",
    type=size_bytes,
    default="16M",
    show_default=True,
    help="Events the kernel holds for the recorder; a power of two.",
)
@click.option(
    "--level",
    type=click.Choice(["zswap", "zram", "allocator"]),
    help="Only the calls of zswap (zram), or only those of the allocator below.",
)
@click.option(
    "--sample", type=click.IntRange(min=1), default=1, metavar="N", help="One object of N."
)
@click.option(
    "--cgroup",
    "cgroups",
    multiple=True,
    metavar="PATH",
    help="Objects stored by tasks in this cgroup or below; several: in any of them.",
)
@click.option(
    "--pid",
    "pids",
    multiple=True,
    type=click.IntRange(1, 2**31 - 1),
    help="Objects stored by this process; several: by any of them.",
)
@click.option("--min-size", type=size_bytes, default="0", help="Objects of at least that size.")
@click.option(
    "--lists",
    is_flag=True,
    help="Also z3fold's lists: each page put on one, or taken off. Proves calls on several CPUs.",
)
@click.option("--max-events", type=click.IntRange(min=1), help="Stop after this many events.")
@click.option("--max-size", type=size_bytes, help="Stop when the spool is that large, e.g. 1G.")
@click.option(
    "--rotate",
    type=size_or_duration,
    metavar="SIZE|TIME",
    help="A new file at each 100M of spool, or each 10m; ztrace merge joins them.",
)
@click.option(
    "--flight",
    type=duration_ns,
    metavar="TIME",
    help="Keep only the last, say, 30s, in memory; SIGUSR1 or the end writes them.",
)
@click.option(
    "--flight-trigger",
    "triggers",
    multiple=True,
    type=options.trigger,
    metavar="CALL>TIME",
    help="Write them when a call took longer, e.g. 'malloc>5ms'.",
)
@click.option(
    "--histogram", is_flag=True, help="Count durations and sizes in the kernel; write nothing."
)
@click.option("--json", "as_json", is_flag=True, help="Print the histograms as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Say only how it ended, and what goes wrong.")
@click.option(
    "--spool-only", is_flag=True, help="Leave the spool for ztrace recover, here or elsewhere."
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def command(**given: Any) -> None:
    """Record zswap and its allocator until Ctrl-C, --duration, or the end of COMMAND.

    Everything the kernel asks of zswap and of the allocator below it is recorded, from all
    tasks. Give a COMMAND after -- to record while it runs.

    --sample, --cgroup, --pid and --min-size record whole lives of objects, from the store to
    the free, whoever frees them; what they leave out is counted.
    """
    record_as(Asked(**given))
