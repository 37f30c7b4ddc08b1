# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace record``: probes on, spool, trace."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ztrace import __version__
from ztrace.units import bytes_text, ns_text, short, size_or_duration
from ztrace.units import duration as duration_ns
from ztrace.units import size as size_bytes

if TYPE_CHECKING:
    from ztrace.tracer.filters import Filters
    from ztrace.tracer.outputs import Limits, Trigger
    from ztrace.tracer.recorder import Progress, Recorded

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

ONE_FILE = "it keeps or ends one file by itself"
NO_EVENTS = "it writes no events"


def spool_path(output: Path) -> Path:
    """The spool of a trace: beside it, its name with .spool."""
    return output.with_name(output.name + ".spool")


def _trigger(text: str) -> Trigger:
    """``malloc>5ms``."""
    from ztrace.tracer.outputs import Trigger
    from ztrace.tracer.ring import OP_NAMES

    op, _, limit = text.partition(">")
    if op.strip() not in OP_NAMES or not limit:
        raise click.BadParameter(f"{text!r} is no trigger; write for instance 'malloc>5ms'")
    return Trigger(op.strip(), duration_ns(limit))


@click.command(epilog="Example: sudo ztrace record -o trace.parquet --duration 60s")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The trace.")
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
    type=_trigger,
    metavar="CALL>TIME",
    help="Write them when a call took longer, e.g. 'malloc>5ms'.",
)
@click.option(
    "--histogram", is_flag=True, help="Count durations and sizes in the kernel; write nothing."
)
@click.option("--json", "as_json", is_flag=True, help="Print the histograms as JSON.")
@click.option(
    "--spool-only", is_flag=True, help="Leave the spool for ztrace recover, here or elsewhere."
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def command(
    output: Path | None,
    source: str,
    probe_kind: str | None,
    duration: int | None,
    fresh_pool: bool,
    ring_size: int,
    level: str | None,
    sample: int,
    cgroups: tuple[str, ...],
    pids: tuple[int, ...],
    min_size: int,
    max_events: int | None,
    max_size: int | None,
    rotate: tuple[int | None, int | None] | None,
    flight: int | None,
    triggers: tuple[Trigger, ...],
    histogram: bool,
    as_json: bool,
    spool_only: bool,
    force: bool,
    command: tuple[str, ...],
) -> None:
    """Record zswap and its allocator until Ctrl-C, --duration, or the end of COMMAND.

    Everything the kernel asks of zswap and of the allocator below it is recorded, from all
    tasks. Give a COMMAND after -- to record while it runs.

    --sample, --cgroup, --pid and --min-size record whole lives of objects, from the store to
    the free, whoever frees them; what they leave out is counted.
    """
    # Late imports: until recording is over, nothing large may be loaded.
    from ztrace.tracer.outputs import Limits
    from ztrace.tracer.recorder import Plan, record

    if ring_size < 4096 or ring_size & (ring_size - 1):
        raise click.UsageError("--ring-size must be a power of two, at least 4096")
    filters = _filters(source, level, sample, cgroups, pids, min_size)
    limits = Limits(max_events, max_size, *(rotate or (None, None)), flight, triggers)
    _refuse_combinations(limits, histogram, output, as_json, spool_only, force)
    spool = None
    if output is not None:
        spool = _free_spool(output, limits.rotates, force)
    live = sys.stderr.isatty()

    def on_ready(probes: int, missing: list[str]) -> None:
        for lack in missing:
            _say(f"{lack}; ztrace doctor --probes says more")
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
        filters=filters,
        limits=limits,
        histogram=histogram,
        tool=f"ztrace {__version__}",
        on_ready=on_ready,
        on_progress=on_progress,
    )
    try:
        recorded = record(plan)
    finally:
        if spool is not None:
            _hand_over_spools(spool)
    if live:
        _say("")
    if recorded.command_status:
        _say(f"{command[0]} exited with status {recorded.command_status}")
    if histogram:
        _show_histograms(recorded, as_json)
    elif spool_only:
        for number, written in enumerate(recorded.spools):
            _say(f"{written}: next: ztrace recover {written} -o {numbered_output(output, number)}")
        _say(f"{recorded.events:,} events")
    else:
        for number, written in enumerate(recorded.spools):
            finish(written, numbered_output(output, number), force)


