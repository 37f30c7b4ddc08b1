# SPDX-License-Identifier: GPL-2.0-only
"""z3fold of Linux 5.12 to 6.12: at most three objects share a page, and compaction moves them.

A page is cut into 64 chunks. The header takes 88 bytes, hence two chunks of a 4 KiB page; FIRST
lies behind it, LAST at the end, MIDDLE somewhere between. Pages with an unused place are kept in
lists by free chunks, one set of lists for each CPU. An object that leaves no chunk free gets a
*headless* page of its own.

A handle is the address of a word that says where the object is. The words of one page are four
and lie together (its *slots*); when compaction moves a page's only object elsewhere, its word
stays behind in the old slots and the object is *foreign* in its new page.

A free does not compact: it queues the page for a worker. Until the worker has come, malloc refuses
the page. Who runs the worker, and when, is up to the caller:

``work="immediate"`` (the default)
    queued compaction is done at the end of the free that queued it, on the same CPU: what an
    idle machine comes close to, and all that can be done without knowing better;
``work="deferred"``
    it waits for :meth:`Z3fold.run_deferred` or, where a recording says which page was compacted
    when, :meth:`Z3fold.compact_page`. Set :attr:`Z3fold.cpu` to the worker's before.

The model is that of 6.1, which also keeps pages in order of use for :meth:`Z3fold.shrink`. Later
releases (6.5 on) took that away and place objects alike. Migration of pages is not modelled.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from ztrace.allocator.protocol import (
    EAGAIN,
    EINVAL,
    ENOSPC,
    BackendError,
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
HEADER_BYTES = 88  # struct z3fold_header on 64 bits without lock debugging
BIG_GAP_CHUNKS = 3  # a middle moves within its page only if that wins so much
RECLAIM_TRIES = 8
FIRST, MIDDLE, LAST = 1, 2, 3
WORDS = 4
WORD_BYTES = 8
SLOTS_BYTES = 64  # slots are aligned so; which leaves bit 0 of a handle to headless pages
NO_CPU = -1

WORK = ("immediate", "deferred")


class Page:
    """struct z3fold_header: ``chunks[FIRST..LAST]`` in use (0 = free) and the page's flags.

    ``references``: one per object, one while compaction is queued, one while reclaim is at it.
    ``list_number`` is that of the list of ``cpu`` that the page is on, None if it is on none.
    """

    __slots__ = (
        "chunks",
        "claimed",
        "cpu",
        "first_number",
        "foreign",
        "headless",
        "list_number",
        "mapped",
        "middle_mapped",
        "middle_start",
        "needs_compacting",
        "number",
        "references",
        "slots",
    )

    def __init__(self, number: int, *, headless: bool = False) -> None:
        self.number = number
        self.headless = headless
        self.chunks = [0, 0, 0, 0]
        self.middle_start = 0
        self.first_number = 0
        self.cpu = NO_CPU
        self.list_number: int | None = None
        self.references = 0
        self.foreign = 0
        self.mapped = 0
        self.middle_mapped = False
        self.needs_compacting = False
        self.claimed = False
        self.slots: _Slots | None = None

    def word_of(self, buddy: int) -> int:
        """Which word of the slots is a buddy's; stays when a middle becomes first."""
        return (buddy + self.first_number) % WORDS

    def buddies(self) -> list[int]:
        """Those in use, in the order in which reclaim evicts them."""
        return [buddy for buddy in (MIDDLE, FIRST, LAST) if self.chunks[buddy]]

    @property
    def has_place(self) -> bool:
        """Whether one of its places is free: then it goes on a list."""
        return not all(self.chunks[FIRST:])

    @property
    def movable(self) -> int:
        """The place of its only object, if compaction may move that to another page; else 0."""
        buddies = self.buddies()
        return 0 if self.foreign or len(buddies) != 1 or self.mapped else buddies[0]


class _Slots:
    """struct z3fold_buddy_slots: four words for the objects that were allocated in one page.

    ``stale`` has a bit for each word whose object was freed under reclaim, which leaves the word
    as it was: the kernel never takes such slots for empty.
    """

    __slots__ = ("abandoned", "number", "objects", "stale")

    def __init__(self, number: int) -> None:
        self.number = number
        self.objects = 0
        self.stale = 0
        self.abandoned = False  # the page that the slots came with is gone

    def address(self, word: int) -> int:
        """Where a word is: the handle of its object."""
        return (self.number + 1) * SLOTS_BYTES + word * WORD_BYTES


