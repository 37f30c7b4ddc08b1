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

A comparison that none of this touches is *decisive*: there, a difference refutes.

Recordings tell where an object lies in each malloc, map and free of it (``place``). So the page
that a malloc found is known, and the model takes it, too; and so is the one to which a compaction
moved an object, from the next call that tells where it is: objects are astray only if there is no
such call, or it does not say by which compaction it was. Older recordings tell places in maps
alone. There, at each malloc the place is compared that the object's first map shows.

Where places are told and the kernel found another page than the model, the calls' times may explain
it: other calls were about the pages that the model would have taken, and one that a call has off
its list, or has locked, is passed over. If without those pages the model finds the kernel's, and
there is a moment at which other calls may have had them all, the difference is *excused* and counts
as equal.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ztrace.allocator.protocol import Place
from ztrace.replay.read.lives import Lives
from ztrace.replay.read.rows import MAP, NO_TOTAL, UNMAP, Rows
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
from ztrace.replay.validate.z3fold_model import NONE, UNTOLD, Correctable
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


class Stay(NamedTuple):
    """An object lay in the kernel's ``page`` from row ``first`` to row ``last``, for sure."""

    page: int
    first: int
    last: int


class Sightings:
    """What a pool's rows tell of where its objects lie.

    ``told``: mallocs tell it themselves. ``places``: row of each malloc -> its object's address, as
    the malloc itself or the first map told it. ``stays``: likewise, where it was seen, in order.
    ``compactions``: the kernel's pages -> rows of their compactions. ``held``: the kernel's pages
    -> row, beginning and end (ns) of each call that was about them and is among ``overlapping``.
    """

    def __init__(self, reader: TraceReader, pool: int, overlapping: NDArray[np.bool_]) -> None:
        self._lives: Lives[int] = Lives(str(reader.path), whole=False)  # malloc's row, by handle
        self._page_bytes = reader.metadata.machine.page_bytes or 4096
        self.told = False
        self.places: dict[int, int] = {}
        self.stays: dict[int, list[Stay]] = {}
        self.compactions: dict[int, list[int]] = {}
        self.held: dict[int, list[tuple[int, int, int]]] = {}
        first_row = 0
        columns = ("op", "pool", "handle", "place", "ts_ns", "dur_ns", "ret")
        for batch in reader.batches(columns=columns):
            op = batch.column("op").indices.to_numpy()
            chosen = (batch.column("pool").to_numpy() == pool) & np.isin(
                op, (MALLOC, FREE, MAP, UNMAP, COMPACT)
            )
            rows = np.flatnonzero(chosen & (batch.column("ret").to_numpy() >= 0))
            taken = batch.take(pa.array(rows))
            for row, code, handle, place, ts, dur in zip(
                (first_row + rows).tolist(),
                op[rows].tolist(),
                *(
                    taken.column(name).to_pylist()
                    for name in ("handle", "place", "ts_ns", "dur_ns")
                ),
                strict=True,
            ):
                page = self._note(row, code, handle, place, ts, ts + dur)
                if page is not None and overlapping[row]:
                    self.held.setdefault(page, []).append((row, ts, ts + dur))
            first_row += batch.num_rows

    def _note(
        self, row: int, op: int, handle: int, place: int | None, ts: int, end: int
    ) -> int | None:
        """The kernel's page that a call is about, where that is known."""
        page = place // self._page_bytes if place else None
        if op == COMPACT:
            if page is not None:
                self.compactions.setdefault(page, []).append(row)
            return page
        given: int | None
        if op == MALLOC:
            self._lives.give(handle, row, end, row)
            given = row
            self.told |= page is not None
        elif op == FREE:
            given = self._lives.take(handle, ts)
        else:
            given = self._lives.live.get(handle)
        if given is None:
            return page
        if place is None or page is None:
            stays = self.stays.get(given)
            return stays[-1].page if stays else None
        self.places.setdefault(given, place)
        stays = self.stays.setdefault(given, [])
        if stays and stays[-1].page == page:
            stays[-1] = stays[-1]._replace(last=row)
        else:
            stays.append(Stay(page, row, row))
        return page

    def page_after(self, given: int, row: int) -> int | None:
        """The kernel's page in which an object is when a compaction at ``row`` has ended.

        None: that cannot be told. ``given``: the row of its malloc.
        """
        stays = self.stays.get(given, ())
        at = next((at for at, stay in enumerate(stays) if stay.last > row), None)
        if at is None:
            return None
        stay = stays[at]
        if stay.first <= row or not at:
            return stay.page
        compactions = self.compactions.get(stays[at - 1].page, [])
        later = bisect_right(compactions, row)
        if later < len(compactions) and compactions[later] < stay.first:
            return None  # this one or a later one has moved it
        return stay.page


@dataclass
class _Object:
    """``given``: the model's handle; ``seen``: the page of the model where it was last seen;
    ``row``: of its malloc."""

    given: int
    seen: int
    row: int


