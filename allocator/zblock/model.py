# SPDX-License-Identifier: GPL-2.0-only
"""What became of ztree: late ztree and zblock of 2022, and zblock of 2025.

``ztree:late``
    the author's tree between the fourth and fifth posting (2022): a block's metadata lies in its
    first page, the handle is an address and needs no lookup, 19 block types. Which block malloc
    takes, and what reclaim does, is the posted ztree's.
``zblock:2022``
    postings six to eight: lists instead of trees, 29 block types, and malloc looks at an array of
    32 blocks instead of two. Reclaim also evicts what was never mapped.
``zblock:2025``
    Vitaly Wool's fourth posting: malloc takes the first of the blocks that have room, and there
    is no reclaim. 31 block types for pages of 4 KiB, 40 for 16 KiB; an object exactly as large as
    a slot goes to the next type, and one that fits no slot is refused.

All are models of one flow of control. Where several CPUs differ (a block's insertion that other
calls can see, ``alloc_flag``, unlocked tests) one flow cannot tell; see docs/successors.md.

Handles are addresses, ``(page + 1) * page_bytes + (type << slot_bits) + slot``; pages are numbered
as they are allocated and no number comes again, while the kernel's addresses do. Unlike the posted
ztree's, these models do not follow what a free, map or unmap of anything but a live object does:
the driver would write to memory that is no longer its own, so it is a fatal hazard
(``double-free``, ``use-after-free``, ``unknown-handle``; ``H18`` for an object that reclaim took).
The other hazards keep the names of docs/hazards.md.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from ztrace.allocator.protocol import EINVAL, BackendError, Evict, HazardError, Shrunk, error
from ztrace.allocator.ztree.model import (
    OCCUPIED,
    UNMAPPED,
    Block,
    BlockTree,
    BlockType,
    Place,
    Released,
    Ztree,
)

Table = tuple[tuple[int, int], ...]  # (order, slots) of each block type

LATE_TABLE: Table = (
    *((0, 16), (0, 12), (0, 9)),
    *((1, slots) for slots in (14, 12, 10, 8)),
    *((2, slots) for slots in (14, 12, 10, 9, 8)),
    *((3, slots) for slots in (14, 13, 12, 11, 10, 9, 7)),
)

TABLE_2022: Table = (
    *((0, slots) for slots in (32, 22, 17, 13, 11, 9, 8)),
    *((1, slots) for slots in (14, 12, 11, 10, 9, 8)),
    *((2, slots) for slots in (15, 14, 13, 12, 11, 10, 9, 8)),
    *((3, slots) for slots in (15, 14, 13, 12, 11, 10, 9, 7)),
)

TABLE_2025_4K: Table = (
    *((0, slots) for slots in (63, 32, 21, 15, 12, 10, 9, 8)),
    *((2, 29), (1, 13), (0, 6), (1, 11), (0, 5), (1, 9), (1, 8), (3, 29)),
    *((2, slots) for slots in (13, 12, 11, 10, 9)),
    *((3, 17), (2, 8), (3, 15), (3, 14), (3, 13), (2, 6), (3, 11), (3, 10), (3, 9), (2, 4)),
)

TABLE_2025_16K: Table = (
    *((0, slots) for slots in (255, 185, 145, 113, 92, 75, 60, 51, 43, 37, 32, 27, 23, 19)),
    *((0, slots) for slots in (17, 15, 13, 11, 10, 9, 8)),
    *((1, slots) for slots in range(15, 7, -1)),
    *((2, slots) for slots in range(15, 4, -1)),
)

CACHED_BLOCKS = 32


class Pages:
    """Numbers pages in the order in which a pool gets them."""

    def __init__(self) -> None:
        self.allocated = 0

    def get(self, order: int) -> int:
        """The number of the first of ``1 << order`` pages."""
        first = self.allocated
        self.allocated += 1 << order
        return first


class PointerTree(BlockTree):
    """A tree whose blocks are told apart by their address; ``index`` is that of the first page.

    The late ztree still numbers blocks, for reclaim's order. First pages come in the same order.
    """

    __slots__ = ("pages",)

    states = 16

    def __init__(self, kind: BlockType, max_index: int) -> None:
        super().__init__(kind, max_index)
        self.pages = Pages()

    def insert(self) -> Block:
        """Add a fresh block (end of alloc_block())."""
        self.counter += 1
        block = Block(self.pages.get(self.kind.order), self.kind.slots, self.states)
        self.blocks[block.index] = block
        self.free_total += self.kind.slots
        self.publish(block)
        return block

    def publish(self, block: Block) -> None:
        """Make a fresh block known to malloc."""
        self.last = block

    def reported_bytes(self) -> int:
        """This type's term of the pool's size: whole pages, 64 bits wide."""
        return len(self.blocks) * self.kind.block_bytes


class LateZtree(Ztree):
    """Late ztree. See :class:`allocator.ztree.model.Ztree`, whose parameters it has."""

    tree_class = PointerTree
    header_bytes = 64
    most_types = 256  # as many as fit below a page with 16 slots each

    def __init__(
        self,
        *,
        page_bytes: int = 4096,
        table: Sequence[tuple[int, int]] = LATE_TABLE,
        pages_available: Callable[[int], bool] = lambda order: True,
    ) -> None:
        self._pages = Pages()
        super().__init__(page_bytes=page_bytes, table=table, pages_available=pages_available)
        for tree in self.trees:
            assert isinstance(tree, PointerTree)
            tree.pages = self._pages

    def encode(self, kind: int, index: int, slot: int) -> int:
        """metadata_to_handle(): the block's address with type and slot added."""
        return (index + 1) * self.page_bytes + (kind << self.slot_bits) + slot

    def decode(self, handle: int) -> Place:
        """handle_to_metadata(): the block is the page that the handle points into."""
        page, rest = divmod(handle, self.page_bytes)
        return Place(rest >> self.slot_bits, page - 1, rest & (1 << self.slot_bits) - 1)

    def free(self, handle: int) -> None:
        """ztree_free(); fatal hazards if that is no live object."""
        self._check_live(handle, "free")
        super().free(handle)

    def _set_state(self, handle: int, state: int, call: str) -> None:
        self._check_live(handle, call)
        super()._set_state(handle, state, call)

    def _check_live(self, handle: int, call: str) -> None:
        if handle in self._owned:
            return
        if handle in self._evicted_unfreed:
            name, what = "H18", "whose slot reclaim has taken"
        else:
            name, what = "double-free" if call == "free" else "use-after-free", "which is free"
            kind, page, slot = self.decode(handle)
            if not 0 <= page < self._pages.allocated or kind >= len(self.types):
                name, what = "unknown-handle", "which was never given out"
            elif slot >= self.types[kind].slots:
                name, what = "unknown-handle", "which names no slot"
        what = f"{call} of {handle:#x}, {what}"
        self.hazards.meet(name, what)
        raise HazardError(name, what)


class CachedList(PointerTree):
    """struct block_list of 2022: the oldest block is last, and ``cache`` has some with room."""

    __slots__ = ("cache",)

    states = 32

    def __init__(self, kind: BlockType, max_index: int) -> None:
        super().__init__(kind, max_index)
        self.cache: list[Block | None] = [None] * CACHED_BLOCKS

    def look(self) -> Block | None:
        """cache_find_block(): the first cached block with a free slot."""
        for block in self.cache:
            if block is not None and block.free_slots:
                return block
        return None

    def looked_at(self, found: Block | None) -> int:
        """Entries of the cache up to that of the block found, else all."""
        return CACHED_BLOCKS if found is None else self.cache.index(found) + 1

    def publish(self, block: Block) -> None:
        """A fresh block goes to the cache."""
        self.remember(block)

    def adopt(self, block: Block) -> None:
        """Nothing: the block is in the cache, or was pushed out of it, already."""

    def remember(self, block: Block) -> None:
        """cache_insert_block(): in place of none or a full one, else of the one with least room.

        The first of several. What is pushed out comes back when something in it is freed.
        """
        worst = 0
        for i, cached in enumerate(self.cache):
            if cached is None or not cached.free_slots:
                worst = i
                break
            kept = self.cache[worst]
            if kept is not None and cached.free_slots < kept.free_slots:
                worst = i
        self.cache[worst] = block

    def count_free(self, index: int) -> Released:
        """Count a slot as free; delete an empty block, put another into the cache if it is not."""
        block = self.blocks[index]
        if block.under_reclaim:
            return Released(block, dropped=True)
        self.credit(block, block.free_slots)
        cached = block in self.cache
        if block.free_slots == self.kind.slots:
            self._remove(block)
            if cached:
                self.cache[self.cache.index(block)] = None
            return Released(block, deleted=True)
        if not cached:
            self.remember(block)
        return Released(block)

    def choose(self) -> Block | None:
        """Mark and return the oldest block unless it is cached.

        HazardError ``empty-list``: the posted code does not ask whether there is any block.
        """
        block = next(iter(self.blocks.values()), None)
        if block is None:
            raise HazardError(
                "empty-list",
                f"type {self.kind.number} has no block: reclaim takes the list's head for one",
            )
        if block in self.cache:
            return None
        block.under_reclaim = True
        return block

    def settle(self, block: Block) -> bool:
        """End a reclaim: give an empty block back (True), put another into the cache."""
        if super().settle(block):
            return True
        self.remember(block)
        return False

    def find(self, index: int) -> Block | None:
        """The block itself is in the handle."""
        return self.blocks.get(index)

    def stranded_slots(self) -> int:
        """Free slots in blocks that are not cached."""
        return self.free_total - sum(block.free_slots for block in self.cache if block is not None)


class Zblock2022(LateZtree):
    """zblock as posted in 2022, versions 6 to 8: with version 7's end of the search for a block.

    Version 6 ran off its table there like the posted ztree (H12).
    """

    tree_class = CachedList
    slot_bits = 5
    most_types = 128
    evictable = (OCCUPIED, UNMAPPED)

    def __init__(
        self,
        *,
        page_bytes: int = 4096,
        table: Sequence[tuple[int, int]] = TABLE_2022,
        pages_available: Callable[[int], bool] = lambda order: True,
    ) -> None:
        super().__init__(page_bytes=page_bytes, table=table, pages_available=pages_available)

    def reclaim_block(self, evict: Evict) -> int:
        """zblock_reclaim_block(): slots evicted from one block, -EAGAIN, or -EINVAL."""
        try:
            return super().reclaim_block(evict)
        except HazardError as fatal:
            self.hazards.counts.setdefault(fatal.name, 1)
            self.hazards.first.setdefault(fatal.name, fatal.what)
            raise

    def _no_candidate(self) -> int:
        return -EINVAL


class ActiveList(PointerTree):
    """struct block_list of 2025: ``active`` are the blocks with room, that malloc takes from."""

    __slots__ = ("active",)

    states = 256

    def __init__(self, kind: BlockType, max_index: int) -> None:
        super().__init__(kind, max_index)
        self.active: OrderedDict[int, Block] = OrderedDict()  # head first

    def look(self) -> Block | None:
        """The first active block; there is room in each."""
        return next(iter(self.active.values()), None)

    def looked_at(self, found: Block | None) -> int:
        """One, or none where there is none."""
        return int(found is not None)

    def publish(self, block: Block) -> None:
        """A fresh block goes to the head with its first slot taken already."""
        self.active[block.index] = block
        self.active.move_to_end(block.index, last=False)
        super().take(block)

    def take(self, block: Block, *, adopt: bool = False) -> int:
        """Take the lowest free slot, of a fresh block (``adopt``) the one taken before."""
        return 0 if adopt else super().take(block)

    def claim(self, block: Block) -> None:
        """Count a slot as used; a block that is full now leaves the active ones."""
        super().claim(block)
        if not block.free_slots:
            del self.active[block.index]

    def count_free(self, index: int) -> Released:
        """Count a slot as free; delete an empty block; one that was full goes to the tail."""
        block = self.blocks[index]
        self.credit(block, block.free_slots)
        if block.free_slots == self.kind.slots:
            self._remove(block)
            self.active.pop(index, None)
            return Released(block, deleted=True)
        if block.free_slots == 1:
            self.active[index] = block
        return Released(block)

    def find(self, index: int) -> Block | None:
        """The block itself is in the handle."""
        return self.blocks.get(index)

    def stranded_slots(self) -> int:
        """Free slots in blocks that are not active: none, by construction and as counted."""
        return self.free_total - sum(block.free_slots for block in self.active.values())


class Zblock2025(LateZtree):
    """zblock as posted in 2025, version 4. Pages of 4 or 16 KiB."""

    tree_class = ActiveList
    header_bytes = 40
    slot_bits = 7
    most_types = 32

    def __init__(
        self,
        *,
        page_bytes: int = 4096,
        table: Sequence[tuple[int, int]] | None = None,
        pages_available: Callable[[int], bool] = lambda order: True,
    ) -> None:
        if page_bytes not in (4096, 16384):
            raise BackendError(f"{page_bytes} bytes: zblock of 2025 has tables for 4096 and 16384")
        if page_bytes == 16384:  # twice as many slot bits, in the block and in the handle
            self.header_bytes, self.slot_bits, self.most_types = 56, 8, 64
        if table is None:
            table = TABLE_2025_4K if page_bytes == 4096 else TABLE_2025_16K
        super().__init__(page_bytes=page_bytes, table=table, pages_available=pages_available)

    def _size_limits(self) -> list[int]:
        """A type takes what is smaller than its slot; nothing says that a page must fit."""
        limits = [kind.slot_bytes - 1 for kind in self.types]
        if limits != sorted(set(limits)) or limits[0] < 1:
            raise BackendError("zblock table: slot sizes must ascend")
        return limits

    def malloc(self, size: int) -> int:
        """zblock_alloc(): EINVAL, too, for a page that no type takes; its search ends before it."""
        if self._largest < size == self.page_bytes:
            raise error(EINVAL)
        return super().malloc(size)

    def map(self, handle: int) -> None:
        """Arithmetic; no state is kept."""
        self._check_live(handle, "map")

    def unmap(self, handle: int) -> None:
        """Nothing."""
        self._check_live(handle, "unmap")

    def shrink(self, pages: int, evict: Evict) -> Shrunk:
        """The driver has no shrink, for which zpool_shrink gives -EINVAL; evicts nothing."""
        return Shrunk(-EINVAL, 0)


def ztree(*, variant: str = "", **arguments: Any) -> Ztree:
    """The posted ztree, or variant ``late``; ``arguments`` are the class's."""
    return LateZtree(**arguments) if variant == "late" else Ztree(**arguments)


def zblock(*, variant: str = "2025", **arguments: Any) -> LateZtree:
    """Variant ``2022`` or ``2025`` of zblock; ``arguments`` are the class's."""
    return {"2022": Zblock2022, "2025": Zblock2025}[variant](**arguments)
