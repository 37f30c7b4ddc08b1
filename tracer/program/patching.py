# SPDX-License-Identifier: GPL-2.0-only
"""A diff, or the mail it is in, applied to one file of a kernel's source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ztrace.tracer.errors import TracerError

_FILE = re.compile(r"^\+\+\+ (?:b/)?(\S+)")
_HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@")


@dataclass
class _Hunk:
    """``old`` lines, from line ``at`` on (from 1), become ``new`` ones."""

    at: int
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)


def changed_files(diff: str) -> list[str]:
    """The files that a diff changes, not those that it adds or removes, as it names them."""
    # What adds a file begins at its line 0; what removes one calls the new one /dev/null.
    return [path for path, hunks in _hunks(diff, "") if path != "/dev/null" and hunks[0].at]


def patched(diff: str, path: str, text: str, where: str) -> str:
    """``text``, of the file that the diff calls ``path``, after all the diff's changes of it.

    A hunk may lie some lines off where it says, but what it changes must be there word for word.
    TracerError, which says ``where`` the diff is from, if it is not, or if a hunk is cut short.
    """
    lines = text.splitlines()
    for name, hunks in _hunks(diff, where):
        moved = 0
        for number, hunk in enumerate(hunks if name == path else (), 1):
            wanted = hunk.at - 1 + moved
            count = len(hunk.old)
            there = [at for at in range(len(lines)) if lines[at : at + count] == hunk.old]
            if not count:
                there = [min(wanted + 1, len(lines))]  # nothing to look for: it adds after a line
            if not there:
                raise TracerError(
                    f"{where}: does not fit: hunk {number}, of line {hunk.at} of {path}, "
                    "changes lines that are not there"
                )
            at = min(there, key=lambda at: abs(at - wanted))
            lines[at : at + count] = hunk.new
            moved = at - (hunk.at - 1) - (not count) + len(hunk.new) - count
    return "".join(f"{line}\n" for line in lines)


def _hunks(diff: str, where: str) -> Iterator[tuple[str, list[_Hunk]]]:
    """Each file of a diff with its hunks."""
    lines = iter(diff.splitlines())
    path, hunks = "", list[_Hunk]()
    for line in lines:
        if named := _FILE.match(line):
            if path and hunks:
                yield path, hunks
            path, hunks = named[1], []
        elif path and (begin := _HUNK.match(line)):
            hunk = _Hunk(int(begin[1]))
            counts = int(begin[2] or 1), int(begin[3] or 1)
            while (len(hunk.old), len(hunk.new)) != counts:
                body = next(lines, None)
                # A mail may have lost the space of an empty line.
                mark, rest = (body[:1] or " ", body[1:]) if body is not None else ("", "")
                if mark not in (" ", "+", "-", "\\") or not mark:
                    raise TracerError(f"{where}: cut short inside {path}")
                if mark in " -":
                    hunk.old.append(rest)
                if mark in " +":
                    hunk.new.append(rest)
            hunks.append(hunk)
    if path and hunks:
        yield path, hunks
