# SPDX-License-Identifier: GPL-2.0-only
"""What a recorded call can do to a block tree next, and how to take it back.

The steps are the model's own critical sections (:class:`allocator.ztree.BlockTree`); this
module decides which of them agree with what the kernel returned. Handles tell nearly everything:
a set of completed calls fixes which slots are taken, hence each block's free count and coeff,
which blocks exist and which is ``last``. Only ``current`` depends on their order unseen.

Two things may be unknown. ``current`` is :data:`UNKNOWN` where a trace begins late or a call
could not be explained: some block that need not have free slots, or none. A slot is ``UNSEEN``
in a block that was there before the trace, until a call tells whether it is free.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from allocator.ztree import FREE, MAX_SLOTS, OCCUPIED, Block, BlockTree

UNKNOWN = Block(-1, 0)
UNSEEN = 4  # beyond the model's own slot states


class Kind(IntEnum):
    """What a call asks of one tree. A shrink is several calls, one per critical section."""

    MALLOC = 0
    FREE = 1
    FAILED_MALLOC = 2  # -ENOMEM: looked, found no free slot, got no pages
    PASS = 3  # a shrink that found this tree's oldest block current or last, or no block
    CHOOSE = 4  # a shrink marks this tree's oldest block
    RECOVER = 5  # a shrink takes back a slot whose object was evicted
    SETTLE = 6  # a shrink ends, giving the block back if it is empty
    MISFIT = 7  # a malloc whose size belongs to another tree than its handle


class Call(NamedTuple):
    """One call as one tree sees it. Times in ns; ``row`` is its row in the trace."""

    ts: int
    end: int
    kind: Kind
    block: int
    slot: int
    row: int
    cpu: int
    tid: int
    size: int


class Step(IntEnum):
    """How far a step takes a call. WHOLE: it took effect at one moment."""

    WHOLE = 0
    LOOK = 1  # a malloc found no free slot and let go of the lock
    INSERT = 2  # it added its block and let go of the lock again: gap G of H1
    TAKE = 3  # it made its block current and took a slot


class Saved(NamedTuple):
    """One step's undo. ``block`` None: the step inserted the tree's last block."""

    current: Block | None
    last: Block | None
    counter: int
    free_total: int
    block: Block | None
    free_slots: int
    coeff: int
    slots: bytes
    under_reclaim: bool
    present: bool


class State:
    """A tree with what is unknown of it, and the steps that recorded calls may make in it."""

    def __init__(self, tree: BlockTree) -> None:
        self.tree = tree
        self.slots = tree.kind.slots
        self.unseen: set[int] = set()  # blocks with UNSEEN slots

    # -- undo -------------------------------------------------------------------------------

    def save(self, block: Block | None) -> Saved:
        """What :meth:`undo` needs to take back one step on ``block`` (None: an insert)."""
        tree = self.tree
        common = (tree.current, tree.last, tree.counter, tree.free_total)
        if block is None:
            return Saved(*common, None, 0, 0, b"", False, False)
        return Saved(
            *(*common, block, block.free_slots, block.coeff, bytes(block.slots)),
            *(block.under_reclaim, tree.blocks.get(block.index) is block),
        )

    def undo(self, saved: Saved) -> None:
        """Take back the one step made since ``saved``."""
        tree, block = self.tree, saved.block
        if block is None:
            assert tree.last is not None
            del tree.blocks[tree.last.index]
        else:
            block.free_slots, block.coeff = saved.free_slots, saved.coeff
            block.slots[:] = saved.slots
            block.under_reclaim = saved.under_reclaim
            if saved.present and block.index not in tree.blocks:
                tree.blocks[block.index] = block
                tree.blocks = dict(sorted(tree.blocks.items()))  # reclaim takes the first
        tree.current, tree.last = saved.current, saved.last
        tree.counter, tree.free_total = saved.counter, saved.free_total

    # -- malloc -----------------------------------------------------------------------------

    def fits(self, block: Block, slot: int) -> bool:
        """Whether a malloc from ``block`` gives ``slot``: the lowest free one."""
        if block.index in self.unseen:
            lowest = block.slots.find(FREE, 0, self.slots)
            return block.slots[slot] in (FREE, UNSEEN) and (lowest < 0 or lowest >= slot)
        lowest = block.slots.find(FREE, 0, self.slots)
        return lowest == slot or (lowest < 0 and slot == self.slots)

    def found(self, call: Call) -> Block | None:
        """The block that an immediate malloc takes ``call``'s slot from; None: not this one."""
        tree = self.tree
        block = tree.look()
        if tree.current is UNKNOWN and (block is None or block.index != call.block):
            block = tree.blocks.get(call.block)  # it may be current, which nobody knows
        if block is None or block.index != call.block or not self.fits(block, call.slot):
            return None
        return block

    def can_miss(self) -> bool:
        """Whether malloc may find no free slot now."""
        return self.tree.look() is None

    def take(self, block: Block, slot: int, *, adopt: bool = False) -> int:
        """The model's take, told by the recorded slot what was unseen; returns the model's."""
        tree = self.tree
        if block.index in self.unseen:
            for lower in range(slot):
                if block.slots[lower] == UNSEEN:
                    block.slots[lower] = OCCUPIED
            if block.slots[slot] == UNSEEN:
                block.slots[slot] = FREE
                block.free_slots += 1
                tree.free_total += 1
        hidden = tree.current is UNKNOWN and not adopt and block is not tree.last
        taken = tree.take(block, adopt=adopt)
        if block.index in self.unseen:
            tree.current = UNKNOWN
        elif hidden:
            tree.current = block
        return taken

    # -- free -------------------------------------------------------------------------------

    def can_free(self, call: Call) -> bool:
        """Whether the object is allocated."""
        block = self.tree.blocks.get(call.block)
        return block is not None and call.slot < MAX_SLOTS and block.slots[call.slot] != FREE

    def release(self, call: Call) -> None:
        """The model's release; what it does to an unknown ``current`` stays unknown."""
        tree = self.tree
        unknown = tree.current is UNKNOWN or call.block in self.unseen
        done = tree.release(call.block, call.slot)
        if unknown and not (done.deleted or done.dropped):
            tree.current = UNKNOWN

    # -- reclaim ----------------------------------------------------------------------------

    def passes(self) -> bool:
        """Whether a shrink finds nothing to choose in this tree."""
        tree = self.tree
        block = next(iter(tree.blocks.values()), None)
        if tree.current is UNKNOWN or self.unseen:
            return True
        return block is None or block is tree.current or block is tree.last

    def chooses(self, index: int) -> Block | None:
        """The block a shrink marks if that can be the one with ``index``."""
        tree = self.tree
        block = tree.blocks.get(index)
        if block is None or block is tree.current or block is tree.last:
            return None
        oldest = next(iter(tree.blocks.values()))
        return block if block is oldest or self.unseen else None

    # -- what the trace says although the model does not ------------------------------------

    def adopt_unseen(self, index: int) -> Block:
        """Add a block that was there before the trace: nothing is known of its slots."""
        tree = self.tree
        block = Block(index, 0)
        block.slots[: self.slots] = bytes([UNSEEN]) * self.slots
        tree.blocks[index] = block
        tree.blocks = dict(sorted(tree.blocks.items()))
        self.unseen.add(index)
        return block

    def force(self, call: Call) -> None:
        """Make the tree agree with a call that nothing explains; ``current`` is then unknown."""
        tree = self.tree
        block = tree.blocks.get(call.block)
        if call.kind in (Kind.MALLOC, Kind.MISFIT):
            if block is None and call.block >= tree.counter:
                tree.counter = call.block
                block = tree.insert()
            elif block is None:
                block = self.adopt_unseen(call.block)
            if call.slot < self.slots and block.slots[call.slot] == FREE:
                block.slots[call.slot] = OCCUPIED
                block.free_slots -= 1
                tree.free_total -= 1
                tree.weigh(block)
        elif call.kind == Kind.SETTLE and block is not None:
            block.under_reclaim = False
        tree.current = UNKNOWN

    def answer(self, call: Call) -> str:
        """What the model does instead of ``call``, in words."""
        tree = self.tree
        block = tree.blocks.get(call.block)
        where = f"block {call.block} slot {call.slot}"
        if call.kind == Kind.MISFIT:
            return f"a handle of another type: {call.size} bytes do not belong to this one"
        if call.kind in (Kind.MALLOC, Kind.FAILED_MALLOC):
            given = tree.look()
            if given is None:
                return f"a new block {tree.counter}, slot 0"
            return f"block {given.index} slot {given.slots.find(FREE, 0, self.slots)}"
        if call.kind == Kind.FREE:
            if block is None:
                return f"block {call.block} does not exist"
            return f"{where} is free already"
        oldest = next(iter(tree.blocks), None)
        if call.kind == Kind.PASS:
            return f"shrink takes block {oldest} of this tree"
        return f"shrink does not take block {call.block}; the oldest is {oldest}"

    def cause(self, call: Call) -> str:
        """Which kind of fault in a trace that claims to be whole would look like this."""
        block = self.tree.blocks.get(call.block)
        if call.kind == Kind.FREE:
            return "a malloc of this handle is missing before it (lost event)"
        if call.kind == Kind.MALLOC:
            taken = block is not None and block.slots[call.slot] != FREE
            if taken:
                return "a free of this handle is missing before it (lost event)"
            if block is None and call.block > self.tree.counter:
                return "mallocs that made the blocks before this one are missing (lost events)"
        return "a rule that differs from the model's, or a call recorded wrongly"
