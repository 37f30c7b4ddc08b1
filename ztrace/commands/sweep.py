# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace sweep``: many traces through many models, with many parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from ztrace.console import console, count_text, pairs, progress
from ztrace.options import backends_option
from ztrace.outputs import OUTPUT, Command, refuse_same_file
from ztrace.replay.errors import ReplayError
from ztrace.replay.play.backends import ALL
from ztrace.replay.play.backends import every as every_backend
from ztrace.replay.sweep import (
    Journal,
    Run,
    is_results,
    on_cluster,
    on_cores,
    plan_runs,
    write_results,
)
from ztrace.replay.sweep.results import in_plan_order
from ztrace.replay.sweep.run import Row, fingerprint, is_url
from ztrace.streams import say
from ztrace.text import counted
from ztrace.traces.errors import TraceError
from ztrace.traces.reader import TraceReader
from ztrace.traces.writer import AtomicFile


class TraceOrUrl(click.ParamType[str]):
    """A trace here, or one at a URL. Whether it is the output is looked at here: see _traces."""

    name = "trace"


TRACE_OR_URL = TraceOrUrl()


def _parameter(text: str) -> tuple[str, list[str]]:
    """``name=value,value…``."""
    name, equals, values = text.partition("=")
    listed = values.split(",")
    if not name or not equals or not all(listed):
        raise click.BadParameter(f"{text!r}: write NAME=VALUE,VALUE…, for instance scale=0.8,1")
    return name, list(dict.fromkeys(listed))


@click.command(
    "sweep",
    cls=Command,
    epilog="Example: ztrace sweep traces/*.parquet --backend all --param scale=0.8,1,1.2 "
    "-o results.parquet",
)
@click.argument("traces", nargs=-1, required=True, type=TRACE_OR_URL)
@backends_option("Give several, or all.", required=True)
@click.option(
    "--param",
    "parameters",
    multiple=True,
    type=_parameter,
    metavar="NAME=V,V…",
    help="Values of scale (times every compressed size) or of an item of the backends.",
)
@click.option("-o", "--output", type=OUTPUT, required=True, help="The results (Parquet).")
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option("--workers", type=click.IntRange(1), help="Processes here; else one a core.")
@click.option(
    "--scheduler", metavar="tcp://HOST:PORT", help="A Dask scheduler whose workers do the runs."
)
def command(
    traces: tuple[str, ...],
    backends: tuple[str, ...],
    parameters: tuple[tuple[str, list[str]], ...],
    output: Path,
    force: bool,
    workers: int | None,
    scheduler: str | None,
) -> int:
    """Replay each of the TRACES through each model with each parameter; one row of figures each.

    TRACES are files or fsspec URLs (s3://…). Finished runs are kept in OUTPUT.runs until all
    are: the same command goes on where it was interrupted. A run that fails does not stop the
    others; exit status 1 says that there was one.
    """
    if scheduler is not None and workers is not None:
        raise click.UsageError("--workers are of this machine: leave it out with --scheduler")
    if len({name for name, _ in parameters}) < len(parameters):
        raise click.UsageError("--param: the same name twice; list all its values in one")
    traces = _traces(traces, output)
    runs = plan_runs(traces, _backends(traces, backends), dict(parameters))
    with AtomicFile(output, force=force) as file:
        started = perf_counter()
        with Journal(output.with_name(output.name + ".runs")) as journal:
            rows, done_before = _run_all(runs, journal, workers, scheduler)
            about = {"traces": list(traces), "parameters": dict(parameters)}
            write_results(rows, file, about)
        spent = perf_counter() - started
    journal.remove()
    return _show(output, rows, done_before, spent)


def _traces(traces: Sequence[str], output: Path) -> tuple[str, ...]:
    """What is to be replayed; ReplayError or TraceError for a file here that is no trace.

    A pattern such as *.parquet finds the results of the last sweep, too: those of this very
    command, which are to be replaced, are left out and said.
    """
    kept = []
    for trace in traces:
        if not is_url(trace) and is_results(trace):
            if not (output.exists() and output.samefile(trace)):
                raise ReplayError(f"{trace}: the results of a sweep, not a trace; leave it out")
            say(f"{trace}: the results of the last sweep; left out")
            continue
        if not is_url(trace):
            refuse_same_file(output, [Path(trace)])
            TraceReader(trace).close()
        kept.append(trace)
    if not kept:
        raise ReplayError("no trace is left to replay; name one")
    return tuple(kept)


def _backends(traces: Sequence[str], backends: Sequence[str]) -> list[str]:
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
    runs: Sequence[Run], journal: Journal, workers: int | None, scheduler: str | None
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
        say(f"{journal.path}: {before} of {counted(len(runs), 'run')} done")
    with progress("runs", len(runs)) as advance:
        advance(before)
        try:
            for run, row in _workers(left, workers, scheduler):
                journal.add(run, states[run.trace], row)
                rows.append((place[run], row))
                advance(1)
        except KeyboardInterrupt:
            say(
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


def _show(output: Path, rows: Sequence[Row], before: int, spent_s: float) -> int:
    failed = [row for row in rows if row["error"] is not None]
    for row in failed[:10]:
        say(f"{_name(row)}: {row['error']}")
    if len(failed) > 10:
        say(f"and {len(failed) - 10} more runs failed (column error)")
    done = f"{count_text(len(rows) - before)} in {spent_s:.1f} s"
    more = f", {count_text(before)} done before" if before else ""
    shown = [
        ("results", str(output)),
        ("runs", f"{done}{more}"),
        ("failed", count_text(len(failed))),
        ("next", f"ztrace report {output}"),
    ]
    console().print(pairs(shown))
    for line in _qualified(rows):
        console().print(line, soft_wrap=True)
    return 1 if failed else 0


def _qualified(rows: Sequence[Row]) -> list[str]:
    """What limits the figures: once for each trace and backend, whatever their parameters."""
    lines = (
        f"{row['trace']}, {row['backend']}: {row['qualified']}"
        for row in rows
        if row.get("qualified")
    )
    return list(dict.fromkeys(lines))


def _name(row: dict[str, Any]) -> str:
    values: Iterable[str] = (f"{k[6:]}={v}" for k, v in row.items() if k.startswith("param."))
    return ", ".join([row["trace"], row["backend"], *values])
