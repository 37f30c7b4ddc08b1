# SPDX-License-Identifier: GPL-2.0-only
"""ztree as posted to linux-mm on 2021-09-16.

Message-ID 20210916085102.19310-1-a.badmaev@clicknet.pro.

Objects of one size class live in a *block tree*; a block is 1 to 8 pages cut into 8 to 16 equal
slots. Allocation looks at two blocks only, ``current`` and ``last``. The model answers as the
posted code does, including where that is wrong; faults that a history runs into are counted in
:attr:`Ztree.hazards` by the names of docs/hazards.md (``H1`` ... ``H34``).

The kernel takes a tree's lock several times within one call. Each such critical section is one
method of :class:`BlockTree` (``look``, ``insert``, ``take``, ``release``, ``choose``, ``recover``,
``settle``), so that concurrent histories can be composed from the very steps the model is made of.
Where the kernel goes on under the block's lock alone, the section is made of two smaller methods:
``take`` of ``adopt``, ``claim`` and ``mark``, ``release`` of ``count_free`` and ``clear``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ztrace.allocator.protocol import (
    EAGAIN,
    EINVAL,
    ENOMEM,
    ENOSPC,
    BackendError,
    Evict,
    HazardError,
    Hazards,
    Shrunk,
    error,
)

SLOT_BITS = 4
TYPE_BITS = 4
TYPE_SHIFT = 64 - TYPE_BITS  # of a 64-bit kernel's handle
MAX_SLOTS = 1 << SLOT_BITS
U16 = 0xFFFF
U32 = 0xFFFF_FFFF

# States of one slot (slot_info in struct ztree_block).
FREE, OCCUPIED, MAPPED, UNMAPPED = range(4)

# (order, slots) of each block type: tree_desc[] of the posted ztree.c.
POSTED_TABLE: tuple[tuple[int, int], ...] = (
    *((0, 16), (0, 11), (0, 8)),
    *((1, 11), (1, 8)),
    *((2, 14), (2, 12), (2, 10), (2, 9), (2, 8)),
    *((3, 14), (3, 13), (3, 12), (3, 11), (3, 10), (3, 8)),
)


class BlockType(NamedTuple):
    """One line of tree_desc[]: a block of ``page << order`` bytes with equal slots."""

    number: int
    order: int
    slots: int
    slot_bytes: int
    block_bytes: int


def block_types(
    page_bytes: int, long_bytes: int, table: Sequence[tuple[int, int]], header_bytes: int = 0
) -> tuple[BlockType, ...]:
    """Compute tree_desc[] for a machine: a slot is the block's share, cut to whole longs.

    ``header_bytes``: what the block's metadata takes of its first page, 0 in the posted ztree.
    """
    types = []
    for number, (order, slots) in enumerate(table):
        block_bytes = page_bytes << order
        slot_bytes = (block_bytes - header_bytes) // (slots * long_bytes) * long_bytes
        types.append(BlockType(number, order, slots, slot_bytes, block_bytes))
    return tuple(types)


class Block:
    """struct ztree_block. ``free_slots`` and ``coeff`` are unsigned shorts and wrap as such."""

    __slots__ = ("coeff", "free_slots", "index", "slots", "under_reclaim")

    def __init__(self, index: int, slots: int, states: int = MAX_SLOTS) -> None:
        self.index = index
        self.slots = bytearray(states)
        self.free_slots = slots
        self.coeff = 0
        self.under_reclaim = False


class Released(NamedTuple):
    """What one free did to its tree."""

    block: Block | None  # None: no block has that index
    dropped: bool = False  # the block was under reclaim: no bookkeeping at all
    deleted: bool = False  # the block became empty and was given back
    forgotten: int = 0  # H10: free slots of other blocks that the deletion hid from malloc


class BlockTree:
    """struct block_tree and the critical sections under its lock.

    ``blocks`` is keyed by block index and, because indices only grow, ordered by it, which is
    all that the red-black tree is used for.
    """

    __slots__ = ("blocks", "counter", "current", "free_total", "kind", "last", "max_index")

    def __init__(self, kind: BlockType, max_index: int) -> None:
        self.kind = kind
        self.max_index = max_index
        self.blocks: dict[int, Block] = {}
        self.current: Block | None = None
        self.last: Block | None = None
        self.counter = 0
        self.free_total = 0  # free slots in all blocks; ours, to see stranding without a scan

    # -- malloc: ztree_alloc() and alloc_block() --------------------------------------------

    def look(self) -> Block | None:
        """The block with a free slot that malloc finds: current, else last, else none."""
        if self.current is not None and self.current.free_slots > 0:
            return self.current
        if self.last is not None and self.last.free_slots > 0:
            return self.last
        return None

    def looked_at(self, found: Block | None) -> int:
        """Blocks whose free slots :meth:`look` read until it found this one."""
        if found is not None and found is self.current:
            return 1
        return (self.current is not None) + (self.last is not None)

    def insert(self) -> Block:
        """Add a fresh block, which becomes ``last`` (end of alloc_block())."""
        block = Block(self.counter, self.kind.slots)
        self.counter = (self.counter + 1) % self.max_index
        if block.index in self.blocks:
            raise HazardError(
                "H28", f"block index {block.index} of type {self.kind.number} is in use"
            )
        self.blocks[block.index] = block
        self.last = block
        self.free_total += self.kind.slots
        return block

    def take(self, block: Block, *, adopt: bool = False) -> int:
        """Take the lowest free slot of ``block``; ``adopt`` makes it current first.

        Returns the slot. It equals the number of slots when no slot was free although
        ``free_slots`` said so (H2): the kernel does not check, and marks one byte too far.
        """
        if adopt:
            self.adopt(block)
        self.claim(block)
        return self.mark(block)

    def adopt(self, block: Block) -> None:
        """Make the block that malloc has added current, whatever became of it since."""
        self.current = block

    def claim(self, block: Block) -> None:
        """Count one slot of ``block`` as used; not checked for 0 (H1). Under both locks."""
        block.free_slots = (block.free_slots - 1) & U16
        self.free_total -= 1

    def mark(self, block: Block) -> int:
        """Find and mark the slot that was claimed, as for ``take``. Under the block's lock."""
        slots = self.kind.slots
        slot = block.slots.find(FREE, 0, slots)
        if slot < 0:
            slot = slots
        if slot < len(block.slots):  # byte 16 is already the data pointer's; no slot state there
            block.slots[slot] = OCCUPIED
        self.weigh(block)
        return slot

    # -- free: ztree_free() -----------------------------------------------------------------

    def release(self, index: int, slot: int) -> Released:
        """Free slot ``slot`` of the block with index ``index``, used or not."""
        done = self.count_free(index)
        if done.block is not None and not done.dropped and not done.deleted:
            self.clear(done.block, slot)
        return done

    def count_free(self, index: int) -> Released:
        """Count one slot of a block as free; delete the block or choose current anew."""
        block = self.blocks.get(index)
        if block is None:
            return Released(None)
        if block.under_reclaim:
            return Released(block, dropped=True)
        self.credit(block, block.free_slots)
        if block.free_slots == self.kind.slots:
            return Released(block, deleted=True, forgotten=self._delete_empty(block))
        if self.current is None or self.prefers(block, self.current):
            self.current = block
        return Released(block)

    def clear(self, block: Block, slot: int) -> None:
        """Mark the slot that was counted. Under the block's lock."""
        block.slots[slot] = FREE
        self.weigh(block)

    def credit(self, block: Block, free_slots: int) -> None:
        """Count one more free slot than ``free_slots``, the number that was read."""
        block.free_slots = (free_slots + 1) & U16
        self.free_total += 1

    def prefers(self, block: Block, current: Block) -> bool:
        """Whether a free in ``block`` makes it current; its coeff is the one before the free."""
        return block.coeff >= current.coeff

    def weigh(self, block: Block) -> None:
        """Recompute coeff: 0 for a full or an empty block, largest half way between."""
        block.coeff = (block.free_slots * (self.kind.slots - block.free_slots)) & U16

    def _delete_empty(self, block: Block) -> int:
        """Remove an emptied block; returns the free slots that malloc loses sight of (H10).

        These are a partly free current block's, or all there are when malloc now sees none.
        """
        self._remove(block)
        before = self.current
        if block is self.last:
            self.current = self.last = None
        else:
            self.current = self.last
        if self.look() is None:
            return self.free_total
        if before is None or before is block or before is self.current:
            return 0
        return before.free_slots

    def _remove(self, block: Block) -> None:
        del self.blocks[block.index]
        self.free_total -= block.free_slots

    # -- reclaim: ztree_reclaim_block() -----------------------------------------------------

    def choose(self) -> Block | None:
        """Mark and return the block of lowest index unless it is current or last."""
        block = next(iter(self.blocks.values()), None)
        if block is None or block is self.current or block is self.last:
            return None
        block.under_reclaim = True
        return block

    def recover(self, block: Block, slot: int) -> None:
        """Count a slot as free because evict() returned 0 for it."""
        block.slots[slot] = FREE
        self.credit(block, block.free_slots)

    def settle(self, block: Block) -> bool:
        """End a reclaim: give the block back if it is empty (True), else leave it in the tree."""
        if block.free_slots == self.kind.slots:
            self._remove(block)
            return True
        block.under_reclaim = False
        self.weigh(block)
        return False

    # -- map and unmap: ztree_map(), ztree_unmap() ------------------------------------------

    def find(self, index: int) -> Block | None:
        """The block that map and unmap resolve an index to: current is tried first."""
        if self.current is not None and self.current.index == index:
            return self.current
        return self.blocks.get(index)

    # -- accounting -------------------------------------------------------------------------

    def reported_bytes(self) -> int:
        """This tree's term of ztree_get_pool_size(), computed in 32 bits (H30)."""
        return len(self.blocks) * self.kind.slot_bytes * self.kind.slots & U32

    def stranded_slots(self) -> int:
        """Free slots that malloc cannot see: in blocks that are neither current nor last."""
        seen = self.current.free_slots if self.current is not None else 0
        if self.last is not None and self.last is not self.current:
            seen += self.last.free_slots
        return self.free_total - seen


