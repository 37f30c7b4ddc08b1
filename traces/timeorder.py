# SPDX-License-Identifier: GPL-2.0-only
"""Do the rows of a trace stand in the order in which they were written?

A recorder writes a call when it returned, so a row stands behind those of all calls that were over
before. There are overtakings by right: a task can be stopped between the return and the record,
for any time. But it writes one row after the other. A row that stands behind one of a call that
began only after it had returned is explained if its task has no other row in between. If it has,
rows were put in another order (CPU by CPU, say), or the clock went back; then nothing that is
told by time is right, and objects may be freed before they are allocated.

Calls that contain others are not asked, so that a trace without durations can be in order too.
A task is known by its ``tid``, and where that is 0 (not recorded, or the idle task) by its CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ztrace.traces.errors import TraceError
from ztrace.traces.schema import OP_CODE

Ints = npt.NDArray[np.int64]

COLUMNS = ("ts_ns", "dur_ns", "tid", "cpu", "op")

LEVELS = tuple(
    tuple(OP_CODE[name] for name in names)
    for names in (("malloc", "free", "map", "unmap"), ("store", "load", "invalidate"))
)
"""Ops that are looked at together: one call of these is never within another."""

_ALWAYS = np.iinfo(np.int64).min
_NEVER = np.iinfo(np.int64).max
_LONGEST_NS = 2**32 - 1  # of dur_ns: as long, or longer
_CPUS = 1 << 40  # tasks known by their CPU are numbered from here


class Rows(Protocol):
    """What is asked of a trace; :class:`traces.reader.TraceReader` offers it."""

    def batches(self, columns: Sequence[str], rows: int = 65536) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, at least with the columns asked for."""


class Misplaced(NamedTuple):
    """``row`` returned ``by_ns`` before ``behind`` began, the last to begin of those before it."""

    row: int
    behind: int
    by_ns: int

    def error(self, where: str) -> TraceError:
        """As an error."""
        return TraceError(
            f"{where}: row {self.row} returned {self.by_ns / 1e9:g} s before row {self.behind} "
            "began, but stands after it: rows are out of time order, or the clock went back; "
            "sort the rows by their return (ts_ns + dur_ns), or record again"
        )


class TimeOrder:
    """Looks at all rows of a trace in order, a batch at a time. Rows are numbered from 0."""

    def __init__(self) -> None:
        self._rows = 0
        self._apart = [_Calls() for _ in LEVELS]

    def find(
        self,
        ts_ns: Ints,
        dur_ns: npt.ArrayLike,
        tid: npt.ArrayLike,
        cpu: npt.ArrayLike,
        op: npt.NDArray[np.int8],
    ) -> Misplaced | None:
        """The first of the next rows that is misplaced. Arrays of one length, or single numbers."""
        end, task = returns(ts_ns, dur_ns), np.broadcast_to(_tasks(tid, cpu), ts_ns.shape)
        found = []
        for calls, ops in zip(self._apart, LEVELS, strict=True):
            at = np.flatnonzero(np.isin(op, ops))
            if len(at):
                found.append(calls.find(self._rows + at, ts_ns[at], end[at], task[at]))
        self._rows += len(ts_ns)
        return min((one for one in found if one is not None), default=None)


class _Calls:
    """Calls of which none is within another."""

    def __init__(self) -> None:
        self._latest = _ALWAYS  # greatest ts_ns so far, and the first row that has it
        self._latest_row = -1
        self._known: dict[int, int] = {}  # task -> greatest ts_ns up to its last row

    def find(self, rows: Ints, ts_ns: Ints, end_ns: Ints, task: Ints) -> Misplaced | None:
        """The first of the next calls that is misplaced."""
        latest = np.maximum(np.maximum.accumulate(ts_ns), self._latest)
        for at in np.flatnonzero(end_ns < latest).tolist():
            if self._is_misplaced(at, int(end_ns[at]), latest, task):
                behind, began = self._latest_row, self._latest
                if behind < 0 or int(latest[at]) > began:
                    before = int(ts_ns[:at].argmax())
                    behind, began = int(rows[before]), int(ts_ns[before])
                return Misplaced(int(rows[at]), behind, began - int(end_ns[at]))
        last_of_run = np.flatnonzero(np.append(task[1:] != task[:-1], True))
        self._known.update(
            zip(task[last_of_run].tolist(), latest[last_of_run].tolist(), strict=True)
        )
        most = int(ts_ns.argmax())
        if self._latest_row < 0 or ts_ns[most] > self._latest:
            self._latest, self._latest_row = int(ts_ns[most]), int(rows[most])
        return None

    def _is_misplaced(self, at: int, end_ns: int, latest: Ints, task: Ints) -> bool:
        """Whether the task of a late row was not stopped all the time."""
        mine = int(task[at])
        if self._latest > end_ns:  # late to rows of earlier batches
            return self._known.get(mine, _ALWAYS) > end_ns or bool((task[:at] == mine).any())
        first = int(np.searchsorted(latest, end_ns, side="right"))
        return bool((task[first:at] == mine).any())


class QuickOrder:
    """The same for who reads ``ts_ns`` and ``dur_ns`` anyway: looks at tasks only if rows are late.

    One that finds such rows reads the trace once more, to the end.
    """

    def __init__(self, trace: Rows, where: str) -> None:
        self._trace = trace
        self._where = where
        self._latest = _ALWAYS
        self._explained = False

    def check(self, ts_ns: Ints, dur_ns: npt.ArrayLike) -> None:
        """Look at the next rows. TraceError if the trace has any that is misplaced."""
        if self._explained or not len(ts_ns):
            return
        latest = np.maximum(np.maximum.accumulate(ts_ns), self._latest)
        self._latest = int(latest[-1])
        if (returns(ts_ns, dur_ns) < latest).any():
            check_time_order(self._trace, self._where)
            self._explained = True


def check_time_order(trace: Rows, where: str) -> None:
    """TraceError, with the row, if the rows of a trace are not in the order of their writing."""
    found = first_misplaced(trace)
    if found is not None:
        raise found.error(where)


def first_misplaced(trace: Rows) -> Misplaced | None:
    """The first row of a trace that is misplaced."""
    order = TimeOrder()
    for batch in trace.batches(COLUMNS):
        ts_ns, dur_ns, tid, cpu = (batch.column(name).to_numpy() for name in COLUMNS[:-1])
        found = order.find(ts_ns, dur_ns, tid, cpu, batch.column("op").indices.to_numpy())
        if found is not None:
            return found
    return None


def returns(ts_ns: Ints, dur_ns: npt.ArrayLike) -> Ints:
    """When calls returned, in ns; those of which that is not known, or beyond int64, never did."""
    dur = np.broadcast_to(np.asarray(dur_ns), ts_ns.shape).astype(np.int64)
    end: Ints = ts_ns + dur
    return np.where((dur == _LONGEST_NS) | (end < ts_ns), _NEVER, end)


def _tasks(tid: npt.ArrayLike, cpu: npt.ArrayLike) -> Ints:
    by_tid = np.asarray(tid).astype(np.int64)
    tasks: Ints = np.where(by_tid == 0, np.asarray(cpu).astype(np.int64) + _CPUS, by_tid)
    return tasks
