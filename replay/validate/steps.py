# SPDX-License-Identifier: GPL-2.0-only
"""What a recorded call can do to a block tree next, and how to take it back.

The steps are the model's own critical sections (:class:`allocator.ztree.model.BlockTree`); this
module decides which of them agree with what the kernel returned. Handles tell nearly everything:
a set of completed calls fixes which slots are taken, hence each block's free count and coeff,
which blocks exist and which is ``last``. Only ``current`` depends on their order unseen, and two
kinds of blocks, which are therefore *watched*: one under reclaim, in which a free came in time
or was dropped, and one that a malloc has added and not used yet, which others may have emptied.

Two things may be unknown. ``current`` is :data:`UNKNOWN` where a trace begins late or a call
could not be explained: some block that need not have free slots, or none. A slot is ``UNSEEN``
in a block that was there before the trace, until a call tells whether it is free.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from ztrace.allocator.protocol import HazardError
from ztrace.allocator.ztree.model import FREE, MAX_SLOTS, OCCUPIED, Block, BlockTree
from ztrace.replay.validate.answers import Answer, Cause, Said

UNKNOWN = Block(-1, 0)
UNSEEN = 4  # beyond the model's own slot states
NO_COUNTER = 1 << 60  # above every block index, while nobody knows which comes next

# What watched blocks are like: (index, in the tree, slots, free_slots, coeff, under_reclaim).
Variant = tuple[tuple[int, bool, bytes, int, int, bool], ...]


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


class Hidden(NamedTuple):
    """What of a tree depends on the order of calls unseen. ``last`` by a watched block only."""

    current: Block | None
    last: Block | None
    variant: Variant = ()

    @property
    def key(self) -> tuple[int | None, int | None, Variant]:
        """Equal for equal ones, whichever objects stand for the blocks."""
        current, last = self.current, self.last
        return (
            None if current is None else current.index,
            None if last is None else last.index,
            self.variant,
        )


class Saved(NamedTuple):
    """One step's undo: the tree, and the block that the step works on, before it."""

    current: Block | None
    last: Block | None
    counter: int
    free_total: int
    block: Block
    free_slots: int
    coeff: int
    slots: bytes
    under_reclaim: bool
    present: bool