class Place(NamedTuple):
    """A decoded handle: block type, block index, slot."""

    kind: int
    block: int
    slot: int


class Begun(NamedTuple):
    """A malloc that has added its block and taken no slot yet."""

    tree: BlockTree
    block: Block


class Ztree:
    """The posted driver with one flow of control. See :class:`allocator.protocol.Pool`.

    ``page_bytes`` and ``long_bytes`` are the modelled machine's; ``table`` replaces tree_desc[]
    by other (order, slots) pairs; ``pages_available(order)`` returning False makes the page
    allocator fail (H31). Raises BackendError for a table outside ztree's limits.
    """

    tree_class = BlockTree
    # What later versions change; see allocator/zblock/model.py.
    header_bytes = 0  # of a block's metadata, where it lies in the block
    slot_bits = SLOT_BITS  # width of the handle's slot
    most_types = 1 << TYPE_BITS
    evictable: tuple[int, ...] = (UNMAPPED,)  # states of slots that reclaim tries

    def __init__(
        self,
        *,
        page_bytes: int = 4096,
        long_bytes: int = 8,
        table: Sequence[tuple[int, int]] = POSTED_TABLE,
        pages_available: Callable[[int], bool] = lambda order: True,
        max_index: int | None = None,
    ) -> None:
        self.name = "ztree"
        self.page_bytes = page_bytes
        self.hazards = Hazards()
        self._handle_bits = 8 * long_bytes
        self._type_shift = self._handle_bits - TYPE_BITS
        if max_index is None:
            max_index = (1 << (self._type_shift - SLOT_BITS)) - 1
        self._check_table(table)
        self.types = block_types(page_bytes, long_bytes, table, self.header_bytes)
        self._limits = self._size_limits()
        self._largest = min(page_bytes, self._limits[-1])
        self.trees = [self.tree_class(kind, max_index) for kind in self.types]
        self._pages_available = pages_available
        self._total_bytes = 0
        self._held_bytes = 0
        # The kernel does not know who owns a slot; we do, to name double frees and leaks.
        self._owned: set[int] = set()
        self._evicted_unfreed: set[int] = set()
        self._evicting: int | None = None
        self._stuck: Block | None = None  # where the last reclaim gave -EAGAIN (H14)
        self.blocks_searched = 0  # whose free_slots malloc read: current, last, the same or not
        self.blocks_inserted = 0
        self.blocks_deleted = 0

    def _check_table(self, table: Sequence[tuple[int, int]]) -> None:
        """The handle's fields bound a table; the page allocator bounds orders."""
        if not 1 <= len(table) <= self.most_types:
            raise BackendError(f"ztree table: 1 to {self.most_types} block types, not {len(table)}")
        for order, slots in table:
            if not 0 <= order <= 10 or not 1 <= slots <= 1 << self.slot_bits:
                raise BackendError(f"ztree table: order {order}, {slots} slots is not possible")

    def _size_limits(self) -> list[int]:
        """The largest size that each type takes: its slot's. Ascending, up to a page."""
        limits = [kind.slot_bytes for kind in self.types]
        if limits != sorted(limits) or limits[-1] < self.page_bytes:
            raise BackendError("ztree table: slot sizes must ascend and end at a whole page")
        return limits

    @property
    def size_limits(self) -> list[int]:
        """The largest size that each type takes."""
        return self._limits

    # -- handles ----------------------------------------------------------------------------

    def encode(self, kind: int, index: int, slot: int) -> int:
        """metadata_to_handle(): sums, so a slot of 16 carries into the index (H29)."""
        handle = (kind << self._type_shift) + (index << SLOT_BITS) + slot
        return handle & ((1 << self._handle_bits) - 1)

    def decode(self, handle: int) -> Place:
        """handle_to_metadata(): masks and shifts, no check of any kind."""
        index_mask = (1 << (self._type_shift - SLOT_BITS)) - 1
        return Place(
            handle >> self._type_shift, (handle >> SLOT_BITS) & index_mask, handle & MAX_SLOTS - 1
        )

    def _tree_of(self, place: Place, call: str, handle: int) -> BlockTree:
        if not 0 <= handle < 1 << self._handle_bits or place.kind >= len(self.trees):
            what = f"{call} of {handle:#x}, which names no block type"
            self.hazards.meet("H8", what)
            raise HazardError("H8", what)
        return self.trees[place.kind]

    # -- the driver's calls -----------------------------------------------------------------

    def type_of(self, size: int) -> int:
        """The block type that takes ``size`` bytes, 1 to page_bytes: the first that fits."""
        return bisect_left(self._limits, size)

    def malloc(self, size: int) -> int:
        """ztree_alloc(): handle; OSError EINVAL for 0, ENOSPC above a page, ENOMEM if no pages."""
        if size <= 0:
            raise error(EINVAL)
        if size > self._largest:
            raise error(ENOSPC)
        tree = self.trees[bisect_left(self._limits, size)]
        block = tree.look()
        if block is None:
            return self.end_malloc(self.begin_malloc(size))
        self.blocks_searched += tree.looked_at(block)
        return self._give(tree, block, tree.take(block))

    def begin_malloc(self, size: int) -> Begun:
        """First part of a malloc that found no free slot: a block is added, no slot taken yet.

        The kernel holds no lock between the two parts, so on several CPUs other calls may come
        between them. ``size`` must be 1 to page_bytes. OSError ENOMEM if no pages.
        """
        tree = self.trees[bisect_left(self._limits, size)]
        self.blocks_searched += tree.looked_at(None)
        if tree.free_total > 0:
            self.hazards.meet(
                "H11",
                f"a new block of type {tree.kind.number} while {tree.free_total} slots "
                "in other blocks of it were free",
            )
        if not self._pages_available(tree.kind.order):
            self.hazards.meet("H31", f"no block of order {tree.kind.order} to be had")
            raise error(ENOMEM)
        try:
            block = tree.insert()
        except HazardError as fatal:
            self.hazards.meet(fatal.name, fatal.what)
            raise
        self._grew(tree)
        return Begun(tree, block)

    def end_malloc(self, begun: Begun) -> int:
        """Second part: the new block becomes current and gives a slot; returns the handle."""
        tree, block = begun
        return self._give(tree, block, tree.take(block, adopt=True))

    def _give(self, tree: BlockTree, block: Block, slot: int) -> int:
        handle = self.encode(tree.kind.number, block.index, slot)
        if slot == tree.kind.slots or handle in self._owned:
            self.hazards.meet("H2", f"malloc gave {handle:#x}: no slot was really free")
        if handle == 0:
            self.hazards.meet("H27", "handle 0 was given out")
        self._owned.add(handle)
        return handle

    def free(self, handle: int) -> None:
        """ztree_free(). A bad handle is not refused, only noted as a hazard, as in the kernel."""
        place = self.decode(handle)
        tree = self._tree_of(place, "free", handle)
        self._note_free(handle)
        done = tree.release(place.block, place.slot)
        if done.block is None:
            self.hazards.meet("H8", f"free of {handle:#x}: block not found")
        elif done.dropped:
            if handle != self._evicting:
                self.hazards.meet("H15", f"free of {handle:#x} dropped, its block is reclaimed")
        elif done.deleted:
            self._shrank(tree, done.block)
            if done.forgotten:
                self.hazards.meet(
                    "H10",
                    f"block {done.block.index} of type {place.kind} became empty and current was "
                    f"reset: {done.forgotten} free slots of other blocks forgotten",
                )

    def map(self, handle: int) -> None:
        """ztree_map(): state MAPPED whatever it was. H26 where the kernel returns NULL."""
        self._set_state(handle, MAPPED, "map")

    def unmap(self, handle: int) -> None:
        """ztree_unmap(): state UNMAPPED whatever it was."""
        self._set_state(handle, UNMAPPED, "unmap")

    def shrink(self, pages: int, evict: Evict) -> Shrunk:
        """ztree_zpool_shrink(): its ``pages`` are really slots (H23); may raise HazardError H12."""
        total, ret = 0, -EINVAL
        while total < pages:
            ret = self.reclaim_block(evict)
            if ret < 0:
                break
            total += ret
            self.hazards.meet("H23", f"shrink counted {ret} slots as pages and returned them")
        return Shrunk(ret, total)

    def reclaim_block(self, evict: Evict) -> int:
        """ztree_reclaim_block(): slots evicted from one block, or -EAGAIN."""
        for tree in reversed(self.trees):
            block = tree.choose()
            if block is None:
                if len(tree.blocks) > 1:
                    self.hazards.meet(
                        "H13",
                        f"type {tree.kind.number} skipped: its oldest block is current or last",
                    )
                continue
            reclaimed = self._evict_block(tree, block, evict)
            if tree.settle(block):
                self._shrank(tree, block)
                self._stuck = None
            elif not reclaimed:
                if self._stuck is block:
                    self.hazards.meet("H14", f"reclaim is stuck on one block of {tree.kind}")
                self._stuck = block
            return reclaimed or -EAGAIN
        return self._no_candidate()

    def _no_candidate(self) -> int:
        """What reclaim does when no type has a block for it."""
        self.hazards.meet("H12", "no block to reclaim: the scan leaves the table of trees")
        raise HazardError("H12", "shrink found no block and ran off the table of trees")

    def _evict_block(self, tree: BlockTree, block: Block, evict: Evict) -> int:
        """The loop over a block's slots: evict those UNMAPPED until evict() refuses."""
        reclaimed = 0
        for slot in range(tree.kind.slots):
            if block.slots[slot] not in self.evictable:
                continue
            handle = self.encode(tree.kind.number, block.index, slot)
            owned = handle in self._owned
            outer, self._evicting = self._evicting, handle
            try:
                refused = evict(handle)
            finally:
                self._evicting = outer
            if refused:
                self._note_refusal(handle, owned, block.slots[slot])
                break
            if handle in self._owned:
                self.hazards.meet("H16", f"evict({handle:#x}) gave 0 but did not free it")
                self._owned.discard(handle)
                self._evicted_unfreed.add(handle)
            tree.recover(block, slot)
            reclaimed += 1
        return reclaimed

    # -- notes that only the model keeps ----------------------------------------------------

    def _note_free(self, handle: int) -> None:
        if handle in self._owned:
            self._owned.remove(handle)
        elif handle in self._evicted_unfreed:
            self._evicted_unfreed.remove(handle)
            self.hazards.meet("H18", f"{handle:#x} freed after reclaim had taken its slot")
        else:
            self.hazards.meet("H8", f"free of {handle:#x}, which is not allocated")

    def _note_refusal(self, handle: int, owned: bool, state: int) -> None:
        if owned and handle not in self._owned:
            self.hazards.meet("H17", f"evict({handle:#x}) freed the object, then failed: leaked")
        elif state == MAPPED:
            self.hazards.meet("H17", f"evict({handle:#x}) failed and left the slot mapped")

    def _set_state(self, handle: int, state: int, call: str) -> None:
        place = self.decode(handle)
        block = self._tree_of(place, call, handle).find(place.block)
        if block is None:
            self.hazards.meet("H26", f"{call} of {handle:#x}: block not found, NULL returned")
            return
        if handle not in self._owned and block.slots[place.slot] == FREE:
            self.hazards.meet("H24", f"{call} of {handle:#x}, which is free: slot resurrected")
        block.slots[place.slot] = state

    # -- accounting -------------------------------------------------------------------------

    def _grew(self, tree: BlockTree) -> None:
        self.blocks_inserted += 1
        self._held_bytes += tree.kind.block_bytes
        self._retotal()

    def _shrank(self, tree: BlockTree, block: Block) -> None:
        self.blocks_deleted += 1
        self._held_bytes -= tree.kind.block_bytes
        if block is self._stuck:
            self._stuck = None
        for slot in range(tree.kind.slots):
            handle = self.encode(tree.kind.number, block.index, slot)
            if handle in self._owned:
                self.hazards.meet("H8", f"block of live object {handle:#x} was given back")
        self._retotal()

    def _retotal(self) -> None:
        """ztree_get_pool_size(). Recomputed when a block comes or goes, which is rare."""
        self._total_bytes = sum(tree.reported_bytes() for tree in self.trees)
        if self._total_bytes < self._held_bytes >> 1:
            self.hazards.meet("H30", f"reports {self._total_bytes} of {self._held_bytes} bytes")

    @property
    def total_bytes(self) -> int:
        """ztree_get_pool_size(): without the blocks' tail bytes, each type modulo 2^32."""
        return self._total_bytes

    @property
    def held_bytes(self) -> int:
        """Pages of all blocks in bytes, without the 72 bytes of metadata a block costs."""
        return self._held_bytes

    @property
    def objects(self) -> int:
        """Objects with an owner."""
        return len(self._owned)

    def stats(self) -> dict[str, Any]:
        """Blocks made and given back, stranded slots and bytes, and each type's state."""
        stranded = [tree.stranded_slots() for tree in self.trees]
        return {
            "pages_allocated": sum(tree.counter << tree.kind.order for tree in self.trees),
            "searched": self.blocks_searched,
            "objects_moved": 0,
            "blocks_inserted": self.blocks_inserted,
            "blocks_deleted": self.blocks_deleted,
            "stranded_slots": sum(stranded),
            "stranded_bytes": sum(
                count * kind.slot_bytes for count, kind in zip(stranded, self.types, strict=True)
            ),
            "classes": [
                {
                    "class": tree.kind.number,
                    "slot_bytes": tree.kind.slot_bytes,
                    "slots": tree.kind.slots,
                    "order": tree.kind.order,
                    "blocks": len(tree.blocks),
                    "blocks_ever": tree.counter,
                    "used_slots": len(tree.blocks) * tree.kind.slots - tree.free_total,
                    "free_slots": tree.free_total,
                    "stranded_slots": lost,
                }
                for tree, lost in zip(self.trees, stranded, strict=True)
            ],
        }
