# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace record``: probes on, spool, trace."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ztrace import __version__
from ztrace.outputs import OUTPUT, Command
from ztrace.present.recording import say, show_counted, status_line
from ztrace.spooled import finish, free_spool, hand_over_spools, numbered_output
from ztrace.text import counted
from ztrace.units import duration as duration_ns
from ztrace.units import size as size_bytes
from ztrace.units import size_or_duration

if TYPE_CHECKING:
    from ztrace.tracer.filters import Filters
    from ztrace.tracer.outputs import Limits, Trigger
    from ztrace.tracer.recorder import Plan, Progress

ONE_FILE = "it keeps or ends one file by itself"
NO_EVENTS = "it writes no events"


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line; the names are those of the options."""

    output: Path | None
    source: str
    probe_kind: str | None
    duration: int | None
    fresh_pool: bool
    ring_size: int
    level: str | None
    sample: int
    cgroups: tuple[str, ...]
    pids: tuple[int, ...]
    min_size: int
    max_events: int | None
    max_size: int | None
    rotate: tuple[int | None, int | None] | None
    flight: int | None
    triggers: tuple[Trigger, ...]
    histogram: bool
    as_json: bool
    quiet: bool
    spool_only: bool
    force: bool
    command: tuple[str, ...]

    @property
    def shows_progress(self) -> bool:
        """Whether there is a line that shows how it goes."""
        return sys.stderr.isatty() and not self.quiet

    def filters(self) -> Filters:
        """Whose calls, and which objects, are wanted. UsageError for a level of another source."""
        from ztrace.tracer.filters import ALLOCATOR, UPPER, Filters, find_cgroup

        if self.level not in (None, self.source, ALLOCATOR):
            raise click.UsageError(f"--level {self.level} needs --source {self.level}")
        return Filters(
            None if self.level is None else ALLOCATOR if self.level == ALLOCATOR else UPPER,
            tuple(find_cgroup(path) for path in self.cgroups),
            self.pids,
            self.min_size,
            self.sample,
        )

    def limits(self) -> Limits:
        """When to begin another file, and what to keep."""
        from ztrace.tracer.outputs import Limits

        rotate = self.rotate or (None, None)
        return Limits(self.max_events, self.max_size, *rotate, self.flight, self.triggers)

    def refuse_combinations(self) -> None:
        """UsageError for options that exclude or need each other."""
        if self.ring_size < 4096 or self.ring_size & (self.ring_size - 1):
            raise click.UsageError("--ring-size must be a power of two, at least 4096")
        given = {
            "--max-events": self.max_events,
            "--rotate": self.rotate,
            "--max-size": self.max_size,
            "--flight": self.flight,
            "-o": self.output,
            "--spool-only": self.spool_only or None,
            "--force": self.force or None,
        }
        if self.histogram:
            wrong, why = list(given), f"--histogram: {NO_EVENTS}"
        elif self.flight is not None:
            wrong, why = ["--max-events", "--rotate"], f"--flight: {ONE_FILE}"
        else:
            wrong, why = [], ""
        for name in wrong:
            if given[name] is not None:
                raise click.UsageError(f"{name} cannot go with {why}")
        if self.flight == 0:
            raise click.UsageError("--flight 0 keeps nothing; give it, say, 30s")
        if self.triggers and self.flight is None:
            raise click.UsageError("--flight-trigger needs --flight")
        if self.as_json and not self.histogram:
            raise click.UsageError("--json needs --histogram; of a trace, ztrace info --json tells")
        if self.output is None and not self.histogram:
            raise click.UsageError(
                "say where to: -o trace.parquet (or --histogram, to write nothing)"
            )

    def plan(self, limits: Limits, spool: Path | None) -> Plan:
        """What the recorder is told."""
        from ztrace.tracer.recorder import Plan

        return Plan(
            spool=spool,
            source=self.source,
            probe_kind=self.probe_kind,
            fresh_pool=self.fresh_pool,
            command=self.command,
            duration_s=None if self.duration is None else self.duration / 1e9,
            ring_bytes=self.ring_size,
            filters=self.filters(),
            limits=limits,
            histogram=self.histogram,
            tool=f"ztrace {__version__}",
            on_ready=_on_ready_quiet if self.quiet else _on_ready,
            on_progress=_on_progress if self.shows_progress else lambda progress: None,
        )


def _trigger(text: str) -> Trigger:
    """``malloc>5ms``."""
    from ztrace.tracer.outputs import Trigger
    from ztrace.tracer.ring import OP_NAMES

    op, _, limit = text.partition(">")
    if op.strip() not in OP_NAMES or not limit:
        raise click.BadParameter(f"{text!r} is no trigger; write for instance 'malloc>5ms'")
    return Trigger(op.strip(), duration_ns(limit))


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
    # Late imports, here and below: until recording is over, nothing large may be loaded.
    from ztrace.tracer.recorder import record

    asked = Asked(**given)
    asked.refuse_combinations()
    limits = asked.limits()
    spool = None
    if asked.output is not None:
        spool = free_spool(asked.output, limits.rotates, asked.force)
    plan = asked.plan(limits, spool)
    try:
        recorded = record(plan)
    finally:
        if spool is not None:
            hand_over_spools(spool)
    if asked.shows_progress:
        say("")
    if recorded.command_status:
        say(f"{asked.command[0]} exited with status {recorded.command_status}")
    if asked.histogram:
        show_counted(recorded, asked.as_json)
        return
    for number, written in enumerate(recorded.spools):
        output = numbered_output(asked.output, number)
        if not asked.spool_only:
            finish(written, output, asked.force)
        elif not asked.quiet:
            say(f"{written}: next: ztrace recover {written} -o {output}")
    if asked.spool_only and not asked.quiet:
        say(counted(recorded.events, "event"))


def _on_ready_quiet(probes: int, missing: list[str]) -> None:
    for lack in missing:
        say(f"{lack}; ztrace doctor --probes says more")


def _on_ready(probes: int, missing: list[str]) -> None:
    _on_ready_quiet(probes, missing)
    say(f"Recording with {probes} probes. Hit Ctrl-C to end.")


def _on_progress(progress: Progress) -> None:
    say(f"\r{status_line(progress)}", nl=False)
