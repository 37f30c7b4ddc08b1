# SPDX-License-Identifier: GPL-2.0-only
"""z3fold on several CPUs, where the recording tells what was done to its lists.

A malloc that finds a page takes it off a list, and puts it back if there is still room; so does a
compaction with the page that it moves an object to. Rows of op ``link`` and ``unlink`` tell each of
these with the moment at which the pool's lock was held, and maps, unmaps and frees tell when they
had the page's (``lock_ns``). Whatever changes a page happens with one of these locks held, so all
that happened is known in its order, and is played so:

*   A malloc looks through the lists of its CPU, from that of its own size on, and takes the newest
    page of the first one that is not empty. It looks at them without the lock, one after another:
    there must have been moments, one after another since the call began, at which those before were
    empty. If all are, it looks at the list of just its size on each CPU in turn, and passes over a
    page whose lock another call holds (lists.py).
*   It leaves a page off its list, and looks again, if the page awaits compaction.
*   Where in the page the object lies, by which word its handle goes, on which list the page goes,
    whether a compaction moves an object or the middle, what a free does with its page: all that
    follows from what lies in the page at that moment, by the model's own rules.

What is told and does not follow is a difference. The page that it is about is *unclear* from then
on: nothing of it is compared until it is given back.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np

from ztrace.allocator.z3fold.model import FIRST, MIDDLE, NO_CPU, WORD_BYTES, WORDS, Page, Z3fold
from ztrace.replay.validate.calls import (
    ABSENT,
    COMPACT,
    FOREVER,
    FREE,
    LINK,
    MALLOC,
    MAP,
    PLAYED,
    UNLINK,
    Calls,
    groups,
)
from ztrace.replay.validate.lists import Lists, Look
from ztrace.replay.validate.page_counts import Counter
from ztrace.replay.validate.placement_verdict import PoolPlacement

SEARCHING = (MALLOC, COMPACT)
OWNERS = (MALLOC, FREE, COMPACT)
BEGIN, MOMENT, END = range(3)


@dataclass(eq=False)
class Operation:
    """A page was put on list ``number`` of a CPU, or taken off the one that it was on (None)."""

    row: int
    at: int
    page: int
    cpu: int
    tid: int
    number: int | None


@dataclass(eq=False)
class Call:
    """A recorded call. ``lock``: when it held its page's lock; -1 if it had none, or none is told.

    ``operations``: what it did to lists, in order. ``compaction``: the one that is a part of this
    free; ``free``: the other way round. ``looks``: how far its search for a page can have got.
    ``lay_there``: its object lay where it is told at some moment since the call began; None: that
    is not known.
    """

    row: int
    op: int
    begin: int
    end: int
    handle: int
    size: int
    tid: int
    place: int | None
    total: int | None
    lock: int
    operations: list[Operation] = field(default_factory=list)
    compaction: Call | None = None
    free: Call | None = None
    looks: list[Look] = field(default_factory=list)
    lay_there: bool | None = False

    @property
    def headless(self) -> bool:
        """Whether its object has a page of its own, without a header."""
        return self.op != COMPACT and bool(self.handle & 1)

    @property
    def found(self) -> Operation | None:
        """The taking of the page that its search ended with; None if it found none."""
        taken = [one for one in self.operations[self.op == COMPACT :] if one.number is None]
        return taken[-1] if taken and self.operations[-1].page == taken[-1].page else None


class Kept(Page):
    """A page and what is in it. ``objects``: rows of mallocs by place, -1 where there is none."""

    __slots__ = ("objects",)

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.objects = [-1, -1, -1, -1]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in it."""
        return not any(self.chunks[FIRST:])


class Rules(Z3fold):
    """What z3fold does in a page: the model's own rules, of a page that is not the model's."""

    def list_of(self, page: Page) -> int:
        """The number of the list that a page goes on."""
        return self._free_chunks(page)

    def put(self, page: Kept, chunks: int, number: int) -> int:
        """Use a place for an object; returns which."""
        buddy = self._put_in(page, chunks)
        page.objects[buddy] = number
        return buddy

    def move_middle(self, page: Kept) -> None:
        """What a compaction does that moves no object elsewhere."""
        before = page.chunks[MIDDLE]
        self._move_middle(page)
        if before and not page.chunks[MIDDLE]:
            page.objects[FIRST], page.objects[MIDDLE] = page.objects[MIDDLE], -1

    def address(self, page: Page, buddy: int) -> int:
        """Where an object lies."""
        return page.number * self.page_bytes + self._start(page, buddy) * self.chunk_bytes


