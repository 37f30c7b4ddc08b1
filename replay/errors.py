# SPDX-License-Identifier: GPL-2.0-only
"""The one exception of this package."""

from __future__ import annotations

from ztrace.errors import ZtraceError


class ReplayError(ZtraceError):
    """A trace cannot be replayed.

    The message is one line for the user: what is wrong, where (file and row, counted from 0),
    what to do about it.
    """
