# SPDX-License-Identifier: GPL-2.0-only
"""Standard streams as a command finds them: a pipe whose reader has left, or not there at all."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import click

from ztrace.text import columns, printable, printable_lines, wrapped

STDOUT = 1

UNSEEN = "standard output is closed; send it to a file or /dev/null"

_closed: set[int] = set()


def open_missing_streams() -> None:
    """Put /dev/null where a standard stream was closed (``>&-``).

    Without that the first file that a command opens would become its standard output.
    """
    _closed.clear()
    for number, mode in ((0, os.O_RDONLY), (STDOUT, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            _closed.add(os.open(os.devnull, mode))  # the lowest number that is free: this one
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, "r", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(STDOUT, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def nobody_sees_output() -> bool:
    """Whether standard output was closed when the command began."""
    return STDOUT in _closed


def forget_output() -> None:
    """Send what is still to be written to nowhere: its reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)


def say(text: str) -> None:
    """Print a line about the work on stderr; control characters of names and records escaped.

    It is one line, for programs that read it; at a terminal it is broken between words.
    """
    line = f"ztrace: {printable(text)}"
    if sys.stderr.isatty():
        line = wrapped(line, columns())
    click.echo(line, err=True)


def show(text: str, *, err: bool = False, nl: bool = True, wrap: bool = False) -> None:
    """Print text as it is, but for control characters, which are escaped.

    ``wrap``: with lines that are too wide broken between words.
    """
    if wrap:
        text = wrapped(text, columns())
    click.echo(printable_lines(text), err=err, nl=nl)


def watch_with_seconds() -> Callable[[str], None]:
    """Shows a guest's lines on stderr with the seconds since now."""
    began = time.monotonic()

    def watch(line: str) -> None:
        show(f"[{time.monotonic() - began:6.1f}] {line}", err=True)

    return watch
