# SPDX-License-Identifier: GPL-2.0-only
"""The one error of this package whose text is meant for the user."""

from ztrace.errors import ZtraceError


class TracerError(ZtraceError):
    """What could not be done on this machine, where, and what to do; one line."""
