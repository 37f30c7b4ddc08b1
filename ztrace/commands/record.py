# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace record``: probes on, spool, trace."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ztrace import __version__
from ztrace.units import bytes_text, ns_text, short
from ztrace.units import duration as duration_ns
from ztrace.units import size as size_bytes

if TYPE_CHECKING:
    from tracer.recorder import Progress

# What to do about a cause of loss (tracer/spool.py CAUSES).
ADVICE = {
    "ring_full": "a larger --ring-size holds more while the recorder waits for a CPU",
    "missed_entry": "a task was preempted by another one inside a probe",
    "missed_return": "too many calls slept at once for the kernel's return probes",
    "unfinished": "calls still running when recording ended",
    "too_deep": "calls were nested deeper than the probes follow; please report this",
    "no_task_room": "more tasks swapped at once than the probes can follow",
    "no_pool_room": "more pools were created than the probes can number",
}


def spool_path(output: Path) -> Path:
    """The spool of a trace: beside it, its name with .spool."""
    return output.with_name(output.name + ".spool")


@click.command(epilog="Example: sudo ztrace record -o trace.parquet --duration 60s")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The trace.")
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
    "--spool-only", is_flag=True, help="Leave the spool for ztrace recover, here or elsewhere."
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def command(
    output: Path,
    source: str,
    probe_kind: str | None,
    duration: int | None,
    fresh_pool: bool,
    ring_size: int,
    spool_only: bool,
    force: bool,
    command: tuple[str, ...],
) -> None:
    """Record zswap and its allocator until Ctrl-C, --duration, or the end of COMMAND.

    Everything the kernel asks of zswap and of the allocator below it is recorded, from all
    tasks. Give a COMMAND after -- to record while it runs.
    """
    # Late imports: until recording is over, nothing large may be loaded.
    from tracer.recorder import Plan, record

    if ring_size < 4096 or ring_size & (ring_size - 1):
        raise click.UsageError("--ring-size must be a power of two, at least 4096")
    if output.exists() and not force:
        raise click.ClickException(f"{output}: exists; --force replaces it")
    if not output.parent.is_dir():
        raise click.ClickException(f"{output.parent}: no such folder")
    spool = spool_path(output)
    if spool.exists():
        raise click.ClickException(
            f"{spool}: left by a recorder that died; ztrace recover turns it into a trace"
        )
    live = sys.stderr.isatty()

    def on_ready(probes: int, missing: list[str]) -> None:
        for symbol in missing:
            _say(f"not on this kernel: {symbol}; ztrace doctor --probes says more")
        _say(f"Recording with {probes} probes. Hit Ctrl-C to end.")

    def on_progress(progress: Progress) -> None:
        if live:
            _say(f"\r{status_line(progress)}", nl=False)

    plan = Plan(
        spool=spool,
        source=source,
        probe_kind=probe_kind,
        fresh_pool=fresh_pool,
        command=command,
        duration_s=None if duration is None else duration / 1e9,
        ring_bytes=ring_size,
        tool=f"ztrace {__version__}",
        on_ready=on_ready,
        on_progress=on_progress,
    )
    try:
        recorded = record(plan)
    finally:
        from tracer.ownership import hand_over

        if spool.exists():
            hand_over(spool)
    if live:
        _say("")
    if recorded.command_status:
        _say(f"{command[0]} exited with status {recorded.command_status}")
    if spool_only:
        _say(f"{spool}: {recorded.events:,} events. Next: ztrace recover {spool} -o {output}")
    else:
        finish(spool, output, force)


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


def _say(text: str, nl: bool = True) -> None:
    """Say it on stderr. The terminal may have been closed: recording goes on, or ends, anyway."""
    with contextlib.suppress(OSError):
        click.echo(text, nl=nl, err=True)


def finish(spool: Path, output: Path, force: bool) -> None:
    """Turn the spool into the trace, remove the spool, say what was recorded and lost."""
    from tracer.convert import convert
    from tracer.ownership import hand_over
    from ztrace.console import progress

    rows = 0
    try:
        with progress("writing", None) as advance:

            def count(written: int) -> None:
                nonlocal rows
                rows += written
                advance(written)

            metadata = convert(spool, output, force=force, advance=count)
    except KeyboardInterrupt:
        raise click.ClickException(
            f"{spool}: interrupted before the trace was written; all of it is here: ztrace recover"
        ) from None
    except OSError as error:
        raise click.ClickException(
            f"{output}: {error.strerror}; the recording is in {spool}: make room, then "
            "ztrace recover"
        ) from error
    spool.unlink()
    hand_over(output)
    size = output.stat().st_size
    click.echo(f"{output}: {rows:,} events, {bytes_text(size)}, lost {metadata.lost_total():,}")
    for cause, counts in metadata.lost.items():
        click.echo(f"  lost, {cause}: {sum(counts.values()):,}; {ADVICE.get(cause, '')}")
    for note in metadata.notes:
        click.echo(f"  {note}")
    backend = metadata.pools[-1].allocator if metadata.pools else "ztree"
    click.echo(f"Next: ztrace replay {output} --backend {backend}")
