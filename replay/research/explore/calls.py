# SPDX-License-Identifier: GPL-2.0-only
"""The small language in which calls are given to the explorer.

    calls := program ("|" program)*            one program a CPU, in order
    program := call (";" call)*                executed one after the other
    call := ("malloc" | "store" | "reclaim") ["*" COUNT]
          | ("free" | "map" | "unmap") "#" K ["-" K]

``#K`` is the object of the K-th malloc or store in the order of writing, counted from 1 through
the set-up and then through the programs from left to right. A store is what zswap does with a
new object: malloc, map, unmap, and only then is it known to the evict callback.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ztrace.replay.errors import ReplayError

MAX_CPUS = 4
"""More columns than this cannot be read, and their interleavings not be enumerated."""
MAX_CALLS = 200

_CALL = re.compile(
    r"(?P<make>malloc|store|reclaim)\s*(?:\*\s*(?P<count>\d+))?"
    r"|(?P<use>free|map|unmap)\s*#(?P<first>\d+)(?:\s*-\s*#?(?P<last>\d+))?"
)


class Call(NamedTuple):
    """One call; ``k`` is the number of the object that it makes or uses, 0 for reclaim."""

    op: str
    k: int = 0

    def __str__(self) -> str:
        return f"{self.op} #{self.k}" if self.k else self.op


Program = tuple[Call, ...]


def parse(setup: str, calls: str) -> tuple[Program, tuple[Program, ...]]:
    """Read the set-up (may be empty) and the CPUs' programs; ReplayError says what is wrong."""
    if "|" in setup:
        raise ReplayError("set-up: runs on one CPU before the others; '|' belongs into the calls")
    made = 0
    programs: list[Program] = []
    for where, text in (("set-up", setup), *(("calls", text) for text in calls.split("|"))):
        program: list[Call] = []
        for call in _calls(text, where, made):
            made += call.op in ("malloc", "store")
            program.append(call)
            if len(program) > MAX_CALLS:
                raise ReplayError(f"{where}: more than {MAX_CALLS} calls in one program")
        if where == "calls" and not program:
            raise ReplayError("calls: a CPU has no call; write for instance 'malloc | malloc*9'")
        programs.append(tuple(program))
    if len(programs) - 1 > MAX_CPUS:
        raise ReplayError(f"calls: {len(programs) - 1} programs; at most {MAX_CPUS} CPUs")
    _check_objects(programs, made)
    return programs[0], tuple(programs[1:])


def _calls(text: str, where: str, made: int) -> Iterator[Call]:
    for part in text.split(";") if text.strip() else ():
        match = _CALL.fullmatch(part.strip())
        if match is None:
            raise ReplayError(
                f"{where}: {part.strip()!r} is no call; write malloc, store or reclaim, perhaps "
                "with *COUNT, or free #K, map #K or unmap #K"
            )
        if match["make"]:
            for _ in range(_bounded(match["count"] or "1", where)):
                made += match["make"] != "reclaim"
                yield Call(match["make"], made if match["make"] != "reclaim" else 0)
        else:
            first = _bounded(match["first"], where)
            last = _bounded(match["last"] or match["first"], where)
            if last < first:
                raise ReplayError(f"{where}: {part.strip()!r} counts down")
            for k in range(first, last + 1):
                yield Call(match["use"], k)


def _bounded(digits: str, where: str) -> int:
    if len(digits) > 6 or not 1 <= int(digits) <= 10 * MAX_CALLS:
        raise ReplayError(f"{where}: {digits} is not between 1 and {10 * MAX_CALLS}")
    return int(digits)


def _check_objects(programs: Sequence[Program], made: int) -> None:
    """Refuse what no correct user does, and programs that would wait for each other for ever."""
    freed: set[int] = set()
    for call in (call for program in programs for call in program if call.op != "reclaim"):
        if call.k > made:
            raise ReplayError(f"{call}: there are only {made} mallocs and stores")
        if call.op == "free":
            if call.k in freed:
                raise ReplayError(f"{call}: freed twice; an object has one owner")
            freed.add(call.k)
    exists: set[int] = set()
    at = [0] * len(programs)
    for cpu, program in enumerate(programs[:1]):  # the set-up comes first, alone
        at[cpu] = _advance(program, 0, exists)
        if at[cpu] < len(program):
            raise ReplayError(f"set-up: {program[at[cpu]]} comes before its malloc")
    moved = True
    while moved:
        before = list(at)
        at = [_advance(program, at[cpu], exists) for cpu, program in enumerate(programs)]
        moved = at != before
    for cpu, program in enumerate(programs):
        if at[cpu] < len(program):
            raise ReplayError(f"calls: {program[at[cpu]]} waits for ever for its malloc")


def _advance(program: Program, start: int, exists: set[int]) -> int:
    """Run a program as far as its objects exist; return where it stops."""
    for number in range(start, len(program)):
        call = program[number]
        if call.op in ("malloc", "store"):
            exists.add(call.k)
        elif call.k and call.k not in exists:
            return number
    return len(program)
