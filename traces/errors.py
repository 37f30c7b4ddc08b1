# SPDX-License-Identifier: GPL-2.0-only
"""The one exception of this package."""

from __future__ import annotations

from ztrace.errors import ZtraceError
from ztrace.text import printable as printable


class TraceError(ZtraceError):
    """A trace, or a file on its way to become one, cannot be used.

    The message is one line for the user: what is wrong, where (the path), what to do about it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))