class _Word:
    """One word in use: the page that its object is in, and which of that page's it is."""

    __slots__ = ("number", "page", "slots")

    def __init__(self, slots: _Slots, page: Page, number: int) -> None:
        self.slots = slots
        self.page = page
        self.number = number


class Z3fold:
    """The driver with one flow of control. See :class:`allocator.protocol.Pool`.

    ``cpus`` bounds :attr:`cpu`; all of them are online. ``work`` is described above. Pages are
    numbered from 0 as they are allocated and numbers are not used again. A handle is stable:
    ``(slots number + 1) * 64 + 8 * word``, or ``(page number + 1) * page_bytes | 1`` for a
    headless page. Raises BackendError for impossible parameters.
    """

    def __init__(self, *, page_bytes: int = 4096, cpus: int = 1, work: str = "immediate") -> None:
        check_page_bytes(page_bytes)
        if cpus < 1:
            raise BackendError(f"cpus={cpus}: z3fold needs at least one")
        if work not in WORK:
            raise BackendError(f"work={work}: must be {' or '.join(WORK)}")
        self.name = "z3fold"
        self.page_bytes = page_bytes
        self.cpus = cpus
        self.work = work
        self.hazards = Hazards()
        self.chunk_bytes = page_bytes // PAGE_CHUNKS
        self.header_chunks = -(-HEADER_BYTES // self.chunk_bytes)
        self.chunks = PAGE_CHUNKS - self.header_chunks  # usable ones, NCHUNKS
        self.largest = (self.chunks - 1) * self.chunk_bytes  # above that: headless
        self.pages: dict[int, Page] = {}
        # lists[cpu][n]: pages by number, newest last. The kernel has lists up to chunks - 1; the
        # last one here is what lies behind its array. Bit n of _filled[cpu]: list n is not empty.
        self.lists: list[list[dict[int, Page]]] = [
            [{} for _ in range(self.chunks + 1)] for _ in range(cpus)
        ]
        self._filled = [0] * cpus
        self.lru: OrderedDict[int, Page] = OrderedDict()  # least recently used page first
        self._queue: dict[int, Page] = {}  # pages that await compaction, oldest first
        self._words: dict[int, _Word] = {}  # by handle, while the object lives
        self._headless: dict[int, Page] = {}  # the same for headless pages
        self._evicted_unfreed: set[int] = set()
        self._cpu = 0
        self.objects = 0
        self._used_chunks = 0
        self._foreign = 0
        self._headless_pages = 0
        self.pages_allocated = 0
        self.pages_freed = 0
        self.pages_reclaimed = 0
        self.evictions = 0
        self.slots_made = 0
        self._slots_held = 0  # those leaked are still held
        self.lists_searched = 0
        self.compactions = 0
        self.compactions_queued = 0
        self.objects_moved = 0
        self.middles_moved = 0

    @property
    def cpu(self) -> int:
        """The CPU of the calls that follow, and of the worker. ValueError if not in ``cpus``."""
        return self._cpu

    @cpu.setter
    def cpu(self, cpu: int) -> None:
        if not 0 <= cpu < self.cpus:
            raise ValueError(f"CPU {cpu}: this z3fold has {self.cpus} (z3fold:cpus=N)")
        self._cpu = cpu

    # -- handles ----------------------------------------------------------------------------

    def _lookup(self, handle: int) -> tuple[Page, int] | None:
        """The page of a live object and its place there, 0 if headless; None if there is none."""
        word = self._words.get(handle)
        if word is not None:
            page = word.page
            return page, (word.number - page.first_number) % WORDS
        headless = self._headless.get(handle)
        return None if headless is None else (headless, 0)

    def _resolve(self, handle: int, call: str) -> tuple[Page, int]:
        """As :meth:`_lookup`, but a handle that is no object's is a fatal hazard.

        The kernel follows the word: it is 0 after a free, or in memory that is somebody else's.
        """
        found = self._lookup(handle)
        if found is not None:
            return found
        name = "use-after-free" if call != "free" else "double-free"
        if handle in self._evicted_unfreed:
            name = "evicted-unfreed"
        elif not self._was_given(handle):
            name = "unknown-handle"
        what = f"{call} of {handle:#x}, which is no object's"
        self.hazards.meet(name, what)
        raise HazardError(name, what)

    def _was_given(self, handle: int) -> bool:
        """Whether a handle without an object could have been one's: only to name the fault."""
        if handle & 1:
            number, rest = divmod(handle - 1, self.page_bytes)
            return rest == 0 and 0 < number <= self.pages_allocated
        number, rest = divmod(handle, SLOTS_BYTES)
        in_words = rest % WORD_BYTES == 0 and rest < WORDS * WORD_BYTES
        return in_words and 0 < number <= self.slots_made

    def place(self, handle: int) -> Place:
        """Where a live object is now: page number and byte offset. KeyError if there is none."""
        found = self._lookup(handle)
        if found is None:
            raise KeyError(handle)
        page, buddy = found
        return Place(page.number, self._start(page, buddy) * self.chunk_bytes if buddy else 0)

    def _start(self, page: Page, buddy: int) -> int:
        """The chunk at which a place of a page begins."""
        if buddy == FIRST:
            return self.header_chunks
        return page.middle_start if buddy == MIDDLE else PAGE_CHUNKS - page.chunks[LAST]

    def _give_word(self, page: Page, buddy: int) -> int:
        """__encode_handle(): use a word of the page's slots; returns its address."""
        slots = page.slots
        if slots is None:  # a new page, or one whose own objects have all been freed
            slots = page.slots = _Slots(self.slots_made)
            self.slots_made += 1
            self._slots_held += 1
        number = page.word_of(buddy)
        slots.objects += 1
        slots.stale &= ~(1 << number)
        handle = slots.address(number)
        self._words[handle] = _Word(slots, page, number)
        return handle

    def _clear_word(self, handle: int, page: Page, *, claimed: bool) -> None:
        """free_handle(): forget an object of ``page``; empty slots are given back.

        Not for a page that is claimed: the kernel leaves the word as it is.
        """
        slots = self._words.pop(handle).slots
        slots.objects -= 1
        if claimed:
            slots.stale |= 1 << handle % SLOTS_BYTES // WORD_BYTES
            return
        if page.slots is not slots:
            page.foreign -= 1
            self._foreign -= 1
        if slots.objects:
            return
        if not slots.stale:
            self._slots_held -= 1
            if page.slots is slots:
                page.slots = None
        elif slots.abandoned:
            self._leak(slots)

    def _leak(self, slots: _Slots) -> None:
        self.hazards.meet(
            "slots-leak", f"slots {slots.number} are kept for objects that reclaim had freed"
        )

    # -- lists ------------------------------------------------------------------------------

    def _free_chunks(self, page: Page) -> int:
        """num_free_chunks(): the widest gap that is of use, not their sum."""
        _, first, middle, last = page.chunks
        if not middle:
            return self.chunks - first - last
        before = 0 if first else page.middle_start - self.header_chunks
        behind = 0 if last else PAGE_CHUNKS - (page.middle_start + middle)
        return max(before, behind)

    def _add(self, page: Page) -> None:
        """add_to_unbuddied(): onto a list of the current CPU, unless all places are in use."""
        if not page.has_place:
            return
        number = self._free_chunks(page)
        cpu = self._cpu
        self.lists[cpu][number][page.number] = page
        page.cpu = cpu
        page.list_number = number
        if number < self.chunks:
            self._filled[cpu] |= 1 << number
        else:
            # The kernel links the page to what lies behind the array and corrupts it. Here it is
            # out of malloc's sight until the compaction that is pending releases it.
            self.hazards.meet(
                "list-out-of-range",
                f"page {page.number}, emptied by reclaim while its compaction was pending, goes "
                f"on list {number}; the last one is {self.chunks - 1}",
            )

    def _unlink(self, page: Page) -> None:
        number = page.list_number
        if number is None:
            return
        pages = self.lists[page.cpu][number]
        del pages[page.number]
        if not pages:
            self._filled[page.cpu] &= ~(1 << number)
        page.list_number = None

    def _take(self, cpu: int, number: int) -> Page | None:
        """Take the newest page off a list; None if malloc must not use it, which leaves it off."""
        pages = self.lists[cpu][number]
        page = pages.popitem()[1]
        if not pages:
            self._filled[cpu] &= ~(1 << number)
        page.list_number = None
        page.cpu = NO_CPU
        if page.needs_compacting or page.claimed:
            return None
        page.references += 1
        return page

    def _find(self, chunks: int) -> Page | None:
        """__z3fold_alloc(): best fit on this CPU's lists, then an exact fit on any CPU's.

        The page has one reference more.
        """
        cpu = self._cpu
        while fitting := self._filled[cpu] >> chunks:
            skipped = (fitting & -fitting).bit_length() - 1
            self.lists_searched += skipped + 1
            page = self._take(cpu, chunks + skipped)
            if page is not None:
                return page
        self.lists_searched += self.chunks - chunks
        for cpu, filled in enumerate(self._filled):
            self.lists_searched += 1
            if filled >> chunks & 1:
                page = self._take(cpu, chunks)
                if page is not None:
                    return page
        return None

    def _put_in(self, page: Page, chunks: int) -> int:
        """get_free_buddy() and what follows: use a place of a page that was found, or is new.

        There is one that fits: malloc refuses pages that have changed since they were listed.
        """
        used = page.chunks
        if used[MIDDLE]:
            if not used[FIRST] and chunks <= page.middle_start - self.header_chunks:
                buddy = FIRST
            else:
                buddy = LAST
        elif not used[FIRST]:
            buddy = FIRST
        elif not used[LAST]:
            buddy = LAST
        else:
            buddy = MIDDLE
            page.middle_start = used[FIRST] + self.header_chunks
        used[buddy] = chunks
        return buddy

    def _new_page(self, *, headless: bool = False) -> Page:
        number = self.pages_allocated
        page = self.pages[number] = self.lru[number] = Page(number, headless=headless)
        self.pages_allocated += 1
        self._headless_pages += headless
        return page

    def _give_back(self, page: Page) -> None:
        """release_z3fold_page(): counted at once; that the kernel frees it later is not seen."""
        del self.pages[page.number]
        self.lru.pop(page.number, None)
        self.pages_freed += 1
        self._headless_pages -= page.headless

    def _drop_reference(self, page: Page) -> bool:
        """kref_put(): True if that was the last reference and the page is gone."""
        page.references -= 1
        if page.references:
            return False
        self._unlink(page)
        self._give_back(page)
        if page.slots is not None:
            page.slots.abandoned = True
            if not page.slots.objects:
                self._leak(page.slots)
        return True

    # -- the driver's calls -----------------------------------------------------------------

    def malloc(self, size: int) -> int:
        """z3fold_alloc(): handle; OSError EINVAL for 0, ENOSPC above a page."""
        if size <= 0:
            raise error(EINVAL)
        if size > self.page_bytes:
            raise error(ENOSPC)
        self.objects += 1
        if size > self.largest:
            page = self._new_page(headless=True)
            handle = (page.number + 1) * self.page_bytes | 1
            self._headless[handle] = page
            return handle
        chunks = -(-size // self.chunk_bytes)
        found = self._find(chunks)
        if found is None:
            page = self._new_page()
            page.references = 1
        else:
            page = found
            self.lru.move_to_end(page.number)
        buddy = self._put_in(page, chunks)
        self._used_chunks += chunks
        self._add(page)
        return self._give_word(page, buddy)

    def free(self, handle: int) -> None:
        """z3fold_free(). Fatal hazards ``double-free`` and ``unknown-handle``."""
        page, buddy = self._resolve(handle, "free")
        self.objects -= 1
        claimed, page.claimed = page.claimed, True
        if not buddy:
            del self._headless[handle]
            if not claimed:
                self._give_back(page)
            return
        self._used_chunks -= page.chunks[buddy]
        page.chunks[buddy] = 0
        self._clear_word(handle, page, claimed=claimed)
        if self._drop_reference(page) or claimed:
            return
        page.claimed = False
        if page.needs_compacting:
            return
        page.needs_compacting = True
        page.references += 1
        if page.cpu == NO_CPU:
            self._compact(page)
            return
        self._queue[page.number] = page
        self.compactions_queued += 1
        if self.work == "immediate":
            self.run_deferred()

    def map(self, handle: int) -> None:
        """z3fold_map(): an object in use keeps compaction from its page, a middle from moving."""
        page, buddy = self._resolve(handle, "map")
        if buddy:
            page.mapped += 1
            if buddy == MIDDLE:
                page.middle_mapped = True

    def unmap(self, handle: int) -> None:
        """z3fold_unmap(): the flag of a middle goes with the first of several users."""
        page, buddy = self._resolve(handle, "unmap")
        if buddy:
            page.mapped -= 1
            if buddy == MIDDLE:
                page.middle_mapped = False
            if page.mapped < 0:
                self.hazards.meet(
                    "unbalanced-unmap", f"unmap of {handle:#x}: page {page.number} was not mapped"
                )

    # -- compaction -------------------------------------------------------------------------

    @property
    def deferred(self) -> int:
        """Pages queued for compaction."""
        return len(self._queue)

    def run_deferred(self, limit: int = -1) -> int:
        """Let the worker compact up to ``limit`` pages (-1: all), oldest first, on :attr:`cpu`.

        Returns how many there were.
        """
        done = 0
        while self._queue and done != limit:
            self.compact_page(next(iter(self._queue)))
            done += 1
        return done

    def compact_page(self, page_number: int) -> bool:
        """Let the worker compact one page, out of turn, on :attr:`cpu`; False if not queued."""
        page = self._queue.pop(page_number, None)
        if page is None:
            return False
        self._compact(page)
        return True

    def _compact(self, page: Page) -> None:
        """do_compact_page(): in the worker, or in a free if the page was on no list."""
        self.compactions += 1
        page.needs_compacting = False
        self._unlink(page)
        if self._drop_reference(page) or page.claimed:
            return
        page.claimed = True
        if not self._empty(page):
            self._move_middle(page)
            self._add(page)
            page.claimed = False

    def _empty(self, page: Page) -> bool:
        """compact_single_buddy(): move a page's only object into another; True if it was done.

        The object's handle stays, and with it its word in the slots of this page.
        """
        buddy = page.movable
        if not buddy:
            return False
        chunks = page.chunks[buddy]
        to = self._find(chunks)
        if to is None:
            return False
        assert page.slots is not None  # no foreign object, so the one is of its own slots
        word = self._words[page.slots.address(page.word_of(buddy))]
        word.page = to
        word.number = to.word_of(self._put_in(to, chunks))
        to.foreign += 1
        self._foreign += 1
        self._add(to)
        page.chunks[buddy] = 0
        self._drop_reference(page)
        self.objects_moved += 1
        return True

    def _move_middle(self, page: Page) -> None:
        """z3fold_compact_page(): join the gaps on both sides of a middle."""
        _, first, middle, last = page.chunks
        if not middle or page.middle_mapped:
            return
        start = page.middle_start
        if not first and not last:
            page.chunks[FIRST], page.chunks[MIDDLE] = middle, 0
            page.middle_start = 0
            page.first_number = (page.first_number + 1) % WORDS
        elif not last and start - (first + self.header_chunks) >= BIG_GAP_CHUNKS:
            page.middle_start = first + self.header_chunks
        elif not first and PAGE_CHUNKS - (last + start + middle) >= BIG_GAP_CHUNKS:
            page.middle_start = PAGE_CHUNKS - last - middle
        else:
            return
        self.middles_moved += 1

    # -- reclaim, 6.1 -----------------------------------------------------------------------

    def shrink(self, pages: int, evict: Evict) -> Shrunk:
        """z3fold_zpool_shrink() of 6.1: page by page until one cannot be had.

        ``evict`` gets the handle that malloc gave; the kernel's gets one on reclaim's stack.
        """
        return shrink_by_page(pages, lambda: self._reclaim_page(evict))

    def _reclaim_page(self, evict: Evict) -> int:
        """z3fold_reclaim_page(): 0, -EINVAL without pages, -EAGAIN if none could be emptied."""
        for _ in range(RECLAIM_TRIES):
            if not self.lru:
                return -EINVAL
            page = next(
                (page for page in self.lru.values() if not page.foreign and not page.claimed), None
            )
            if page is None:
                break
            page.claimed = True
            del self.lru[page.number]
            done = self._reclaim_headless if page.headless else self._reclaim_normal
            if done(page, evict):
                self.pages_reclaimed += 1
                return 0
            page.claimed = False
        return -EAGAIN

    def _reclaim_headless(self, page: Page, evict: Evict) -> bool:
        """Evict the object; True if the page was given back, on evict()'s word alone."""
        handle = (page.number + 1) * self.page_bytes | 1
        owned = handle in self._headless
        if evict(handle):
            self.lru[page.number] = page
            if owned and handle not in self._headless:
                self.hazards.meet(
                    "leaked-page", f"evict({handle:#x}) freed the object, then failed"
                )
            return False
        self.evictions += 1
        self._give_back(page)
        if handle in self._headless:
            self.hazards.meet("evicted-unfreed", f"evict({handle:#x}) gave 0 but did not free it")
            del self._headless[handle]
            self._evicted_unfreed.add(handle)
            self.objects -= 1
        return True

    def _reclaim_normal(self, page: Page, evict: Evict) -> bool:
        """Evict a page's objects until one refuses; True if the page was given back."""
        self._unlink(page)
        page.cpu = NO_CPU
        page.references += 1
        slots = page.slots
        handles: list[int] = []  # noted before the first eviction
        if slots is not None:
            handles = [slots.address(page.word_of(buddy)) for buddy in page.buddies()]
        for handle in handles:
            if evict(handle):
                break
            self.evictions += 1
        if page.references == 1 and slots is not None:  # the page goes, its slots with it
            self._slots_held -= 1
            page.slots = None
        if self._drop_reference(page):
            return True
        self.lru[page.number] = page
        if page.list_number is None:
            self._add(page)
        return False

    # -- accounting -------------------------------------------------------------------------

    @property
    def total_bytes(self) -> int:
        """z3fold's own figure: its pages, without slots and without pages not yet freed."""
        return len(self.pages) * self.page_bytes

    @property
    def held_bytes(self) -> int:
        """The same: the kernel's worker that frees released pages is taken to be prompt."""
        return len(self.pages) * self.page_bytes

    def stats(self) -> dict[str, Any]:
        """Work done, the state of the pages, and the pages of each list of all CPUs.

        A class is a list: its number is the chunks of the widest usable gap of each page when it
        was put there (``gap_bytes``: in bytes). Behind them come pages on no list: those
        ``waiting`` for their compaction, ``headless`` ones and the ``full`` (during an eviction
        also the page under reclaim).
        """
        blocks = [sum(map(len, lists)) for lists in zip(*self.lists, strict=True)]
        used = [  # references: of objects, and of the queued work
            sum([page.references for pages in lists for page in pages.values()])
            for lists in zip(*self.lists, strict=True)
        ]
        waiting = waiting_used = 0
        for page in self._queue.values():
            if page.list_number is None:
                waiting += 1
                waiting_used += page.references - 1
            else:
                used[page.list_number] -= 1
        headless = self._headless_pages
        full = len(self.pages) - sum(blocks) - waiting - headless
        full_used = self.objects - sum(used) - waiting_used - len(self._headless)
        return {
            "pages_allocated": self.pages_allocated,
            "pages_freed": self.pages_freed,
            "pages_reclaimed": self.pages_reclaimed,
            "evictions": self.evictions,
            "searched": self.lists_searched,
            "compactions": self.compactions,
            "compactions_queued": self.compactions_queued,
            "compactions_pending": self.deferred,
            "objects_moved": self.objects_moved,
            "middles_moved": self.middles_moved,
            "objects_foreign": self._foreign,
            "slots_made": self.slots_made,
            "slots_held": self._slots_held,
            "used_chunks": self._used_chunks,
            "free_chunks": (len(self.pages) - headless) * self.chunks - self._used_chunks,
            "classes": [
                *(
                    class_row(number, number * self.chunk_bytes, blocks[number], used[number])
                    for number in range(self.chunks + 1)
                    if number < self.chunks or blocks[number]
                ),
                class_row("waiting", 0, waiting, waiting_used),
                class_row("headless", 0, headless, len(self._headless), places=1),
                class_row("full", 0, full, full_used),
            ],
        }


def class_row(
    name: int | str, gap_bytes: int, pages: int, used: int, *, places: int = 3
) -> dict[str, Any]:
    """One class of the statistics: pages of a kind, places used and free in them."""
    return {
        "class": name,
        "gap_bytes": gap_bytes,
        "blocks": pages,
        "used_slots": used,
        "free_slots": places * pages - used,
    }
