# SPDX-License-Identifier: GPL-2.0-only
"""No line is wider than it may be, whatever prints it; all of it is ``python -m bench.widths``."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.widths import WIDTHS, environment, helps, lines_of, try_at, wrong_lines
from ztrace.text import wrapped

SAMPLE = Path(__file__).parents[1] / "traces" / "samples" / "case-study" / "compile-z3fold.parquet"


@pytest.mark.parametrize("width", WIDTHS)
def test_no_command_prints_wider_lines(width: int, tmp_path: Path) -> None:
    """Every command on a recording on two CPUs, which has most to say; helps at the least."""
    with ThreadPoolExecutor(2) as pool:
        asked = [*(helps() if width == WIDTHS[0] else []), *lines_of(SAMPLE, tmp_path)]
        found = pool.map(lambda words: try_at(width, words), asked)
    assert [line for lines in found for line in lines] == []


def test_a_wider_line_is_seen() -> None:
    text = f"{'word ' * 20}\nshort\n\x1b[1mbold\n/a/path/that/is/longer/than/the/line\nx \n"
    assert [one.why for one in wrong_lines(text, 30, "")] == [
        "100 columns",
        "an escape",
        "blanks at its end",
    ]


def test_lines_break_between_words() -> None:
    line = "  pool 1: a/path/that/is/longer/than/a/line differs, as it may"
    assert wrapped(line, 24).split("\n") == [
        "  pool 1:",
        "    a/path/that/is/longer/than/a/line",
        "    differs, as it may",
    ]
    assert wrapped("as it is\n  and this", 24) == "as it is\n  and this"


def test_a_message_at_a_terminal_is_broken_between_words() -> None:
    """In a pipe it is one line, for whoever reads it there."""
    words = ["replay", str(SAMPLE), "--backend", "nosuch"]
    command = [sys.executable, "-m", "ztrace", *words]
    piped = subprocess.run(command, capture_output=True, text=True, env=environment(60))
    assert piped.stderr.count("\n") == 1 and len(piped.stderr) > 60
    ours, theirs = pty.openpty()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment(60))
    os.close(theirs)
    shown = os.read(ours, 4096).decode().replace("\r\n", "\n")
    os.close(ours)
    assert shown.count("\n") > 1 and max(map(len, shown.split("\n"))) <= 60
    assert shown.split() == piped.stderr.split()
