# SPDX-License-Identifier: GPL-2.0-only
"""Traces of what other tracers wrote: lines of ftrace, trace-cmd or perf, and bpftrace's CSV.

The scripts in recipes/ record the functions that :mod:`ztrace.tracer.abi` names where bcc cannot
be installed. A line of ftrace's, trace-cmd's or perf's text is an entry into a function or a
return from it (``NAME__return``), of a task on a CPU, with values ``name=number``. A call is its
entry and the return that follows it in the task. zpool's malloc leaves its handle in memory, which
these events do not show; zswap maps what it got at once, so the malloc has the handle of the map
that follows it in the task.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import NoReturn

from ztrace.text import counted
from ztrace.tracer import abi
from ztrace.traces.csvfile import LONGEST_LINE, import_csv
from ztrace.traces.errors import TraceError, printable
from ztrace.traces.metadata import Metadata, Probe
from ztrace.traces.plaintext import Advance, Counted, open_binary, plain_text
from ztrace.traces.schema import SCHEMA, integer_range
from ztrace.traces.writer import TraceWriter

FORMATS = ("ftrace", "bpftrace")
"""What :func:`import_lines` reads. ftrace is also what trace-cmd and perf write."""

RETURN = "__return"
UNSEEN_RETURN = "a return whose entry came before the recording"

OPS = {
    probe.symbol: probe.op
    for group in (abi.FRONTSWAP, abi.ZSWAP, abi.ZPOOL, abi.ZSMALLOC, abi.ZRAM)
    for probe in group
    if probe.op is not None
}
"""Function -> op of the calls of it."""

_ZPOOL = frozenset(probe.symbol for probe in abi.ZPOOL)
_LINE = re.compile(
    # Of bounded parts, so that no line takes long.
    r"\s*\S.{0,63}?[-\s]\s*(?P<tid>\d{1,10})\s+(?:\([\s\d-]{1,20}\)\s+)?\[(?P<cpu>\d{1,5})\]\s+"
    r"(?:[\w.#*]{4,6}\s+)?(?P<s>\d{1,10})\.(?P<part>\d{9}|\d{6}):\s+(?:[\w-]+:)?"
    r"(?P<event>[A-Za-z_]\w*):(?:\s+(?P<rest>.*))?"
)
_VALUE = re.compile(r"(?<![\w.])(\w+)=(0[xX][0-9a-fA-F]{1,40}|-?\d{1,40})(?![\w.])")
_LOST = re.compile(
    r"CPU:?\s*(?P<cpu>\d{1,5}) \[(?:LOST )?(?P<ftrace>\d{1,15})? ?EVENTS(?: DROPPED)?\]"
    r"|.*PERF_RECORD_LOST(?:_SAMPLES)? lost (?P<perf>\d{1,15})"
    r"|Lost (?P<bpftrace>\d{1,15}) events"
)
# Beside events: comments, what trace-cmd says of its file, an empty CPU.
_IDLE = re.compile(r"\s*(?:#.*|cpus=\d+|version\s*=.*|CPU \d+ is empty.*)?")
_ERRORS = 1 << 64
_LEAST_ERROR = _ERRORS - 4095


def recipe(name: str) -> str:
    """The script that records for one of :data:`FORMATS`, for ``sh`` on the box."""
    return files("ztrace.tracer").joinpath(f"recipes/{name}.sh").read_text()


def import_lines(
    source: Path,
    output: Path,
    form: str,
    metadata: Metadata,
    *,
    force: bool = False,
    advance: Advance | None = None,
) -> Metadata:
    """Write what ``source`` holds as the trace ``output``; return the trace's metadata.

    ``form``: one of :data:`FORMATS`. ``metadata`` is completed: notes of what such a recording
    lacks, losses that the tracer counted. ``advance`` is called with bytes read. All calls are in
    memory at once, 200 bytes each. TraceError with the line for what is not of that form, for a
    text without a call, and for one of zpool and of the allocator below it at once.
    """
    where = str(source)
    with open_binary(source, where) as raw:
        lines = _lines(plain_text(Counted(raw, advance), where), where)
        reader = _Events(where) if form == "ftrace" else _Rows(where)
        for number, line in enumerate(lines, 1):
            reader.take(number, line)
    table = reader.table()
    metadata.notes[:] = [f"imported from {form}'s text"]
    with TraceWriter(output, metadata, force=force) as writer:
        # bpftrace's CPUs write their lines in turn, not in the order of the calls.
        import_csv(io.BytesIO(table), writer, name=where, sort=form == "bpftrace")
        writer.metadata.notes += reader.notes()
        lost = {cpu: number for cpu, number in reader.lost.items() if number}
        if lost:
            writer.metadata.lost[f"{form}'s buffer was full"] = lost
        writer.metadata.probes.update(reader.probes())
        return writer.metadata


def _lines(pieces: Iterator[bytes], where: str) -> Iterator[str]:
    rest = b""
    number = 0
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > LONGEST_LINE:
            _refuse(where, number + len(whole) + 1, f"longer than {LONGEST_LINE} bytes")
        for line in whole:
            number += 1
            yield _decoded(line, where, number)
    if rest:
        yield _decoded(rest, where, number + 1)


def _decoded(line: bytes, where: str, number: int) -> str:
    if b"\0" in line:
        hint = "; export the text (trace-cmd report -t, perf script --ns)"
        raise TraceError(f"{where}: line {number}: a NUL byte, so this is no text{hint}")
    return line.decode(errors="replace").rstrip("\r")


def _refuse(where: str, number: int, what: str) -> NoReturn:
    raise TraceError(f"{where}: line {number}: {what}")


class _Reader:
    """Takes one line after another."""

    def __init__(self, where: str) -> None:
        self._where = where
        self.lost: Counter[str] = Counter()

    def take(self, number: int, line: str) -> None:
        raise NotImplementedError

    def table(self) -> bytes:
        """What was read, as the CSV that :func:`import_csv` takes."""
        raise NotImplementedError

    def probes(self) -> dict[str, Probe]:
        return {}

    def notes(self) -> list[str]:
        """What a reader of the trace should know."""
        return [
            "no sizes of the pool, no places within pages, no zswap counters: nothing tells whether"
            " the recording has every call"
        ]

    def _is_loss(self, line: str) -> bool:
        match = _LOST.match(line)
        if match is None:
            return False
        number = match["ftrace"] or match["perf"] or match["bpftrace"]
        self.lost[match["cpu"] or "0"] += int(number or 1)
        return True


@dataclass
class _Call:
    op: str
    symbol: str
    ts_ns: int
    values: dict[str, int]


@dataclass
class _Task:
    """Calls of one thread that have not returned, the innermost last; its malloc without handle."""

    open: list[_Call] = field(default_factory=list)
    malloc: int = -1


class _Events(_Reader):
    """Reads events of ftrace."""

    HEAD = "ts_ns,dur_ns,op,pool,key,size,handle,ret,cpu,tid\n"

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self._rows: list[list[int | str | None]] = []
        self._tasks: dict[int, _Task] = {}
        self._pools: dict[int, int] = {}
        self._symbols: set[str] = set()
        self._other: Counter[str] = Counter()
        self._unentered = self._unreturned = self._coarse = 0

    def take(self, number: int, line: str) -> None:
        match = _LINE.fullmatch(line)
        if match is None:
            if not (_IDLE.fullmatch(line) or self._is_loss(line)):
                shown = printable(line.strip()[:40])
                _refuse(self._where, number, f"{shown!r} is no event of ftrace, trace-cmd or perf")
            return
        name = match["event"]
        symbol = name.removesuffix(RETURN)
        if symbol not in OPS:
            self._other[name] += 1
            return
        self._symbols.add(symbol)
        part = match["part"]
        at_ns = int(match["s"]) * 10**9 + int(part) * 10 ** (9 - len(part))
        self._coarse += len(part) < 9
        tid, cpu = int(match["tid"]), int(match["cpu"])
        values = self._values(match["rest"] or "", number)
        if symbol == name:
            call = _Call(OPS[symbol], symbol, at_ns, values)
            self._tasks.setdefault(tid, _Task()).open.append(call)
        else:
            self._finish(symbol, at_ns, tid, cpu, values, number)

    def _values(self, text: str, number: int) -> dict[str, int]:
        values = {}
        for name, digits in _VALUE.findall(text):
            value = int(digits, 0) if digits[:2] in ("0x", "0X") else int(digits)
            if not -(1 << 63) <= value < _ERRORS:
                _refuse(self._where, number, f"{name}={digits} has more than 64 bits")
            values[name] = value
        return values

    def _finish(
        self, symbol: str, at_ns: int, tid: int, cpu: int, values: dict[str, int], number: int
    ) -> None:
        task = self._tasks.setdefault(tid, _Task())
        if not any(call.symbol == symbol for call in task.open):
            self._unentered += 1
            return
        while (call := task.open.pop()).symbol != symbol:
            self._unreturned += 1  # the kernel had no room to remember that return
        if at_ns < call.ts_ns:
            _refuse(self._where, number, "returns before it was entered; sort by time, one clock")
        given = call.values | values
        ret = given.get("ret", 0)
        handle = given.get("handle")
        if symbol == "zs_malloc" and handle is not None and handle >= _LEAST_ERROR:
            ret, handle = handle - _ERRORS, None
        if call.op == "malloc" and "size" not in given:
            _refuse(self._where, number, f"{symbol} without size=; record as ztrace's script does")
        if call.op == "free" and handle is None:
            _refuse(
                self._where, number, f"{symbol} without handle=; record as ztrace's script does"
            )
        if call.op == "map" and task.malloc >= 0:
            self._rows[task.malloc][6] = handle
            task.malloc = -1
        if call.op == "malloc":
            task.malloc = len(self._rows) if handle is None and not ret else -1
        key = None
        if "offset" in given:
            key = given.get("type", 0) << abi.SWP_TYPE_SHIFT | given["offset"]
        pool = self._pools.setdefault(given["pool"], len(self._pools)) if "pool" in given else 0
        dur_ns = min(at_ns - call.ts_ns, 2**32 - 1)
        size = given.get("size") if call.op == "malloc" else None
        for name, value in zip(
            ("pool", "key", "size", "handle", "ret", "cpu", "tid"),
            (pool, key, size, handle, ret, cpu, tid),
            strict=True,
        ):
            low, high = integer_range(SCHEMA.field(name).type)
            if value is not None and not low <= value <= high:
                _refuse(self._where, number, f"{name} {value} is not from {low} to {high}")
        self._rows.append([call.ts_ns, dur_ns, call.op, pool, key, size, handle, ret, cpu, tid])

    def table(self) -> bytes:
        if not self._rows:
            seen = ", ".join(name for name, _ in self._other.most_common(3))
            raise TraceError(
                f"{self._where}: no call of zswap's or its allocator's in it"
                f"{f' but {printable(seen)}' if seen else ''}; ztrace import --recipe ftrace "
                "prints a script that records them"
            )
        if self._symbols & _ZPOOL and self._symbols & {"zs_malloc", "zs_free"}:
            raise TraceError(
                f"{self._where}: calls of zpool and of zsmalloc below it, so each is there twice; "
                "record zpool alone"
            )
        text = [self.HEAD]
        text += (",".join("" if v is None else str(v) for v in row) + "\n" for row in self._rows)
        return "".join(text).encode()

    def probes(self) -> dict[str, Probe]:
        return {OPS[symbol]: Probe("kprobe", symbol) for symbol in sorted(self._symbols)}

    def notes(self) -> list[str]:
        found = super().notes()
        if self._coarse:
            found.append("times were written in us, so durations are, too")
        if self._unentered:
            found.append(f"{counted(self._unentered, 'call')} left out: {UNSEEN_RETURN}")
        left = self._unreturned + sum(len(task.open) for task in self._tasks.values())
        if left:
            found.append(f"{counted(left, 'call')} left out: no return was recorded")
        without = sum(row[2] == "malloc" and row[6] is None and not row[7] for row in self._rows)
        if without:
            found.append(f"{counted(without, 'malloc')} without a handle: no map followed it")
        if other := sum(self._other.values()):
            names = ", ".join(name for name, _ in self._other.most_common(3))
            found.append(f"{counted(other, 'other event')} left out, such as {printable(names)}")
        return found


class _Rows(_Reader):
    """Reads the CSV that bpftrace's script prints, with bpftrace's messages between the lines."""

    _MESSAGE = re.compile(r"\s*(?:Attach(?:ing|ed) \d+ probes?\.*|@.*|WARNING: .*)?")

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self._lines: list[str] = []
        self._head = ""

    def take(self, number: int, line: str) -> None:
        if self._MESSAGE.fullmatch(line) or self._is_loss(line):
            self._lines.append("")
        elif not self._head:
            if not line.startswith("ts_ns,"):
                shown = printable(line[:40])
                _refuse(self._where, number, f"{shown!r} is no line of ztrace's bpftrace script")
            self._head = line
        else:
            self._lines.append(line)

    def table(self) -> bytes:
        if not any(self._lines):
            raise TraceError(
                f"{self._where}: no call in it; ztrace import --recipe bpftrace prints a script "
                "that records them"
            )
        # Messages before the head are empty lines after it: numbers of lines stay as they are.
        return "\n".join([self._head, *self._lines, ""]).encode()
