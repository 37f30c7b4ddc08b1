# SPDX-License-Identifier: GPL-2.0-only
"""z3fold on several CPUs: recorded order, the model made to agree after each difference.

z3fold's lists are per CPU, its pages have locks that malloc only tries, and a worker moves objects.
A trace does not determine what calls that overlap found. So calls are played as they returned,
compactions when the kernel ran them, and wherever the kernel has an object elsewhere than the model
it is moved there, lest one wrong guess be counted again and again. A difference refutes the model
only if no call of another CPU can be its cause; else it is undetermined. It can be

- if the malloc overlapped another call, or the map that showed the difference did;
- if one of the two pages that model and kernel chose is in *doubt*: a call that overlapped others
  was the last to list it, or to free in it, or it was corrected. A page comes out of doubt when a
  call that overlaps none lists it again;
- if objects may be *astray*: a compaction overlapped another call, or chose where to move an object
  while some page was in doubt. Where that object is, and so how full pages are, only a map would
  tell, and many objects are never mapped again. That ends when the pool is empty.

A comparison that none of this touches is *decisive*: there, a difference refutes. At each malloc
the place is compared that the object's first map shows, which is a later row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ztrace.allocator.protocol import Place
from ztrace.replay.read.lives import Lives
from ztrace.replay.read.rows import MAP, NO_TOTAL, Rows
from ztrace.replay.validate.by_row import Play, Row, malloc
from ztrace.replay.validate.calls import (
    CALL,
    COMPACT,
    FOREVER,
    FREE,
    MALLOC,
    PLAYED,
    SHRINK,
    windows,
)
from ztrace.replay.validate.placement_verdict import PoolPlacement
from ztrace.replay.validate.z3fold_model import Correctable
from ztrace.traces.reader import TraceReader


def overlapping_rows(reader: TraceReader, pool: int) -> NDArray[np.bool_]:
    """For each row, whether it is a call to the pool that another one overlaps.

    A compaction within a free is part of the free.
    """
    found = np.zeros(reader.num_rows, bool)
    open_, latest = np.empty(0, CALL), -1
    for window in windows(reader, ops=PLAYED):
        calls = window.calls[window.calls["pool"] == pool]
        calls = calls[(calls["op"] != COMPACT) | (calls["size"] == 0)]
        if not len(calls):
            continue
        ends = np.maximum.accumulate(np.append(latest, calls["end"]))
        found[calls["row"][calls["ts"] <= ends[:-1]]] = True
        found[calls["row"][:-1][calls["end"][:-1] >= calls["ts"][1:]]] = True
        found[open_["row"][open_["end"] >= calls["ts"][0]]] = True
        open_, latest = calls[calls["end"] >= window.until], int(ends[-1])
    return found


def first_reclaim(reader: TraceReader, pool: int) -> int:
    """When the pool was shrunk for the first time, in ns; FOREVER: never."""
    first = FOREVER
    for batch in reader.batches(columns=("ts_ns", "op", "pool")):
        op = batch.column("op").indices.to_numpy()
        shrinks = (batch.column("pool").to_numpy() == pool) & (op == SHRINK)
        if shrinks.any():
            first = min(first, int(batch.column("ts_ns").to_numpy()[shrinks].min()))
    return first


def first_places(reader: TraceReader, pool: int) -> dict[int, int]:
    """Row of each malloc of a pool -> the address at which its object was first mapped."""
    lives: Lives[int] = Lives(str(reader.path), whole=False)  # row of the malloc, by handle
    places: dict[int, int | None] = {}
    first_row = 0
    columns = ("op", "pool", "handle", "place", "ts_ns", "dur_ns", "ret")
    for batch in reader.batches(columns=columns):
        op = batch.column("op").indices.to_numpy()
        chosen = (batch.column("pool").to_numpy() == pool) & np.isin(op, (MALLOC, FREE, MAP))
        rows = np.flatnonzero(chosen & (batch.column("ret").to_numpy() >= 0))
        taken = batch.take(pa.array(rows))
        for row, code, handle, place, ts, dur in zip(
            (first_row + rows).tolist(),
            op[rows].tolist(),
            *(taken.column(name).to_pylist() for name in ("handle", "place", "ts_ns", "dur_ns")),
            strict=True,
        ):
            if code == MALLOC:
                lives.give(handle, row, ts + dur, row)
            elif code == FREE:
                lives.take(handle, ts)
            elif (given := lives.live.get(handle)) is not None:
                places.setdefault(given, place)
        first_row += batch.num_rows
    return {row: place for row, place in places.items() if place is not None}


@dataclass
class _Object:
    """``given``: the model's handle; ``seen``: the page of the model where it was last seen."""

    given: int
    seen: int