class State:
    """A tree with what is unknown of it, and the steps that recorded calls may make in it.

    ``late``: the tree had blocks before the trace, so that there may be some which no call has
    named. ``adrift``: moreover nobody knows yet which block is last and which index comes next.
    """

    def __init__(self, tree: BlockTree, *, late: bool = False) -> None:
        self.tree = tree
        self.slots = tree.kind.slots
        self.unseen: set[int] = set()  # blocks with UNSEEN slots
        self.watched: dict[int, Block | None] = {}
        self._sorted = True
        self.late = self.adrift = late
        if late:
            tree.counter, tree.current = NO_COUNTER, UNKNOWN

    # -- undo -------------------------------------------------------------------------------

    def save(self, block: Block) -> Saved:
        """What :meth:`undo` needs to take back one step on ``block``."""
        tree = self.tree
        return Saved(
            *(tree.current, tree.last, tree.counter, tree.free_total),
            *(block, block.free_slots, block.coeff, bytes(block.slots)),
            *(block.under_reclaim, tree.blocks.get(block.index) is block),
        )

    def undo(self, saved: Saved) -> None:
        """Take back the one step made since ``saved``."""
        tree, block = self.tree, saved.block
        block.free_slots, block.coeff = saved.free_slots, saved.coeff
        block.slots[:] = saved.slots
        block.under_reclaim = saved.under_reclaim
        self._put(block, present=saved.present)
        tree.current, tree.last = saved.current, saved.last
        tree.counter, tree.free_total = saved.counter, saved.free_total

    def _put(self, block: Block, *, present: bool) -> None:
        tree = self.tree
        if present and block.index not in tree.blocks:
            tree.blocks[block.index] = block
            self._sorted = False
        elif not present and tree.blocks.get(block.index) is block:
            del tree.blocks[block.index]

    def oldest_first(self) -> dict[int, Block]:
        """The tree's blocks, sorted as the model has them; while searching they need not be."""
        tree = self.tree
        if not self._sorted:
            tree.blocks = dict(sorted(tree.blocks.items()))
            self._sorted = True
        return tree.blocks

    # -- watched blocks -----------------------------------------------------------------------

    def watch(self, index: int) -> None:
        """From now on the block's own state may differ between orders of the same calls."""
        self.watched.setdefault(index, self.tree.blocks.get(index))

    def remember(self, made: dict[int, Block]) -> None:
        """Note watched blocks that have come into being."""
        for index, block in self.watched.items():
            self.watched[index] = made.get(index, block)

    def hidden(self) -> Hidden:
        """``current``, ``last`` and the watched blocks as they are."""
        tree = self.tree
        if not self.watched:
            return Hidden(tree.current, tree.last)
        found = []
        for index, known in self.watched.items():
            one = tree.blocks.get(index)
            block = one or known
            if block is None:
                found.append((index, False, b"", 0, 0, False))
            else:
                state = (bytes(block.slots), block.free_slots, block.coeff, block.under_reclaim)
                found.append((index, one is not None, *state))
        return Hidden(tree.current, tree.last, tuple(found))

    def install(self, hidden: Hidden) -> None:
        """Make the tree as it was then, all else being as it is now."""
        tree = self.tree
        tree.current, tree.last = hidden.current, hidden.last
        for index, present, slots, free_slots, coeff, under_reclaim in hidden.variant:
            block = tree.blocks.get(index)
            if block is not None:
                tree.free_total -= block.free_slots
            block = block or self.watched[index]
            if block is None or not slots:
                continue
            block.slots[:] = slots
            block.free_slots, block.coeff, block.under_reclaim = free_slots, coeff, under_reclaim
            tree.free_total += free_slots if present else 0
            self._put(block, present=present)

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

    def insert(self) -> tuple[Block, Saved] | None:
        """The model's insert, and its undo; None if the model refuses (H28)."""
        tree = self.tree
        current, last, counter, free_total = tree.current, tree.last, tree.counter, tree.free_total
        try:
            block = tree.insert()
        except HazardError:
            tree.counter = counter
            return None
        if block.index in self.watched:
            self.watched[block.index] = block
        fresh = (block, block.free_slots, block.coeff, bytes(block.slots), False, False)
        return block, Saved(current, last, counter, free_total, *fresh)

    def take(self, block: Block, slot: int, *, adopt: bool = False) -> int:
        """The model's take, told by the recorded slot what was unseen; returns the model's slot."""
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
        if block.index in self.unseen or self.adrift:
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
        """The model's release; where the choice of ``current`` is uncertain it is unknown."""
        tree = self.tree
        if tree.current is not UNKNOWN and not self.unseen:
            tree.release(call.block, call.slot)
            return
        block, before = tree.blocks[call.block], tree.current
        preferred = self._preferred(block)
        done = tree.release(call.block, call.slot)
        if self.adrift:
            tree.current = UNKNOWN
        elif not done.deleted and not done.dropped:
            if preferred is None or (preferred and call.block in self.unseen):
                tree.current = UNKNOWN
            else:
                tree.current = block if preferred else before

    def _preferred(self, block: Block) -> bool | None:
        """Whether a free in ``block`` makes it current, whatever is unknown; None: it depends."""
        current, slots = self.tree.current, self.slots
        least = most = block.coeff
        if block.index in self.unseen:
            free = block.slots.count(FREE, 0, slots)
            possible = range(free, free + block.slots.count(UNSEEN, 0, slots) + 1)
            least = min(count * (slots - count) for count in possible)
            most = max(count * (slots - count) for count in possible)
        if current is None:
            return True
        greatest = slots // 2 * (slots - slots // 2) if current is UNKNOWN else current.coeff
        if least >= greatest:
            return True
        return False if current is not UNKNOWN and most < greatest else None

    # -- reclaim ----------------------------------------------------------------------------

    def passes(self) -> bool:
        """Whether a shrink finds nothing to choose in this tree."""
        return self.late or self.tree.current is UNKNOWN or self._chosen() is None

    def chooses(self, index: int) -> bool:
        """Whether the block with ``index`` is the one that a shrink marks."""
        tree = self.tree
        block = tree.blocks.get(index)
        if block is None or block is tree.current or block is tree.last:
            return False
        # Of blocks that no call has named yet, this shrink says that none is older.
        return self.late or block is self._chosen()

    def _chosen(self) -> Block | None:
        """The model's choice, taken back."""
        oldest = next(iter(self.oldest_first().values()), None)
        marked = oldest is not None and oldest.under_reclaim
        block = self.tree.choose()
        if block is not None:
            block.under_reclaim = marked and block is oldest
        return block

    def recovers(self, call: Call) -> bool:
        """Whether a shrink that has marked the block can have evicted the object."""
        return self.reclaims(call) and self.tree.blocks[call.block].slots[call.slot] != FREE

    def reclaims(self, call: Call) -> bool:
        """Whether the block is marked."""
        block = self.tree.blocks.get(call.block)
        return block is not None and block.under_reclaim

    # -- what the trace says although the model does not ------------------------------------

    def adopt_unseen(self, index: int) -> Block:
        """Add a block that was there before the trace: nothing is known of its slots."""
        block = Block(index, 0)
        block.slots[: self.slots] = bytes([UNSEEN]) * self.slots
        self._put(block, present=True)
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
            # Slots are given out from the lowest up: those below are taken.
            for slot in range(min(call.slot + 1, self.slots)):
                if block.slots[slot] == FREE:
                    tree.claim(block)
                if block.slots[slot] in (FREE, UNSEEN):
                    block.slots[slot] = OCCUPIED
            tree.weigh(block)
        elif call.kind in (Kind.CHOOSE, Kind.SETTLE) and block is not None:
            block.under_reclaim = call.kind == Kind.CHOOSE
        tree.current = UNKNOWN

    def answer(self, call: Call) -> Answer:
        """What the model does instead of ``call``."""
        if call.kind == Kind.MISFIT:
            return Answer(Said.OTHER_TYPE)
        if call.kind in (Kind.MALLOC, Kind.FAILED_MALLOC):
            return self._given(call)
        if call.kind == Kind.FREE:
            exists = call.block in self.tree.blocks
            return Answer(Said.FREE_ALREADY if exists else Said.NO_BLOCK)
        if call.kind == Kind.RECOVER:
            return Answer(Said.NOT_TO_RECOVER)
        if call.kind == Kind.SETTLE:
            return Answer(Said.NOT_RECLAIMED)
        said = Said.TAKES if call.kind == Kind.PASS else Said.DOES_NOT_TAKE
        return Answer(said, next(iter(self.oldest_first()), -1))

    def _given(self, call: Call) -> Answer:
        tree = self.tree
        given = tree.look()
        if tree.current is UNKNOWN and call.block in tree.blocks:
            given = tree.blocks[call.block]
            if given.slots.find(FREE, 0, self.slots) < 0:
                return Answer(Said.NO_FREE_SLOT)
        if given is None and self.adrift:
            return Answer(Said.NEW_BLOCK_ADRIFT)
        if given is None:
            return Answer(Said.NEW_BLOCK, tree.counter)
        saved = self.save(given)
        slot = tree.take(given)
        self.undo(saved)
        return Answer(Said.GIVES, given.index, slot)

    def cause(self, call: Call) -> Cause:
        """Which kind of fault in a trace that claims to be whole would look like this."""
        block = self.tree.blocks.get(call.block)
        if call.kind == Kind.FREE:
            return Cause.MALLOC_LOST
        if call.kind == Kind.MALLOC:
            taken = block is not None and block.slots[call.slot] != FREE
            if taken:
                return Cause.FREE_LOST
            if block is None and call.block > self.tree.counter:
                return Cause.BLOCKS_LOST
        return Cause.OTHER_RULE
