# SPDX-License-Identifier: GPL-2.0-only
"""What real allocators did with a trace, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from ztrace.console import count_text, table
from ztrace.measuring import Contrast, Measured
from ztrace.replay.measured.figures import SHARES, Times
from ztrace.replay.measured.recording import TEST_BOX

_HEADERS = ("allocator", "call", "calls", "p50", "p99", "p99.9", "p99.99", "max")
_NAMES = {"p999": "p99.9", "p9999": "p99.99"}
_BY_SIZE = ("allocator", "call", "bytes", *_HEADERS[2:])
_LOCKS = ("allocator", "call", "calls that waited", "p50 of these, ns", "mean of all, ns")
_MEMORY = ("allocator", "pages: peak", "mean", "density", "refused")
_ANSWERS = ("allocator", "model", "answers equal", "sizes equal")


def show_measured(out: Console, trace: str, found: Sequence[Measured], *, cycles: bool) -> None:
    """Print times, memory and the comparison with the models. Errors are not shown here."""
    done = [one for one in found if one.error is None]
    if not done:
        return
    first = done[0]
    assert first.figures is not None
    figures = first.figures
    machine = "one CPU, no contention" if figures.threads == 1 else f"{figures.threads} CPUs"
    kernel = f"kernel {first.kernel} ({first.release}) as a program: native code"
    if first.where == TEST_BOX:
        kernel = f"the running kernel, {first.release}: its own ticks and neighbours"
    out.print(f"{trace}: in {kernel}, {machine}", soft_wrap=True)
    out.print()
    unit = "cycles" if cycles else "ns"
    out.print(table(_HEADERS, _times(done, cycles), texts=2, title=f"time of a call, {unit}"))
    out.print(_about_times(done), soft_wrap=True)
    if figures.threads > 1:
        title = "waiting for the allocator's own locks"
        out.print()
        out.print(table(_LOCKS, _locks(done), texts=2, title=title))
        out.print(
            "of all rounds; slab's and the page allocator's locks are not seen. A CPU that the\n"
            "host took while it held a lock has the others wait for milliseconds.",
            soft_wrap=True,
        )
    if any(one.figures and one.figures.by_size for one in done):
        out.print()
        out.print(table(_BY_SIZE, _by_size(done, cycles), texts=2, title=f"by size, {unit}"))
    out.print()
    out.print(table(_MEMORY, map(_memory, done)))
    out.print()
    out.print(table(_ANSWERS, map(_answers, done), texts=2))
    out.print(
        "pages: taken from the page allocator, the allocator's own tables included; mean and\n"
        "density (bytes of objects / bytes of pages) over all calls. answers equal: handles or\n"
        "places that ztrace's model gives, too; sizes: of the pool after each call.",
        soft_wrap=True,
    )
    for one in done:
        for line in _notes(one):
            out.print(line, soft_wrap=True)


def _times(done: Sequence[Measured], cycles: bool) -> list[list[str]]:
    rows = []
    for one in done:
        assert one.figures is not None
        for op, times in one.figures.times.items():
            rows.append([one.allocator, op, *_cells(times, cycles)])
    return rows


def _locks(done: Sequence[Measured]) -> list[list[str]]:
    rows = []
    for one in done:
        assert one.figures is not None
        for op, times in one.figures.times.items():
            share, half = times.waited_share or 0.0, times.waited_p50_ns or 0.0
            mean = f"{times.waited_ns or 0.0:,.1f}"
            rows.append([one.allocator, op, f"{share:.2%}", f"{half:,.0f}", mean])
    return rows


def _cells(times: Times, cycles: bool) -> list[str]:
    values = times.cycles if cycles else times.ns
    return [count_text(times.count), *(f"{round(values[name]):,}" for name in SHARES)]


def _by_size(done: Sequence[Measured], cycles: bool) -> list[list[str]]:
    rows = []
    for one in done:
        assert one.figures is not None
        for (low, high, op), times in one.figures.by_size.items():
            rows.append([one.allocator, op, f"{low}-{high}", *_cells(times, cycles)])
    return rows


def _about_times(done: Sequence[Measured]) -> str:
    figures = done[0].figures
    assert figures is not None
    clock = (
        f"the clock's own {figures.clock_ns:.0f} ns are subtracted, its step is "
        f"{figures.step_ns:.0f} ns"
    )
    if figures.threads > 1:
        return f"the middle one of {figures.rounds} rounds, by each figure; {clock}"
    text = f"a call's time is its least over {figures.rounds} rounds in fresh pools; {clock}"
    shares = [
        f"{one.allocator} {100 * one.figures.disagree:.2f} %"
        for one in done
        if one.figures is not None and one.figures.disagree is not None
    ]
    if shares:
        text += f". Calls whose least time was met in one round alone: {', '.join(shares)}"
    return text


def _memory(one: Measured) -> list[str]:
    figures = one.figures
    assert figures is not None
    return [
        one.allocator,
        "-" if figures.pages_peak is None else count_text(figures.pages_peak),
        "-" if figures.pages_mean is None else f"{figures.pages_mean:,.0f}",
        "-" if figures.density is None else f"{figures.density:.3f}",
        count_text(figures.refused),
    ]


def _answers(one: Measured) -> list[str]:
    compared = one.compared
    assert compared is not None
    if compared.model is None:
        return [one.allocator, "none", "-", "-"]
    return [
        one.allocator,
        compared.model,
        _of(compared.equal, compared.compared),
        _of(compared.sizes_equal, compared.sizes_compared) if compared.sizes_compared else "-",
    ]


def _of(equal: int, compared: int) -> str:
    return f"{count_text(equal)} of {count_text(compared)}"


def _notes(one: Measured) -> list[str]:
    assert one.calls is not None and one.compared is not None
    lines = []
    if one.calls.adds_maps:
        lines.append(
            f"{one.allocator}: the trace has no maps; each object was mapped once, to write"
        )
    for why, count in one.calls.left_out.items():
        lines.append(f"{one.allocator}: not played: {count_text(count)} {why}")
    if one.figures is not None and one.figures.no_shrink:
        lines.append(
            f"{one.allocator}: {count_text(one.figures.no_shrink)} shrinks not played: it has none "
            f"in kernel {one.release}"
        )
    if one.compared.first is not None:
        lines.append(f"{one.allocator}: first difference: {one.compared.first}")
    if one.output is not None:
        lines.append(f"{one.output}: written")
    return lines


def show_contrast(out: Console, trace: str, found: Contrast) -> None:
    """Print what differs between two kernels."""
    for letter, kernel, release in zip("AB", found.kernels, found.releases, strict=True):
        out.print(f"{letter}: kernel {kernel} ({release})", soft_wrap=True)
    out.print(
        f"{found.allocator} with {trace}: {found.pairs} pairs of guests in turn, {found.rounds} "
        "rounds in each",
        soft_wrap=True,
    )
    out.print()
    cells = [
        [
            one.op,
            _NAMES.get(one.figure, one.figure),
            f"{one.a_ns:,.1f}",
            f"{one.b_ns:,.1f}",
            f"{one.difference_ns:+,.1f}",
            f"{one.low_ns:+,.1f} to {one.high_ns:+,.1f}",
            "*" if one.is_told else "",
        ]
        for one in found.differences
    ]
    out.print(table(("call", "", "A ns", "B ns", "B - A", "95 %", ""), cells, texts=2))
    of = "each call's least time over a guest's rounds"
    if found.threads > 1:
        of = f"calls on {found.threads} CPUs, the middle one of a guest's rounds"
    text = (
        f"of {of}; 95 %: of the difference, by pairs; *:\n"
        "it leaves 0 out, as one interval in twenty does by chance."
    )
    if found.equal is not None:
        text += f" Calls after which both pools\nhad one size: {_of(found.equal, found.calls)}."
    out.print(text, soft_wrap=True)
