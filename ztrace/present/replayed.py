# SPDX-License-Identifier: GPL-2.0-only
"""One replay's result: memory, agreement with the kernel, hazards, classes, times."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console

from ztrace.console import (
    bytes_text,
    count_text,
    lost_lines,
    ns_text,
    pairs,
    partial_lines,
    table,
)
from ztrace.present.comparison import ratio, spanning_line
from ztrace.replay.figures.qualified import agreements, of_result
from ztrace.replay.figures.result import CLASS_COUNTS, Level, Moment, Result
from ztrace.replay.figures.timing import Timing
from ztrace.traces.metadata import Metadata


def show_result(out: Console, result: Result, metadata: Metadata) -> None:
    """Print what the model did with the trace, and how far its answers are the kernel's."""
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
    yield from agreements(result)
    difference = result.total_difference()
    if difference is not None:
        sign = "-" if difference < 0 else "+" if difference else ""
        yield f"largest difference of totals, model - kernel: {sign}{bytes_text(abs(difference))}"


def _notes(result: Result) -> Iterable[str]:
    """Lines on what limits the figures; none for a whole trace of one CPU."""
    yield from of_result(result)
    for name, text in (
        ("compactions", "recorded compactions done"),
        ("compactions_unmatched", "recorded compactions of pages the model has not queued"),
    ):
        if result.count(name):
            yield f"{text}: {count_text(result.count(name))}"


def _show_hazards(out: Console, result: Result) -> None:
    hazards = result.hazards()
    if not hazards:
        out.print("hazards met: none")
    else:
        rows = [[name, f"{count:,} x; first: {first}"] for name, (count, first) in hazards.items()]
        out.print(table(["hazard", "met (see docs/hazards.md in the source)"], rows, texts=2))
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
    if line := spanning_line(result):
        out.print(line, soft_wrap=True)
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
