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

import errno

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ztrace.allocator.protocol import Place
from ztrace.replay.read.rows import MAP, NO_HANDLE, NO_TOTAL, Rows
from ztrace.replay.validate.by_row import PLAYED, Play, Row
from ztrace.replay.validate.calls import CALL, COMPACT, FOREVER, FREE, MALLOC, SHRINK, windows
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
    pending: dict[int, int] = {}
    places: dict[int, int] = {}
    first_row = 0
    for batch in reader.batches(columns=("op", "pool", "handle", "place")):
        op = batch.column("op").indices.to_numpy()
        chosen = (batch.column("pool").to_numpy() == pool) & np.isin(op, (MALLOC, FREE, MAP))
        rows = np.flatnonzero(chosen)
        taken = batch.take(pa.array(rows))
        for row, code, handle, place in zip(
            (first_row + rows).tolist(),
            op[rows].tolist(),
            taken.column("handle").to_pylist(),
            taken.column("place").to_pylist(),
            strict=True,
        ):
            if code == MALLOC:
                pending[handle] = row
            elif (malloc := pending.pop(handle, None)) is not None and place is not None:
                places[malloc] = place
        first_row += batch.num_rows
    return places


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
        self._live: dict[int, int] = {}  # recorded handle -> the model's
        self._recorded: dict[int, int] = {}  # and back
        self._kernel_page: dict[int, int] = {}  # the model's page -> the kernel's
        self._model_page: dict[int, int] = {}  # and back
        self._seen: dict[int, int] = {}  # recorded handle -> page of the model where last seen
        self._doubt: set[int] = set()
        self._astray = False
        self._refuting: int | None = None
        self._early: dict[int, int] = {}  # kernel's pages compacted unasked -> until when, in ns
        self._asked: dict[int, tuple[int, int]] = {}  # page -> when its compaction was queued, ns
        result.counts = {"decisive": 0, "corrected": 0, "compactions that did not come": 0}

    def play(self, row: Row) -> None:
        """Play one row and compare what it tells."""
        result, model, op, handle = self.result, self.model, row.op, row.handle
        beside = bool(self._overlapping[row.number])
        result.calls += 1
        result.cpus.add(row.cpu)
        result.overlapping += beside
        model.cpu = row.cpu
        sure = not beside and row.end < self._reclaim
        if op == COMPACT:
            page = row.place // model.page_bytes
            if row.size:
                self._early[page] = row.end
                return
            self._compact(page, row.end, sure)
        elif op == MALLOC:
            self._malloc(row, sure)
        elif handle not in self._live:
            result.unknown["free" if op == FREE else "use"] += 1
            return
        elif op == FREE:
            self._free(handle, row.ts, row.end, sure)
        elif op == MAP:
            if row.place:
                self._compare(row.number, handle, row.place, sure)
            model.map(self._live[handle])
        else:
            model.unmap(self._live[handle])
        self._settle(sure)
        if row.total != NO_TOTAL:
            ours = model.total_bytes // model.page_bytes
            result.sizes.note(row.number, row.total // model.page_bytes, ours, ours)

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
        result, number, handle, ret = self.result, row.number, row.handle, row.ret
        if ret == -errno.ENOMEM:
            return  # no page was to be had: not the model's matter
        try:
            given = self.model.malloc(row.size)
        except OSError as refusal:
            code = -(refusal.errno or 0)
            result.errors.note(ret == code, lambda: f"row {number}: kernel {ret}, model {code}")
            return
        if ret < 0 or handle == NO_HANDLE:
            result.errors.note(
                False, lambda: f"row {number}: kernel {ret}, model took {row.size} bytes"
            )
            self.model.free(given)
            return
        if handle in self._live:
            result.unknown["reissued"] += 1
            self._free(handle, row.ts, row.ts, False)
        self._live[handle], self._recorded[given] = given, handle
        self._seen[handle] = self.model.place(given).page
        if number in self._places:
            self._compare(number, handle, self._places[number], sure)

    def _free(self, handle: int, ts: int, end: int, sure: bool) -> None:
        """Free an object. It may queue its page, and that be compacted before the free returns."""
        model, given = self.model, self._live.pop(handle)
        del self._recorded[given], self._seen[handle]
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

    def _compare(self, row: int, handle: int, address: int, sure: bool) -> None:
        """Note whether an object lies where the model has it, and move it if not."""
        model, result = self.model, self.result
        kernel_page, position = divmod(address, model.page_bytes)
        ours = model.place(self._live[handle])
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
                f"row {row}: {handle:#x} lies in the kernel's page {kernel_page:#x} "
                f"(the model's {rival}) at {position}, in the model's page {ours.page} "
                f"at {ours.position}"
            ),
        )
        suspects = {ours.page, rival, self._seen[handle]} & self._doubt
        decisive = sure and not suspects and not self._astray
        result.counts["decisive"] += decisive
        if equal:
            self._bind(ours, kernel_page)
            self._seen[handle] = ours.page
            return
        result.undetermined += not decisive
        result.counts["corrected"] += 1
        if decisive and self._refuting is None:
            self._refuting = row
            result.notes.append(f"row {row} is the first difference that no other call explains")
        self._settle(False)
        moved = model.relocate(
            self._live[handle], rival if bound != kernel_page else ours.page, position
        )
        self._astray |= len(model.renamed) > 1
        self._rename()
        page = model.place(moved)
        self._settle(False)
        self._doubt.add(ours.page)
        self._bind(page, kernel_page)
        self._seen[handle] = page.page

    def _bind(self, place: Place, kernel_page: int) -> None:
        self._kernel_page[place.page] = kernel_page
        self._model_page[kernel_page] = place.page

    def _rename(self) -> None:
        for old, new in self.model.renamed:
            handle = self._recorded.pop(old)
            self._live[handle], self._recorded[new] = new, handle
        self.model.renamed.clear()
