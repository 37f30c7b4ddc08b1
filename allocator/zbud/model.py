# SPDX-License-Identifier: GPL-2.0-only
"""zbud of Linux 5.12 to 6.12: at most two objects share a page, one at each end.

A page is cut into 64 chunks, of which the first is the header. Pages with one object are kept in
lists by their number of free chunks; malloc takes the newest page of the smallest list that fits.
Objects never move and nothing is deferred, so the order of the calls decides everything.

The kernel holds the pool's one lock for a whole free, and for a malloc that finds a page. One that
finds none looks, allocates a page without the lock and then lists it; these two critical sections
are :meth:`Zbud.choose` and :meth:`Zbud.grow`, so that concurrent histories can be composed.

The model is that of 6.1, which also keeps pages in order of use for :meth:`Zbud.shrink`. Later
releases (6.5 on) took that away and place objects alike.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from ztrace.allocator.protocol import (
    EAGAIN,
    EINVAL,
    ENOSPC,
    Evict,
    HazardError,
    Hazards,
    Place,
    Shrunk,
    check_page_bytes,
    error,
    shrink_by_page,
)

PAGE_CHUNKS = 64
HEADER_CHUNKS = 1
CHUNKS = PAGE_CHUNKS - HEADER_CHUNKS  # usable ones, NCHUNKS
FULL = 0  # number of the list of full pages; no malloc asks for 0 chunks, so it is never searched
RECLAIM_TRIES = 8


class Page:
    """struct zbud_header: chunks used at each end, 0 = free."""

    __slots__ = ("first", "last", "number", "under_reclaim")

    def __init__(self, number: int) -> None:
        self.number = number
        self.first = 0
        self.last = 0
        self.under_reclaim = False

    def list_number(self) -> int:
        """The list that the page belongs to: its free chunks, or FULL with both ends in use."""
        if self.first and self.last:
            return FULL
        return CHUNKS - self.first - self.last


class Zbud:
    """The driver with one flow of control. See :class:`allocator.protocol.Pool`.

    Pages are numbered from 0 as they are allocated and numbers are not used again. A handle is
    an address, as in the kernel: ``(page number + 1) * page_bytes + offset``.
    """

    def __init__(self, *, page_bytes: int = 4096) -> None:
        check_page_bytes(page_bytes)
        self.name = "zbud"
        self.page_bytes = page_bytes
        self.hazards = Hazards()
        self.chunk_bytes = page_bytes // PAGE_CHUNKS
        self.largest = (CHUNKS - 1) * self.chunk_bytes  # one chunk less than a page has
        self._first_at = HEADER_CHUNKS * self.chunk_bytes
        self.pages: dict[int, Page] = {}
        # lists[n]: pages by number, newest last. Bit n of filled is set if lists[n] is not empty.
        self.lists: list[dict[int, Page]] = [{} for _ in range(CHUNKS)]
        self.filled = 0
        self.lru: OrderedDict[int, Page] = OrderedDict()  # least recently used page first
        self.objects = 0
        self._used_chunks = 0
        self.pages_allocated = 0
        self.pages_freed = 0
        self.lists_searched = 0
        self.pages_reclaimed = 0
        self.evictions = 0

    # -- handles ----------------------------------------------------------------------------

    def _handle(self, page: Page, *, first: bool) -> int:
        """encode_handle(): the address of the object at one end of a page."""
        start = (page.number + 1) * self.page_bytes
        if first:
            return start + self._first_at
        return start + self.page_bytes - page.last * self.chunk_bytes

    def place(self, handle: int) -> Place:
        """Where a live object is: page number and byte offset. KeyError if there is none."""
        if self._owner_fault(handle) is not None:
            raise KeyError(handle)
        return self._decode(handle)

    def _decode(self, handle: int) -> Place:
        return Place(handle // self.page_bytes - 1, handle % self.page_bytes)

    def _owner_fault(self, handle: int) -> str | None:
        """The name of what is wrong with a handle that should be a live object's; None if fine."""
        number, offset = self._decode(handle)
        page = self.pages.get(number)
        if page is None:
            return "double-free" if 0 <= number < self.pages_allocated else "unknown-handle"
        if offset == self._first_at:
            return None if page.first else "double-free"
        if not page.last:
            return "double-free"
        return None if handle == self._handle(page, first=False) else "unknown-handle"

    # -- lists ------------------------------------------------------------------------------

    def push(self, page: Page) -> None:
        """Put a page that is on no list on the one that it belongs to, as its newest."""
        number = page.list_number()
        self.lists[number][page.number] = page
        self.filled |= 1 << number

    def unlink(self, page: Page) -> None:
        """Take a page off its list."""
        number = page.list_number()
        pages = self.lists[number]
        del pages[page.number]
        if not pages:
            self.filled &= ~(1 << number)

    def _find(self, chunks: int) -> Page | None:
        """Take the newest page of the first list that has ``chunks`` free, 1 to 62."""
        fitting = self.filled >> chunks
        if not fitting:
            self.lists_searched += CHUNKS - chunks
            return None
        skipped = (fitting & -fitting).bit_length() - 1
        self.lists_searched += skipped + 1
        pages = self.lists[chunks + skipped]
        page = pages.popitem()[1]
        if not pages:
            self.filled &= ~(1 << chunks + skipped)
        return page

    # -- the driver's calls -----------------------------------------------------------------

    def malloc(self, size: int) -> int:
        """zbud_alloc(): handle; OSError EINVAL for 0, ENOSPC above 62 chunks."""
        chunks = self.chunks_of(size)
        page = self._find(chunks)
        if page is None:
            return self.grow(chunks, self.pages_allocated)
        self.lru.move_to_end(page.number)
        return self._use(page, chunks)

    def chunks_of(self, size: int) -> int:
        """size_to_chunks(); OSError EINVAL for 0, ENOSPC above 62 chunks."""
        if size <= 0:
            raise error(EINVAL)
        if size > self.largest:
            raise error(ENOSPC)
        return -(-size // self.chunk_bytes)

    def choose(self, chunks: int) -> int | None:
        """The page that a malloc of ``chunks`` would take now; None if it has to add one."""
        fitting = self.filled >> chunks
        if not fitting:
            return None
        skipped = (fitting & -fitting).bit_length() - 1
        return next(reversed(self.lists[chunks + skipped]))

    def grow(self, chunks: int, number: int) -> int:
        """Second part of a malloc that found no page: add one, ``number``, and use it.

        Numbers of live pages must differ. Returns the handle.
        """
        page = self.pages[number] = Page(number)
        self.pages_allocated += 1
        self.lru[number] = page
        return self._use(page, chunks)

    def _use(self, page: Page, chunks: int) -> int:
        first = not page.first
        if first:
            page.first = chunks
        else:
            page.last = chunks
        self.push(page)
        self.objects += 1
        self._used_chunks += chunks
        return self._handle(page, first=first)

    def free(self, handle: int) -> None:
        """zbud_free(). Any address in a page is believed: it means the first object or the last.

        Hazards ``double-free`` and ``unknown-handle``; fatal if there is no such page.
        """
        fault = self._owner_fault(handle)
        number, offset = self._decode(handle)
        if fault is not None:
            what = f"free of {handle:#x}, which is no object's"
            self.hazards.meet(fault, what)
            if number not in self.pages:
                raise HazardError(fault, what)
        page = self.pages[number]
        first = offset == self._first_at
        chunks = page.first if first else page.last
        if chunks:
            self.objects -= 1
            self._used_chunks -= chunks
        linked = not page.under_reclaim
        if linked:
            self.unlink(page)
        if first:
            page.first = 0
        else:
            page.last = 0
        if not linked:
            return  # the reclaim that is under way will see to the page
        if page.first or page.last:
            self.push(page)
        else:
            del self.lru[number]
            self.give_back(page)

    def give_back(self, page: Page) -> None:
        """free_zbud_page(): forget a page that is on no list."""
        del self.pages[page.number]
        self.pages_freed += 1

    def map(self, handle: int) -> None:
        """zbud_map(): the handle is the address. Hazard ``use-after-free`` if it is no object's."""
        self._note_use(handle, "map")

    def unmap(self, handle: int) -> None:
        """zbud_unmap(): nothing to do."""
        self._note_use(handle, "unmap")

    def _note_use(self, handle: int, call: str) -> None:
        fault = self._owner_fault(handle)
        if fault is not None:
            name = "use-after-free" if fault == "double-free" else fault
            self.hazards.meet(name, f"{call} of {handle:#x}, which is no object's")

    def shrink(self, pages: int, evict: Evict) -> Shrunk:
        """zbud_zpool_shrink() of 6.1: page by page until one cannot be had."""
        return shrink_by_page(pages, lambda: self._reclaim_page(evict))

    def _reclaim_page(self, evict: Evict) -> int:
        """zbud_reclaim_page(): 0, -EINVAL without pages, -EAGAIN after eight failures."""
        if not self.lru:
            return -EINVAL
        for _ in range(RECLAIM_TRIES):
            page = self.lru.popitem(last=False)[1]
            self.unlink(page)
            page.under_reclaim = True
            handles = []  # noted before the first eviction
            if page.first:
                handles.append(self._handle(page, first=True))
            if page.last:
                handles.append(self._handle(page, first=False))
            for handle in handles:
                if evict(handle):
                    break
                self.evictions += 1
            page.under_reclaim = False
            if not page.first and not page.last:
                self.give_back(page)
                self.pages_reclaimed += 1
                return 0
            self.push(page)
            self.lru[page.number] = page
        return -EAGAIN

    # -- accounting -------------------------------------------------------------------------

    @property
    def total_bytes(self) -> int:
        """zbud's own figure: all its pages, headers included."""
        return len(self.pages) * self.page_bytes

    @property
    def held_bytes(self) -> int:
        """The same: zbud has no memory besides its pages."""
        return len(self.pages) * self.page_bytes

    def stats(self) -> dict[str, Any]:
        """Work done, chunks used and free, and the pages of each list.

        ``lost_chunks`` are free in pages that have both ends in use. A class is a list: its
        number is that of the chunks free in each page, ``gap_bytes`` the same in bytes; 0 is the
        list of full pages.
        """
        free = len(self.pages) * CHUNKS - self._used_chunks
        return {
            "pages_allocated": self.pages_allocated,
            "pages_freed": self.pages_freed,
            "pages_reclaimed": self.pages_reclaimed,
            "evictions": self.evictions,
            "searched": self.lists_searched,
            "objects_moved": 0,
            "used_chunks": self._used_chunks,
            "free_chunks": free,
            "lost_chunks": free - sum(n * len(pages) for n, pages in enumerate(self.lists)),
            "classes": [
                {
                    "class": number,
                    "gap_bytes": number * self.chunk_bytes,
                    "blocks": len(pages),
                    "used_slots": len(pages) if number else 2 * len(pages),
                    "free_slots": len(pages) if number else 0,
                }
                for number, pages in enumerate(self.lists)
            ],
        }
