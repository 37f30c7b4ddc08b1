# SPDX-License-Identifier: GPL-2.0-only
"""A trace's calls as a real allocator can be driven with them.

A handle means nothing to another pool, so calls are told by objects: the i-th free of a handle is
that of the i-th object that had it. What cannot be played is left out and counted.
"""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztrace.allocator.registry import recorded_traits
from ztrace.allocator.traits import Compacts
from ztrace.replay.errors import ReplayError
from ztrace.replay.measured.shrinks import evicted_objects, read_shrinks
from ztrace.replay.play.header import zswap_release
from ztrace.replay.play.recorded import more_bytes
from ztrace.replay.read.checked import checked
from ztrace.traces.columns import valid
from ztrace.traces.reader import TraceReader
from ztrace.traces.schema import OP_CODE

MALLOC, FREE, MAP, UNMAP, COMPACT, SHRINK, WRITEBACK = (
    OP_CODE[name] for name in ("malloc", "free", "map", "unmap", "compact", "shrink", "writeback")
)
_COLUMNS = ("ts_ns", "dur_ns", "op", "pool", "size", "handle", "ret")
_MOST_BYTES = (1 << 24) - 1

Ints = NDArray[np.int64]

# Where in a row what no row tells stands: before and after the row's own calls.
_SHRINK_BEGINS, _EVICTION_BEGINS, _EVICTION_ENDS = -2, -1, 3


@dataclass(frozen=True)
class Calls:
    """Arrays of shape (calls,): ``op`` (code of traces.schema), ``object`` (number below
    ``objects``), ``size_bytes`` of the object as the allocator is asked for it, ``is_write``
    (of a map), ``row`` in the trace (of the malloc, for a map that was added).

    ``first``: shape (threads + 1,): whose calls are where. ``deferred``: compactions that the
    allocator queues run where the calls have one, else at once. ``more_bytes``: what was added
    to recorded sizes, because zswap keeps a header in some allocators. ``adds_maps``: the trace
    has no maps, so each object is mapped once, to write, as zswap does. ``left_out``: rows that
    are not played, by why.

    A shrink has as ``object`` how many of the calls after it are made while it runs and as
    ``size_bytes`` its pages. Among these a writeback, which is no call, ends the eviction of its
    ``object``, and has the errno with which it ended as ``size_bytes``.
    """

    op: NDArray[np.int8]
    object: NDArray[np.uint32]
    size_bytes: NDArray[np.uint32]
    is_write: NDArray[np.bool_]
    row: NDArray[np.int64]
    objects: int
    first: NDArray[np.uint64]
    deferred: bool
    more_bytes: int
    adds_maps: bool
    left_out: dict[str, int] = field(default_factory=dict)


