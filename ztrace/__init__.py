# SPDX-License-Identifier: GPL-2.0-only
"""The command line of ztrace: argument parsing, console output, error lines. No logic."""

__version__ = "0.2.0"
