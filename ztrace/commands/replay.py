# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace replay``: a trace through an allocator model."""

from __future__ import annotations

from typing import Any

import click

from ztrace import options
from ztrace.options import PATH
from ztrace.outputs import OUTPUT, Command
from ztrace.replaying import Asked, run
from ztrace.units import percent


@click.command(
    "replay", cls=Command, epilog="Example: ztrace replay trace.parquet --backend ztree --every 5%"
)
@options.trace_argument
@options.backends_option(
    "The model; give several, or all, to compare them.  [default: the recorded allocator's]"
)
@click.option(
    "--every",
    type=options.every,
    metavar="DURATION|N%",
    help="Add a time series with a row each 100ms, or each N % of the trace's time.",
)
@options.engine_option
@click.option(
    "--time",
    "timing",
    is_flag=True,
    help="Measure how long the core's mallocs and frees take on this machine.",
)
@click.option(
    "--anomalies",
    is_flag=True,
    help="Show each hazard's first call, and memory stranded in slots that malloc cannot find.",
)
@click.option(
    "--limit",
    type=options.limit,
    metavar="N%|SIZE|recorded",
    help="Apply zswap's pool limit: what is rejected, written back and read again then?",
)
@click.option(
    "--accept", type=percent, metavar="N%", help="Of the limit, where a full pool accepts again."
)
@click.option(
    "--worker",
    type=options.worker,
    show_default=options.WORKER,
    metavar="LATE,PAGE",
    help="With --limit: play once more with writeback that begins so late and takes so long a "
    "page; 0,0 does not.",
)
@click.option(
    "--rules",
    type=options.rules,
    metavar="6.1|6.12",
    help="With --limit: whose rules, if not the recorded kernel's.",
)
@click.option(
    "--ages",
    type=options.ages,
    metavar="auto|AGE,AGE…",
    help="Say what writing back pages that lay so long in zswap would free, and its refaults.",
)
@options.json_option
@click.option(
    "-o",
    "--output",
    type=OUTPUT,
    help="Write the time series to this CSV file (needs --every).",
)
@options.force_option
@click.option(
    "--order",
    type=PATH,
    help="Take the calls in the order of this file of ztrace validate --order.",
)
@click.option(
    "--recorded-order", is_flag=True, help="Take the calls as they returned, also on several CPUs."
)
def command(**given: Any) -> int:
    """Drive an allocator model with the calls in TRACE and measure its memory.

    Where TRACE was recorded on the same allocator, the model's handles and totals are compared
    with the kernel's. Several backends are shown side by side; all are those that fit the
    trace. A trace of ztree from several CPUs is taken in the order that ztrace validate finds.
    Exit status 1 if a pool's replay had to end early.

    With --limit zswap itself is played above the models, by the recorded kernel's rules: the
    recorded pages under another limit, or in another allocator under the same one. --ages asks no
    allocator: what would be freed, and read again, if pages were written back at some age?
    """
    return run(Asked(**given))