def read_calls(reader: TraceReader, allocator: str, *, threads: int = 1) -> Calls:
    """What to play into ``allocator``, whose objects are dealt to ``threads`` in turn.

    ReplayError for a trace without mallocs, with several pools in use, or of another page size.
    """
    page_bytes = reader.metadata.machine.page_bytes
    if page_bytes not in (0, 4096):
        raise ReplayError(
            f"{reader.path}: recorded with pages of {page_bytes} bytes; the kernels that it can be "
            "played in have 4096"
        )
    rows = _read(reader)
    op, left_out = rows.op, Counter[str]()
    recorded, header = _pool(reader, rows.pool)

    compacts = recorded_traits(allocator).compacts if recorded == allocator else Compacts.NEVER
    played = (op == COMPACT) & (compacts != Compacts.NEVER) & (threads == 1)
    if compacts == Compacts.PAGES:
        played &= rows.size == 0  # of a queue; what a free does at once, it does here, too
    left_out["compactions"] = int(((op == COMPACT) & ~played).sum())
    # What a shrink evicts depends on the allocator; the outcome is told of the recorded one's.
    shrinks = read_shrinks(reader) if recorded == allocator and threads == 1 else []
    left_out["shrinks"] = int((op == SHRINK).sum()) - len(shrinks)
    no_memory = (op == MALLOC) & (rows.ret == -errno.ENOMEM)
    left_out["mallocs without memory"] = int(no_memory.sum())
    refused = np.flatnonzero((op == MALLOC) & (rows.ret < 0) & ~no_memory)

    at = np.flatnonzero(
        np.isin(op, (MALLOC, FREE, MAP)) & ((op != MALLOC) | (rows.ret >= 0)) & rows.has_handle
    )
    which, left_out["calls on unknown objects"] = _objects(op[at], rows.handle[at])
    at, which = at[which >= 0], which[which >= 0]
    mallocs, maps = op[at] == MALLOC, op[at] == MAP
    objects = int(mallocs.sum())
    more = more_bytes(allocator, recorded, zswap_release(reader.metadata), header)
    sizes = np.zeros(objects + len(refused), np.int64)
    sizes[which[mallocs]] = rows.size[at[mallocs]]
    sizes[objects:] = rows.size[refused]
    sizes = np.clip(sizes + more, 0, _MOST_BYTES)

    steps = _Steps()
    steps.add(at, 0, op[at], which)
    adds_maps = not maps.any()
    mapped = mallocs if adds_maps else maps
    if adds_maps:
        steps.add(at[mapped], 1, MAP, which[mapped])
    # Unmapped at once, no object is mapped during a call on another one of the same thread.
    steps.add(at[mapped], 2, UNMAP, which[mapped])
    # A malloc that was refused may not be by this allocator; then the object goes at once.
    steps.add(refused, 0, MALLOC, objects + np.arange(len(refused)))
    steps.add(refused, 1, FREE, objects + np.arange(len(refused)))
    steps.add(np.flatnonzero(played), 0, COMPACT, np.zeros(int(played.sum()), np.int64))
    unknown = 0
    for shrink in shrinks:
        begin, own = np.searchsorted(rows.row, (shrink.first, shrink.row)).tolist()
        steps.add_one(begin, _SHRINK_BEGINS, SHRINK, own, shrink.pages)
        objects_of = evicted_objects(shrink, rows.row[at], rows.handle[at], which)
        for one, evicted in zip(shrink.evictions, objects_of, strict=True):
            if evicted < 0:
                unknown += 1
                continue
            last = int(np.searchsorted(rows.row, one.row, "right")) - 1
            within = _EVICTION_ENDS if last >= begin else _EVICTION_BEGINS
            steps.add_one(max(last, begin), within, WRITEBACK, evicted, -one.ret)
    left_out["evictions of unknown objects"] = unknown
    row, kind, number, extra = steps.in_order(threads)
    if not (kind == MALLOC).any():
        raise ReplayError(f"{reader.path}: no malloc in it; nothing to play")
    counts = np.bincount(number % threads, minlength=threads)
    is_shrink, is_eviction = kind == SHRINK, kind == WRITEBACK
    begins = np.flatnonzero(is_shrink)
    # A shrink's own row stands after all that returned while it ran.
    number[begins] = np.searchsorted(row, number[begins]) - begins - 1
    size_bytes = np.where(is_shrink | is_eviction, extra, sizes[np.where(is_shrink, 0, number)])
    return Calls(
        op=kind.astype(np.int8),
        object=number.astype(np.uint32),
        size_bytes=size_bytes.astype(np.uint32),
        is_write=_first_maps(kind, number),
        row=rows.row[row],
        objects=len(sizes),
        first=np.concatenate([[0], counts.cumsum()]).astype(np.uint64),
        deferred=compacts == Compacts.PAGES and bool(played.any()),
        more_bytes=more,
        adds_maps=adds_maps,
        left_out={why: count for why, count in left_out.items() if count},
    )


class _Steps:
    """Calls collected kind by kind: row, order within the row, op, object, what else."""

    def __init__(self) -> None:
        self._parts: list[Ints] = []

    def add(self, row: Ints, within: int, op: Ints | int, object_: Ints) -> None:
        """Add calls, arrays of one length; those of a row are made in order of ``within``."""
        part = np.zeros((5, len(row)), np.int64)
        part[0], part[1], part[2], part[3] = row, within, op, object_
        self._parts.append(part)

    def add_one(self, row: int, within: int, op: int, object_: int, extra: int) -> None:
        """Add a call that has something else to tell than the size of its object."""
        self._parts.append(np.array([[row], [within], [op], [object_], [extra]], np.int64))

    def in_order(self, threads: int) -> tuple[Ints, Ints, Ints, Ints]:
        """Row, op, object and what else there is of all, thread by thread."""
        row, within, op, object_, extra = np.concatenate(self._parts, axis=1)
        order = np.lexsort((within, row, object_ % threads))
        return row[order], op[order], object_[order], extra[order]


