# SPDX-License-Identifier: GPL-2.0-only
"""The lives of a trace's objects as arrays: who wants no more than sizes and times asks here.

Nearly every object's malloc is followed by its own free, and such pairs are found many at a time.
Handles that are given out twice in a row are left to :mod:`replay.read.lives`, whose rules hold for
all. A piece of the trace is followed by nothing but what is live at its end, so memory does not
depend on the trace's length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ztrace.replay.read.lives import FREE_WAITS_ROWS, Lives, UnknownHandle, is_whole
from ztrace.replay.read.rows import FREE, MALLOC, call_times, check_rows, op_codes
from ztrace.replay.read.source import Source
from ztrace.traces.columns import valid, values

Ints = npt.NDArray[np.int64]

PIECE_ROWS = 1 << 19
"""Rows looked at together, or as many as there are live objects, if those are more."""

OBJECT = np.dtype(
    [
        *(("handle", np.uint64), ("size", np.int64), ("row", np.int64)),
        *(("given_ns", np.int64), ("ended_ns", np.int64), ("pool", np.uint8)),
    ]
)
"""``size`` in bytes as recorded, ``row`` of the malloc, ``given_ns`` its return. ``ended_ns``: the
return of the free, or when its free was given up; of a live object 0."""

Objects = npt.NDArray[np.void]

# An object that its malloc gave; or a free, of which ``given_ns`` is the return.
_CALL = np.dtype([*OBJECT.descr, ("begun_ns", np.int64), ("is_free", np.bool_)])
_COLUMNS = ("ts_ns", "dur_ns", "op", "pool", "size", "handle", "ret")


@dataclass(frozen=True)
class Calls:
    """Successful mallocs and frees in ``rows`` rows of the trace before ``end_row``, in order."""

    calls: npt.NDArray[np.void]
    rows: int
    end_row: int

    @property
    def ends_ns(self) -> Ints:
        """When each call returned."""
        ends: Ints = self.calls["given_ns"]
        return ends

    def cut(self, at: int) -> tuple[Calls, Calls]:
        """The first ``at`` calls, and the others."""
        first_row = int(self.calls["row"][at]) if at < len(self.calls) else self.end_row
        begun = self.end_row - self.rows
        return (
            Calls(self.calls[:at], first_row - begun, first_row),
            Calls(self.calls[at:], self.end_row - first_row, self.end_row),
        )


def calls_of(reader: Source, page_bytes: int) -> Iterator[Calls]:
    """Yield a trace's mallocs and frees. ReplayError for a row that no allocator could give."""
    first = 0
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in reader.batches(_COLUMNS):
        held.append(batch)
        rows += batch.num_rows
        if rows >= PIECE_ROWS:
            yield _calls(held, first, page_bytes, str(reader.path))
            first, rows = first + rows, 0
            held = []
    if held:
        yield _calls(held, first, page_bytes, str(reader.path))


def _calls(batches: Sequence[pa.RecordBatch], first: int, page_bytes: int, where: str) -> Calls:
    table = pa.Table.from_batches(batches)
    op, ret = op_codes(table), table.column("ret").to_numpy()
    size = values(table.column("size"))
    handle = table.column("handle")
    check_rows(op, size, ret, ~valid(handle), page_bytes, first, where)
    chosen = np.flatnonzero((op == FREE) | ((op == MALLOC) & (ret >= 0)))
    calls = np.zeros(len(chosen), _CALL)
    ts, end = call_times(table)
    calls["handle"] = values(handle)[chosen]
    calls["pool"] = table.column("pool").to_numpy()[chosen]
    calls["size"] = size[chosen]
    calls["row"] = first + chosen
    calls["begun_ns"], calls["given_ns"] = ts[chosen], end[chosen]
    calls["is_free"] = op[chosen] == FREE
    return Calls(calls, table.num_rows, first + table.num_rows)


