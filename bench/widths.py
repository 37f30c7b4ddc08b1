# SPDX-License-Identifier: GPL-2.0-only
"""Every command at 60, 80 and 200 columns: ``python -m bench.widths [RECORDING...]``.

The lines of bench/commands.py, plain, and ``--help`` of every command, with NO_COLOR and LANG=C, in
a pipe of that many COLUMNS. A line that is wider, holds an escape or ends in blanks is printed with
the command it came from. Exit status 1 if there is any. A report is a document of its own width,
75 columns, and neither a path wider than the line is broken nor C to be pasted. A share of it is in
the suite (tests/test_widths.py).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from bench.commands import CASES, RECORDINGS, facts, words_of
from ztrace.cli import COMMANDS
from ztrace.replay.report.render import WIDTH as REPORT

WIDTHS = (60, 80, 200)


class Line(NamedTuple):
    """A line that is not as it should be."""

    width: int
    command: str
    why: str
    line: str


def environment(width: int) -> dict[str, str]:
    """Of a process in a pipe of that width."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("LC_")}
    return {**plain, "COLUMNS": str(width), "NO_COLOR": "1", "LANG": "C", "TERM": "dumb"}


def wrong_lines(text: str, width: int, command: str) -> Iterator[Line]:
    """What is too wide in what a command printed, or should not be there."""
    for line in text.splitlines():
        # A path is not broken, nor C that is to be pasted.
        if len(line) > width and len(line.split()) > 1 and not line.startswith("\t{"):
            yield Line(width, command, f"{len(line)} columns", line)
        elif "\x1b" in line:
            yield Line(width, command, "an escape", line)
        elif line != line.rstrip():
            yield Line(width, command, "blanks at its end", line)


def try_at(width: int, words: list[str]) -> list[Line]:
    """Run a command at a width."""
    done = subprocess.run(
        [sys.executable, "-m", "ztrace", *words],
        capture_output=True,
        text=True,
        env=environment(width),
        stdin=subprocess.DEVNULL,
    )
    allowed = max(width, REPORT) if words[0] == "report" and "--help" not in words else width
    return list(wrong_lines(done.stdout, allowed, " ".join(words)))


def helps() -> list[list[str]]:
    """Every command's help, and the whole's."""
    return [["--help"], *([name, "--help"] for name in COMMANDS)]


def lines_of(recording: Path, folder: Path) -> list[list[str]]:
    """The commands on a recording."""
    out = folder / f"{recording.stem}.out.parquet"
    known = facts(recording)
    lines = [words_of(case.plain, known, out) for case in CASES]
    return [[*words, "--force"] if str(out) in " ".join(words) else words for words in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description="Try all commands' widths; see the module.")
    parser.add_argument("recording", type=Path, nargs="*", default=RECORDINGS)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(arguments.processes) as pool:
        asked = helps()
        for recording in arguments.recording:
            asked += lines_of(recording, Path(scratch))
        jobs = [(width, words) for words in asked for width in WIDTHS]
        wrong = [one for found in pool.map(lambda job: try_at(*job), jobs) for one in found]
    for one in wrong:
        print(f"{one.width}: ztrace {one.command}: {one.why}\n    {one.line}")
    print(f"{len(asked)} commands x {len(WIDTHS)} widths, {len(wrong)} lines not as they should be")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