class CorrectedOrder:
    """One pool that began empty, row by row."""

    def __init__(self, reader: TraceReader, result: PoolPlacement) -> None:
        machine = reader.metadata.machine
        self.result = result
        self.model = Correctable(machine.cpus, machine.page_bytes or 4096)
        self._overlapping = overlapping_rows(reader, result.pool)
        self._sightings = Sightings(reader, result.pool, self._overlapping)
        if self._sightings.told:
            self.model.moves = self._moved_to
            self.model.absent = self._absent
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
        self._end = 0  # when it returned
        self._row = 0  # its number
        self._lost_sight = False  # an object may have been moved, and where to is not told
        self._refuting: int | None = None
        self._early: dict[int, int] = {}  # kernel's pages compacted unasked -> until when, in ns
        self._asked: dict[int, tuple[int, int]] = {}  # page -> when its compaction was queued, ns
        result.counts = {
            "decisive": 0,
            "corrected": 0,
            "excused": 0,
            "compactions that did not come": 0,
        }

    def play(self, row: Row) -> None:
        """Play one row and compare what it tells."""
        result, model, op = self.result, self.model, row.op
        beside = bool(self._overlapping[row.number])
        result.calls += 1
        result.cpus.add(row.cpu)
        result.overlapping += beside
        model.cpu = row.cpu
        self._now, self._end, self._row = row.ts, row.end, row.number
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
            if row.place and self._sightings.told:
                self._compare(row, known, row.place, sure)
            self._free(known, row.ts, row.end, sure)
        elif op == MAP:
            if row.place:
                self._compare(row, known, row.place, sure)
            model.map(known.given)
        else:
            model.unmap(known.given)
        self._settle(sure)
        result.counts["excused"] = model.excused
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
        model, address = self.model, self._sightings.places.get(row.number)
        if address is not None and self._sightings.told and row.size <= model.largest:
            model.told = self._model_page.get(address // model.page_bytes, NONE)
            if model.told not in model.pages:
                model.told = NONE
        given = malloc(model, row, self.result)
        model.told = UNTOLD
        if given is None:
            return
        known = self._objects[given] = _Object(given, model.place(given).page, row.number)
        self._lives.give(row.handle, known, row.end, row.number)
        if address is not None:
            self._compare(row, known, address, sure)

    def _absent(self, pages: list[int]) -> bool:
        """Whether other calls may have had all of these pages at one moment of the call in hand."""
        moments = [(self._now, self._end)]
        for page in pages:
            held = self._sightings.held.get(self._kernel_page.get(page, -1), ())
            moments = [
                (max(first, began), min(last, ended))
                for first, last in moments
                for row, began, ended in held
                if row != self._row and began <= last and ended >= first
            ]
        return bool(moments)

    def _moved_to(self, handle: int) -> int:
        """Where a compaction moves the only object of its page, by the kernel (Correctable)."""
        known = self._objects.get(handle)
        page = self._sightings.page_after(known.row, self._row) if known is not None else None
        ours = self.model.place(handle).page
        if page is None:
            self._lost_sight = True
            return UNTOLD
        if page == self._kernel_page.get(ours):
            return NONE
        target = self._model_page.get(page, UNTOLD)
        if target not in self.model.pages:
            self._lost_sight = True
            return UNTOLD
        return target

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
            model.compact_page(page)  # by the worker, while the free was still under way
            self._note_moves(page, False, True)
        elif model.compactions > before:
            self._note_moves(page, sure, alone)
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
            if not self._sightings.told:
                self._astray = True
            elif page in model.pages:
                self._doubt.add(page)
            return
        alone = model.is_alone(page)
        # The worker takes pages in the order in which they were queued.
        began, passed = self._asked[page][0], 0
        while (oldest := model.oldest_queued) != page and self._asked[oldest][1] < began:
            model.compact_page(oldest)
            passed += 1
        result.counts["compactions that did not come"] += passed
        model.compact_page(page)
        self._note_moves(page, sure and not passed, alone)

    def _note_moves(self, page: int, sure: bool, alone: bool) -> None:
        """What a compaction of a page of the model has done; ``alone``: it may move an object."""
        model, result = self.model, self.result
        if not self._sightings.told:
            self._astray |= not sure or (alone and bool(self._doubt))
            return
        self._astray |= self._lost_sight and (not sure or bool(self._doubt))
        self._lost_sight = False
        for own in model.overruled:
            suspects = {page, own, *model.taken} & self._doubt
            decisive = sure and not suspects and not self._astray
            result.counts["decisive"] += decisive
            result.places.note(
                False,
                lambda own=own: (  # type: ignore[misc]
                    f"row {self._row}: the only object of the model's page {page} was not moved "
                    f"to page {own}, the model's choice"
                ),
            )
            self._doubt.add(own)
            self._note_difference(self._row, decisive)
        model.overruled.clear()

    def _note_difference(self, row: int, decisive: bool) -> None:
        """Count a difference, which is about to be corrected or was."""
        result = self.result
        result.undetermined += not decisive
        result.counts["corrected"] += 1
        if decisive and self._refuting is None:
            self._refuting = row
            result.notes.append(f"row {row} is the first difference that no other call explains")

    def _compare(self, row: Row, known: _Object, address: int, sure: bool) -> None:
        """Note whether an object lies where the model has it, and move it if not."""
        model, result = self.model, self.result
        kernel_page, position = divmod(address, model.page_bytes)
        ours = model.place(known.given)
        bound = self._kernel_page.get(ours.page)
        rival = self._model_page.get(kernel_page)
        if rival is not None and rival not in model.pages:
            rival = None
        lies = ours.position == position and (
            bound == kernel_page or (bound is None and rival is None)
        )
        overruled, chosen = set(model.overruled), ours.page
        model.overruled.clear()
        if overruled:
            chosen = max(overruled)
        equal = lies and not overruled
        result.places.note(
            equal,
            lambda: (
                f"row {row.number}: {row.handle:#x} lies in the kernel's page {kernel_page:#x} "
                f"(the model's {rival}) at {position}, in the model's page {chosen} "
                f"at {ours.position}"
            ),
        )
        suspects = {ours.page, rival, known.seen, *overruled} & self._doubt
        decisive = sure and not suspects and not self._astray
        result.counts["decisive"] += decisive
        if equal:
            self._bind(ours, kernel_page)
            known.seen = ours.page
            return
        self._note_difference(row.number, decisive)
        if lies:  # the model was told which page the kernel had found, and is right again
            self._doubt |= overruled
            self._bind(ours, kernel_page)
            known.seen = ours.page
            return
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