class Follower:
    """Follows the objects of a trace, fed its calls in order. ``mallocs`` counts them so far.

    Raises ReplayError for what cannot be in a whole trace: see :mod:`replay.read.lives`.
    """

    def __init__(self, reader: Source) -> None:
        self._where = str(reader.path)
        self._whole = is_whole(reader.metadata)
        self._pools: dict[int, _Pool] = {}
        self.mallocs = 0

    def feed(self, piece: Calls) -> Objects:
        """Take over calls; returns the objects that these ended."""
        ended = []
        calls = piece.calls
        for number in np.unique(calls["pool"]).tolist():
            if number not in self._pools:
                self._pools[number] = _Pool(self._where, whole=self._whole)
        for number, pool in self._pools.items():
            mine = calls.take(np.flatnonzero(calls["pool"] == number))
            ended.append(pool.feed(mine, piece.end_row))
        self.mallocs += int(len(calls) - calls["is_free"].sum())
        return np.concatenate([np.empty(0, OBJECT), *ended])

    def finish(self) -> Objects:
        """No call will come any more: objects whose free is missing."""
        return np.concatenate([np.empty(0, OBJECT), *(p.finish() for p in self._pools.values())])

    def live(self) -> Objects:
        """The live objects, oldest first."""
        found = np.concatenate([np.empty(0, OBJECT), *(p.live() for p in self._pools.values())])
        return found.take(np.argsort(found["row"]))


class _Pool:
    """One pool. ``_plain``: live objects of handles that were given out once, by their handles."""

    def __init__(self, where: str, *, whole: bool) -> None:
        self._where = where
        self._whole = whole
        self._plain = np.empty(0, OBJECT)
        self._lost: list[_Object] = []
        self._lives: Lives[_Object] = Lives(where, whole=whole, lost=self._lost.append)
        self._now_ns = 0

    def live(self) -> Objects:
        """In no order; of two that have one handle the younger is."""
        twice = [one.ended(0) for one in self._lives.live.values()]
        return np.concatenate([self._plain, np.array(twice, OBJECT)])

    def feed(self, calls: npt.NDArray[np.void], end_row: int) -> Objects:
        """Take over calls of this pool before ``end_row``; returns the objects that they ended."""
        if not len(calls):
            return self._play(calls, end_row)
        self._now_ns = int(calls["given_ns"][-1])
        order = np.argsort(calls["handle"], kind="stable")
        mine = calls.take(order)
        handle, is_free = mine["handle"].copy(), mine["is_free"].copy()
        follows = np.append(False, handle[1:] == handle[:-1])  # the call before, by its handle
        place, is_known = _found(self._plain["handle"], handle)
        after_malloc = np.where(follows, np.append(False, ~is_free[:-1]), is_known)
        met = place[is_known & ~follows]  # live objects of whose handles there are calls
        twice = handle[after_malloc & ~is_free]
        aside = np.array(list(self._lives.live), np.uint64)
        regular = np.ones(len(calls), np.bool_)
        by_rules = calls[:0]
        if len(twice) or len(aside):
            regular = ~np.isin(handle, np.concatenate([twice, aside]))
            known = self._plain[place[is_known & ~follows & ~regular]]
            by_rules = np.concatenate([_as_calls(known), calls[np.sort(order[~regular])]])
        unknown = regular & is_free & ~after_malloc
        if self._whole and unknown.any():
            at = mine[unknown]
            first = at[at["row"].argmin()]
            raise UnknownHandle(self._where, int(first["row"]), "free", int(first["handle"]))
        ends = np.flatnonzero(regular & is_free & after_malloc)
        here = follows[ends]  # given by a call of this piece
        before = self._plain.take(place[ends[~here]])
        ended = _mixed(before, _objects(mine.take(ends[here] - 1)), here)
        ended["ended_ns"] = mine["given_ns"][ends]
        stays = np.ones(len(self._plain), np.bool_)
        stays[met] = False
        last = np.append(~follows[1:], True)
        given = _objects(mine.take(np.flatnonzero(regular & last & ~is_free)))
        self._plain = _merged(self._plain.take(np.flatnonzero(stays)), given)
        return np.concatenate([ended, self._play(by_rules, end_row)])

    def finish(self) -> Objects:
        """Objects that wait for their free."""
        return np.array(self._give_up(None), OBJECT)

    def _play(self, calls: npt.NDArray[np.void], end_row: int) -> Objects:
        """Calls on handles that are given out twice, one by one."""
        lives = self._lives
        ended = []
        for call in calls:
            handle, row, end_ns = (int(call[name]) for name in ("handle", "row", "given_ns"))
            if call["is_free"]:
                known = lives.take(handle, int(call["begun_ns"]))
                if known is None:
                    lives.miss(FREE, handle, row)
                else:
                    ended.append(known.ended(end_ns))
            else:
                one = _Object(
                    handle, int(call["size"]), row, int(call["given_ns"]), int(call["pool"])
                )
                lives.give(handle, one, one.given_ns, row)
            ended += self._taken_lost(end_ns)
        ended += self._give_up(end_row - FREE_WAITS_ROWS)
        plain = [handle for handle in lives.live if handle not in lives.leaving]
        back = np.array([lives.live.pop(handle).ended(0) for handle in plain], OBJECT)
        self._plain = _merged(self._plain, back[np.argsort(back["handle"])])
        return np.array(ended, OBJECT)

    def _give_up(self, before: int | None) -> list[tuple[int, ...]]:
        for handle in self._lives.overdue(before):
            self._lives.give_up(handle)
        return self._taken_lost(self._now_ns)

    def _taken_lost(self, now_ns: int) -> list[tuple[int, ...]]:
        taken = [old.ended(now_ns) for old in self._lost]
        self._lost.clear()
        return taken


