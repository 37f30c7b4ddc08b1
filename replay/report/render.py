# SPDX-License-Identifier: GPL-2.0-only
"""A document as text for a mail, Markdown, CSV and JSON; more forms in html.py, perfetto.py."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from ztrace.replay.report.html import html
from ztrace.replay.report.perfetto import as_perfetto
from ztrace.replay.report.tables import Table
from ztrace.traces.errors import printable

WIDTH = 75
"""Columns of a mail to a list; ten less than 85, where quoting begins to wrap."""

_GAP = 1
_LEAST_TEXT = 8  # a text column is folded no narrower than this

Json = dict[str, Any]


def as_json(document: Json, tables: Sequence[Table], title: str) -> str:
    """Everything."""
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def as_text(document: Json, tables: Sequence[Table], title: str) -> str:
    """The answers, as plain ASCII, no line longer than WIDTH; all tables of what has no answer."""
    short = [table for table in tables if table.brief >= 0]
    if not short:
        return as_full_text(document, tables, title)
    lines = [*_wrapped(title), "=" * min(WIDTH, len(_ascii(title)))]
    for table in short:
        if table.rows or table.lead:
            lines.append("")
            for words in table.lead:
                lines += _wrapped(words)
        if table.rows and table.brief:
            lines += _grid(replace(table, rows=table.rows[: table.brief + 1]))
            for note in table.notes:
                lines += _wrapped(note, "- ")
    lines += ["", *_wrapped("The whole: --format full, or -o report.html.")]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def as_full_text(document: Json, tables: Sequence[Table], title: str) -> str:
    """All tables, as plain ASCII, no line longer than WIDTH."""
    lines = [*_wrapped(title), "=" * min(WIDTH, len(_ascii(title))), ""]
    for table in tables:
        if table.rows:
            lines += [*_wrapped(table.title), "-" * min(WIDTH, len(table.title))]
            for words in table.lead:
                lines += _wrapped(words)
            lines += _grid(table)
            lines += _wrapped(f"Source: {table.source}. Error: {table.error}.")
            for note in (*table.notes, *table.rules):
                lines += _wrapped(note, "- ")
            lines.append("")
    return "\n".join(line.rstrip() for line in lines)


def as_markdown(document: Json, tables: Sequence[Table], title: str) -> str:
    """GitHub's Markdown."""
    lines = [f"# {_markdown(title)}", ""]
    for table in tables:
        if not table.rows:
            continue
        sides = ["---" if i < table.texts else "--:" for i in range(len(table.headers))]
        lines += [f"## {_markdown(table.title)}", ""]
        lines += [f"{_markdown(words)}\n" for words in table.lead]
        lines += [_markdown_row(table.headers), "|" + "|".join(sides) + "|"]
        lines += [_markdown_row([cell.text for cell in row]) for row in table.rows]
        lines += ["", f"Source: {_markdown(table.source)}. Error: {_markdown(table.error)}.", ""]
        notes = [*table.notes, *table.rules]
        lines += [f"- {_markdown(note)}" for note in notes]
        lines += [""] if notes else []
    return "\n".join(lines)


def as_csv(document: Json, tables: Sequence[Table], title: str) -> str:
    """One figure a row: table, the row's texts, column, value in the document's unit, place."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "row", "column", "value", "place", "source", "error"])
    for table in tables:
        for row in table.rows:
            name = " / ".join(printable(cell.text) for cell in row[: table.texts])
            for header, cell in list(zip(table.headers, row, strict=True))[table.texts :]:
                value = "" if cell.value is None else cell.value
                place = printable(cell.pointer)
                writer.writerow([table.name, name, header, value, place, table.source, table.error])
    return out.getvalue()


FORMATS: dict[str, Callable[[Json, Sequence[Table], str], str]] = {
    "html": html,
    "text": as_text,
    "full": as_full_text,
    "md": as_markdown,
    "json": as_json,
    "csv": as_csv,
    "perfetto": as_perfetto,
}
"""Format -> (document, its tables, title) -> the file's text."""


def _ascii(words: str) -> str:
    return printable(words).encode("ascii", "backslashreplace").decode()


def _wrapped(words: str, mark: str = "") -> list[str]:
    return textwrap.wrap(
        *(_ascii(words), WIDTH),
        initial_indent=mark,
        subsequent_indent=" " * len(mark),
        break_on_hyphens=False,
    )


def _grid(table: Table) -> list[str]:
    """Text columns are folded until the table fits; numbers that still do not go below."""
    cells = [[_ascii(cell.text) for cell in row] for row in table.rows]
    grid = [list(table.headers), *cells]
    widths = [max(len(row[i]) for row in grid) for i in range(len(table.headers))]
    texts = range(table.texts)
    while sum(widths) + _GAP * (len(widths) - 1) > WIDTH:
        widest = max(texts, key=lambda i: widths[i])
        if widths[widest] <= _LEAST_TEXT:
            break
        widths[widest] -= 1
    lines: list[str] = []
    for part in _parts(widths, table.texts):
        columns = [*texts, *part]
        for row in grid:
            shown = [row[i] for i in columns]
            lines += _text_row(shown, [widths[i] for i in columns], table.texts)
    return lines


def _parts(widths: Sequence[int], texts: int) -> list[list[int]]:
    """Columns of numbers that fit beside all columns of texts, part by part."""
    parts: list[list[int]] = [[]]
    room = WIDTH - sum(width + _GAP for width in widths[:texts]) + _GAP
    left = room
    for i in range(texts, len(widths)):
        left -= widths[i] + _GAP
        if left < 0 and parts[-1]:
            parts.append([])
            left = room - widths[i] - _GAP
        parts[-1].append(i)
    return parts


def _text_row(row: Sequence[str], widths: Sequence[int], texts: int) -> Iterable[str]:
    folded = [
        (textwrap.wrap(cell, width) or [""]) if i < texts else [cell]
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    for k in range(max(len(parts) for parts in folded)):
        shown = [parts[k] if k < len(parts) else "" for parts in folded]
        yield (" " * _GAP).join(
            cell.ljust(width) if i < texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(shown, widths, strict=True))
        )


def _markdown(words: str) -> str:
    """Words that mean nothing to Markdown or HTML."""
    shown = printable(words).replace("&", "&amp;").replace("<", "&lt;")
    for mark in "\\`*_[]|":
        shown = shown.replace(mark, "\\" + mark)
    return shown


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_markdown, cells)) + " |"
