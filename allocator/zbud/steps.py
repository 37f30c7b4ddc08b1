# SPDX-License-Identifier: GPL-2.0-only
"""What a recorded zbud call may have done next, and doing and undoing it on the model.

This is what the search for an order (replay/validate/search.py) asks of a model.

The model's pages are numbered by the kernel's addresses, so that its handles are the kernel's.
A handle tells the page and the end of it that a call was about. Hence a set of completed calls
fixes which pages exist, what is in them and so which list each is on. Only the order of the pages
within a list, newest last, depends on the order of calls unseen, and the order of use, by which
6.1 reclaims: of that only when each page was used is kept, as an interval.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

from ztrace.allocator.causes import Cause
from ztrace.allocator.zbud.model import CHUNKS, PAGE_CHUNKS, Page, Zbud


class PageKind(IntEnum):
    """What a call does, or a critical section of a shrink."""

    MALLOC = 0
    FREE = 1
    NO_PAGE = 2  # a malloc that found no page and got none: -ENOMEM
    RECLAIM = 3  # a shrink takes a page off its list
    PUT_BACK = 4  # and lists it again, or gives it back if it is empty


class PageCall(NamedTuple):
    """A recorded call on the object at one end of page ``number``; times in ns.

    Where it is known when the call held the pool's lock, ``ts`` and ``end`` are that moment and
    ``began`` is earlier; else it is ``ts``. A malloc that finds no page lets go of the lock and
    takes it again to list its own: that is the moment, and it may have looked before.
    """

    ts: int
    end: int
    row: int
    kind: PageKind
    number: int
    first: bool  # which end
    chunks: int  # of a malloc
    handle: int
    total: int  # pages of the pool as the call returned, -1 if not recorded
    cpu: int
    tid: int
    began: int


class PageStep(IntEnum):
    """A critical section. A malloc that finds no page has two, LOOK and GROW."""

    WHOLE = 0
    LOOK = 1
    GROW = 2

    @property
    def ends(self) -> bool:
        """Whether it is its call's last one."""
        return self != PageStep.LOOK


class Says(IntEnum):
    """What the model does instead of a call."""

    NEW_PAGE = 0
    PAGE = 1
    NO_OBJECT = 2
    NO_PAGE = 3
    NOT_RECLAIMED = 4
    NOT_OLDEST = 5


_TEXTS = {
    Says.NEW_PAGE: "no page has room: a new one",
    Says.NO_OBJECT: "no such object",
    Says.NO_PAGE: "no such page",
    Says.NOT_RECLAIMED: "not under reclaim",
    Says.NOT_OLDEST: "not the page unused longest",
}


class PageAnswer(NamedTuple):
    """``address`` is that of the page which the model takes, where it says so."""

    says: Says
    address: int = 0

    @property
    def text(self) -> str:
        """The same in words."""
        return _TEXTS.get(self.says, f"page {self.address:#x}")


# A list's number and some of its pages, oldest first; such segments of several lists.
Segment = tuple[int, tuple[int, ...]]
PageOrder = tuple[Segment, ...]


class PoolHidden(NamedTuple):
    """What of a pool depends on the order of calls unseen, as far as a group of them tells.

    ``beginning``: number of the arrangement that the group began with; ``order``: how the pages
    of its calls lie now; ``full_until``: see PoolState, which differs by the way that led here.
    """

    beginning: int
    order: PageOrder = ()
    full_until: tuple[int, ...] = ()

    @property
    def key(self) -> PoolHidden:
        """Equal for equal ones."""
        return self


class PageSaved(NamedTuple):
    """One step's undo: the page that the step works on, before it."""

    number: int
    page: Page | None
    first: int
    last: int
    under_reclaim: bool
    list_number: int  # -1: on none
    pages: dict[int, Page] | None  # the list, unless the page was its newest
    pushed: int
    used: tuple[int, int] | None
    given: tuple[int, int]


_LONG_AGO = -(2**63)

# What may come next of a call: steps that are taken at once.
WHOLE = (PageStep.WHOLE,)
LOOK = (PageStep.LOOK,)
GROW = (PageStep.GROW,)


