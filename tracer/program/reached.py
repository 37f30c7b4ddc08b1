# SPDX-License-Identifier: GPL-2.0-only
"""Which lines of an allocator's source were never run, of a program that notes what is.

Each block of such a program's allocators begins with a call that notes its address (reached.c). All
the blocks that there are stand in its disassembly, and debugging information says of which line
each is. A block is of a line if that is where it begins; what the compiler left out is in none.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ztrace.tracer.errors import TracerError
from ztrace.tracer.program.build import Program

_MARK = "__sanitizer_cov_trace_pc>"
_AT = re.compile(r"\s*([0-9a-f]+):\s")


@dataclass(frozen=True)
class Line:
    """A place in the source; ``blocks`` begin there, of which ``run`` were run."""

    function: str
    line: int
    blocks: int
    run: int


def read_reached(path: Path) -> set[int]:
    """Addresses that a guest noted; TracerError if it did not."""
    if not path.is_file():
        raise TracerError("this kernel was not built to note what is reached")
    return set(np.fromfile(path, "<u8").tolist()) - {0}


def lines(program: Program, source: str, reached: Iterable[int]) -> list[Line]:
    """The lines of a source file in which blocks begin, in order. ``source``: how its path ends.

    TracerError if objdump or addr2line fails or the program has no such blocks.
    """
    there = blocks(program)
    found: dict[tuple[str, int], list[bool]] = {}
    run = set(reached)
    for at, (function, line) in _places(program, source, there).items():
        found.setdefault((function, line), []).append(at in run)
    return [
        Line(function, line, len(runs), sum(runs))
        for (function, line), runs in sorted(found.items(), key=lambda one: one[0][1])
    ]


def blocks(program: Program) -> list[int]:
    """What each block of the allocators notes: the address after its call."""
    command = ["objdump", "-d", "--no-show-raw-insn", str(program.binary)]
    found, after_call = [], False
    for text in _output(command, "").splitlines():
        at = _AT.match(text)
        if after_call and at is not None:
            found.append(int(at[1], 16))
        after_call = text.endswith(_MARK) and "call" in text
    if not found:
        raise TracerError(f"{program.binary}: was not built to note what is reached")
    return found


def _places(program: Program, source: str, addresses: list[int]) -> dict[int, tuple[str, int]]:
    """Function and line in ``source`` of each address that is of it, inlined or not."""
    # The call itself is before the address that it returns to.
    asked = "".join(f"{at - 1:#x}\n" for at in addresses)
    command = ["addr2line", "-afi", "-e", str(program.binary)]
    found: dict[int, tuple[str, int]] = {}
    at, function = 0, ""
    for text in _output(command, asked).splitlines():
        file, colon, number = text.split(" ")[0].rpartition(":")
        if text.startswith("0x"):
            at, function = int(text, 16) + 1, ""
        elif not colon:
            function = text
        elif file.endswith(source) and number.isdigit():
            found.setdefault(at, (function, int(number)))
    return found


def _output(command: list[str], given: str) -> str:
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise TracerError(f"{command[0]} not found; as root: apt install binutils") from None
    if done.returncode:
        raise TracerError(f"{command[0]}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout
