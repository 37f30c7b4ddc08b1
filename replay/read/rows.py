# SPDX-License-Identifier: GPL-2.0-only
"""A trace's rows as the engine takes them: checked, filtered, cut so that shrinks lie whole.

A row is written when its call returns, so what a shrink evicted stands *before* the shrink's
own row. The engine must know at the row where a shrink began that it did; :func:`survey` finds
these places and :func:`segments` cuts the trace there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ztrace.replay.errors import ReplayError
from ztrace.replay.read.checked import checked
from ztrace.replay.read.source import AT, INSERT, Source
from ztrace.traces.columns import valid, values
from ztrace.traces.schema import OP_CODE, OPS

Ints = npt.NDArray[np.int64]

MALLOC, FREE, MAP, UNMAP, SHRINK, WRITEBACK, COMPACT = (
    OP_CODE[name] for name in ("malloc", "free", "map", "unmap", "shrink", "writeback", "compact")
)
DRIVEN = (MALLOC, FREE, MAP, UNMAP, SHRINK, INSERT)
"""Codes of the calls that a model is driven with; a compaction is none, the kernel does it."""

NO_HANDLE = 2**64 - 1
"""Stands for a handle that is null."""

NO_TOTAL = -1
"""Stands for a total that is null."""

_LARGEST_NS = 2**62
_LARGEST_TOTAL = 2**55  # sums of 256 pools stay within int64
_COLUMNS = (
    "ts_ns",
    "dur_ns",
    "op",
    "pool",
    "size",
    "handle",
    "ret",
    "total",
    "cpu",
    "place",
    "tid",
)


class Span(NamedTuple):
    """A shrink: rows ``first`` to ``row`` returned while it ran, the last one is its own."""

    first: int
    row: int


@dataclass
class Survey:
    """What one quick pass over a trace finds.

    ``calls`` counts the rows of each op that occurs, ``first_ns`` and ``last_ns`` are the entry
    of the first and the return of the last call that a model is driven with, ``shrinks`` lie
    apart from each other, and ``overlapped`` shrinks do not.
    """

    rows: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    cpus: list[int] = field(default_factory=list)
    first_ns: int = 0
    last_ns: int = 0
    shrinks: list[Span] = field(default_factory=list)
    overlapped: int = 0

    @property
    def driven(self) -> int:
        """Rows that a model is driven with."""
        return sum(self.calls.get(OPS[code], 0) for code in DRIVEN if code != INSERT)


def survey(reader: Source, advance: Callable[[int], object]) -> Survey:
    """Count a trace's calls and find its shrinks; ``advance`` gets the rows of each batch.

    ReplayError for a trace with rows that no recorder writes: see :mod:`replay.read.checked`.
    """
    counts = np.zeros(len(OPS) + 1, np.int64)
    cpus: set[int] = set()
    first, last = [], []
    shrinks: list[tuple[int, int]] = []  # (entry in ns, row)
    rows = 0
    for batch in checked(reader, ["ts_ns", "dur_ns", "op", "ret", "cpu"]):
        op = op_codes(batch)
        counts += np.bincount(op, minlength=len(counts))
        cpus.update(np.unique(batch.column("cpu").to_numpy()).tolist())
        ts, end = call_times(batch)
        driven = np.isin(op, DRIVEN)
        if driven.any():
            first.append(int(ts[driven].min()))
            last.append(int(end[driven].max()))
        shrinks += [(int(ts[i]), rows + i) for i in np.flatnonzero(op == SHRINK).tolist()]
        rows += batch.num_rows
        advance(batch.num_rows)
    found = Survey(
        rows=rows - int(counts[INSERT]),
        calls={name: int(n) for name, n in zip(OPS, counts.tolist(), strict=False) if n},
        cpus=sorted(cpus),
        first_ns=min(first, default=0),
        last_ns=max(last, default=0),
    )
    if shrinks:
        _find_spans(reader, shrinks, found)
    return found


def _find_spans(reader: Source, shrinks: list[tuple[int, int]], found: Survey) -> None:
    """Find the first row that returned after each shrink's entry."""
    entries = np.array(sorted({ts for ts, _ in shrinks}), np.int64)
    starts: dict[int, int] = {}
    known = rows = 0
    latest = -_LARGEST_NS
    for batch in reader.batches(["ts_ns", "dur_ns"]):
        # In a found order a row stands where it took effect.
        placed = batch.column(AT).to_numpy() if AT in batch.schema.names else call_times(batch)[1]
        ends = np.maximum(np.maximum.accumulate(placed), latest)
        at = np.searchsorted(ends, entries[known:], side="right")
        within = int((at < len(ends)).sum())
        for ts, row in zip(entries[known : known + within].tolist(), at.tolist(), strict=False):
            starts[ts] = rows + row
        known += within
        rows += len(ends)
        latest = int(ends[-1]) if len(ends) else latest
    end = 0
    for ts, row in shrinks:
        first = min(starts.get(ts, row), row)
        if first < end:
            found.overlapped += 1
            continue
        found.shrinks.append(Span(first, row))
        end = row + 1


@dataclass
class Rows:
    """Columns of a piece of the trace, equally long lists, rows that do not concern it left out.

    ``number`` is the row's number in the file, ``end_ns`` the call's return, ``op`` the code.
    ``handle`` and ``total`` are :data:`NO_HANDLE` and :data:`NO_TOTAL` where null, ``place`` is 0
    where null. ``tid`` is
    empty in a piece without shrinks. ``shrinks``: first and last position of each one's span.
    ``ends`` are end_ns again, ``driven`` whether a model is driven with the row, both arrays.
    ``pools`` are the pools of driven rows; ``rows`` counts those left out too.
    """

    number: list[int]
    ts_ns: list[int]
    end_ns: list[int]
    op: list[int]
    pool: list[int]
    size: list[int]
    handle: list[int]
    ret: list[int]
    total: list[int]
    cpu: list[int]
    place: list[int]
    tid: list[int]
    shrinks: list[Span]
    ends: Ints
    driven: npt.NDArray[np.bool_]
    pools: list[int]
    rows: int

    def __len__(self) -> int:
        return len(self.number)


