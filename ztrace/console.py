# SPDX-License-Identifier: GPL-2.0-only
"""What the subcommands share on the console: tables, numbers with units, progress, JSON."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ztrace.text import bytes_text as bytes_text
from ztrace.text import columns, is_width_told, printable, printable_lines, wrapped
from ztrace.traces.metadata import Metadata
from ztrace.units import count_text as count_text
from ztrace.units import ns_text as ns_text

_WHOLE = 24
"""Names up to that long are not broken to fit a line."""

_GAP = 2
_KEPT = 2
"""Columns that a table keeps however narrow it must be."""
_TRAILING = re.compile(r" +$", re.MULTILINE)
_UNIT = re.compile(r"(?<=\d) (?=(?:%|B|[KMGTP]iB|[num]?s)(?!\w))")
_TIED = "\ue000"
"""Stands for a blank where a line must not be broken; printable() leaves none in a text."""


class _Plain(Console):
    """Prints text as it is: control characters escaped, no blanks at the ends of lines.

    Lines are broken between words. A table that does not fit loses columns, and says which,
    rather than names broken in two. A number and its unit stand on one line.
    """

    def print(self, *objects: Any, soft_wrap: bool | None = None, **how: Any) -> None:
        """As rich, but what it raises about the stream is left to the caller.

        ``soft_wrap``: a line stays one where nobody says how wide it may be, for who searches it.
        """
        whole = bool(soft_wrap) and not is_width_told()
        left_out: list[str] = []
        for one in objects:
            if isinstance(one, Table):
                left_out += _narrowed(one, self.width)
        with self.capture() as captured:
            safe = (
                (_tied(one) if whole else wrapped(_tied(one), self.width))
                if isinstance(one, str)
                else one
                for one in objects
            )
            super().print(*safe, crop=False, soft_wrap=_are_texts(objects), **how)
        self.file.write(_TRAILING.sub("", captured.get().replace(_TIED, " ")))
        if left_out:
            self.print(f"(too narrow for: {', '.join(left_out)})")


def _are_texts(objects: Sequence[Any]) -> bool:
    return all(isinstance(one, str) for one in objects)


def _narrowed(table: Table, width: int) -> list[str]:
    """Take columns from a table's right until it fits; the headers of those, if any.

    Its first column of text and one of numbers stay, as wide as they have to be.
    """
    left_out: list[str] = []
    while (least := _least(table)) > width and len(table.columns) > _KEPT:
        left_out.insert(0, " ".join(str(table.columns.pop().header).split()))
    table.width = least if least > width else None
    return left_out


def _least(table: Table) -> int:
    widths = [column.min_width or 0 for column in table.columns]
    return sum(widths) + _GAP * (len(widths) - 1)


def _tied(text: str) -> str:
    return _UNIT.sub(_TIED, printable_lines(text))


def console() -> Console:
    """Return a console on stdout: 80 columns, or COLUMNS, neither colour nor escapes in a pipe."""
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        # A name in a trace may hold what the locale's encoding cannot say.
        out.reconfigure(errors="backslashreplace")
    if out.isatty():
        return _Plain(file=out, highlight=False, markup=False, emoji=False)
    return _Plain(
        file=out,
        width=columns(),
        force_terminal=False,
        color_system=None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    texts: int = 1,
    title: str | None = None,
) -> Table:
    """Return a table without lines that fits the console that prints it.

    The first ``texts`` columns are text, flush left, folded when too long; the others are
    numbers, flush right, never broken. Cells are shown as they are, control characters escaped.
    """
    made = Table(
        box=None, pad_edge=False, padding=(0, _GAP, 0, 0), title=title, title_justify="left"
    )
    cells = [[printable(cell) for cell in row] for row in rows]
    for i, header in enumerate(headers):
        texts_of = [header, *(row[i] for row in cells)]
        if i < texts:
            longest = max(cell_len(word) for text in texts_of for word in [*text.split(), ""])
            made.add_column(header, overflow="fold", min_width=min(longest, _WHOLE))
        else:
            longest = max(cell_len(line) for text in texts_of for line in text.split("\n"))
            made.add_column(header, justify="right", no_wrap=True, min_width=longest)
    for row in cells:
        made.add_row(*map(Text, row))
    return made


def pairs(rows: Iterable[tuple[str, str]]) -> Table:
    """Return a table of names and values without headers."""
    made = table(["", ""], rows, texts=2)
    made.show_header = False
    made.columns[0].no_wrap = True
    return made


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr while the block runs; give a function to call with work done.

    ``total`` None means that the amount is not known. Silent if stderr is no terminal.
    """
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(printable(description), total=total)
        yield lambda done: bar.advance(task, done)


def print_json(document: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Print a document as indented ASCII JSON on stdout."""
    print(json.dumps(document, indent=2, allow_nan=False))


def about(trace: str | os.PathLike[str], rows: int, metadata: Metadata) -> dict[str, Any]:
    """What every JSON document says of the trace it was made of (docs/json.md)."""
    return {
        "trace": str(trace),
        "rows": rows,
        "lost_events": metadata.lost_events(),
        "lost": metadata.lost,
        "left_out": metadata.left_out,
        "sample_period": metadata.sample_period(),
        "unprobed": metadata.unprobed(),
    }


def lost_text(lost: int | None) -> str:
    """A number of lost events; unknown where nobody counted."""
    return "unknown, nobody counted them" if lost is None else count_text(lost)


def lost_lines(metadata: Metadata) -> list[str]:
    """Return the lines that every output shows about events missing from the file, and why."""
    lines = [f"lost events: {lost_text(metadata.lost_events())}"]
    for cause, by_cpu in metadata.lost.items():
        total = sum(by_cpu.values())
        if total:
            cpus = ", ".join(f"cpu {cpu}: {count_text(n)}" for cpu, n in by_cpu.items() if n)
            lines.append(f"  {printable(cause)}: {count_text(total)} ({printable(cpus)})")
    for cause, by_op in metadata.left_out.items():
        ops = ", ".join(f"{op} {count_text(n)}" for op, n in by_op.items())
        lines.append(f"left out by choice, {printable(cause)}: {printable(ops)}")
    period = metadata.sample_period()
    if period != 1:
        lines.append(
            f"sampled: 1 of {period:g} objects is here; times {period:g}, a count estimates that "
            "of all"
        )
    return lines + [printable(note) for note in metadata.unprobed()]


def partial_lines(metadata: Metadata) -> list[str]:
    """Return what a replay's figures mean where only some objects of a pool were recorded."""
    if metadata.has_all_objects():
        return []
    return [
        "only some objects of the pools are here: objects and bytes stored are theirs; held,",
        "density and classes are of a pool with these alone, not of the recorded pool",
    ]