class PoolState:
    """A pool's model, with what the order of overlapping calls leaves open about it."""

    nodes = 20_000  # after which a search is content
    splits: Sequence[int | None] = (None,)

    def __init__(self, model: Zbud, locked: bool = False) -> None:
        """``locked``: it is known when calls held the lock, see PageCall."""
        self.model = model
        self._locked = locked
        self.beginnings: list[PageOrder] = [()]  # arrangements that a group may begin with
        self._beginning = 0
        self._pages: list[int] = []  # those of the group's calls
        self._clock = 0
        self._pushed: dict[int, int] = {}  # page -> when it was put on its list, by our count
        self._used: dict[int, tuple[int, int]] = {}  # page -> when malloc used it last, in ns
        # Page -> when the mallocs of its first and last object returned, in ns, as far as known.
        self._given: dict[int, tuple[int, int]] = {}
        # By chunks: when no page had room for so many, last; only where the lock is known. What an
        # order that is given up has shown is kept: so a call may pass that should not, if a shrink
        # runs beside it, and none is accused.
        self._full_until = [_LONG_AGO] * CHUNKS

    # -- what the search asks -----------------------------------------------------------------

    def begin(self, calls: Sequence[PageCall]) -> None:
        """The calls of a group, all of which are still to be done."""
        self._beginning = 0
        self._pages = sorted({call.number for call in calls})

    def hidden(self) -> PoolHidden:
        """How the pages of the group's calls lie."""
        full_until = tuple(self._full_until) if self._locked else ()
        return PoolHidden(self._beginning, self.order(self._pages), full_until)

    def install(self, hidden: PoolHidden) -> None:
        """Arrange pages as before the group, none of whose calls must be done."""
        self._beginning = hidden.beginning
        self.arrange(self.beginnings[hidden.beginning])

    def steps(self, call: PageCall, made: int) -> Sequence[tuple[PageStep, ...]]:
        """What a call that has ``made`` so many steps may do now, as it was recorded."""
        page = self.model.pages.get(call.number)
        if call.kind == PageKind.MALLOC:
            return self._malloc_steps(call, page, made)
        if call.kind == PageKind.NO_PAGE:
            possible = self.model.choose(call.chunks) is None
        elif page is None:
            possible = False
        elif call.kind == PageKind.FREE:
            possible = self.holds(call)
        elif call.kind == PageKind.RECLAIM:
            possible = not page.under_reclaim and self._may_be_oldest(call.number)
        else:
            possible = page.under_reclaim
        return [WHOLE] if possible else []

    def _malloc_steps(
        self, call: PageCall, page: Page | None, made: int
    ) -> Sequence[tuple[PageStep, ...]]:
        grows = [GROW] if page is None and call.first else []
        if made:
            return grows
        if grows and self._locked and self._full_until[call.chunks] >= call.began:
            return grows  # it had looked before
        chosen = self.model.choose(call.chunks)
        if chosen is None:
            return [*grows, LOOK] if call.first else []
        fits = chosen == call.number and page is not None and call.first == (not page.first)
        return [WHOLE] if fits else []

    def holds(self, call: PageCall) -> bool:
        """Whether there is an object at the call's handle that its caller can know of.

        Nobody frees what a malloc has yet to return. So what is in a page once some calls are done
        does not depend on their order, though two of them may have given the same handle.
        """
        page = self.model.pages.get(call.number)
        if page is None or self._given[call.number][not call.first] >= call.began:
            return False
        if call.first:
            return bool(page.first)
        at = self.model.chunk_bytes * (PAGE_CHUNKS - page.last)
        return bool(page.last) and call.handle % self.model.page_bytes == at

    def _may_be_oldest(self, number: int) -> bool:
        """Whether no other page that is in order of use is sure to have been used before."""
        earliest = self._used[number][0]
        pages = self.model.pages
        return all(
            self._used[other][1] >= earliest or pages[other].under_reclaim
            for other in pages
            if other != number
        )

    def act(self, call: PageCall, step: PageStep) -> tuple[PageSaved | None, bool]:
        """Have the model make a step, which must be possible.

        Returns its undo, if it needs one, and whether the model answers as recorded.
        """
        changes = step != PageStep.LOOK and call.kind != PageKind.NO_PAGE
        return self.save(call.number) if changes else None, self.do(call, step)

    def do(self, call: PageCall, step: PageStep) -> bool:
        """As :meth:`act`, for a step that is not undone."""
        model, number = self.model, call.number
        if self._locked:
            for chunks in range(max(model.filled.bit_length(), 1), CHUNKS):
                self._full_until[chunks] = max(self._full_until[chunks], call.end)
        if step == PageStep.LOOK or call.kind == PageKind.NO_PAGE:
            return True
        agreed = True
        if call.kind == PageKind.MALLOC:
            self._give(call)
            if step == PageStep.GROW:
                agreed = model.grow(call.chunks, number) == call.handle
            else:
                agreed = model.malloc(call.chunks * model.chunk_bytes) == call.handle
            self._use(call)
        elif call.kind == PageKind.FREE:
            model.free(call.handle)
        else:
            page = model.pages[number]
            if call.kind == PageKind.RECLAIM:
                model.unlink(page)
            elif page.first or page.last:
                model.push(page)
                self._use(call)
            else:
                del model.lru[number]
                model.give_back(page)
            page.under_reclaim = call.kind == PageKind.RECLAIM
        self._clock += 1
        self._pushed[number] = self._clock
        return agreed

    def _give(self, call: PageCall) -> None:
        """Note when the malloc of an object returns."""
        first, last = self._given.get(call.number, (_LONG_AGO, _LONG_AGO))
        self._given[call.number] = (call.end, last) if call.first else (first, call.end)

    def _use(self, call: PageCall) -> None:
        """Note that a page went to the head of the order of use.

        Of several uses the last was begun and ended no sooner than any: so the order in which
        they are met does not matter.
        """
        ts, end = self._used.get(call.number, (call.ts, call.end))
        self._used[call.number] = max(ts, call.ts), max(end, call.end)

    def save(self, number: int) -> PageSaved:
        """What it takes to undo the next step, which must be about page ``number``."""
        page = self.model.pages.get(number)
        pushed, used = self._pushed.get(number, 0), self._used.get(number)
        given = self._given.get(number, (_LONG_AGO, _LONG_AGO))
        if page is None:
            return PageSaved(number, None, 0, 0, False, -1, None, pushed, used, given)
        at, pages = -1, None
        if not page.under_reclaim:
            at = page.list_number()
            if next(reversed(self.model.lists[at])) != number:
                pages = dict(self.model.lists[at])
        ends = (page.first, page.last, page.under_reclaim)
        return PageSaved(number, page, *ends, at, pages, pushed, used, given)

    def undo(self, saved: PageSaved) -> None:
        """Take a step back; counters of work are not restored."""
        model, number, page = self.model, saved.number, saved.page
        self._pushed[number] = saved.pushed
        self._given[number] = saved.given
        if saved.used is not None:
            self._used[number] = saved.used
        else:
            self._used.pop(number, None)
        now = model.pages.get(number)
        if now is not None and not now.under_reclaim:
            model.unlink(now)
        if page is None:
            if now is not None:
                del model.pages[number], model.lru[number]
            return
        model.pages[number] = model.lru[number] = page
        page.first, page.last = saved.first, saved.last
        page.under_reclaim = saved.under_reclaim
        if saved.pages is not None:
            model.lists[saved.list_number] = saved.pages
            model.filled |= 1 << saved.list_number
        elif saved.list_number >= 0:
            model.push(page)

    def force(self, call: PageCall) -> None:
        """Make the model agree with a call that it cannot explain."""
        model, number = self.model, call.number
        if call.kind == PageKind.NO_PAGE or (
            call.kind != PageKind.MALLOC and number not in model.pages
        ):
            return
        page = model.pages.get(number)
        if page is None:
            page = model.pages[number] = model.lru[number] = Page(number)
        elif not page.under_reclaim:
            model.unlink(page)
        page.under_reclaim = call.kind == PageKind.RECLAIM
        if call.kind in (PageKind.MALLOC, PageKind.FREE):
            chunks = call.chunks if call.kind == PageKind.MALLOC else 0
            if chunks:
                self._give(call)
            if call.first:
                page.first = chunks
            else:
                page.last = chunks
        self._clock += 1
        self._pushed[number] = self._clock
        self._use(call)
        if page.under_reclaim:
            return
        if page.first or page.last:
            model.push(page)
        else:
            del model.lru[number]
            model.give_back(page)

    # -- the order within lists -------------------------------------------------------------

    def order(self, numbers: Iterable[int]) -> PageOrder:
        """How some pages lie on their lists, by list."""
        pages = self.model.pages
        found: dict[int, list[int]] = {}
        listed = [one for one in numbers if one in pages and not pages[one].under_reclaim]
        for number in sorted(listed, key=self._pushed.__getitem__):
            found.setdefault(pages[number].list_number(), []).append(number)
        return tuple((at, tuple(found[at])) for at in sorted(found))

    def arrange(self, segments: Iterable[Segment]) -> None:
        """Put pages that are neighbours on their list into the given order."""
        for at, numbers in segments:
            members: Collection[int] = set(numbers)
            stamps = sorted(self._pushed[number] for number in numbers)
            self._pushed.update(zip(numbers, stamps, strict=True))
            old, new = self.model.lists[at], {}
            for number, page in old.items():
                if number not in members:
                    new[number] = page
                elif number not in new:
                    new.update({one: old[one] for one in numbers})
            self.model.lists[at] = new

    def answer(self, call: PageCall) -> str:
        """What the model would have answered, in words."""
        return self._answer(call).text

    def _answer(self, call: PageCall) -> PageAnswer:
        model = self.model
        if call.kind in (PageKind.MALLOC, PageKind.NO_PAGE):
            chosen = model.choose(call.chunks)
            if chosen is None:
                return PageAnswer(Says.NEW_PAGE)
            return PageAnswer(Says.PAGE, (chosen + 1) * model.page_bytes)
        if call.kind == PageKind.FREE:
            return PageAnswer(Says.NO_OBJECT)
        if call.number not in model.pages:
            return PageAnswer(Says.NO_PAGE)
        back = call.kind == PageKind.PUT_BACK
        return PageAnswer(Says.NOT_RECLAIMED if back else Says.NOT_OLDEST)

    def cause(self, call: PageCall) -> Cause:
        """Which kind of fault would look like this."""
        return Cause.OTHER_RULE