def segments(
    reader: Source, shrinks: list[Span], page_bytes: int, *, compactions: bool
) -> Iterator[Rows]:
    """Yield the whole trace in pieces. ReplayError for a row that no allocator could give.

    ``compactions``: rows of op compact are wanted, also those without a total.
    """
    columns = _COLUMNS if shrinks else _COLUMNS[:-1]
    for first, table, spans in cut(reader.batches(columns), shrinks):
        yield _load(table, first, spans, page_bytes, str(reader.path), compactions)


def cut(
    batches: Iterable[pa.RecordBatch], shrinks: list[Span]
) -> Iterator[tuple[int, pa.Table, list[Span]]]:
    """Yield (number of the first row, rows, spans in them), in order, no span cut in two."""
    first = done = 0
    rest: list[pa.RecordBatch] = []
    for batch in batches:
        table = pa.Table.from_batches([*rest, batch])
        end = first + table.num_rows
        whole = done
        while whole < len(shrinks) and shrinks[whole].row < end:
            whole += 1
        if whole < len(shrinks):
            end = min(end, shrinks[whole].first)
        if end > first:
            yield first, table.slice(0, end - first), shrinks[done:whole]
        rest = table.slice(end - first).to_batches()
        first, done = end, whole


def _load(
    table: pa.Table,
    first: int,
    spans: list[Span],
    page_bytes: int,
    where: str,
    compactions: bool,
) -> Rows:
    op = op_codes(table)
    driven = np.isin(op, DRIVEN)
    total_null = ~valid(table.column("total"))
    wanted = driven | ~total_null
    if compactions:
        wanted |= op == COMPACT
    if spans:
        wanted |= op == WRITEBACK
    size = values(table.column("size"))
    ret = table.column("ret").to_numpy()
    handle_null = ~valid(table.column("handle"))
    check_rows(op, size, ret, handle_null, page_bytes, first, where)

    ts, end = call_times(table)
    total = np.minimum(values(table.column("total")), np.uint64(_LARGEST_TOTAL))
    total = np.where(total_null, NO_TOTAL, total.astype(np.int64))
    handle = values(table.column("handle"), NO_HANDLE)
    pool = table.column("pool").to_numpy()
    number = first + np.flatnonzero(wanted)
    return Rows(
        number=number.tolist(),
        ts_ns=ts[wanted].tolist(),
        end_ns=end[wanted].tolist(),
        op=op[wanted].tolist(),
        pool=pool[wanted].tolist(),
        size=size[wanted].tolist(),
        handle=handle[wanted].tolist(),
        ret=ret[wanted].tolist(),
        total=total[wanted].tolist(),
        cpu=table.column("cpu").to_numpy()[wanted].tolist(),
        place=values(table.column("place"))[wanted].tolist(),
        tid=table.column("tid").to_numpy()[wanted].tolist() if spans else [],
        shrinks=[Span(*np.searchsorted(number, span).tolist()) for span in spans],
        ends=end[wanted],
        driven=driven[wanted],
        pools=np.unique(pool[driven]).tolist(),
        rows=table.num_rows,
    )


def check_rows(
    op: npt.NDArray[np.int8],
    size: npt.NDArray[np.uint32],
    ret: npt.NDArray[np.int32],
    handle_null: npt.NDArray[np.bool_],
    page_bytes: int,
    first: int,
    where: str,
) -> None:
    """Refuse successful calls that cannot have happened, at the first such row."""
    given = (op == MALLOC) & (ret >= 0)
    bad_size = given & ((size == 0) | (size > page_bytes))
    no_handle = (given | (op == FREE) | (op == MAP) | (op == UNMAP)) & handle_null
    bad = bad_size | no_handle
    if not bad.any():
        return
    at = int(bad.argmax())
    if no_handle[at]:
        raise without_handle(where, first + at, OPS[op[at]])
    raise impossible_size(where, first + at, int(size[at]), page_bytes)


def without_handle(where: str, row: int, op: str) -> ReplayError:
    """A successful call on an object that does not say which."""
    return ReplayError(
        f"{where}: row {row}: {op} without a handle; a replay needs columns op, size, handle "
        "and ret"
    )


def impossible_size(where: str, row: int, size: int, page_bytes: int) -> ReplayError:
    """A malloc that succeeded with a size that none gives."""
    return ReplayError(
        f"{where}: row {row}: malloc of {size} bytes succeeded, but no allocator gives anything "
        f"but 1 to {page_bytes} bytes; correct size or ret, or record it again"
    )


def op_codes(batch: pa.RecordBatch | pa.Table) -> npt.NDArray[np.int8]:
    """The op codes of a batch; the reader's dictionary is OPS in order."""
    column = batch.column("op")
    if isinstance(column, pa.ChunkedArray):
        chunks = [chunk.indices.to_numpy() for chunk in column.chunks]
        return np.concatenate(chunks) if chunks else np.zeros(0, np.int8)
    codes: npt.NDArray[np.int8] = column.indices.to_numpy()
    return codes


def call_times(batch: pa.RecordBatch | pa.Table) -> tuple[Ints, Ints]:
    """Entry and return of each call in ns, held within what can be added up."""
    ts: Ints = np.clip(batch.column("ts_ns").to_numpy(), -_LARGEST_NS, _LARGEST_NS)
    return ts, ts + batch.column("dur_ns").to_numpy().astype(np.int64)
