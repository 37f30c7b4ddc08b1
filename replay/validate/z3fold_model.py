# SPDX-License-Identifier: GPL-2.0-only
"""The z3fold model with the means to make it agree with what the kernel was seen to do."""

from __future__ import annotations

from collections.abc import Callable

from ztrace.allocator.z3fold.model import (
    FIRST,
    LAST,
    MIDDLE,
    NO_CPU,
    PAGE_CHUNKS,
    WORDS,
    Page,
    Z3fold,
)

UNTOLD = -2
"""Nobody knows which page was found."""
NONE = -1
"""No page was found."""


PASSES = 4
"""How often a page that is first of its list may be passed over, as one that is locked."""


class Correctable(Z3fold):
    """``listed`` and ``taken``: pages put on a list, taken off one, since they were last cleared.

    ``renamed``: (old, new) handles of objects that were moved, likewise.

    ``told``: the number of the page that the next malloc finds, NONE or UNTOLD. ``moves``: the same
    of a compaction that may move an object, by its handle. Where the model would have found
    another, that goes back where it was; if the kernel has passed it over more than PASSES times,
    it is taken to be on no list. ``absent`` says whether other calls may have had all of some pages
    at one moment: if without these the model finds what it was told, ``excused`` counts it. Else
    the number that it found (or NONE) is added to ``overruled``.
    """

    def __init__(self, cpus: int, page_bytes: int = 4096) -> None:
        super().__init__(page_bytes=page_bytes, cpus=cpus, work="deferred")
        self.listed: set[int] = set()
        self.taken: set[int] = set()
        self.renamed: list[tuple[int, int]] = []
        self.told = UNTOLD
        self.moves: Callable[[int], int] = lambda handle: UNTOLD
        self.absent: Callable[[list[int]], bool] = lambda numbers: False
        self.overruled: list[int] = []
        self.excused = 0
        self._passed: dict[int, int] = {}  # how often the kernel did not find what was first
        self._came_from: dict[int, int] = {}  # the CPU of the list that a page was last taken off

    def _add(self, page: Page) -> None:
        self.listed.add(page.number)
        super()._add(page)

    def _take(self, cpu: int, number: int) -> Page | None:
        page = next(reversed(self.lists[cpu][number]))
        self.taken.add(page)
        self._came_from[page] = cpu
        return super()._take(cpu, number)

    def _find(self, chunks: int) -> Page | None:
        told, self.told = self.told, UNTOLD
        own = super()._find(chunks)
        number = own.number if own is not None else NONE
        if told in (UNTOLD, number):
            return own
        page = self.pages.get(told)
        if told != NONE and (page is None or not self._has_room(page, chunks)):
            return own  # what is known of that page is wrong: its object is moved there later
        aside: list[Page] = []
        instead = own
        while instead is not None and instead.number != told:
            aside.append(instead)
            if not self.absent([one.number for one in aside]):
                break
            instead = super()._find(chunks)
        excused = (instead.number if instead is not None else NONE) == told
        for one in reversed(aside):  # each was the first of its list
            one.references -= 1
            if one is own and not excused:
                self._passed[number] = passes = self._passed.get(number, 0) + 1
                if passes > PASSES:
                    continue
            now, self._cpu = self._cpu, self._came_from[one.number]
            self._add(one)
            self._cpu = now
        if excused:
            self.excused += 1
            return instead
        self.overruled.append(number)
        if page is not None:
            self.taken.add(page.number)
            self._unlink(page)
            page.cpu = NO_CPU
            page.references += 1
        return page

    def _has_room(self, page: Page, chunks: int) -> bool:
        usable = not (page.headless or page.needs_compacting or page.claimed)
        return usable and page.has_place and self._free_chunks(page) >= chunks

    def _empty(self, page: Page) -> bool:
        buddy = page.movable
        if buddy and page.slots is not None:
            self.told = self.moves(page.slots.address(page.word_of(buddy)))
        done = super()._empty(page)
        self.told = UNTOLD
        return done

    def is_alone(self, number: int) -> bool:
        """Whether compaction of a page may move its only object."""
        page = self.pages.get(number)
        return page is not None and len(page.buddies()) <= 1

    @property
    def oldest_queued(self) -> int:
        """The page that has awaited its compaction longest; there must be one."""
        return next(iter(self._queue))

    def is_queued(self, number: int) -> bool:
        """Whether a page awaits its compaction."""
        return number in self._queue

    def relocate(self, handle: int, number: int | None, position: int) -> int:
        """Move an object to a byte offset of a page, of a new one if there is none; its handle.

        Objects that are in the way there go to pages of their own. Of the page that it leaves,
        only that it has more room is known.
        """
        found = self._lookup(handle)
        assert found is not None
        page, buddy = found
        if not buddy:
            return handle
        chunks = page.chunks[buddy]
        self._remove(handle, page, buddy)
        target = self.pages.get(number) if number is not None else None
        if target is None or target.headless:
            target = self._new_page()
        start = position // self.chunk_bytes
        for other in target.buddies():
            begin = self._start(target, other)
            if begin < start + chunks and start < begin + target.chunks[other]:
                self._evict(target, other)
        buddy = MIDDLE
        if start == self.header_chunks:
            buddy = FIRST
        elif start + chunks == PAGE_CHUNKS:
            buddy = LAST
        if target.chunks[buddy]:
            self._evict(target, buddy)
        target.references += 1  # before others go, lest the page goes with them
        self._unlink(target)
        if self._queue.pop(target.number, None) is not None:
            target.needs_compacting = False
            target.references -= 1
        target.chunks[buddy] = chunks
        if buddy == MIDDLE:
            target.middle_start = start
        if target.slots is not None:
            word = target.slots.address(target.word_of(buddy))
            if word in self._words:
                target.slots = None
        self.pages[target.number] = self.lru[target.number] = target
        self._add(target)
        moved = self._give_word(target, buddy)
        self.renamed.append((handle, moved))
        return moved

    def _remove(self, handle: int, page: Page, buddy: int) -> None:
        """Take an object out of its page, which is listed anew or given back."""
        page.chunks[buddy] = 0
        self._clear_word(handle, page, claimed=False)
        cpu, listed = page.cpu, page.list_number is not None
        if self._drop_reference(page) or (page.needs_compacting and not listed):
            return
        self._unlink(page)
        now = self._cpu
        if listed:
            self._cpu = self._came_from.get(page.number, cpu)
        self._add(page)
        self._cpu = now

    def _evict(self, page: Page, buddy: int) -> None:
        """Give the object at a place a page of its own."""
        handle = next(
            one
            for one, word in self._words.items()
            if word.page is page and (word.number - page.first_number) % WORDS == buddy
        )
        self.relocate(handle, None, self.header_chunks * self.chunk_bytes)
