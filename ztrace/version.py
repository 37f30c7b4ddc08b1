# SPDX-License-Identifier: GPL-2.0-only
"""The version, apart from the package's own names, so that what these import can ask for it."""

__version__ = "0.2.0"
