# SPDX-License-Identifier: GPL-2.0-only
"""The one error of this package whose text is meant for the user."""


class TracerError(Exception):
    """What could not be done on this machine, where, and what to do; one line."""
