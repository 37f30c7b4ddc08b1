# SPDX-License-Identifier: GPL-2.0-only
"""zsmalloc of Linux 6.1 and of Linux 6.12 to 7.2, written from their rules.

Objects of one size class live in *zspages*, chains of order-0 pages cut into equal slots that may
cross a page border. A class keeps its zspages in lists by fullness; allocation takes the head of
the fullest list that still has room. A zspage that becomes empty is given back at once.

The kernel holds one lock per critical section (6.1: the pool's; later: the class's, and since
classes share nothing the order between classes does not matter). Each section is made of methods
of :class:`SizeClass`, so that concurrent histories can be composed from the model's own steps:

- malloc, a zspage has room: ``choose`` and ``take``;
- malloc, none has: ``choose``, then without the lock a zspage is built (:class:`Zspage`), then
  ``adopt``. Calls of other CPUs may come between, and several CPUs may each add a zspage;
- free: ``release``, which gives an emptied zspage back unless one of its pages is locked;
- zs_compact: ``compact_once`` until it says False, class by class;
- the worker for zspages that could not be given back: ``free_deferred``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from ztrace.allocator.protocol import (
    EINVAL,
    ENOMEM,
    ENOSPC,
    BackendError,
    Evict,
    Hazards,
    Place,
    Shrunk,
    check_page_bytes,
    error,
)

HANDLE_BYTES = 8  # every slot begins with its object's handle
MIN_CLASS_BYTES = 32
CLASS_BITS = 8  # classes are PAGE_SIZE >> 8 bytes apart
MIN_CHAIN, MAX_CHAIN = 4, 16
ALIGN = 8  # ZS_ALIGN: every slot's size is a multiple
MAX_CLASSES_BITS = CLASS_BITS + 1  # of the field of struct zspage that has a class's number
EMPTY = 0  # the fullness group of a zspage without objects, in every variant

# Faults of a history, by the names they have in ``hazards``.
DOUBLE_FREE = "double-free"
USE_AFTER_FREE = "use-after-free"
UNKNOWN_HANDLE = "unknown-handle"
UNBALANCED_UNMAP = "unbalanced-unmap"


# -- size classes -----------------------------------------------------------------------------


class ClassKind(NamedTuple):
    """One real class: zspages of ``pages`` pages cut into ``slots`` slots of ``slot_bytes``.

    ``number`` is the largest class index that resolves to it: the one whose size it has.
    """

    number: int
    slot_bytes: int
    pages: int
    slots: int


ChainRule = Callable[[int, int, int], int]
"""Of a slot's size, a number of pages and the page size: what such a zspage costs the class."""


class Layout(NamedTuple):
    """The classes of a pool and the way from a size to its class."""

    kinds: tuple[ClassKind, ...]  # ascending
    of_size: tuple[int, ...]  # requested bytes, 0 to page_bytes -> position in ``kinds``
    huge_class_bytes: int  # zs_huge_class_size: from here zram keeps a page uncompressed


def most_used(size: int, pages: int, page_bytes: int) -> int:
    """The rule of 6.1: the largest whole percentage used."""
    zspage_bytes = pages * page_bytes
    return -((zspage_bytes - zspage_bytes % size) * 100 // zspage_bytes)


def least_waste(size: int, pages: int, page_bytes: int) -> int:
    """The rule since 6.3: the fewest bytes left over, however many pages there are.

    Of each page these are the fewest, too: where k pages leave over the least, any k more leave
    over at least that much again, and any fewer pages at least as much.
    """
    return pages * page_bytes % size


CHAIN_RULES = {"used": most_used, "waste": least_waste}
"""What a chain of so many pages costs a class, by the names in a specification; least is best."""


def pages_of(size: int, rule: ChainRule, chain_size: int, page_bytes: int, saving: int = 0) -> int:
    """Pages per zspage of a class, calculate_zspage_chain_size(): fewest pages on a tie.

    ``saving``: a longer chain is taken only if of each page it leaves over less than the best
    shorter one does by so many percent of a page; 0 in all kernels so far.
    """
    best = 1
    for pages in range(2, chain_size + 1):
        if rule(size, pages, page_bytes) >= rule(size, best, page_bytes):
            continue
        saved = best * page_bytes % size * pages - pages * page_bytes % size * best
        if 100 * saved >= saving * page_bytes * best * pages:
            best = pages
    return best


@cache
def layout(
    chain_rule: ChainRule, chain_size: int, page_bytes: int, step: int = 0, saving: int = 0
) -> Layout:
    """The class table of zs_create_pool: a class of equal shape shares the next larger one's.

    ``step``: bytes from a class to the next, 0 for the kernel's.
    """
    step = step or page_bytes >> CLASS_BITS
    last = -((MIN_CLASS_BYTES - page_bytes) // step)
    descending: list[ClassKind] = []
    merged: list[int] = []  # of each index, from the largest down: position in ``descending``
    huge_class_bytes = 0
    for index in range(last, -1, -1):
        size = min(MIN_CLASS_BYTES + step * index, page_bytes)
        pages = pages_of(size, chain_rule, chain_size, page_bytes, saving)
        objects = pages * page_bytes // size
        if not huge_class_bytes and pages != 1 and objects != 1:
            huge_class_bytes = size - (HANDLE_BYTES - 1)
        if not descending or descending[-1][2:] != (pages, objects):
            descending.append(ClassKind(index, size, pages, objects))
        merged.append(len(descending) - 1)
    merged.reverse()
    of_size = []
    for size in range(page_bytes + 1):
        index = -((MIN_CLASS_BYTES - max(size + HANDLE_BYTES, MIN_CLASS_BYTES)) // step)
        of_size.append(len(descending) - 1 - merged[min(index, last)])
    return Layout(tuple(reversed(descending)), tuple(of_size), huge_class_bytes)


@cache
def _groups_of(group_of: Callable[[int, int], int], slots: int) -> Sequence[int]:
    """The group of a zspage with so many free slots."""
    return tuple(group_of(slots - free, slots) for free in range(slots + 1))


# -- one class --------------------------------------------------------------------------------


class Zspage:
    """struct zspage: a chain of pages and its free slots, the last freed first.

    ``page`` is the number of its first page. ``owners`` has the handle in each slot, 0 for none.
    """

    __slots__ = ("free", "group", "newer", "older", "owners", "page")

    def __init__(self, kind: ClassKind, page: int) -> None:
        self.page = page
        self.owners = [0] * kind.slots
        self.free = list(range(kind.slots - 1, -1, -1))  # taken from the end
        self.group = EMPTY
        self.newer: Zspage | None = None  # towards the head of its list
        self.older: Zspage | None = None


# handle -> zspage, slot, requested bytes: what the kernel keeps in the word behind a handle
Words = dict[int, tuple[Zspage, int, int]]


class SizeClass:
    """struct size_class and the steps under its lock. Subclasses have one variant's rules.

    Fullness groups are numbered from EMPTY up; zspages of group ``full`` have no room.
    """

    __slots__ = (
        "_groups",
        "_present",
        "_room",
        "deferred",
        "emptied",
        "full",
        "heads",
        "kind",
        "moved",
        "relinks",
        "revived",
        "searched",
        "spanned",
        "spanning",
        "used",
        "zspages",
        "zspages_freed",
        "zspages_made",
    )

    def __init__(self, kind: ClassKind) -> None:
        self.kind = kind
        self._groups = _groups_of(self.group_of, kind.slots)
        self.full = self._groups[0]
        self.heads: list[Zspage | None] = [None] * (self.full + 1)
        self._present = 0  # bit g: the list of group g is not empty
        self._room = (1 << self.full) - 1
        self.zspages = 0  # counted in, whether on a list or isolated by compaction
        self.used = 0
        self.zspages_made = 0
        self.zspages_freed = 0
        self.deferred = 0  # times an empty zspage could not be given back
        self.revived = 0  # times malloc took a slot of such a zspage
        self.searched = 0  # lists whose head malloc and compaction looked at
        self.relinks = 0  # times a zspage changed its list
        self.moved = 0  # objects moved by compaction
        self.emptied = 0  # zspages emptied by compaction
        self.spanning = 0  # live objects that a reader finds in two pages
        self.spanned = 0  # mallocs of such

    # -- fullness lists ---------------------------------------------------------------------

    @staticmethod
    def group_of(used: int, objects: int) -> int:
        """get_fullness_group(): the group of a zspage with ``used`` of ``objects`` slots used."""
        raise NotImplementedError

    def insert(self, zspage: Zspage) -> None:
        """insert_zspage(): put a zspage that is on no list on its group's."""
        raise NotImplementedError

    def _push(self, zspage: Zspage, group: int) -> None:
        """Insert at the head."""
        head = self.heads[group]
        zspage.group = group
        zspage.newer = None
        zspage.older = head
        if head is not None:
            head.newer = zspage
        else:
            self._present |= 1 << group
        self.heads[group] = zspage

    def _remove(self, zspage: Zspage) -> None:
        """remove_zspage(): unlink from the list of its group."""
        newer, older = zspage.newer, zspage.older
        if newer is not None:
            newer.older = older
        else:
            self.heads[zspage.group] = older
            if older is None:
                self._present &= ~(1 << zspage.group)
        if older is not None:
            older.newer = newer

    def fix(self, zspage: Zspage) -> None:
        """fix_fullness_group(): only a change of group moves a zspage to another list."""
        if self._groups[len(zspage.free)] != zspage.group:
            self.relinks += 1
            self._remove(zspage)
            self.insert(zspage)

    def listed(self, group: int) -> list[Zspage]:
        """The list of a group, head first."""
        found = []
        zspage = self.heads[group]
        while zspage is not None:
            found.append(zspage)
            zspage = zspage.older
        return found

    # -- malloc: zs_malloc() ----------------------------------------------------------------

    def choose(self) -> Zspage | None:
        """find_get_zspage(): head of the fullest list with room, EMPTY last; None: no room."""
        room = self._present & self._room
        if not room:
            self.searched += self.full
            return None
        group = room.bit_length() - 1
        self.searched += self.full - group
        return self.heads[group]

    def take(self, zspage: Zspage, handle: int) -> int:
        """Give ``handle`` the slot freed last in a listed zspage; returns the slot."""
        if zspage.group == EMPTY:
            self.revived += 1
        slot = zspage.free.pop()
        zspage.owners[slot] = handle
        self.used += 1
        self.fix(zspage)
        return slot

    def adopt(self, zspage: Zspage, handle: int) -> int:
        """Count and list a fresh zspage with ``handle`` in its first slot; returns the slot."""
        slot = zspage.free.pop()
        zspage.owners[slot] = handle
        self.zspages += 1
        self.zspages_made += 1
        self.used += 1
        self.insert(zspage)
        return slot

    # -- free: zs_free() --------------------------------------------------------------------

    def release(self, zspage: Zspage, slot: int, lockable: Callable[[int], bool]) -> None:
        """Free a slot; give the zspage back if that was its last object."""
        zspage.free.append(slot)
        zspage.owners[slot] = 0
        self.used -= 1
        self.fix(zspage)
        if zspage.group == EMPTY:
            self.give_back(zspage, lockable)

    def give_back(self, zspage: Zspage, lockable: Callable[[int], bool]) -> None:
        """free_zspage() of a listed, empty zspage; it stays if its pages cannot be locked."""
        if lockable(zspage.page):
            self._drop(zspage)
        else:
            self.deferred += 1

    def free_deferred(self) -> None:
        """async_free_zspage(): give back all that is on the list EMPTY."""
        for zspage in self.listed(EMPTY):
            self._drop(zspage)

    def keep(self, zspage: Zspage) -> None:
        """Undo :meth:`give_back`: the zspage's pages could not be locked after all."""
        self.zspages += 1
        self.zspages_freed -= 1
        self.deferred += 1
        self.insert(zspage)

    def _drop(self, zspage: Zspage) -> None:
        self._remove(zspage)
        self.zspages -= 1
        self.zspages_freed += 1

    # -- compaction: __zs_compact() ---------------------------------------------------------

    @property
    def free_slots(self) -> int:
        """Free slots of all zspages that are counted in."""
        return self.zspages * self.kind.slots - self.used

    @property
    def compactable_pages(self) -> int:
        """zs_can_compact(): pages that moving objects together could free."""
        return self.free_slots // self.kind.slots * self.kind.pages

    def compact_once(
        self, words: Words, lockable: Callable[[int], bool], busy: Callable[[Zspage], bool]
    ) -> bool:
        """One critical section of a compaction; False: the class is done.

        ``words`` gets the new places, ``busy`` says whether a zspage's objects are being read.
        """
        raise NotImplementedError

    def _isolate(self, *, fullest: bool) -> Zspage | None:
        """Unlink and return the head of the fullest or emptiest list of partly used zspages."""
        partial = self._present & self._room & ~(1 << EMPTY)
        if not partial:
            self.searched += self.full - 1
            return None
        group = (partial if fullest else partial & -partial).bit_length() - 1
        self.searched += self.full - group if fullest else group
        zspage = self.heads[group]
        assert zspage is not None
        self._remove(zspage)
        return zspage

    def _move(self, source: Zspage, target: Zspage, words: Words) -> bool:
        """migrate_zspage(): move objects in the order of slots until there is no room or none.

        Returns whether the source was emptied.
        """
        for slot, handle in enumerate(source.owners):
            if not handle:
                continue
            if not target.free:
                return False
            to = target.free.pop()
            target.owners[to] = handle
            source.owners[slot] = 0
            source.free.append(slot)
            words[handle] = (target, to, words[handle][2])
            self.moved += 1
        return True

    def _end_source(self, source: Zspage, lockable: Callable[[int], bool]) -> None:
        """Count an emptied source as freed, and free it if its pages can be locked."""
        self.insert(source)
        self.emptied += 1
        self.give_back(source, lockable)


class SizeClass61(SizeClass):
    """Rules of 6.1: four groups, a zspage emptier than the head goes second in its list."""

    __slots__ = ()

    @staticmethod
    def group_of(used: int, objects: int) -> int:
        """EMPTY 0, ALMOST_EMPTY 1 (to three quarters), ALMOST_FULL 2, FULL 3."""
        if used == 0:
            return EMPTY
        if used == objects:
            return 3
        return 1 if used <= 3 * objects // 4 else 2

    def insert(self, zspage: Zspage) -> None:
        """At the head of its group's list, or behind the head if that has more objects."""
        group = self._groups[len(zspage.free)]
        head = self.heads[group]
        if head is None or len(zspage.free) <= len(head.free):
            self._push(zspage, group)
            return
        behind = head.older
        zspage.group = group
        zspage.newer, zspage.older = head, behind
        head.older = zspage
        if behind is not None:
            behind.newer = zspage

    def compact_once(
        self, words: Words, lockable: Callable[[int], bool], busy: Callable[[Zspage], bool]
    ) -> bool:
        """Empty one source zspage into as many others as it takes. Waits for readers."""
        source = self._isolate(fullest=False)
        if source is None:
            return False
        if not self.compactable_pages:
            self.insert(source)
            return False
        emptied = False
        while not emptied:
            target = self._isolate(fullest=True)
            if target is None:
                self.insert(source)
                return False
            emptied = self._move(source, target, words)
            self.insert(target)
        self._end_source(source, lockable)
        return True


class SizeClass612(SizeClass):
    """Rules since 6.4: a group for every tenth that is used; always in at the head."""

    __slots__ = ()

    @staticmethod
    def group_of(used: int, objects: int) -> int:
        """0 empty, 11 full, else 1 to 10; exactly one tenth is group 2 already."""
        if used == 0:
            return EMPTY
        if used == objects:
            return 11
        return 1 + 100 * used // objects // 10

    def insert(self, zspage: Zspage) -> None:
        """At the head of its group's list."""
        self._push(zspage, self._groups[len(zspage.free)])

    def compact_once(
        self, words: Words, lockable: Callable[[int], bool], busy: Callable[[Zspage], bool]
    ) -> bool:
        """Fill one target zspage from as many others as it takes."""
        target: Zspage | None = None
        while self.compactable_pages:
            if target is None:
                target = self._isolate(fullest=True)
                if target is None:
                    return False
            source = self._isolate(fullest=False)
            if source is None:
                break
            if busy(source):
                self.insert(source)
                break
            if self._move(source, target, words):
                self._end_source(source, lockable)
            else:
                self.insert(source)
            if not target.free:
                self.insert(target)
                return True
        if target is not None:
            self.insert(target)
        return False


# -- the pool ---------------------------------------------------------------------------------


class Variant(NamedTuple):
    """What tells one kernel's zsmalloc from another's."""

    class_rules: type[SizeClass]
    chain_rule: str  # this and the next: unless the caller says otherwise
    chain_size: int
    too_large: int  # errno of malloc above a page
    readers_stop: bool  # compaction leaves a class whose source is being read, else it waits
    reads_objects: bool  # a reader asks for the object's bytes and not for the whole slot's


VARIANTS = {
    "6.1": Variant(SizeClass61, "used", 4, EINVAL, False, False),
    "6.12": Variant(SizeClass612, "waste", 8, ENOSPC, False, False),
    "7.2": Variant(SizeClass612, "waste", 8, ENOSPC, True, True),
}


class Begun(NamedTuple):
    """A malloc that has built its zspage and not listed it yet."""

    size_class: SizeClass
    zspage: Zspage
    size: int


class Zsmalloc:
    """One zsmalloc pool. See :class:`allocator.protocol.Pool`.

    ``variant`` is the kernel whose rules hold: ``6.1``, ``6.12``, or ``7.2``, which places as
    6.12 does and differs only where compaction meets an object that is mapped. ``chain_size`` is
    the most pages a zspage has: 4 in 6.1, CONFIG_ZSMALLOC_CHAIN_SIZE (4 to 16, 8 by default)
    later. Tables and placement are checked against the kernels' for 6.1 with 4 and 6.12 with 8
    pages of 4096 bytes, on 64-bit machines. Other chain lengths of 6.12 are kernels that can be
    configured and use the same rules; 6.1 has no other length than 4, so longer ones are what
    its rule would have given. With ``page_bytes`` the largest class and the step between classes
    (a 256th of a page) grow, while the smallest stays 32 bytes, as for the widest physical
    addresses of x86-64; other architectures' smallest class depends on theirs.

    Three more are zsmalloc's own constants, which a kernel has to be changed for; unless they are
    given, they are the variant's: ``class_step``, the bytes from a class to the next;
    ``chain_rule``, by which a class's chain is chosen (:data:`CHAIN_RULES`); ``chain_saving``,
    what a longer chain has to save (:func:`pages_of`).

    ``pages_available(count)`` returning False makes the page allocator fail;
    ``pages_lockable(page)`` returning False means that a page of the zspage with that first page
    is locked (migration), so the empty zspage stays until :meth:`free_deferred`, the kernel's
    worker, and malloc may use it again before that.

    Handles are running numbers from 1 and are never used twice; the kernel's are addresses
    without meaning. What a kernel does with a handle that is not live is undefined: it follows a
    pointer in freed memory. The model notes it in ``hazards`` (``double-free``,
    ``use-after-free``, ``unknown-handle``; ``unbalanced-unmap`` for an object that is not mapped)
    and leaves the pool as it is. Raises BackendError for an impossible parameter.
    """

    def __init__(
        self,
        *,
        variant: str = "6.12",
        chain_size: int | None = None,
        chain_rule: str | None = None,
        chain_saving: int = 0,
        class_step: int = 0,
        page_bytes: int = 4096,
        pages_available: Callable[[int], bool] = lambda count: True,
        pages_lockable: Callable[[int], bool] = lambda page: True,
    ) -> None:
        if variant not in VARIANTS:
            raise BackendError(f"zsmalloc variant {variant!r}: one of {', '.join(VARIANTS)}")
        rules = VARIANTS[variant]
        if chain_size is None:
            chain_size = rules.chain_size
        if not MIN_CHAIN <= chain_size <= MAX_CHAIN:
            raise BackendError(
                f"zsmalloc chain size {chain_size}: {MIN_CHAIN} to {MAX_CHAIN} pages"
            )
        check_page_bytes(page_bytes)
        if chain_rule is None:
            chain_rule = rules.chain_rule
        if chain_rule not in CHAIN_RULES:
            raise BackendError(f"zsmalloc chain rule {chain_rule!r}: {', '.join(CHAIN_RULES)}")
        if not 0 <= chain_saving <= 100:
            raise BackendError(f"zsmalloc chain saving {chain_saving}: 0 to 100 percent of a page")
        least = page_bytes >> MAX_CLASSES_BITS
        if class_step and (class_step % ALIGN or not least <= class_step <= page_bytes >> 2):
            raise BackendError(
                f"zsmalloc class step {class_step}: a multiple of {ALIGN} from {least} to "
                f"{page_bytes >> 2} bytes"
            )
        self.name = "zsmalloc"
        self.variant = variant
        self.chain_size = chain_size
        self.page_bytes = page_bytes
        self.hazards = Hazards()
        self._rules = rules
        table = layout(CHAIN_RULES[chain_rule], chain_size, page_bytes, class_step, chain_saving)
        self.kinds = table.kinds
        self.huge_class_bytes = table.huge_class_bytes
        self.classes = [rules.class_rules(kind) for kind in table.kinds]
        self._of_size = table.of_size
        self._pages_available = pages_available
        self._pages_lockable = pages_lockable
        self._words: Words = {}
        self._mapped: dict[int, int] = {}  # handle -> how many maps are open
        self._next_handle = 1
        self._next_page = 0
        self._pages_allocated = 0
        self._building = 0  # pages of zspages that begun mallocs have built
        self._stored_bytes = 0
        self._compactions = 0
        self._copies = 0  # times that an object in two pages was mapped
        self._copied_bytes = 0

    # -- the driver's calls -----------------------------------------------------------------

    def class_of(self, size: int) -> ClassKind:
        """The class that takes ``size`` bytes, 1 to page_bytes, beside the 8 of the handle."""
        return self.kinds[self._of_size[size]]

    def malloc(self, size: int) -> int:
        """zs_malloc(): handle; OSError EINVAL for 0, ENOMEM if no pages.

        Above a page 6.1 gives EINVAL, later variants ENOSPC.
        """
        if size <= 0:
            raise error(EINVAL)
        if size > self.page_bytes:
            raise error(self._rules.too_large)
        zspage = self.size_class(size).choose()
        if zspage is None:
            return self.end_malloc(self.begin_malloc(size))
        return self.malloc_from(zspage, size)

    def size_class(self, size: int) -> SizeClass:
        """The state of the class that takes ``size`` bytes, 1 to page_bytes."""
        return self.classes[self._of_size[size]]

    def malloc_from(self, zspage: Zspage, size: int) -> int:
        """A malloc that has chosen a zspage of the size's class; returns the handle."""
        handle = self._next_handle
        self._next_handle = handle + 1
        size_class = self.size_class(size)
        slot = size_class.take(zspage, handle)
        self._words[handle] = (zspage, slot, size)
        self._stored_bytes += size
        self._count_spanning(size_class, slot, size)
        return handle

    def begin_malloc(self, size: int) -> Begun:
        """First part of a malloc that found no room: a zspage is built, without the lock.

        ``size`` must be 1 to page_bytes. OSError ENOMEM if no pages.
        """
        size_class = self.classes[self._of_size[size]]
        pages = size_class.kind.pages
        if not self._pages_available(pages):
            raise error(ENOMEM)
        zspage = Zspage(size_class.kind, self._next_page)
        self._next_page += pages
        self._building += pages
        return Begun(size_class, zspage, size)

    def end_malloc(self, begun: Begun) -> int:
        """Second part: the zspage gives its first slot and is listed; returns the handle."""
        size_class, zspage, size = begun
        pages = size_class.kind.pages
        self._building -= pages
        self._pages_allocated += pages
        handle = self._next_handle
        self._next_handle = handle + 1
        slot = size_class.adopt(zspage, handle)
        self._words[handle] = (zspage, slot, size)
        self._stored_bytes += size
        self._count_spanning(size_class, slot, size)
        return handle

    def free(self, handle: int) -> None:
        """zs_free()."""
        word = self._words.pop(handle, None)
        if word is None:
            self._note_bad(handle, "free", DOUBLE_FREE)
            return
        zspage, slot, size = word
        if self._mapped:
            self._mapped.pop(handle, None)  # its unmap will be a use after free
        self._stored_bytes -= size
        size_class = self.classes[self._of_size[size]]
        size_class.spanning -= bool(self.copied(size_class.kind, slot, size))
        before = size_class.zspages
        size_class.release(zspage, slot, self._pages_lockable)
        if size_class.zspages != before:
            self._pages_allocated -= size_class.kind.pages

    def map(self, handle: int) -> None:
        """zs_map_object(), or zs_obj_read_begin() of 7.2: moves nothing."""
        if handle not in self._words:
            self._note_bad(handle, "map", USE_AFTER_FREE)
            return
        _, slot, size = self._words[handle]
        if copied := self.copied(self.class_of(size), slot, size):
            self._copies += 1
            self._copied_bytes += copied
        self._mapped[handle] = self._mapped.get(handle, 0) + 1

    def unmap(self, handle: int) -> None:
        """zs_unmap_object(), or zs_obj_read_end() of 7.2."""
        count = self._mapped.get(handle, 0)
        if count > 1:
            self._mapped[handle] = count - 1
        elif count:
            del self._mapped[handle]
        elif handle in self._words:
            self.hazards.meet(UNBALANCED_UNMAP, f"unmap of {handle}, which is not mapped")
        else:
            self._note_bad(handle, "unmap", USE_AFTER_FREE)

    def copied(self, kind: ClassKind, slot: int, size: int) -> int:
        """Bytes that a reader of an object copies, because it spans two pages; 0 if it does not.

        zs_map_object() of 6.1 and 6.12 copies a slot that spans, handle included;
        zs_obj_read_begin() of 7.2 an object that does, its ``size`` bytes after the handle. (7.2's
        zswap reads both pages in place, by zs_obj_read_sg_begin(); its zram copies.)
        """
        if kind.pages == 1:
            return 0
        start = slot * kind.slot_bytes % self.page_bytes
        if self._rules.reads_objects:
            return size if start + HANDLE_BYTES + size > self.page_bytes else 0
        return kind.slot_bytes if start + kind.slot_bytes > self.page_bytes else 0

    def _count_spanning(self, size_class: SizeClass, slot: int, size: int) -> None:
        spans = bool(self.copied(size_class.kind, slot, size))
        size_class.spanning += spans
        size_class.spanned += spans

    def _spanning_now(self, size_class: SizeClass) -> int:
        """Live objects of a class that lie in two pages, looked at one by one."""
        places = (
            self._words[handle][1:]
            for group in range(EMPTY + 1, size_class.full + 1)
            for zspage in size_class.listed(group)
            for handle in zspage.owners
            if handle
        )
        return sum(bool(self.copied(size_class.kind, *place)) for place in places)

    def shrink(self, pages: int, evict: Evict) -> Shrunk:
        """The driver has no shrink, for which zpool_shrink gives -EINVAL; evicts nothing."""
        return Shrunk(-EINVAL, 0)

    def _note_bad(self, handle: int, call: str, stale: str) -> None:
        name = stale if 0 < handle < self._next_handle else UNKNOWN_HANDLE
        self.hazards.meet(name, f"{call} of {handle}, which is not allocated")

    # -- what the kernel does by itself -----------------------------------------------------

    def compact(self) -> int:
        """zs_compact(), classes from the largest down; returns the pages it says it freed.

        These are the pages of all zspages that it emptied, also of those that could not be given
        back at once. The pool's memory shrinker and zram's ``compact`` call it, never zswap.
        """
        self._compactions += 1
        busy = self._being_read if self._rules.readers_stop else _never_busy
        freed = 0
        for size_class in reversed(self.classes):
            zspages, emptied, moved = size_class.zspages, size_class.emptied, size_class.moved
            while size_class.compact_once(self._words, self._pages_lockable, busy):
                pass
            pages = size_class.kind.pages
            self._pages_allocated -= (zspages - size_class.zspages) * pages
            freed += (size_class.emptied - emptied) * pages
            if size_class.moved != moved:
                size_class.spanning = self._spanning_now(size_class)
        return freed

    def free_deferred(self) -> int:
        """The worker that gives back empty zspages whose pages were locked; returns pages."""
        freed = 0
        for size_class in self.classes:
            before = size_class.zspages
            size_class.free_deferred()
            freed += (before - size_class.zspages) * size_class.kind.pages
        self._pages_allocated -= freed
        return freed

    def _being_read(self, zspage: Zspage) -> bool:
        return any(handle in self._mapped for handle in zspage.owners)

    # -- where objects are ------------------------------------------------------------------

    def holder(self, handle: int) -> tuple[SizeClass, Zspage]:
        """The class and the zspage of a live object; KeyError for any other handle."""
        zspage, _, size = self._words[handle]
        return self.size_class(size), zspage

    def place(self, handle: int) -> Place:
        """Where a live object is now; KeyError for any other handle.

        ``page`` is the running number of its zspage's first page: every page ever allocated
        takes one number from 0. ``position`` is the slot.
        """
        zspage, slot, _ = self._words[handle]
        return Place(zspage.page, slot)

    # -- accounting -------------------------------------------------------------------------

    @property
    def total_bytes(self) -> int:
        """zs_get_total_pages() in bytes: also empty zspages that are not given back yet."""
        return self._pages_allocated * self.page_bytes

    @property
    def held_bytes(self) -> int:
        """Pages in bytes, without the 8 bytes of each handle and 56 of each struct zspage."""
        return (self._pages_allocated + self._building) * self.page_bytes

    @property
    def objects(self) -> int:
        """Live objects."""
        return len(self._words)

    @property
    def compactable_pages(self) -> int:
        """What the memory shrinker counts: pages that a compaction of each class could free."""
        return sum(size_class.compactable_pages for size_class in self.classes)

    def stats(self) -> dict[str, Any]:
        """State and work of the pool, and each real class's state; a block is a zspage.

        ``pages_allocated`` and ``pages_freed`` count over the pool's life. ``wasted_bytes`` is
        held minus stored: free slots, ends of zspages that no slot fits in, and what a slot has
        beyond the request (with the handle's 8 bytes). ``spanning_objects`` are live ones that lie
        in two pages, ``spanning_mallocs`` all that ever did when they were stored,
        ``spanning_maps`` the times that one was mapped and ``copied_bytes`` what that copied; see
        :meth:`copied`.
        """
        free_slot_bytes = tail_bytes = held_slot_bytes = 0
        for size_class in self.classes:
            kind = size_class.kind
            slot_bytes = kind.slots * kind.slot_bytes
            free_slot_bytes += size_class.free_slots * kind.slot_bytes
            tail_bytes += size_class.zspages * (kind.pages * self.page_bytes - slot_bytes)
            held_slot_bytes += size_class.used * kind.slot_bytes
        pages_freed = sum(c.zspages_freed * c.kind.pages for c in self.classes)
        return {
            "pages_allocated": self._next_page,
            "pages_freed": pages_freed,
            "zspages": sum(size_class.zspages for size_class in self.classes),
            "objects": len(self._words),
            "huge_objects": sum(
                size_class.used
                for size_class in self.classes
                if size_class.kind.pages == size_class.kind.slots == 1
            ),
            "stored_bytes": self._stored_bytes,
            "wasted_bytes": self.held_bytes - self._stored_bytes,
            "free_slot_bytes": free_slot_bytes,
            "tail_bytes": tail_bytes,
            "padding_bytes": held_slot_bytes - self._stored_bytes,
            "compactable_pages": self.compactable_pages,
            "compactions": self._compactions,
            "spanning_objects": sum(size_class.spanning for size_class in self.classes),
            "spanning_mallocs": sum(size_class.spanned for size_class in self.classes),
            "spanning_maps": self._copies,
            "copied_bytes": self._copied_bytes,
            "searched": sum(size_class.searched for size_class in self.classes),
            "objects_moved": sum(size_class.moved for size_class in self.classes),
            "zspages_made": sum(size_class.zspages_made for size_class in self.classes),
            "zspages_freed": sum(size_class.zspages_freed for size_class in self.classes),
            "zspages_deferred": sum(size_class.deferred for size_class in self.classes),
            "zspages_revived": sum(size_class.revived for size_class in self.classes),
            "relinks": sum(size_class.relinks for size_class in self.classes),
            "classes": [
                {
                    "class": size_class.kind.number,
                    "slot_bytes": size_class.kind.slot_bytes,
                    "slots": size_class.kind.slots,
                    "pages": size_class.kind.pages,
                    "blocks": size_class.zspages,
                    "blocks_ever": size_class.zspages_made,
                    "used_slots": size_class.used,
                    "free_slots": size_class.free_slots,
                }
                for size_class in self.classes
            ],
        }


def _never_busy(zspage: Zspage) -> bool:
    """6.1 and 6.12 wait until a zspage is no longer read, so compaction goes on in any case."""
    return False
