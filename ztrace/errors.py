# SPDX-License-Identifier: GPL-2.0-only
"""What every error that is meant for the user derives from."""

from __future__ import annotations


class ZtraceError(Exception):
    """A user can cause it, so its text is for the user: one line, what, where and what to do.

    ``exit_status`` is what the command ends with.
    """

    exit_status = 2
