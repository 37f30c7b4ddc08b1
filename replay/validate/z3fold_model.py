# SPDX-License-Identifier: GPL-2.0-only
"""The z3fold model with the means to make it agree with what the kernel was seen to do."""

from __future__ import annotations

from ztrace.allocator.z3fold.model import FIRST, LAST, MIDDLE, PAGE_CHUNKS, WORDS, Page, Z3fold


class Correctable(Z3fold):
    """``listed`` and ``taken``: pages put on a list, taken off one, since they were last cleared.

    ``renamed``: (old, new) handles of objects that were moved, likewise.
    """

    def __init__(self, cpus: int, page_bytes: int = 4096) -> None:
        super().__init__(page_bytes=page_bytes, cpus=cpus, work="deferred")
        self.listed: set[int] = set()
        self.taken: set[int] = set()
        self.renamed: list[tuple[int, int]] = []
        self._came_from: dict[int, int] = {}  # the CPU of the list that a page was last taken off

    def _add(self, page: Page) -> None:
        self.listed.add(page.number)
        super()._add(page)

    def _take(self, cpu: int, number: int) -> Page | None:
        page = next(reversed(self.lists[cpu][number]))
        self.taken.add(page)
        self._came_from[page] = cpu
        return super()._take(cpu, number)

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

    def _start(self, page: Page, buddy: int) -> int:
        if buddy == FIRST:
            return self.header_chunks
        return page.middle_start if buddy == MIDDLE else PAGE_CHUNKS - page.chunks[LAST]

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
