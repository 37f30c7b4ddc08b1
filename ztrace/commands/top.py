# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace top``: what zswap and its allocator do right now."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click
from rich.console import Group
from rich.live import Live
from rich.text import Text

from ztrace.console import console, count_text, ns_text, table
from ztrace.options import address
from ztrace.outputs import Command
from ztrace.streams import say
from ztrace.text import bytes_text
from ztrace.tracer.ring import OP_NAMES
from ztrace.units import duration as duration_ns

if TYPE_CHECKING:
    from ztrace.tracer.recorder import Progress

HEADERS = ("call", "per second", "p50", "p99", "max")


@click.command(cls=Command, epilog="Example: sudo ztrace top")
@click.option(
    "--source",
    type=click.Choice(["zswap", "zram"]),
    default="zswap",
    show_default=True,
    help="Whose calls to show.",
)
@click.option("--duration", type=duration_ns, help="Stop after this long, e.g. 60s.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON a second, for machines.")
@click.option(
    "--openmetrics",
    type=address,
    metavar="[HOST:]PORT",
    help="Answer at http://HOST:PORT/metrics, too, for Prometheus; HOST is 127.0.0.1.",
)
def command(
    source: str, duration: int | None, as_json: bool, openmetrics: tuple[str, int] | None
) -> None:
    """Show rates and durations of all calls, second by second, until Ctrl-C. Keeps nothing."""
    from ztrace.tracer.openmetrics import PATH, Metrics, served
    from ztrace.tracer.recorder import Plan, record

    metrics = Metrics()
    live = Live(Text("attaching probes ..."), auto_refresh=False)

    def show(progress: Progress) -> None:
        metrics.add(progress)
        if as_json:
            click.echo(json.dumps(summary(progress)))
        elif sys.stdout.isatty():
            live.update(view(progress), refresh=True)
        elif openmetrics is None:
            console().print(view(progress))

    plan = Plan(spool=None, source=source, duration_s=None if duration is None else duration / 1e9)
    plan.on_progress = show
    serving = nullcontext() if openmetrics is None else served(metrics, *openmetrics)
    with serving as port:
        if openmetrics is not None:
            say(f"metrics are at http://{openmetrics[0]}:{port}{PATH}")
        with live if sys.stdout.isatty() and not as_json else nullcontext():
            record(plan)


def summary(progress: Progress) -> dict[str, Any]:
    """The last second as plain JSON types; durations in ns."""
    calls = {}
    for code, parts in sorted(progress.recent.items()):
        if code < len(OP_NAMES):
            name = OP_NAMES[code]
            calls[name] = {
                "count": sum(len(part) for part in parts),
                **{f"p{percent}_ns": progress.percentile_ns(name, percent) for percent in (50, 99)},
                "max_ns": progress.percentile_ns(name, 100),
            }
    return {
        "seconds": progress.seconds,
        "events": progress.events,
        "stores": progress.stores,
        "loads": progress.loads,
        "pool_bytes": progress.pool_bytes,
        "lost_events": progress.lost,
        "calls": calls,
    }


def view(progress: Progress) -> Group:
    """The last second as a table below a line of totals."""
    found = summary(progress)
    pool = "-" if progress.pool_bytes is None else bytes_text(progress.pool_bytes)
    head = (
        f"{progress.seconds:.0f} s  {count_text(progress.events)} events  "
        f"stores {count_text(progress.stores)}  loads {count_text(progress.loads)}  "
        f"pool {pool}  lost {count_text(progress.lost)}"
    )
    rows = [
        (
            name,
            count_text(one["count"]),
            *(ns_text(one[key]) for key in ("p50_ns", "p99_ns", "max_ns")),
        )
        for name, one in found["calls"].items()
    ]
    return Group(Text(head), table(HEADERS, rows))