def numbered_output(output: Path | None, number: int) -> Path:
    """The trace of a recording's file of that number."""
    from ztrace.tracer.spool import numbered

    assert output is not None
    return numbered(output, number)


def _filters(
    source: str,
    level: str | None,
    sample: int,
    cgroups: tuple[str, ...],
    pids: tuple[int, ...],
    min_size: int,
) -> Filters:
    from ztrace.tracer.filters import ALLOCATOR, UPPER, Filters, find_cgroup

    if level not in (None, source, ALLOCATOR):
        raise click.UsageError(f"--level {level} needs --source {level}")
    return Filters(
        None if level is None else ALLOCATOR if level == ALLOCATOR else UPPER,
        tuple(find_cgroup(path) for path in cgroups),
        pids,
        min_size,
        sample,
    )


def _refuse_combinations(
    limits: Limits,
    histogram: bool,
    output: Path | None,
    as_json: bool,
    spool_only: bool,
    force: bool,
) -> None:
    """UsageError for options that exclude or need each other."""
    given = {
        "--max-events": limits.max_events,
        "--rotate": limits.rotates or None,
        "--max-size": limits.max_bytes,
        "--flight": limits.flight_ns,
        "-o": output,
        "--spool-only": spool_only or None,
        "--force": force or None,
    }
    if histogram:
        wrong, why = list(given), f"--histogram: {NO_EVENTS}"
    elif limits.flight_ns is not None:
        wrong, why = ["--max-events", "--rotate"], f"--flight: {ONE_FILE}"
    else:
        wrong, why = [], ""
    for name in wrong:
        if given[name] is not None:
            raise click.UsageError(f"{name} cannot go with {why}")
    if limits.flight_ns == 0:
        raise click.UsageError("--flight 0 keeps nothing; give it, say, 30s")
    if limits.triggers and limits.flight_ns is None:
        raise click.UsageError("--flight-trigger needs --flight")
    if as_json and not histogram:
        raise click.UsageError("--json needs --histogram; of a trace, ztrace info --json tells")
    if output is None and not histogram:
        raise click.UsageError("say where to: -o trace.parquet (or --histogram, to write nothing)")


def _free_spool(output: Path, rotates: bool, force: bool) -> Path:
    """The spool to write; ClickException if it, or the trace, is in the way or has no folder."""
    if not output.parent.is_dir():
        raise click.ClickException(f"{output.parent}: no such folder")
    numbers = {0}
    if rotates:
        name = rf"{re.escape(output.stem)}\.(\d+){re.escape(output.suffix)}(\.spool)?"
        found = (re.fullmatch(name, path.name) for path in output.parent.iterdir())
        numbers |= {int(match[1]) for match in found if match}
    for number in sorted(numbers):
        trace = numbered_output(output, number)
        if trace.exists() and not force:
            raise click.ClickException(f"{trace}: exists; --force replaces it")
        if spool_path(trace).exists():
            raise click.ClickException(
                f"{spool_path(trace)}: left by a recorder that died; ztrace recover turns it into "
                "a trace"
            )
    return spool_path(output)


def _hand_over_spools(spool: Path) -> None:
    """Give all spools of a recording to the user, however it ended."""
    from ztrace.tracer.ownership import hand_over
    from ztrace.tracer.spool import numbered

    number = 0
    while numbered(spool, number).exists():
        hand_over(numbered(spool, number))
        number += 1


def _show_histograms(recorded: Recorded, as_json: bool) -> None:
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
    rows = 0
    try:
        # These take a while, in which there may be another Ctrl-C, too.
        from ztrace.console import progress
        from ztrace.tracer.convert import convert
        from ztrace.tracer.ownership import hand_over

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
    has_mallocs = metadata.filters.get("level") in (None, "allocator")
    click.echo(
        f"Next: ztrace replay {output} --backend {backend}"
        if has_mallocs
        else f"Next: ztrace stat {output}"
    )