class Difference(Exception):
    """Something told that does not follow. ``pages``: of which nothing is clear any more."""

    def __init__(self, what: str, *pages: int) -> None:
        super().__init__(what)
        self.pages = pages


class ListedOrder:
    """One pool that began empty and was not shrunk, window by window."""

    def __init__(self, result: PoolPlacement, page_bytes: int, cpus: int) -> None:
        self.result = result
        self._rules = Rules(page_bytes=page_bytes, cpus=cpus, work="deferred")
        self._page_bytes = page_bytes
        self._lists = Lists(cpus, self._rules.chunks)
        self._pages: dict[int, Kept] = {}
        self._unclear: set[int] = set()
        self._at: dict[int, int] = {}  # object -> its page
        self._live: dict[int, int] = {}  # handle -> object
        self._moved: set[int] = set()  # objects that are not where their malloc put them
        self._left: dict[int, tuple[int, int]] = {}  # object -> where it was, until when at most
        self._counter = Counter(result.sizes, puts_off=False)
        self._changes: list[tuple[int, int, int, int]] = []
        self._group: list[Call] = []
        self._held: Calls | None = None
        self._latest = -1

    def feed(self, calls: Calls, limit: int) -> None:
        """Take over calls sorted by ts, before which no later call began but from ``limit`` on."""
        if self._held is not None:
            calls = np.concatenate([self._held, calls])
        last = 0
        for first, last in groups(calls, limit):
            self._check(calls[first:last])
        self._held = calls[last:]

    def finish(self) -> PoolPlacement:
        """End of the trace."""
        assert self._held is not None
        self.feed(self._held[:0], FOREVER)
        if self._lists.elsewhere:
            self.result.counts["searches of a task that was moved"] = self._lists.elsewhere
        return self.result

    # -- what happened, in order --------------------------------------------------------------

    def _check(self, rows: Calls) -> None:
        """Play calls that overlap each other and no others."""
        self._group, operations = self._read(rows)
        alone = _assign(self._group, operations)
        for call in self._group:
            if call.op == COMPACT and call.operations:
                _begin_with((call.place or 0) // self._page_bytes, call)
        result = self.result
        result.calls += len(self._group)
        result.cpus.update(rows["cpu"].tolist())
        happened: list[tuple[int, int, int, Callable[[], None]]] = []
        for call in self._group:
            result.overlapping += call.begin <= self._latest and call.free is None
            self._latest = max(self._latest, call.end)
            happened.append((call.begin, BEGIN, call.row, partial(self._begin, call)))
            happened.append((call.end, END, call.row, partial(self._end, call)))
            if call.lock >= 0:
                happened.append((call.lock, MOMENT, call.row, partial(self._lock, call)))
            happened += [
                (one.at, MOMENT, one.row, partial(self._operate, call, one))
                for one in call.operations
            ]
        happened += [(one.at, MOMENT, one.row, partial(self._operate, None, one)) for one in alone]
        happened.sort(key=lambda one: one[:3])
        for _, _, _, happen in happened:
            happen()
        self._compare_sizes()
        self._lists.forget()
        self._left.clear()

    def _read(self, rows: Calls) -> tuple[list[Call], list[Operation]]:
        calls, operations = [], []
        names = ("row", "op", "ts", "end", "handle", "size", "ret", "cpu", "tid")
        also = ("total", "place", "lock_ns")
        for row, op, ts, end, handle, size, ret, cpu, tid, total, place, lock in zip(
            *(rows[name].tolist() for name in (*names, *also)), strict=True
        ):
            if op in (LINK, UNLINK):
                page = place // self._page_bytes
                operations.append(Operation(row, ts, page, cpu, tid, size if op == LINK else None))
            elif op not in PLAYED:
                pass
            elif ret < 0:
                self._refused(row, size, ret)
            else:
                calls.append(
                    Call(
                        *(row, op, ts, end, handle, size, tid),
                        place=None if place == ABSENT else place,
                        total=None if total == ABSENT else total // self._page_bytes,
                        lock=-1 if lock == ABSENT else ts + lock,
                    )
                )
        return calls, operations

    def _refused(self, row: int, size: int, ret: int) -> None:
        """Compare a malloc that was refused; that no page was to be had is not z3fold's matter."""
        if ret != -errno.ENOMEM:
            expected = -errno.EINVAL if size == 0 else -errno.ENOSPC
            wrong = ret != expected or 0 < size <= self._page_bytes
            self.result.errors.note(not wrong, lambda: f"row {row}: kernel {ret} for {size} bytes")

    def _compare_sizes(self) -> None:
        """Compare what the calls of a group read, after all that they changed."""
        for change in sorted(self._changes):
            self._counter.change(*change)
        self._changes.clear()
        readings = []
        for call in self._group:
            if call.total is not None:
                own = [call.begin, *(one.at for one in call.operations)]
                if call.compaction is not None:
                    own.append(call.compaction.end)
                readings.append((min(max(own) + 1, call.end), call.end, call.row, call.total))
        for reading in sorted(readings):
            self._counter.read(*reading)
        self._counter.advance(self._latest + 1)

    def _try(self, row: int, step: Callable[[], None]) -> None:
        """Do what must follow from all before. If it does not, what it is about is unclear."""
        try:
            step()
        except Difference as difference:
            what = f"row {row}: {difference}"
            self.result.lists.note(False, lambda: what)
            for page in difference.pages:
                self._pages.pop(page, None)
                self._unclear.add(page)
        else:
            self.result.lists.note(True, str)

    # -- beginnings and ends ------------------------------------------------------------------

    def _begin(self, call: Call) -> None:
        if call.op == COMPACT:
            self.result.compactions += 1
        elif call.op == MALLOC:
            call.looks = [Look(call.begin)]
        elif call.headless:
            if call.handle not in self._live:
                self.result.note_unknown(call.op)
                return
            self._compare(call, call.place in (None, call.handle - 1))
            if call.op == FREE:
                del self._live[call.handle]
                self._changes.append((call.begin, call.end, call.row, -1))
        elif call.op == FREE:  # its place is read as it begins
            given = self._live.get(call.handle, -1)
            place, until = self._left.get(given, (None, 0))
            still = call.place == place and call.begin <= until  # a compaction is moving it
            call.lay_there = still or self._lies(call, given)

    def _end(self, call: Call) -> None:
        if call.op == COMPACT and call.operations:
            first = call.operations[0]
            ends = len(call.operations) == 1 or call.found is not None
            if ends and first.page in self._unclear:
                self._give_back_unclear(call, first)
        if call.op != MALLOC:
            return
        if call.headless:
            self._live[call.handle] = call.row
            self._changes.append((call.begin, call.end, call.row, 1))
            self._compare(call, call.place in (None, call.handle - 1))
        elif call.row in self._at:  # its place is read as it ends
            self._compare(call, call.lay_there or self._lies(call, call.row))
        elif not call.operations:
            self._try(call.row, partial(_differ, "a malloc that uses no page"))

    def _lies(self, call: Call, given: int) -> bool | None:
        """Whether an object lies where a call tells; None: nothing is known of its page."""
        page = self._page_of(given)
        if page is None:
            return None
        return call.place == self._rules.address(page, page.objects.index(given))

    def _page_of(self, given: int) -> Kept | None:
        """The page that an object is in; None if that is not clear."""
        page = self._pages.get(self._at.get(given, -1))
        return page if page is not None and given in page.objects else None

    def _compare(self, call: Call, equal: bool | None) -> None:
        """Count a comparison of where an object lies, if both sides tell."""
        if call.place is not None and equal is not None:
            place = call.place
            self.result.places.note(
                equal, lambda: f"row {call.row}: {call.handle:#x} does not lie at {place:#x}"
            )

    # -- maps, unmaps and frees, with their page's lock held ------------------------------------

    def _lock(self, call: Call) -> None:
        given = self._live.get(call.handle, -1)
        if given < 0:
            self.result.note_unknown(call.op)
            return
        page = self._page_of(given)
        if page is None:
            if call.op == FREE:
                self._forget(call.handle)
            return
        if call.op == FREE:
            self._compare(call, call.lay_there or self._lies(call, given))
            self._try(call.row, partial(self._free, call, page, given))
            self._forget(call.handle)
            return
        if call.op == MAP:
            self._compare(call, self._lies(call, given))
        page.mapped += 1 if call.op == MAP else -1
        if page.objects[MIDDLE] == given:
            page.middle_mapped = call.op == MAP

    def _forget(self, handle: int) -> None:
        """An object is no more."""
        given = self._live.pop(handle)
        self._at.pop(given, None)
        self._moved.discard(given)

    def _free(self, call: Call, page: Kept, given: int) -> None:
        """z3fold_free(): what becomes of the page is seen in what the call does next."""
        buddy = page.objects.index(given)
        page.objects[buddy], page.chunks[buddy] = -1, 0
        page.foreign -= given in self._moved
        waits = page.needs_compacting
        ends = page.is_empty and not waits
        at_once = not ends and not waits and page.cpu == NO_CPU
        if ends != bool(call.operations):
            raise Difference("a free gives its page back, or not, other than it must", page.number)
        if at_once != (call.compaction is not None):
            raise Difference("a free compacts its page, or not, other than it must", page.number)
        page.needs_compacting = not ends

    # -- what is done to lists ------------------------------------------------------------------

    def _operate(self, call: Call | None, one: Operation) -> None:
        """A page goes on a list, or off one; ``call``: by which call, None if by none recorded."""
        if call is None:
            if one.page in self._pages:
                self._try(one.row, partial(_differ, "the kernel moves a page", one.page))
        elif one.page not in self._unclear or self._is_added(call, one):
            self._unclear.discard(one.page)
            self._try(one.row, partial(self._follow, call, one))
        elif call.op == FREE:
            self._give_back_unclear(call, one)
        elif call.op == MALLOC and call.found is one:
            self._live[call.handle] = call.row
            self._at[call.row] = one.page
        self._lists.passed(one.at)
        if one.number is not None:
            self._lists.link(one.page, (one.cpu, one.number), one.at)
        else:
            self._lists.unlink(one.page, one.at)

    def _is_added(self, call: Call, one: Operation) -> bool:
        """Whether a malloc puts a page on a list that it has made."""
        return call.op == MALLOC and call.found is None and one.number is not None

    def _give_back_unclear(self, call: Call, one: Operation) -> None:
        """A page of which nothing is known is given back; what was in it is gone, or elsewhere."""
        self._unclear.discard(one.page)
        self._changes.append((one.at, call.end, call.row, -1))

    def _follow(self, call: Call, one: Operation) -> None:
        """Check and do what an operation is a part of."""
        on = self._lists.where(one.page)
        if one.number is not None:
            if on is not None:
                raise Difference("a page goes on a list that is on one", one.page)
            if self._is_added(call, one):
                self._add_page(call, one)
            else:
                self._put_back(call, one)
        elif call.op == FREE:
            self._give_back(call, one)
        elif call.op == COMPACT and one is call.operations[0]:
            self._compact(call, one)
        else:
            self._take(call, one)

    def _chunks(self, call: Call, taken: int) -> int:
        """How large an object a search needs a place for that comes to the page ``taken``."""
        if call.op == MALLOC:
            return -(-call.size // self._rules.chunk_bytes)
        page = self._pages.get(call.operations[0].page)
        if page is None:
            raise Difference("a page of which nothing is known gives an object away", taken)
        if not page.movable:
            raise Difference("a compaction looks for a page though it may not move", taken)
        return page.chunks[page.movable]

    def _take(self, call: Call, one: Operation) -> None:
        """Whoever looks for a page with room takes one off its list."""
        chunks, lists = self._chunks(call, one.page), self._lists
        if lists.where(one.page) is None or not lists.is_newest(one.page):
            raise Difference("a page is taken off a list that is not first there", one.page)
        call.looks = lists.taken(call.looks, one.page, one.cpu, one.at, chunks, self._busy(call))
        page = self._pages.get(one.page)
        if page is None:
            raise Difference("a page is used of which nothing is known", one.page)
        found = call.found is one
        waits = page.needs_compacting
        page.cpu = NO_CPU
        if found:
            self._use(call, page, chunks)
        if found == waits:
            raise Difference("a page that awaits compaction is used, or another is not", one.page)
        if not call.looks:
            call.looks = [Look(one.at)]
            raise Difference("a page is taken though a search would have found another")

    def _use(self, call: Call, page: Kept, chunks: int) -> None:
        """Put the object of a call in a page."""
        if not page.has_place or self._rules.list_of(page) < chunks:
            raise Difference("a page is used that has no room", page.number)
        if call.op == MALLOC:
            self._give(call, page, chunks)
            return
        old = self._pages.pop(call.operations[0].page)
        given = old.objects[old.movable]
        self._left[given] = self._rules.address(old, old.movable), call.end
        self._rules.put(page, chunks, given)
        page.foreign += 1
        self._moved.add(given)
        self._at[given] = page.number
        self._changes.append((call.operations[0].at, call.end, call.row, -1))

    def _give(self, call: Call, page: Kept, chunks: int) -> None:
        """A malloc has found its page, or made it."""
        buddy = self._rules.put(page, chunks, call.row)
        self._live[call.handle] = call.row
        self._at[call.row] = page.number
        call.lay_there = self._lies(call, call.row)
        if page.word_of(buddy) != call.handle // WORD_BYTES % (2 * WORDS):
            raise Difference(
                "a handle is the address of another word than its place's", page.number
            )
        full = not page.has_place
        if full == (call.operations[-1].number is not None):
            raise Difference("a page goes on a list, or not, other than its room says", page.number)

    def _add_page(self, call: Call, one: Operation) -> None:
        """A malloc that found no page has made one."""
        if one.page in self._pages:
            raise Difference("a malloc adds a page that is in use", one.page)
        page = self._pages[one.page] = Kept(one.page)
        page.cpu = one.cpu
        self._changes.append((call.begin, one.at, call.row, 1))
        chunks = self._chunks(call, one.page)
        self._give(call, page, chunks)
        if one.number != self._rules.list_of(page):
            raise Difference("a page goes on another list than its room says", one.page)
        if not self._lists.none(call.looks, one.cpu, one.at, chunks, self._busy(call)):
            raise Difference("a malloc adds a page though it would have found one")

    def _put_back(self, call: Call, one: Operation) -> None:
        """A page goes on a list that has been used, or compacted."""
        page = self._pages.get(one.page)
        if page is None:
            raise Difference("a page goes on a list of which nothing is known", one.page)
        found_none = True
        if call.op == COMPACT and one.page == call.operations[0].page:
            if page.movable:
                chunks = page.chunks[page.movable]
                found_none = self._lists.none(call.looks, one.cpu, one.at, chunks, self._busy(call))
            self._rules.move_middle(page)
        page.cpu = one.cpu
        if one.number != self._rules.list_of(page) or not page.has_place:
            raise Difference("a page goes on another list than its room says", one.page)
        if not found_none:
            raise Difference("a compaction moves nothing though it would have found a page")

    def _give_back(self, call: Call, one: Operation) -> None:
        """A free has emptied its page."""
        page = self._pages.pop(one.page, None)
        self._changes.append((one.at, call.end, call.row, -1))
        if page is None or not page.is_empty:
            raise Difference("a free gives back a page that is in use, or none")

    def _compact(self, call: Call, one: Operation) -> None:
        """do_compact_page(): begins with its page off its list; then it may look for another."""
        call.looks = [Look(one.at)]
        page = self._pages.get(one.page)
        if page is None or call.place is None or call.place // self._page_bytes != one.page:
            raise Difference("a compaction of a page that is not there", one.page)
        if not page.needs_compacting:
            self.result.compactions_unmatched += 1
            raise Difference("a compaction of a page that did not await it", one.page)
        page.needs_compacting = False
        if page.is_empty:
            del self._pages[one.page]
            self._changes.append((one.at, call.end, call.row, -1))
        if page.is_empty != (len(call.operations) == 1):
            raise Difference(
                "a compaction gives its page back, or not, other than it must", one.page
            )

    def _busy(self, call: Call) -> Callable[[int, int, int], bool]:
        """Whether another call may hold a page's lock (:data:`lists.Busy`)."""

        def busy(page: int, since: int, until: int) -> bool:
            return any(
                other.begin <= until and other.end >= since and self._is_about(other, page)
                for other in self._group
                if other is not call
            )

        return busy

    def _is_about(self, call: Call, page: int) -> bool:
        if call.op in SEARCHING:
            return any(one.page == page for one in call.operations)
        if call.place is not None and call.place // self._page_bytes == page:
            return True
        return self._at.get(self._live.get(call.handle, -1)) == page


def _differ(what: str, *pages: int) -> None:
    raise Difference(what, *pages)


def _assign(calls: list[Call], operations: list[Operation]) -> list[Operation]:
    """Give each operation to the call of its task that made it; return those of none.

    Its row stands before that of its call, behind which only calls around it can stand. A time is
    no proof: the kernel's clock can go back a little while it is being set. A compaction within a
    free is told to the free.
    """
    by_task: dict[int, list[Call]] = {}
    for call in sorted(calls, key=lambda one: one.row):
        if call.op in OWNERS:
            by_task.setdefault(call.tid, []).append(call)
    for others in by_task.values():
        for call, outer in pairwise(others):
            if call.op == COMPACT and outer.op == FREE and outer.begin <= call.begin:
                outer.compaction, call.free = call, outer
    alone: list[Operation] = []
    for one in operations:
        others = by_task.get(one.tid, [])
        at = bisect_right(others, one.row, key=lambda call: call.row)
        owner = next((call for call in others[at:] if call.begin <= one.at), None)
        (alone if owner is None else owner.operations).append(one)
    return alone


def _begin_with(page: int, call: Call) -> None:
    """A compaction takes its own page off first, whatever the clock said as it did."""
    first = call.operations[0]
    own = next((one for one in call.operations if one.number is None and one.page == page), first)
    if own is not first:
        call.operations.remove(own)
        call.operations.insert(0, own)
        own.at = first.at - 1