class CorrectedOrder:
    """One pool that began empty, row by row."""

    def __init__(self, reader: TraceReader, result: PoolPlacement) -> None:
        machine = reader.metadata.machine
        self.result = result
        self.model = Correctable(machine.cpus, machine.page_bytes or 4096)
        self._overlapping = overlapping_rows(reader, result.pool)
        self._places = first_places(reader, result.pool)
        self._reclaim = first_reclaim(reader, result.pool)
        if self._reclaim < FOREVER:
            result.notes.append(
                "the pool was shrunk, which is not played here: differences from the first time "
                "on are counted as undetermined"
            )
        self._lives: Lives[_Object] = Lives(str(reader.path), whole=False, lost=self._lose)
        self._objects: dict[int, _Object] = {}  # by the model's handle
        self._kernel_page: dict[int, int] = {}  # the model's page -> the kernel's
        self._model_page: dict[int, int] = {}  # and back
        self._doubt: set[int] = set()
        self._astray = False
        self._now = 0  # when the call in hand began, in ns
        self._refuting: int | None = None
        self._early: dict[int, int] = {}  # kernel's pages compacted unasked -> until when, in ns
        self._asked: dict[int, tuple[int, int]] = {}  # page -> when its compaction was queued, ns
        result.counts = {"decisive": 0, "corrected": 0, "compactions that did not come": 0}

    def play(self, row: Row) -> None:
        """Play one row and compare what it tells."""
        result, model, op = self.result, self.model, row.op
        beside = bool(self._overlapping[row.number])
        result.calls += 1
        result.cpus.add(row.cpu)
        result.overlapping += beside
        model.cpu = row.cpu
        self._now = row.ts
        sure = not beside and row.end < self._reclaim
        if op == COMPACT:
            page = row.place // model.page_bytes
            if row.size:
                self._early[page] = row.end
                return
            self._compact(page, row.end, sure)
        elif op == MALLOC:
            self._malloc(row, sure)
        elif (known := self._known(row)) is None:
            result.note_unknown(op)
            return
        elif op == FREE:
            self._free(known, row.ts, row.end, sure)
        elif op == MAP:
            if row.place:
                self._compare(row, known, row.place, sure)
            model.map(known.given)
        else:
            model.unmap(known.given)
        self._settle(sure)
        if row.total != NO_TOTAL:
            ours = model.total_bytes // model.page_bytes
            result.sizes.note(row.number, row.total // model.page_bytes, ours, ours)

    def _known(self, row: Row) -> _Object | None:
        """The object that a call is about."""
        if row.op == FREE:
            return self._lives.take(row.handle, row.ts)
        return self._lives.live.get(row.handle)

    def settle(self, before: int | None) -> None:
        """See RowCheck."""
        for handle in self._lives.overdue(before):
            self._lives.give_up(handle)

    def shrink(self, rows: Rows, first: int, last: int, play: Play) -> None:
        """Is not played: what is freed meanwhile is, and from here on nothing is sure."""
        play(first, last)

    def _settle(self, sure: bool) -> None:
        """Pages listed by a call are in doubt or not, according to whether it is sure."""
        model = self.model
        if sure:
            self._doubt -= model.listed
        else:
            self._doubt |= model.listed | model.taken
        model.listed.clear()
        model.taken.clear()

    def _malloc(self, row: Row, sure: bool) -> None:
        given = malloc(self.model, row, self.result)
        if given is None:
            return
        known = self._objects[given] = _Object(given, self.model.place(given).page)
        self._lives.give(row.handle, known, row.end, row.number)
        if row.number in self._places:
            self._compare(row, known, self._places[row.number], sure)

    def _lose(self, known: _Object) -> None:
        """The free of an object is missing."""
        self.result.unknown["reissued"] += 1
        self._free(known, self._now, self._now, False)

    def _free(self, known: _Object, ts: int, end: int, sure: bool) -> None:
        """Free an object. It may queue its page, and that be compacted before the free returns."""
        model, given = self.model, known.given
        del self._objects[given]
        page = model.place(given).page
        if not model.is_queued(page):
            self._asked[page] = ts, end
        alone, before = model.is_alone(page), model.compactions
        model.free(given)
        if self._early.pop(self._kernel_page.get(page, -1), ts - 1) >= ts and model.is_queued(page):
            model.compact_page(page)
            self._astray = True  # compacted by the worker while the free was still under way
        elif model.compactions > before:
            self._astray |= not sure or (alone and bool(self._doubt))
        if not sure:
            self._doubt.add(page)
        if not model.pages:
            self._astray = False
            self._doubt.clear()

    def _compact(self, kernel_page: int, end: int, sure: bool) -> None:
        """A compaction by the worker."""
        result, model = self.result, self.model
        result.compactions += 1
        page = self._model_page.get(kernel_page, -1)
        if not model.is_queued(page):
            self._early[kernel_page] = end  # by a free whose row is still to come, or by none
            result.compactions_unmatched += 1
            self._astray = True
            return
        self._astray |= not sure or (model.is_alone(page) and bool(self._doubt))
        # The worker takes pages in the order in which they were queued.
        began, passed = self._asked[page][0], 0
        while (oldest := model.oldest_queued) != page and self._asked[oldest][1] < began:
            model.compact_page(oldest)
            passed += 1
        result.counts["compactions that did not come"] += passed
        self._astray |= passed > 0
        model.compact_page(page)

    def _compare(self, row: Row, known: _Object, address: int, sure: bool) -> None:
        """Note whether an object lies where the model has it, and move it if not."""
        model, result = self.model, self.result
        kernel_page, position = divmod(address, model.page_bytes)
        ours = model.place(known.given)
        bound = self._kernel_page.get(ours.page)
        rival = self._model_page.get(kernel_page)
        if rival is not None and rival not in model.pages:
            rival = None
        equal = ours.position == position and (
            bound == kernel_page or (bound is None and rival is None)
        )
        result.places.note(
            equal,
            lambda: (
                f"row {row.number}: {row.handle:#x} lies in the kernel's page {kernel_page:#x} "
                f"(the model's {rival}) at {position}, in the model's page {ours.page} "
                f"at {ours.position}"
            ),
        )
        suspects = {ours.page, rival, known.seen} & self._doubt
        decisive = sure and not suspects and not self._astray
        result.counts["decisive"] += decisive
        if equal:
            self._bind(ours, kernel_page)
            known.seen = ours.page
            return
        result.undetermined += not decisive
        result.counts["corrected"] += 1
        if decisive and self._refuting is None:
            self._refuting = row.number
            result.notes.append(
                f"row {row.number} is the first difference that no other call explains"
            )
        self._settle(False)
        target = rival if bound != kernel_page else ours.page
        moved = model.relocate(known.given, target, position)
        self._astray |= len(model.renamed) > 1
        self._rename()
        page = model.place(moved)
        self._settle(False)
        self._doubt.add(ours.page)
        self._bind(page, kernel_page)
        known.seen = page.page

    def _bind(self, place: Place, kernel_page: int) -> None:
        self._kernel_page[place.page] = kernel_page
        self._model_page[kernel_page] = place.page

    def _rename(self) -> None:
        for old, new in self.model.renamed:
            known = self._objects.pop(old)
            known.given = new
            self._objects[new] = known
        self.model.renamed.clear()
