# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace replay``: a trace through an allocator model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console

from ztrace.console import (
    bytes_text,
    console,
    count_text,
    lost_lines,
    ns_text,
    pairs,
    partial_lines,
    print_json,
    progress,
    table,
)
from ztrace.present.anomalies import show_anomalies
from ztrace.present.comparison import ratio, series_csv, show_comparison
from ztrace.present.limited import show_limited
from ztrace.replay.figures.anomalies import find_anomalies
from ztrace.replay.figures.result import CLASS_COUNTS, Agreement, Every, Level, Moment, Result
from ztrace.replay.figures.timing import Timing
from ztrace.replay.limit import AT_ONCE, Limit, Rules, Worker, play, recorded_limit, recorded_rules
from ztrace.replay.order.file import read_order
from ztrace.replay.order.found import InOrder, in_order
from ztrace.replay.play.backends import ALL, chosen
from ztrace.replay.play.engine import replay
from ztrace.replay.play.native import can_replay, reason_missing, replay_native
from ztrace.replay.read.source import Source
from ztrace.traces.metadata import Metadata
from ztrace.traces.reader import TraceReader
from ztrace.traces.writer import AtomicFile
from ztrace.units import duration, size

ACCEPT = 90
"""zswap's own accept_threshold_percent where nothing else is said."""