@dataclass(frozen=True)
class _Rows:
    """Allocator calls of ``pool``, arrays of one length; ``row`` is the number in the trace."""

    pool: int
    row: Ints
    op: Ints
    size: Ints
    handle: NDArray[np.uint64]
    has_handle: NDArray[np.bool_]
    ret: Ints


def _read(reader: TraceReader) -> _Rows:
    wanted = (MALLOC, FREE, MAP, COMPACT, SHRINK)
    parts: list[tuple[NDArray[Any], ...]] = []
    first = 0
    for batch in checked(reader, _COLUMNS):
        op = batch.column("op").indices.to_numpy()
        keep = np.isin(op, wanted)
        handle = batch.column("handle")
        parts.append(
            (
                batch.column("pool").to_numpy()[keep],
                first + np.flatnonzero(keep),
                op[keep].astype(np.int64),
                batch.column("size").fill_null(0).to_numpy()[keep].astype(np.int64),
                handle.fill_null(0).to_numpy()[keep],
                valid(handle)[keep],
                batch.column("ret").to_numpy()[keep].astype(np.int64),
            )
        )
        first += batch.num_rows
    if not parts:
        raise ReplayError(f"{reader.path}: no malloc in it; nothing to play")
    pool, *columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    pools = np.unique(pool).tolist()
    if len(pools) > 1:
        raise ReplayError(
            f"{reader.path}: calls to {len(pools)} pools; keep one with ztrace slice --pool"
        )
    return _Rows(pools[0] if pools else 0, *columns)


def _pool(reader: TraceReader, number: int) -> tuple[str, int]:
    """A pool's allocator, and the bytes of zswap's header in its sizes."""
    pools = reader.metadata.pools
    if number >= len(pools):
        return "unknown", 0
    return pools[number].allocator, pools[number].header_bytes


def _objects(op: NDArray[np.int64], handle: NDArray[np.uint64]) -> tuple[NDArray[np.int64], int]:
    """The object that each call is about, -1 if the trace does not know it; how many of these.

    Objects are numbered in the order of their mallocs. A handle may be given out again before the
    free that let go of it was seen to return; frees of one handle come in the order of its
    mallocs.
    """
    n = len(op)
    order = np.argsort(handle, kind="stable")
    malloc, free = (op == MALLOC)[order], (op == FREE)[order]
    sorted_handle = handle[order]
    starts = np.ones(n, bool)
    starts[1:] = sorted_handle[1:] != sorted_handle[:-1]
    group = starts.cumsum() - 1
    begin = np.flatnonzero(starts)
    before = np.concatenate([[0], malloc.cumsum()])[begin][group]
    given = malloc.cumsum() - before
    freed = free.cumsum() - np.concatenate([[0], free.cumsum()])[begin][group]
    # A free without an object brings the count of live ones below zero. The least count so far, by
    # handle: each handle's counts lie so far below the last one's that no minimum crosses over.
    step = n + 1
    least = np.minimum.accumulate(np.minimum(given - freed, 0) - group * step) + group * step
    unknown = -np.minimum(least, 0)
    last_unknown = np.concatenate([[0], unknown[:-1]])
    last_unknown[starts] = 0
    nth = np.where(free, freed - unknown, given)
    lives = np.where(free, unknown == last_unknown, given > freed - unknown)
    found = np.where(malloc | lives, before + nth - 1, -1)
    of_call = np.empty(n, np.int64)
    of_call[order] = found
    # In the order of mallocs, so that neighbours in time are neighbours in memory.
    rank = np.empty(int(malloc.sum()), np.int64)
    rank[of_call[op == MALLOC]] = np.arange(len(rank))
    known = of_call >= 0
    of_call[known] = rank[of_call[known]]
    return of_call, int((~known).sum())


def _first_maps(op: Ints, object_: Ints) -> NDArray[np.bool_]:
    """The first map of each object, in which zswap writes it."""
    maps = np.flatnonzero(op == MAP)
    first = np.zeros(len(op), bool)
    first[maps[np.unique(object_[maps], return_index=True)[1]]] = True
    return first
