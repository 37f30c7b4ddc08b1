# SPDX-License-Identifier: GPL-2.0-only
"""The one exception of this package, and the filter that keeps its text on one line."""

from __future__ import annotations

from ztrace.errors import ZtraceError

_LONGEST = 1000


def printable(text: str) -> str:
    """Return ``text`` with control, bidirectional and surrogate characters escaped.

    What comes out of a file may hold terminal escape sequences or newlines; after this it is
    safe to print and stays on one line. Text over 1000 characters is cut.
    """
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "…"
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


class TraceError(ZtraceError):
    """A trace, or a file on its way to become one, cannot be used.

    The message is one line for the user: what is wrong, where (the path), what to do about it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))
