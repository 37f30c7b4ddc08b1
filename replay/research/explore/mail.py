# SPDX-License-Identifier: GPL-2.0-only
"""A run as plain text of 78 columns, one column a CPU, to be pasted into a mail."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from ztrace.replay.research.explore.machine import Finding
from ztrace.replay.research.explore.search import Row, Run

WIDTH = 78
_NUMBER = 9  # columns of the steps' numbers
_FOLD = 3  # so many steps or calls of the same kind in a row are folded


class _Line(NamedTuple):
    """What one CPU did in steps ``first`` to ``last``, and what the last of them met."""

    first: int
    last: int
    cpu: int
    text: str
    gap: str = ""
    findings: tuple[Finding, ...] = ()


def schedule_lines(run: Run, cpus: int) -> Iterator[str]:
    """Lines of a schedule, its hazard, and what follows from it.

    Steps that repeat are folded; ``->`` marks what is a consequence, ``=>`` a hazard.
    """
    yield _columns("step", [f"CPU {cpu}" for cpu in range(cpus)]).rstrip()
    yield from _rows(run.rows, 1, cpus)
    if run.rest:
        yield ""
        yield "and from there, if each CPU goes on as long as it can:"
        yield ""
        yield from _rows(run.rest, len(run.rows) + 1, cpus)
    if run.undefined:
        yield "    (the kernel's behaviour is undefined from here)"


def _rows(rows: Sequence[Row], first: int, cpus: int) -> Iterator[str]:
    for line in _folded(list(enumerate(rows, first))):
        number = f"{line.first}" if line.first == line.last else f"{line.first}-{line.last}"
        width = _width(cpus)
        texts = textwrap.wrap(line.text, width, subsequent_indent="  ")
        if line.gap:
            texts.append(f"[gap {line.gap}]")
        for i, text in enumerate(texts):
            cells = [""] * cpus
            cells[line.cpu] = text
            yield _columns("" if i else number, cells).rstrip()
        for finding in line.findings:
            mark = f"    => {finding.name}: " if finding.name else "    -> "
            yield from textwrap.wrap(
                finding.text, WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark)
            )


def _width(cpus: int) -> int:
    return (WIDTH - _NUMBER) // cpus - 1


def _columns(number: str, cells: Sequence[str]) -> str:
    width = _width(len(cells))
    return f"{number:>{_NUMBER - 2}}  " + " ".join(f"{cell:{width}}" for cell in cells)


def _folded(rows: list[tuple[int, Row]]) -> Iterator[_Line]:
    """Lines for rows with their numbers; calls that repeat are folded first, then steps."""
    calls = [
        list(chunk) for _, chunk in groupby(rows, key=lambda pair: (pair[1].cpu, pair[1].number))
    ]
    for _, alike in groupby(calls, key=_kind):
        group = list(alike)
        shown = group[:1] if len(group) >= _FOLD else group
        for call in shown:
            yield from _steps(call)
        if len(shown) < len(group):
            yield _fold([row for call in group[1:] for row in call], len(group) - 1, "call")


def _kind(call: list[tuple[int, Row]]) -> tuple[object, ...]:
    """Equal for calls that may be folded: whole ones of one CPU, same steps, nothing met."""
    row = call[-1][1]
    if not row.ends_call or any(one.findings for _, one in call):
        return (call[0][0],)
    return (row.cpu, *(one.step for _, one in call))


def _steps(call: list[tuple[int, Row]]) -> Iterator[_Line]:
    def kind(pair: tuple[int, Row]) -> object:
        return pair[0] if pair[1].findings else pair[1].step

    for _, alike in groupby(call, key=kind):
        group = list(alike)
        shown = group[:1] if len(group) >= _FOLD else group
        for number, row in shown:
            yield _Line(number, number, row.cpu, _text(row), row.gap, row.findings)
        if len(shown) < len(group):
            yield _fold(group[1:], len(group) - 1, "step")


def _fold(rows: list[tuple[int, Row]], times: int, what: str) -> _Line:
    last = rows[-1][1]
    text = f"... {times} more {what}s alike, the last: {_text(last)}"
    return _Line(rows[0][0], rows[-1][0], last.cpu, text, last.gap)


def _text(row: Row) -> str:
    return f"{row.step} ({row.text})" if row.text else row.step