class Asked(NamedTuple):
    """A pool limit as asked for: ``percent`` of the recorded memory, or ``bytes``, or neither."""

    percent: int | None = None
    bytes: int | None = None

    def on(self, metadata: Metadata, accept: int | None) -> Limit:
        """The limit on the recorded machine; what is not asked for is as recorded."""
        if self.bytes is None:
            return recorded_limit(metadata, self.percent, accept)
        page_bytes = metadata.machine.page_bytes or 4096
        return Limit(self.bytes // page_bytes, accept_percent=ACCEPT if accept is None else accept)


def _limit(text: str) -> Asked:
    """``20%``, ``512M`` or ``recorded``."""
    if text.strip() == "recorded":
        return Asked()
    return Asked(percent=_percent(text)) if "%" in text else Asked(bytes=size(text))


def _percent(text: str) -> int:
    """``90%`` or ``90``; zswap knows whole ones."""
    digits = text.strip().removesuffix("%")
    if not (digits.isascii() and digits.isdigit() and int(digits) <= 100):
        raise click.BadParameter(f"{text!r} is not a whole percentage; write for instance 20%")
    return int(digits)


def _worker(text: str) -> Worker:
    """``1ms,300us``."""
    delay, comma, page = text.partition(",")
    if not comma:
        raise click.BadParameter(f"{text!r} is not two durations; write for instance 1ms,300us")
    return Worker(duration(delay), duration(page))


def _every(text: str) -> Every:
    """``100ms`` or ``5%``."""
    if not text.strip().endswith("%"):
        return Every(ns=duration(text))
    try:
        percent = float(text.strip()[:-1])
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no percentage; write for instance 5%") from error
    if not 0 < percent <= 100:
        raise click.BadParameter(f"{text!r} is not above 0% and up to 100%")
    return Every(percent=percent)


@click.command("replay", epilog="Example: ztrace replay trace.parquet --backend ztree --every 5%")
@click.argument("trace", type=click.Path(path_type=Path))
@click.option(
    "--backend",
    "backends",
    required=True,
    multiple=True,
    metavar="NAME",
    help="The model, for instance ztree or zsmalloc:6.12; give several, or all, to compare them.",
)
@click.option(
    "--every",
    type=_every,
    metavar="DURATION|N%",
    help="Add a time series with a row each 100ms, or each N % of the trace's time.",
)
@click.option(
    "--engine",
    type=click.Choice(["python", "native"]),
    help="Run the readable models or the same in C; native where it was built.",
)
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
    type=_limit,
    metavar="N%|SIZE|recorded",
    help="Apply zswap's pool limit: what is rejected, written back and read again then?",
)
@click.option(
    "--accept", type=_percent, metavar="N%", help="Of the limit, where a full pool accepts again."
)
@click.option(
    "--worker",
    type=_worker,
    default="300us,300us",
    show_default=True,
    metavar="LATE,PAGE",
    help="With --limit: play once more with writeback that begins so late and takes so long a "
    "page; 0,0 does not.",
)
@click.option(
    "--rules",
    type=click.Choice([rules.value for rules in Rules]),
    help="With --limit: whose rules, if not the recorded kernel's.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write the time series to this CSV file (needs --every).",
)
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option(
    "--order",
    type=click.Path(path_type=Path),
    help="Take the calls in the order of this file of ztrace validate --order.",
)
@click.option(
    "--recorded-order", is_flag=True, help="Take the calls as they returned, also on several CPUs."
)
def command(
    trace: Path,
    backends: tuple[str, ...],
    every: Every | None,
    engine: str | None,
    timing: bool,
    anomalies: bool,
    limit: Asked | None,
    accept: int | None,
    worker: Worker,
    rules: str | None,
    as_json: bool,
    output: Path | None,
    force: bool,
    order: Path | None,
    recorded_order: bool,
) -> int:
    """Drive an allocator model with the calls in TRACE and measure its memory.

    Where TRACE was recorded on the same allocator, the model's handles and totals are compared
    with the kernel's. Several backends are shown side by side; all are those that fit the
    trace. A trace of ztree from several CPUs is taken in the order that ztrace validate finds.
    Exit status 1 if a pool's replay had to end early.

    With --limit zswap itself is played above the models, by the recorded kernel's rules: the
    recorded pages under another limit, or in another allocator under the same one.
    """
    if order is not None and recorded_order:
        raise click.UsageError("--order and --recorded-order exclude each other")
    if output is not None and every is None:
        raise click.UsageError("-o writes the time series: say how fine it is with --every")
    if timing and engine == "python":
        raise click.UsageError("--time measures the native core; leave out --engine python")
    backends = tuple(dict.fromkeys(backends))
    if limit is not None:
        if every or timing or anomalies or order or recorded_order or engine == "native":
            raise click.UsageError("--limit goes with --backend, --accept, --rules and --json only")
        return _limited(trace, backends, limit, accept, rules, worker, as_json)
    if accept is not None or rules is not None:
        raise click.UsageError("--accept and --rules are for --limit: give that too")
    if anomalies:
        if every or timing or len(backends) > 1 or ALL in backends or engine == "native":
            raise click.UsageError(
                "--anomalies goes with one --backend, --order, --recorded-order and --json only"
            )
        return _anomalies(trace, backends[0], order, recorded_order, as_json)
    if len(backends) > 1 or ALL in backends:
        if timing:
            raise click.UsageError("--time measures one backend at a time")
        return _compare(
            *(trace, backends, engine, every, output, force, order, recorded_order, as_json)
        )
    with ExitStack() as stack:
        reader = stack.enter_context(TraceReader(trace))
        metadata = reader.metadata
        [backend] = chosen(backends, metadata)
        file = None
        if output is not None:  # opened first: an existing file is refused before the work
            file = stack.enter_context(AtomicFile(output, force=force))
        with progress(trace.name, 2 * reader.num_rows) as advance:
            source = reader if recorded_order else _in_order(reader, backend, order)
            if timing:
                [result] = replay_native(
                    source, [backend], every=every, timing=True, advance=advance
                )
            else:
                [result] = _replay(source, [backend], engine, every, advance)
        if file is not None:
            file.write(series_csv({result.backend: result.series}).encode())
    if as_json:
        print_json(result.to_dict())
    else:
        _show(console(), result, metadata)
    return _report_stopped(trace, result)


def _anomalies(
    trace: Path, backend: str, order: Path | None, recorded_order: bool, as_json: bool
) -> int:
    """Watch one replay for faults of the allocator."""
    with TraceReader(trace) as reader, progress(trace.name, 3 * reader.num_rows) as advance:
        [backend] = chosen([backend], reader.metadata)
        source = reader if recorded_order else _in_order(reader, backend, order)
        found = find_anomalies(source, backend, advance)
    if as_json:
        print_json(found.to_dict())
    else:
        show_anomalies(console(), str(trace), found)
    return _report_stopped(trace, found.result)


