# SPDX-License-Identifier: GPL-2.0-only
"""A whole sweep: from the traces named to the file of results, going on where it was left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from ztrace.replay.errors import ReplayError
from ztrace.replay.play.backends import ALL
from ztrace.replay.play.backends import every as every_backend
from ztrace.replay.sweep.journal import Journal
from ztrace.replay.sweep.plan import Run, plan_runs
from ztrace.replay.sweep.results import in_plan_order, is_results, write_results
from ztrace.replay.sweep.run import Row, fingerprint, is_url
from ztrace.replay.sweep.workers import on_cluster, on_cores
from ztrace.text import counted
from ztrace.traces.errors import TraceError
from ztrace.traces.reader import TraceReader
from ztrace.traces.writer import AtomicFile

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
"""Of a name and a number of runs: what is told how many more are done."""


@dataclass(frozen=True)
class Swept:
    """All rows, in the plan's order; so many were ``done_before``, the others took ``spent_s``."""

    rows: list[Row]
    done_before: int
    spent_s: float

    @property
    def failed(self) -> list[Row]:
        """Runs that have an error instead of figures."""
        return [row for row in self.rows if row["error"] is not None]

    @property
    def qualified(self) -> list[str]:
        """What limits the figures: once for each trace and backend, whatever their parameters."""
        lines = (
            f"{row['trace']}, {row['backend']}: {row['qualified']}"
            for row in self.rows
            if row.get("qualified")
        )
        return list(dict.fromkeys(lines))


def traces_of(
    named: Sequence[str], output: Path, tell: Callable[[str], object] = lambda line: None
) -> tuple[str, ...]:
    """What is to be replayed; ReplayError or TraceError for a file here that is no trace.

    A pattern such as *.parquet finds the results of the last sweep, too: those of this very
    output, which are to be replaced, are left out and ``tell`` is told.
    """
    kept = []
    for trace in named:
        if not is_url(trace) and is_results(trace):
            if not (output.exists() and output.samefile(trace)):
                raise ReplayError(f"{trace}: the results of a sweep, not a trace; leave it out")
            tell(f"{trace}: the results of the last sweep; left out")
            continue
        if not is_url(trace):
            TraceReader(trace).close()
        kept.append(trace)
    if not kept:
        raise ReplayError("no trace is left to replay; name one")
    return tuple(kept)


def sweep(
    traces: Sequence[str],
    backends: Sequence[str],
    parameters: Mapping[str, Sequence[str]],
    output: Path,
    *,
    force: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress,
    tell: Callable[[str], object] = lambda line: None,
) -> Swept:
    """Replay each trace through each backend with each value; write one row of figures each.

    Finished runs are kept in OUTPUT.runs until all are. ``workers``: processes here, one a core if
    None; ``scheduler``: the address of a Dask cluster's, whose workers do the runs instead.
    ``tell`` is told what was done before, and at an interrupt how to go on.
    """
    runs = plan_runs(traces, _chosen(traces, backends), parameters)
    with AtomicFile(output, force=force) as file:
        started = perf_counter()
        with Journal(output.with_name(output.name + ".runs")) as journal:
            rows, before = _run_all(runs, journal, workers, scheduler, progress, tell)
            about = {"traces": list(traces), "parameters": dict(parameters)}
            write_results(rows, file, about)
        spent_s = perf_counter() - started
    journal.remove()
    return Swept(rows, before, spent_s)


def _chosen(traces: Sequence[str], backends: Sequence[str]) -> list[str]:
    """The backends, with ``all`` standing for those that fit any of the traces."""
    chosen: dict[str, None] = {}
    for name in backends:
        if name != ALL:
            chosen[name] = None
            continue
        for trace in traces:
            try:
                if not is_url(trace):
                    with TraceReader(trace) as reader:
                        chosen |= dict.fromkeys(every_backend(reader.metadata))
            except TraceError:
                continue  # its own runs will say so
    if not chosen:
        raise ReplayError("--backend all: no trace here tells what fits it; name the backends")
    return list(chosen)


def _run_all(
    runs: Sequence[Run],
    journal: Journal,
    workers: int | None,
    scheduler: str | None,
    progress: Progress,
    tell: Callable[[str], object],
) -> tuple[list[Row], int]:
    """All rows, in the plan's order, and how many were there already."""
    states = {trace: _state(trace) for trace in {run.trace: None for run in runs}}
    place = {run: number for number, run in enumerate(runs)}
    rows = [
        (place[run], journal.rows[run, states[run.trace]])
        for run in runs
        if (run, states[run.trace]) in journal.rows
    ]
    before = len(rows)
    there = {number for number, _ in rows}
    left = [run for run in runs if place[run] not in there]
    if before:
        tell(f"{journal.path}: {before} of {counted(len(runs), 'run')} done")
    with progress("runs", len(runs)) as advance:
        advance(before)
        try:
            for run, row in _workers(left, workers, scheduler):
                journal.add(run, states[run.trace], row)
                rows.append((place[run], row))
                advance(1)
        except KeyboardInterrupt:
            tell(
                f"{journal.path} has {len(rows)} of {counted(len(runs), 'run')}; the same command "
                "goes on there"
            )
            raise
    return in_plan_order(rows), before


def _state(trace: str) -> str:
    try:
        return fingerprint(trace)
    except Exception:  # not there, or whatever a file system's library raises: its runs say so
        return ""


def _workers(
    runs: Sequence[Run], workers: int | None, scheduler: str | None
) -> Iterator[tuple[Run, Row]]:
    if not runs:
        return iter(())
    return on_cluster(runs, scheduler) if scheduler else on_cores(runs, workers)
