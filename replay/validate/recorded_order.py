# SPDX-License-Identifier: GPL-2.0-only
"""A pool's calls in recorded order: does every object lie where the model puts it?

On one CPU the recorded order is that in which calls took effect. On several it need not be, and
then differences say nothing about the rules: the verdict says how many calls overlapped.

Where an object lies in the kernel: zbud, the handle itself; zsmalloc, the zspage and slot seen
as it took the slot (column ``place`` of a malloc); z3fold, the address at which it is mapped
(``place`` of a map), since its objects move. z3fold's queued compactions are played when the
kernel ran them, zsmalloc's when a whole pool was compacted (rows of op ``compact``). A shrink is
the model's own, which must ask for the objects that the kernel evicted: what is freed within it
leaves its page to the shrink to give back.
"""

from __future__ import annotations

import errno
from collections import Counter

from ztrace.allocator import (
    CompactsPages,
    CompactsPool,
    HasCpus,
    HasPlace,
    HazardError,
    Place,
    Pool,
    create,
)
from ztrace.allocator.registry import recorded_traits
from ztrace.allocator.traits import SLOT_BITS, Tells
from ztrace.replay.errors import ReplayError
from ztrace.replay.read.evictions import evictions
from ztrace.replay.read.lives import Lives, is_whole
from ztrace.replay.read.rows import (
    COMPACT,
    FREE,
    MALLOC,
    MAP,
    NO_TOTAL,
    UNMAP,
    Rows,
)
from ztrace.replay.validate.by_row import Play, Row, malloc
from ztrace.replay.validate.placement_verdict import PoolPlacement
from ztrace.traces import Metadata