def _limited(
    trace: Path,
    backends: Sequence[str],
    asked: Asked,
    accept: int | None,
    rules_name: str | None,
    worker: Worker,
    as_json: bool,
) -> int:
    """Play one trace under a pool limit in several models."""
    with TraceReader(trace) as reader:
        metadata = reader.metadata
        limit = asked.on(metadata, accept)
        rules = Rules(rules_name) if rules_name else recorded_rules(metadata)
        backends = chosen(backends, metadata)
        plays = [(backend, how) for how in dict.fromkeys((AT_ONCE, worker)) for backend in backends]
        with progress(trace.name, reader.num_rows) as advance:
            outcomes = play(reader, plays, limit, rules, advance=advance)
    if as_json:
        print_json({"limited": [outcome.to_dict() for outcome in outcomes]})
    else:
        count = len(backends)
        show_limited(console(), outcomes[:count], outcomes[count:], metadata)
    return max(int(outcome.stopped is not None) for outcome in outcomes)


def _replay(
    source: Source,
    backends: list[str],
    engine: str | None,
    every: Every | None,
    advance: Callable[[int], object],
) -> list[Result]:
    """Replay with the engine asked for, or the core where it is; backends it has not in Python.

    ``advance`` gets twice the trace's rows in all.
    """
    missing = reason_missing()
    if missing and engine is None:
        click.echo(f"ztrace: {missing}; the models in Python take longer", err=True)
    in_core = (
        []
        if engine == "python" or (missing and engine is None)
        else [backend for backend in backends if can_replay(backend)]
    )
    if engine == "native" and len(in_core) < len(backends):
        [other, *_] = [backend for backend in backends if backend not in in_core]
        raise click.UsageError(f"the native core has no {other}; use --engine python")
    found: dict[str, Result] = {}
    runs = len(backends) - len(in_core) + bool(in_core)

    def share(rows: int) -> None:
        advance(rows // runs)

    if in_core:
        replayed = replay_native(source, in_core, every=every, advance=share)
        found |= zip(in_core, replayed, strict=True)
    for backend in backends:
        if backend not in found:
            found[backend] = replay(source, backend, every=every, advance=share)
    return [found[backend] for backend in backends]


def _compare(
    trace: Path,
    backends: Sequence[str],
    engine: str | None,
    every: Every | None,
    output: Path | None,
    force: bool,
    order: Path | None,
    recorded_order: bool,
    as_json: bool,
) -> int:
    """Replay one trace through several models, side by side."""
    with ExitStack() as stack:
        reader = stack.enter_context(TraceReader(trace))
        metadata = reader.metadata
        backends = chosen(backends, metadata)
        file = None
        if output is not None:
            file = stack.enter_context(AtomicFile(output, force=force))
        with progress(trace.name, 2 * reader.num_rows) as advance:
            source = reader if recorded_order else _in_order(reader, backends[0], order)
            results = _replay(source, backends, engine, every, advance)
        if file is not None:
            file.write(series_csv({result.backend: result.series for result in results}).encode())
    if as_json:
        print_json({"replays": [result.to_dict() for result in results]})
    else:
        show_comparison(console(), results, metadata)
    return max(_report_stopped(trace, result) for result in results)


def _report_stopped(trace: Path, result: Result) -> int:
    """Say which pools' replay ended early; the exit status."""
    stopped = [pool for pool in result.pools if pool.stopped]
    for pool in stopped:
        click.echo(
            f"ztrace: {trace}: replay of pool {pool.pool} by {result.backend} ended early at "
            f"{pool.stopped}",
            err=True,
        )
    return 1 if stopped else 0


def _in_order(reader: TraceReader, backend: str, order: Path | None) -> Source:
    """The trace in the order of the file given or, if it is one of ztree, in the one found."""
    if order is not None:
        return InOrder(reader, list(read_order(order, reader.num_rows)))
    return in_order(reader, backend)


def _show(out: Console, result: Result, metadata: Metadata) -> None:
    calls = ", ".join(f"{op} {count_text(n)}" for op, n in result.calls.items())
    cpus = ", ".join(map(str, result.cpus))
    out.print(
        pairs(
            [
                ("trace", result.trace),
                ("backend", result.backend),
                ("pools", _pools(result)),
                ("rows", count_text(result.rows)),
                ("calls", calls),
                ("span", f"{ns_text(result.last_ns - result.first_ns)} on CPU {cpus}"),
            ]
        )
    )
    for line in (*lost_lines(metadata), *partial_lines(metadata)):
        out.print(line)
    out.print()
    _show_memory(out, result)
    out.print()
    for line in _answers(result, metadata):
        out.print(line)
    for line in _notes(result):
        out.print(line)
    out.print()
    _show_hazards(out, result)
    _show_classes(out, result)
    if result.series:
        out.print(
            table(
                *(_SERIES_HEADERS, [_series_row(m, result.first_ns) for m in result.series]),
                texts=0,
            )
        )
        out.print()
    if result.timing is not None:
        _show_timing(out, result, result.timing)
    speed = result.rows / result.wall_s
    out.print(f"measured here: {result.wall_s:.2f} s, {speed:,.0f} rows/s")


def _pools(result: Result) -> str:
    shown = ", ".join(f"{pool.pool} ({pool.allocator})" for pool in result.pools)
    if len(result.pools) == 1:
        return shown
    return f"{shown}; one model each, all figures are their sums"


def _show_memory(out: Console, result: Result) -> None:
    peak, end = result.at_peak, result.at_end

    def level(name: str, figure: Level, text: type[str] | None = None) -> list[str]:
        mean = "-" if figure.mean is None else _size(figure.mean, text)
        return [name, _size(figure.peak, text), _size(figure.end, text), mean]

    rows = [
        level("live objects", result.objects, str),
        level("stored", result.stored_bytes),
        level("held", result.held_bytes),
        ["density", *map(ratio, (peak.density, end.density))],
        ["model total", bytes_text(peak.model_total), bytes_text(end.model_total)],
        ["kernel total", _total(peak.kernel_total), _total(end.kernel_total)],
    ]
    rows[3].append(ratio(result.mean_density))
    out.print(table(["", "peak", "end", "mean"], [[*row, ""][:4] for row in rows]))
    out.print("density = pages stored / pages held, at the peak that of held; means are over time")
    period = result.sample_period
    if period != 1:
        # The number of sampled ones is binomial; twice its standard deviation.
        sampled = result.objects.peak
        error = 2 * period * (sampled * (1 - 1 / period)) ** 0.5
        live, stored = round(sampled * period), result.stored_bytes.peak * period
        out.print(
            f"of all objects, estimated, at the peak: {count_text(live)} live "
            f"(+-{count_text(round(error))}),\n{bytes_text(stored)} stored"
        )


def _size(value: float, kind: type[str] | None) -> str:
    if kind is None:
        return bytes_text(value)
    return count_text(value) if isinstance(value, int) else f"{value:,.1f}"


def _total(value: int | None) -> str:
    return "-" if value is None else bytes_text(value)


def _answers(result: Result, metadata: Metadata) -> Iterable[str]:
    """Lines that compare the model with the kernel."""
    if not metadata.has_all_objects():
        yield "handles equal: not compared, other objects were left out of the trace"
    elif not any(pool.compared for pool in result.pools):
        yield f"handles equal: not compared, the trace is not of {result.backend}"
    else:
        yield from _agreement("handles", result.agreement("handles"))
        yield from _agreement("totals", result.agreement("totals"))
    for name in ("errors", "shrinks"):
        agreement = result.agreement(name)
        if agreement.compared:
            yield from _agreement(name, agreement)
    difference = result.total_difference()
    if difference is not None:
        sign = "-" if difference < 0 else "+" if difference else ""
        yield f"largest difference of totals, model - kernel: {sign}{bytes_text(abs(difference))}"


def _agreement(name: str, agreement: Agreement) -> Iterable[str]:
    yield f"{name} equal: {count_text(agreement.equal)} of {count_text(agreement.compared)}"
    if agreement.first is not None:
        yield f"  first difference: {agreement.first}"


def _notes(result: Result) -> Iterable[str]:
    """Lines on what limits the figures; none for a whole trace of one CPU."""
    if len(result.cpus) > 1 and result.order == "ring":
        yield (
            f"recorded on {len(result.cpus)} CPUs and played in recorded order, which is not that "
            "of the allocator's lock: handles may differ (ztrace validate says more)"
        )
    elif len(result.cpus) > 1:
        yield (
            f"recorded on {len(result.cpus)} CPUs and played in the order that ztrace validate "
            "finds; totals were read by the kernel a moment later, after calls of other CPUs"
        )
    if not result.starts_empty:
        yield "pools not known to be empty at the start: older objects are missing here"
    for name, counts in (
        ("unknown handles", result.merged("unknown")),
        ("failed mallocs", result.merged("failed")),
    ):
        if counts:
            yield f"{name}: " + ", ".join(f"{k} {count_text(n)}" for k, n in counts.items())
    for name, text in (
        ("reissued", "handles given out again without a free: old objects dropped"),
        ("refused", "objects the model refused"),
        ("shrinks_not_replayed", "shrinks not replayed, their frees played as plain ones"),
        ("shrinks_diverged", "shrinks diverged: the model chose other objects than the kernel"),
        ("compactions", "recorded compactions done"),
        ("compactions_unmatched", "recorded compactions of pages the model has not queued"),
    ):
        if result.count(name):
            yield f"{text}: {count_text(result.count(name))}"
    for pool in result.pools:
        if pool.stopped:
            yield f"pool {pool.pool}: figures end at {pool.stopped}"


def _show_hazards(out: Console, result: Result) -> None:
    hazards = result.hazards()
    if not hazards:
        out.print("hazards met: none")
    else:
        rows = [[name, f"{count:,} x; first: {first}"] for name, (count, first) in hazards.items()]
        out.print(table(["hazard", "met (docs/hazards.md)"], rows, texts=2))
    out.print()


def _show_classes(out: Console, result: Result) -> None:
    rows = result.classes("stats_near_peak")
    used = [row for row in rows if any(row.get(key) for key in CLASS_COUNTS)]
    if used:
        headers = [_header(key) for key in rows[0]]
        out.print(f"classes when {bytes_text(result.held_near_peak)} were held, near the peak:")
        out.print(table(headers, [[str(v) for v in row.values()] for row in used], texts=0))
    for when, name in (("near the peak", "stats_near_peak"), ("at the end", "stats")):
        slots = result.stat("stranded_slots", name)
        lost = result.stat("stranded_bytes", name)
        if slots is not None and lost is not None:
            out.print(f"stranded {when}: {count_text(slots)} free slots, {bytes_text(lost)}")
    out.print()


def _header(key: str) -> str:
    return key.removesuffix("_slots").removesuffix("_bytes").replace("_", " ")


def _show_timing(out: Console, result: Result, timing: Timing) -> None:
    headers = ("call", "bytes", "count", "p50 ns", "p99 ns", "p99.9 ns", "max ns")
    rows = [
        [
            *(one.call, f"{one.from_bytes}-{one.to_bytes}", count_text(one.count)),
            *(f"{ns:.0f}" for ns in (one.p50_ns, one.p99_ns, one.p999_ns, one.most_ns)),
        ]
        for one in timing.latencies
    ]
    out.print(table(headers, rows, texts=2))
    out.print(f"of the core on this machine, without the clock's {timing.clock_ns:.0f} ns")
    counters = {
        name: result.stat(name) for name in ("pages_allocated", "objects_moved", "lists_searched")
    }
    work = {**{k: v for k, v in counters.items() if v is not None}, **timing.work}
    out.print(
        "work, the same on any machine: "
        + ", ".join(f"{name.replace('_', ' ')} {count_text(n)}" for name, n in work.items())
    )
    out.print()


_SERIES_HEADERS = ("time (s)", "calls", "objects", "stored", "held", "model", "kernel", "density")


def _series_row(moment: Moment, first_ns: int) -> list[str]:
    return [
        f"{(moment.t_ns - first_ns) / 1e9:.6f}",
        count_text(moment.calls or 0),
        count_text(moment.objects),
        bytes_text(moment.stored_bytes),
        bytes_text(moment.held_bytes),
        bytes_text(moment.model_total),
        _total(moment.kernel_total),
        ratio(moment.density),
    ]
