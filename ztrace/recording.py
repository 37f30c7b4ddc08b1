# SPDX-License-Identifier: GPL-2.0-only
"""A recording as asked for on the command line: which options go together, and how it goes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ztrace.present.recording import say, show_counted, status_line
from ztrace.spooled import finish, free_spool, hand_over_spools, numbered_output
from ztrace.text import counted
from ztrace.version import __version__

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
    lists: bool
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
            self.lists,
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
        some = bool(self.cgroups or self.pids or self.min_size or self.sample > 1)
        some = some or self.level not in (None, "allocator")
        if self.lists and (some or self.histogram or self.source != "zswap"):
            raise click.UsageError("--lists needs all calls of zswap's allocator, as events")
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


def record_as(asked: Asked) -> None:
    """Record as asked for, and say how it ended. UsageError for options that do not go together."""
    # Late imports, here and below: until recording is over, nothing large may be loaded.
    from ztrace.tracer.recorder import record

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
