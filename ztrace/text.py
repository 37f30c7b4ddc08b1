# SPDX-License-Identifier: GPL-2.0-only
"""Text for people: what came out of a file or a name, made safe to print; counts with nouns."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap

LEAST_WIDTH = 40
"""Below that no table is readable."""

UNPROBED = " is not probed: "
"""In a note of the recorder: the kernel has a function whose calls it could not see."""

_LONGEST = 1000


def printable(text: str) -> str:
    """Return ``text`` with control, bidirectional and surrogate characters escaped.

    What comes out of a file may hold terminal escape sequences or newlines; after this it is
    safe to print and stays on one line. Text over 1000 characters is cut.
    """
    return _escaped(text if len(text) <= _LONGEST else text[:_LONGEST] + "…")


def printable_lines(text: str) -> str:
    """As :func:`printable`, but lines and tabs stay what they are, and nothing is cut."""
    return "\n".join("\t".join(map(_escaped, line.split("\t"))) for line in text.split("\n"))


def columns() -> int:
    """How wide a line may be: what COLUMNS says, or the terminal on stdout, or 80."""
    return max(LEAST_WIDTH, shutil.get_terminal_size().columns)


def is_width_told() -> bool:
    """Whether somebody says how wide a line may be: COLUMNS, or a terminal."""
    return bool(os.environ.get("COLUMNS")) or (sys.stdout is not None and sys.stdout.isatty())


def wrapped(text: str, width: int) -> str:
    """Break lines that are wider between words; what follows is indented by two more.

    A word that is wider stands on a line of its own, whole: a path can be copied.
    """
    return "\n".join(
        line if len(line) <= width else "\n".join(_wrap(line, width)) for line in text.split("\n")
    )


def _wrap(line: str, width: int) -> list[str]:
    indent = line[: len(line) - len(line.lstrip(" "))]
    return textwrap.wrap(
        line,
        width,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def counted(number: int, noun: str) -> str:
    """``1 CPU``, ``2,000 CPUs``: a count with its noun, which takes an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def bytes_text(size: int | float) -> str:
    """Bytes with a binary unit: ``4.0 KiB``; whole bytes below 1 KiB."""
    if size < 1024:
        return f"{size:.0f} B"
    value, unit = size / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB", "PiB"):
        if value < 1023.95:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f} {unit}"


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