class _Object(NamedTuple):
    """A live object as the rules of lives see it."""

    handle: int
    size: int
    row: int
    given_ns: int
    pool: int

    def ended(self, ended_ns: int) -> tuple[int, ...]:
        """The object in the order of :data:`OBJECT`."""
        return (*self[:4], ended_ns, self.pool)


def _objects(calls: npt.NDArray[np.void]) -> Objects:
    found = np.empty(len(calls), OBJECT)
    for name in OBJECT.names or ():
        found[name] = calls[name]
    return found


def _as_calls(objects: Objects) -> npt.NDArray[np.void]:
    """The mallocs that gave objects."""
    calls = np.zeros(len(objects), _CALL)
    for name in OBJECT.names or ():
        calls[name] = objects[name]
    return calls


def _found(ascending: npt.NDArray[np.uint64], wanted: npt.NDArray[np.uint64]) -> _Found:
    """Where each of ``wanted`` stands among numbers, and whether it is one of them."""
    if not len(ascending):
        return _Found(np.zeros(len(wanted), np.intp), np.zeros(len(wanted), np.bool_))
    ascending = np.ascontiguousarray(ascending)
    place = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return _Found(place, ascending[place] == wanted)


class _Found(NamedTuple):
    place: npt.NDArray[np.intp]
    is_there: npt.NDArray[np.bool_]


def _merged(objects: Objects, more: Objects) -> Objects:
    """Both together; each is in the order of handles, and so is the result."""
    if not len(more):
        return objects
    after = np.searchsorted(np.ascontiguousarray(objects["handle"]), more["handle"])
    is_more = np.zeros(len(objects) + len(more), np.bool_)
    is_more[after + np.arange(len(more))] = True
    return _mixed(objects, more, is_more)


def _mixed(objects: Objects, more: Objects, is_more: npt.NDArray[np.bool_]) -> Objects:
    """Both together, where ``is_more`` the next of ``more``, else the next of ``objects``.

    By take(), which copies a record as a whole; a mask copies it field by field.
    """
    order = np.where(is_more, len(objects) - 1 + np.cumsum(is_more), np.cumsum(~is_more) - 1)
    return np.concatenate([objects, more]).take(order)