class RecordedOrder:
    """One pool: its model, and which of the kernel's pages is which of the model's."""

    def __init__(self, where: str, metadata: Metadata, result: PoolPlacement) -> None:
        self.where = where
        self.whole = is_whole(metadata)
        self.model: Pool = create(result.backend)
        if not isinstance(self.model, HasPlace):
            raise ReplayError(f"{result.backend}: this model does not tell where objects lie")
        self.placed: HasPlace = self.model
        # Looked up once: to ask a protocol takes as long as to play a call.
        self.by_cpu = self.model if isinstance(self.model, HasCpus) else None
        self.by_page = self.model if isinstance(self.model, CompactsPages) else None
        self.page_bytes = self.model.page_bytes
        self.tells = recorded_traits(result.allocator).tells
        self.result = result
        # By recorded handle, the model's. On one CPU, a free is missing rather than late.
        waits = self.whole or metadata.machine.cpus != 1
        self.lives: Lives[int] = Lives(where, whole=self.whole, lost=self._lose, waits=waits)
        self.kernel_page: dict[int, int] = {}  # the model's page -> the kernel's
        self.model_page: dict[int, int] = {}  # and back
        self.objects: Counter[int] = Counter()  # live objects by page of the model
        self.latest = -(1 << 62)

    def play(self, row: Row) -> None:
        """Play one row and compare what it tells."""
        result, op = self.result, row.op
        result.calls += 1
        result.cpus.add(row.cpu)
        if row.ts <= self.latest:
            result.overlapping += 1
        if row.end > self.latest:
            self.latest = row.end
        if self.by_cpu is not None:
            self.by_cpu.cpu = row.cpu
        if op == COMPACT:
            self._compact(row.place, row.size)
        elif op == MALLOC:
            self._malloc(row)
        elif (given := self._given(row)) is None:
            # 6.1's zswap_writeback_entry() unmaps an object after it has freed it.
            if op != UNMAP or not self.whole:
                result.note_unknown(op)
            return
        elif op == FREE:
            self._free(given)
        elif op == MAP:
            self.model.map(given)
            if row.place and self.tells is Tells.MAP:
                self._compare(row, *divmod(row.place, self.page_bytes))
        else:
            self.model.unmap(given)
        if row.total != NO_TOTAL:
            self._compare_size(row.number, row.total)

    def _given(self, row: Row) -> int | None:
        """The model's handle of the object that a call is about."""
        if row.op == FREE:
            return self.lives.take(row.handle, row.ts)
        return self.lives.live.get(row.handle)

    def settle(self, before: int | None) -> None:
        """See RowCheck."""
        for handle in self.lives.overdue(before):
            self.lives.give_up(handle)

    def _compare_size(self, number: int, total: int) -> None:
        ours = self.model.total_bytes // self.page_bytes
        self.result.sizes.note(number, total // self.page_bytes, ours, ours)

    def shrink(self, rows: Rows, first: int, last: int, play: Play) -> None:
        """Have the model shrink, and play what returned meanwhile as it asks for evictions."""
        wanted = evictions(rows, first, last)
        played, done, diverged = first, 0, False

        def evict(handle: int) -> int:
            nonlocal played, done, diverged
            if (
                diverged
                or done == len(wanted)
                or self.lives.live.get(wanted[done].handle) != handle
            ):
                diverged = True
                return -errno.EEXIST
            one = wanted[done]
            done += 1
            play(played, one.at + 1)
            played = one.at + 1
            return one.ret

        number, ret = rows.number[last], rows.ret[last]
        try:
            answer = f"{self.model.shrink(rows.size[last] or 1, evict).ret}"
        except OSError as refusal:
            answer = f"{-(refusal.errno or 0)}"
        except HazardError as hazard:
            raise ReplayError(f"{self.where}: row {number}: shrink: {hazard}") from hazard
        play(played, last)
        if diverged or done < len(wanted):
            answer = f"asks for other objects after {done} evictions of {len(wanted)}"
        self.result.shrinks.note(
            answer == f"{ret}", lambda: f"row {number}: kernel {ret}, model {answer}"
        )
        if rows.total[last] != NO_TOTAL:
            self._compare_size(number, rows.total[last])

    def _malloc(self, row: Row) -> None:
        given = malloc(self.model, row, self.result)
        if given is None:
            return
        self.lives.give(row.handle, given, row.end, row.number)
        ours = self._count(given, 1)
        if self.tells is Tells.HANDLE:
            self._compare(row, *divmod(row.handle, self.page_bytes), ours)
        elif self.tells is Tells.MALLOC and row.place:
            self._compare(row, row.place >> SLOT_BITS, row.place & (1 << SLOT_BITS) - 1, ours)

    def _lose(self, given: int) -> None:
        """The free of an object is missing."""
        self.result.unknown["reissued"] += 1
        self._free(given)

    def _free(self, given: int) -> None:
        self._count(given, -1)
        self.model.free(given)

    def _count(self, given: int, change: int) -> Place | None:
        """Count a page's objects; where it lies, unless a page's use is known without."""
        if self.by_page is not None:
            return None
        ours = self.placed.place(given)
        self.objects[ours.page] += change
        return ours

    def _compact(self, place: int, at_once: int) -> None:
        """A compaction of a queued page, as of z3fold, or of a whole pool, as of zsmalloc."""
        result = self.result
        if self.by_page is not None:
            if at_once:
                return  # within a free; the model does that itself
            result.compactions += 1
            page = self.model_page.get(place // self.page_bytes)
            done = page is not None and self.by_page.compact_page(page)
            result.compactions_unmatched += not done
        elif isinstance(self.model, CompactsPool):
            result.compactions += 1
            self.model.compact()
        else:
            return
        self._count_objects()

    def _count_objects(self) -> None:
        """Count again after objects have moved; where it is page by page, that is too often."""
        if self.by_page is None:
            lives = self.lives
            leaving = (old.object for old in lives.leaving.values())
            there = (*lives.live.values(), *leaving)
            self.objects = Counter(self.placed.place(given).page for given in there)

    def _is_used(self, page: int) -> bool:
        """Whether a page of the model still holds an object."""
        if self.by_page is not None:
            return page in self.by_page.pages
        return bool(self.objects[page])

    def _compare(
        self, row: Row, kernel_page: int, position: int, ours: Place | None = None
    ) -> None:
        """Note whether an object lies where the model has it, ``ours`` if that is known."""
        if ours is None:
            ours = self.placed.place(self.lives.live[row.handle])
        bound = self.kernel_page.get(ours.page)
        rival = self.model_page.get(kernel_page)
        # A page number of the model is used once, an address of the kernel's again and again.
        free = bound is None and (rival is None or not self._is_used(rival))
        equal = ours.position == position and (bound == kernel_page or free)
        self.result.places.note(
            equal,
            lambda: (
                f"row {row.number}: {row.handle:#x} lies in the kernel's page {kernel_page:#x} "
                f"(the model's {rival}) at {position}, in the model's page {ours.page} "
                f"at {ours.position}"
            ),
        )
        self.kernel_page[ours.page] = kernel_page
        self.model_page[kernel_page] = ours.page
