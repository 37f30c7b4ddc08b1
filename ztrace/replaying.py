# SPDX-License-Identifier: GPL-2.0-only
"""A replay as asked for on the command line: which options go together, and what is shown."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ztrace import options
from ztrace.console import about, console, print_json, progress
from ztrace.replay.door import RECORDED, in_asked_order, replay_all
from ztrace.replay.play.backends import ALL, chosen_or_own
from ztrace.streams import say
from ztrace.traces.reader import TraceReader
from ztrace.traces.writer import AtomicFile

if TYPE_CHECKING:
    from ztrace.replay.figures.result import Every, Result
    from ztrace.replay.limit import AskedLimit, Rules, Worker


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line; the names are those of the options."""

    trace: Path
    backends: tuple[str, ...]
    every: Every | None
    engine: Literal["native", "python"] | None
    timing: bool
    anomalies: bool
    limit: AskedLimit | None
    accept: int | None
    worker: Worker | None
    rules: Rules | None
    ages: tuple[int, ...] | None
    as_json: bool
    output: Path | None
    force: bool
    order: Path | None
    recorded_order: bool

    @property
    def several(self) -> bool:
        """Whether backends are to be shown side by side."""
        return len(set(self.backends)) > 1 or ALL in self.backends

    def refuse_contradictions(self) -> None:
        """UsageError for options that do not go together."""
        if self.order is not None and self.recorded_order:
            raise click.UsageError("--order and --recorded-order exclude each other")
        if self.output is not None and self.every is None:
            raise click.UsageError("-o writes the time series: say how fine it is with --every")
        if self.timing and self.engine == "python":
            raise click.UsageError("--time measures the native core; leave out --engine python")
        plain = not (self.every or self.timing or self.engine == "native")
        others = not plain or self.anomalies or self.order or self.limit or self.backends
        if self.ages is not None and others:
            raise click.UsageError("--ages goes with --json only: no allocator is asked")
        if self.limit is not None:
            if not plain or self.anomalies or self.order or self.recorded_order:
                raise click.UsageError(
                    "--limit goes with --backend, --accept, --rules and --json only"
                )
        elif self.accept is not None or self.rules is not None:
            raise click.UsageError("--accept and --rules are for --limit: give that too")
        elif self.anomalies and (not plain or self.several):
            raise click.UsageError(
                "--anomalies goes with one --backend, --order, --recorded-order and --json only"
            )
        elif self.timing and self.several:
            raise click.UsageError("--time measures one backend at a time")

    @property
    def order_of_calls(self) -> Path | Literal["recorded"] | None:
        """As :func:`replay.door.replay` takes it."""
        return RECORDED if self.recorded_order else self.order


def run(asked: Asked) -> int:
    """Do it and show what came out; the exit status. UsageError for contradicting options."""
    asked.refuse_contradictions()
    if asked.ages is not None:
        return _aged(asked, asked.ages)
    if asked.limit is not None:
        return _limited(asked, asked.limit)
    if asked.anomalies:
        return _anomalies(asked)
    return _replayed(asked)


def _replayed(asked: Asked) -> int:
    """Replay through one model, or through several side by side."""
    with ExitStack() as stack:
        reader = stack.enter_context(TraceReader(asked.trace))
        metadata = reader.metadata
        file = None
        if asked.output is not None:  # opened first: an existing file is refused before the work
            file = stack.enter_context(AtomicFile(asked.output, force=asked.force))
        with progress(asked.trace.name, 2 * reader.num_rows) as advance:
            results = replay_all(
                reader,
                asked.backends,
                order=asked.order_of_calls,
                engine=asked.engine,
                every=asked.every,
                timing=asked.timing,
                advance=advance,
                slower=say,
            )
        if file is not None:
            from ztrace.present.comparison import series_csv

            file.write(series_csv({result.backend: result.series for result in results}).encode())
        found = about(asked.trace, reader.num_rows, metadata)
    if asked.as_json:
        from ztrace.replay.figures.qualified import of_result

        replays = [{**result.to_dict(), "qualified": of_result(result)} for result in results]
        print_json({**found, "replays": replays})
    elif asked.several:
        from ztrace.present.comparison import show_comparison

        show_comparison(console(), results, metadata)
    else:
        from ztrace.present.replayed import show_result

        show_result(console(), results[0], metadata)
    return max(_report_stopped(asked.trace, result) for result in results)


def _anomalies(asked: Asked) -> int:
    """Watch one replay for faults of the allocator."""
    from ztrace.present.anomalies import show_anomalies
    from ztrace.replay.play.anomalies import find_anomalies

    trace = asked.trace
    with TraceReader(trace) as reader, progress(trace.name, 3 * reader.num_rows) as advance:
        [backend] = chosen_or_own(asked.backends, reader.metadata)
        found = find_anomalies(
            in_asked_order(reader, backend, asked.order_of_calls), backend, advance
        )
        metadata = reader.metadata
        recorded = about(trace, reader.num_rows, metadata)
    if asked.as_json:
        print_json({**recorded, "replays": [found.to_dict()]})
    else:
        show_anomalies(console(), str(trace), found, metadata)
    return _report_stopped(trace, found.result)


def _aged(asked: Asked, at_ns: tuple[int, ...]) -> int:
    """What writing back by age would free and cost."""
    from ztrace.present.ages import show_ages
    from ztrace.replay.limit.ages import ages

    with TraceReader(asked.trace) as reader:
        with progress(asked.trace.name, reader.num_rows) as advance:
            curves, told = ages(reader, at_ns, advance=advance)
        metadata, rows = reader.metadata, reader.num_rows
    if asked.as_json:
        plain = {"ages": [one.to_dict() for one in curves], "qualified": told.lines()}
        print_json({**about(asked.trace, rows, metadata), **plain})
    else:
        show_ages(console(), curves, told, metadata)
    return 0


def _limited(asked: Asked, limit: AskedLimit) -> int:
    """Play one trace under a pool limit in several models."""
    from ztrace.present.limited import show_limited
    from ztrace.replay.limit import AT_ONCE, Play, play, recorded_rules

    with TraceReader(asked.trace) as reader:
        metadata = reader.metadata
        rules = asked.rules or recorded_rules(metadata)
        backends = chosen_or_own(asked.backends, metadata)
        its_limit = limit.on(metadata, asked.accept)
        workers = dict.fromkeys((AT_ONCE, asked.worker or options.worker(options.WORKER)))
        with progress(asked.trace.name, reader.num_rows) as advance:
            outcomes = play(
                reader,
                [
                    Play(backend, worker, its_limit, rules)
                    for worker in workers
                    for backend in backends
                ],
                advance=advance,
            )
        recorded = about(asked.trace, reader.num_rows, metadata)
    if asked.as_json:
        print_json({**recorded, "replays": [outcome.to_dict() for outcome in outcomes]})
    else:
        count = len(backends)
        show_limited(console(), outcomes[:count], outcomes[count:], metadata)
    return max(int(outcome.stopped is not None) for outcome in outcomes)


def _report_stopped(trace: Path, result: Result) -> int:
    """Say which pools' replay ended early; the exit status."""
    stopped = [pool for pool in result.pools if pool.stopped]
    for pool in stopped:
        say(
            f"{trace}: replay of pool {pool.pool} by {result.backend} ended early at {pool.stopped}"
        )
    return 1 if stopped else 0
