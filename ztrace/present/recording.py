# SPDX-License-Identifier: GPL-2.0-only
"""What a recorder says: while it works, and of the trace that came out."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ztrace.streams import show
from ztrace.text import bytes_text, counted
from ztrace.units import ns_text, short

if TYPE_CHECKING:
    from ztrace.tracer.recorder import Progress, Recorded
    from ztrace.traces.metadata import Metadata

# What to do about a cause of loss (tracer/spool.py CAUSES).
ADVICE = {
    "ring_full": "a larger --ring-size holds more while the recorder waits for a CPU",
    "missed_entry": "a task was preempted by another one inside a probe",
    "missed_return": "too many calls slept at once for the kernel's return probes",
    "unfinished": "calls still running when recording ended",
    "too_deep": "calls were nested deeper than the probes follow; please report this",
    "no_task_room": "more tasks swapped at once than the probes can follow",
    "no_pool_room": "more pools were created than the probes can number",
    "no_object_room": "a filter took more objects than the probes can follow; sample fewer",
}


def say(text: str, nl: bool = True) -> None:
    """Say it on stderr. The terminal may have been closed: recording goes on, or ends, anyway."""
    with contextlib.suppress(OSError):
        click.echo(text, nl=nl, err=True)


def status_line(progress: Progress) -> str:
    """At most 79 columns: time, rate, stores, loads, p99 of malloc, pool, lost."""
    rate = progress.events / max(progress.seconds, 1e-9)
    slow = progress.percentile_ns("malloc", 99)
    parts = [
        f"{progress.seconds:.0f} s",
        f"{short(rate)}/s",
        f"stores {short(progress.stores)}",
        f"loads {short(progress.loads)}",
        f"p99 malloc {'-' if slow is None else ns_text(slow)}",
        f"pool {'-' if progress.pool_bytes is None else bytes_text(progress.pool_bytes)}",
        f"lost {short(progress.lost)}",
    ]
    return "  ".join(parts).ljust(79)[:79]


def show_counted(recorded: Recorded, as_json: bool) -> None:
    """Print what the probes counted in the kernel, and what they lost."""
    from ztrace.console import console, lost_lines, print_json
    from ztrace.present.histogram import show_histograms
    from ztrace.traces.metadata import Metadata

    if as_json:
        print_json(recorded.state)
        return
    out = console()
    show_histograms(out, recorded.state)
    out.print()
    for line in lost_lines(Metadata.from_json(json.dumps(recorded.state))):
        out.print(line)


def show_recorded(output: Path, rows: int, metadata: Metadata) -> None:
    """Say what was recorded and lost, and what to do next."""
    size = output.stat().st_size
    show(f"{output}: {counted(rows, 'event')}, {bytes_text(size)}, lost {metadata.lost_total():,}")
    for cause, counts in metadata.lost.items():
        show(f"  lost, {cause}: {sum(counts.values()):,}; {ADVICE.get(cause, '')}")
    for note in metadata.notes:
        show(f"  {note}")
    from ztrace.replay.play.backends import own_model

    model = own_model(metadata)
    has_mallocs = metadata.filters.get("level") in (None, "allocator")
    show(
        f"Next: ztrace replay {output} --backend {model}"
        if has_mallocs and model is not None
        else f"Next: ztrace stat {output}"
    )
