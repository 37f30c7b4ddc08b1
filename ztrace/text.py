# SPDX-License-Identifier: GPL-2.0-only
"""Text for people: what came out of a file or a name, made safe to print; counts with nouns."""

from __future__ import annotations

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


def counted(number: int, noun: str) -> str:
    """``1 CPU``, ``2,000 CPUs``: a count with its noun, which takes an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
