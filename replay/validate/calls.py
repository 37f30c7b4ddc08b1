# SPDX-License-Identifier: GPL-2.0-only
"""The calls of a trace as intervals, in order of their beginning, a window at a time.

Rows come in the order in which calls returned. A call that began early may return late, so a
window is handed out only up to the time before which no later row began; memory is bounded by
how long calls overlap, not by the trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ztrace.replay.errors import ReplayError
from ztrace.traces.columns import valid, values
from ztrace.traces.reader import TraceReader
from ztrace.traces.schema import OP_CODE, OPS

COLUMNS = ("ts_ns", "dur_ns", "op", "pool", "size", "handle", "ret", "cpu", "tid")
BATCH_ROWS = 131072

MALLOC, FREE = OP_CODE["malloc"], OP_CODE["free"]
MAP, UNMAP = OP_CODE["map"], OP_CODE["unmap"]
WRITEBACK, SHRINK, COMPACT = (OP_CODE[name] for name in ("writeback", "shrink", "compact"))
LINK, UNLINK = OP_CODE["link"], OP_CODE["unlink"]
WANTED = (MALLOC, FREE, WRITEBACK, SHRINK)
PLAYED = (MALLOC, FREE, MAP, UNMAP, COMPACT)
"""Codes of the ops that are given to a check by row one by one."""


FOREVER = np.iinfo(np.int64).max
ABSENT = 0xFFFF_FFFF_FFFF_FFFF

CALL = np.dtype(
    [
        ("ts", np.int64),
        ("end", np.int64),
        ("row", np.int64),
        ("handle", np.uint64),
        ("size", np.int64),
        ("ret", np.int32),
        ("tid", np.uint32),
        ("cpu", np.uint16),
        ("op", np.uint8),
        ("pool", np.uint8),
    ]
)

Calls = NDArray[np.void]

SEEN = np.dtype(
    [
        *(("ts", np.int64), ("end", np.int64), ("kind", np.int8), ("block", np.int64)),
        *(("slot", np.int8), ("row", np.int64), ("cpu", np.uint16), ("tid", np.uint32)),
        *(("size", np.int64), ("began", np.int64)),
    ],
    align=True,
)
"""What a checker sees of calls, sorted by (ts, row): of ztree the columns of a BlockCall, of zbud
as the core's page_check.h says; ``began`` is zbud's alone. Laid out as struct zv_call of its
check.h."""

Seen = NDArray[np.void]


@dataclass
class Window:
    """Calls sorted by (ts, row), dtype CALL; no call in a later window began before ``until``."""

    calls: Calls
    until: int


def windows(
    reader: TraceReader,
    advance: Callable[[int], object] = lambda rows: None,
    *,
    ops: Sequence[int] = WANTED,
    also: Sequence[str] = (),
) -> Iterator[Window]:
    """The calls of a trace whose op is one of ``ops``, by default those that ztree is judged by.

    TraceError for a damaged trace, ReplayError for one that lacks sizes or handles.
    ``advance`` is called with numbers of rows read, in all twice the trace's: a first pass
    finds out how far back calls reach. ``also`` names further columns for the calls to have,
    as uint64, ABSENT for null.
    """
    later = horizons(reader, advance)
    held = np.empty(0, _with(also))
    first_row = 0
    for number, batch in enumerate(reader.batches(columns=(*COLUMNS, *also), rows=BATCH_ROWS)):
        calls = np.concatenate([held, _calls(batch, first_row, reader.path, ops, also)])
        first_row += batch.num_rows
        advance(batch.num_rows)
        # Rows come in ascending order, so a stable sort by ts is one by (ts, row).
        calls = calls[np.argsort(calls["ts"], kind="stable")]
        until = later[number]
        ready = int(np.searchsorted(calls["ts"], until, side="left"))
        held = calls[ready:]
        yield Window(calls[:ready], until)


def groups(calls: Calls, limit: int) -> Iterator[tuple[int, int]]:
    """(first, end) of each run of overlapping calls, sorted by ts, that no later one overlaps.

    ``limit``: no call that is not here yet began before it. A group ends where everything so far
    returned before the next call began.
    """
    yield from pairwise([0, *_ends(calls, limit).tolist()])


def overlapping(calls: Calls, returned: int) -> tuple[int, int]:
    """How many calls, sorted by ts, began before all earlier ones had returned; the latest return.

    ``returned``: that of the calls before these.
    """
    latest = np.maximum.accumulate(np.append(returned, calls["end"]))
    return int((calls["ts"] <= latest[:-1]).sum()), int(latest[-1])


def last_end(calls: Calls, limit: int) -> int:
    """Where the last of the :func:`groups` ends; 0 if none does."""
    ends = _ends(calls, limit)
    return int(ends[-1]) if len(ends) else 0


def _ends(calls: Calls, limit: int) -> NDArray[np.intp]:
    if not len(calls):
        return np.empty(0, np.intp)
    latest = np.maximum.accumulate(calls["end"])
    return np.flatnonzero(np.append(calls["ts"][1:] > latest[:-1], latest[-1] < limit)) + 1


def horizons(reader: TraceReader, advance: Callable[[int], object]) -> list[int]:
    """For each batch of BATCH_ROWS rows, the earliest ts_ns of all later ones, or FOREVER."""
    earliest: list[int] = []
    for batch in reader.batches(columns=["ts_ns", "op"], rows=BATCH_ROWS):
        ts_ns = batch.column("ts_ns").to_numpy()
        earliest.append(int(ts_ns.min(initial=FOREVER)))
        advance(batch.num_rows)
    horizons, least = [], FOREVER
    for value in reversed(earliest):
        horizons.append(least)
        least = min(least, value)
    return horizons[::-1]


def _with(also: Sequence[str]) -> np.dtype[Any]:
    return np.dtype([*CALL.descr, *((name, np.uint64) for name in also)])


def _check_columns(batch: pa.RecordBatch, op: NDArray[Any], first_row: int, where: Path) -> None:
    """ReplayError unless every malloc has a size and every object a handle."""
    malloc, succeeded = op == MALLOC, batch.column("ret").to_numpy() >= 0
    for name, needed in (("size", malloc), ("handle", (malloc & succeeded) | (op == FREE))):
        column = batch.column(name)
        if column.null_count and (lacking := needed & ~valid(column)).any():
            row = first_row + int(np.argmax(lacking))
            raise ReplayError(
                f"{where}: row {row}: a {OPS[op[row - first_row]]} without {name}; validation "
                "needs the columns ts_ns, dur_ns, op, size, handle and ret"
            )


def _calls(
    batch: pa.RecordBatch, first_row: int, where: Path, ops: Sequence[int], also: Sequence[str]
) -> Calls:
    op = batch.column("op").indices.to_numpy(zero_copy_only=False)
    chosen = np.flatnonzero(np.isin(op, ops))
    calls = np.zeros(len(chosen), _with(also))
    _check_columns(batch, op, first_row, where)

    def column(name: str) -> NDArray[Any]:
        return values(batch.column(name))[chosen]

    calls["ts"] = column("ts_ns")
    calls["end"] = calls["ts"] + column("dur_ns").astype(np.int64)
    calls["row"] = first_row + chosen
    for name in ("handle", "size", "ret", "tid", "cpu", "pool"):
        calls[name] = column(name)
    calls["op"] = op[chosen]
    for name in also:
        known = valid(batch.column(name))[chosen]
        calls[name] = np.where(known, column(name).astype(np.uint64), np.uint64(ABSENT))
    return calls
