# SPDX-License-Identifier: GPL-2.0-only
"""What a recorded call can do to a block tree next, and how to take it back.

This is what the search for an order (replay/validate/search.py) asks of a model. The steps are the
model's own critical sections (:class:`allocator.ztree.model.BlockTree`). A malloc that finds no
free slot takes three, between which the kernel holds no lock and other calls may act. This module
decides which of them agree with what the kernel returned. Handles tell nearly everything:
a set of completed calls fixes which slots are taken, hence each block's free count and coeff,
which blocks exist and which is ``last``. Only ``current`` depends on their order unseen, and two
kinds of blocks, which are therefore *watched*: one under reclaim, in which a free came in time
or was dropped, and one that a malloc has added and not used yet, which others may have emptied.

Two things may be unknown. ``current`` is :data:`UNKNOWN` where a trace begins late or a call
could not be explained: some block that need not have free slots, or none. A slot is ``UNSEEN``
in a block that was there before the trace, until a call tells whether it is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ztrace.allocator.causes import Cause
from ztrace.allocator.protocol import HazardError
from ztrace.allocator.ztree.calls import Answer, BlockCall, BlockKind, BlockStep, Said
from ztrace.allocator.ztree.model import FREE, MAX_SLOTS, OCCUPIED, Block, BlockTree

UNKNOWN = Block(-1, 0)
UNSEEN = 4  # beyond the model's own slot states
NO_COUNTER = 1 << 60  # above every block index, while nobody knows which comes next

# What may come next of a call: steps that are taken at once.
WHOLE = (BlockStep.WHOLE,)
LOOK = (BlockStep.LOOK,)
MISS = (BlockStep.LOOK, BlockStep.INSERT, BlockStep.TAKE)
INSERT_AND_TAKE = (BlockStep.INSERT, BlockStep.TAKE)
INSERT = (BlockStep.INSERT,)
TAKE = (BlockStep.TAKE,)

# What watched blocks are like: (index, in the tree, slots, free_slots, coeff, under_reclaim).
Variant = tuple[tuple[int, bool, bytes, int, int, bool], ...]


class TreeHidden(NamedTuple):
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


class TreeSaved(NamedTuple):
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


class TreeState:
    """A tree with what is unknown of it, and the steps that recorded calls may make in it.

    ``late``: the tree had blocks before the trace, so that there may be some which no call has
    named. ``adrift``: moreover nobody knows yet which block is last and which index comes next.
    """

    nodes = 4000  # after which a search is content; two CPUs' calls need some ten nodes each
    splits: Sequence[int | None] = (0, 1, None)

    def __init__(self, tree: BlockTree, *, late: bool = False) -> None:
        self.tree = tree
        self.slots = tree.kind.slots
        self.unseen: set[int] = set()  # blocks with UNSEEN slots
        self.watched: dict[int, Block | None] = {}
        self.inserted: dict[int, Block] = {}  # by the row of the malloc that did it
        self._sorted = True
        self.late = self.adrift = late
        if late:
            tree.counter, tree.current = NO_COUNTER, UNKNOWN

    # -- what the search asks -----------------------------------------------------------------

    def begin(self, calls: Sequence[BlockCall]) -> None:
        """The calls of a group, all of which are still to be done."""
        if len(calls) == 1:
            return
        for call in calls:
            if call.kind in (BlockKind.CHOOSE, BlockKind.SETTLE) or (
                call.kind == BlockKind.MALLOC and call.block >= self.tree.counter
            ):
                self.watch(call.block)

    def steps(self, call: BlockCall, made: int) -> Sequence[tuple[BlockStep, ...]]:
        """What a call that has ``made`` so many steps may do now, as it was recorded."""
        if call.kind == BlockKind.MALLOC:
            return self._malloc_steps(call, made)
        if call.kind == BlockKind.FREE:
            possible = self.can_free(call)
        elif call.kind == BlockKind.FAILED_MALLOC:
            possible = self.can_miss()
        elif call.kind == BlockKind.PASS:
            possible = self.passes()
        elif call.kind == BlockKind.CHOOSE:
            possible = self.chooses(call.block)
        elif call.kind == BlockKind.RECOVER:
            possible = self.recovers(call)
        else:
            possible = call.kind == BlockKind.SETTLE and self.reclaims(call)
        return [WHOLE] if possible else []

    def _malloc_steps(self, call: BlockCall, made: int) -> Sequence[tuple[BlockStep, ...]]:
        tree = self.tree
        if made == len(INSERT_AND_TAKE):
            return [TAKE] if self.fits(self.inserted[call.row], call.slot) else []
        # The handle names the block that a call inserts.
        at_once = tree.counter == call.block and call.slot == 0
        if made:
            if tree.counter != call.block:
                return []
            return [INSERT_AND_TAKE, INSERT] if at_once else [INSERT]
        found = [WHOLE] if self.found(call) is not None else []
        if call.block >= tree.counter and self.can_miss():
            return [*found, MISS, LOOK] if at_once else [*found, LOOK]
        return found

    def act(self, call: BlockCall, step: BlockStep) -> tuple[TreeSaved | None, bool]:
        """Have the model make a step, which must be possible.

        Returns its undo, if it needs one, and whether the model answers as recorded.
        """
        if step == BlockStep.LOOK:
            return None, True
        if step == BlockStep.INSERT:
            made = self.insert()
            if made is None:
                return None, False
            block, saved = made
            self.inserted[call.row] = block
            return saved, block.index == call.block
        if step == BlockStep.TAKE:
            block = self.inserted[call.row]
            saved = self.save(block)
            return saved, self.take(block, call.slot, adopt=True) == call.slot
        if call.kind == BlockKind.MALLOC:
            found = self.found(call)
            assert found is not None
            saved = self.save(found)
            return saved, self.take(found, call.slot) == call.slot
        if call.kind in (BlockKind.FAILED_MALLOC, BlockKind.PASS):
            return None, True
        block = self.tree.blocks[call.block]
        saved = self.save(block)
        if call.kind == BlockKind.FREE:
            self.release(call)
        elif call.kind == BlockKind.CHOOSE:
            block.under_reclaim = True
        elif call.kind == BlockKind.RECOVER:
            self.tree.recover(block, call.slot)
        else:
            self.tree.settle(block)
        return saved, True

    # -- undo -------------------------------------------------------------------------------

    def save(self, block: Block) -> TreeSaved:
        """What :meth:`undo` needs to take back one step on ``block``."""
        tree = self.tree
        return TreeSaved(
            *(tree.current, tree.last, tree.counter, tree.free_total),
            *(block, block.free_slots, block.coeff, bytes(block.slots)),
            *(block.under_reclaim, tree.blocks.get(block.index) is block),
        )

    def undo(self, saved: TreeSaved) -> None:
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

    def hidden(self) -> TreeHidden:
        """``current``, ``last`` and the watched blocks as they are."""
        tree = self.tree
        if not self.watched:
            return TreeHidden(tree.current, tree.last)
        found = []
        for index, known in self.watched.items():
            one = tree.blocks.get(index)
            block = one or known
            if block is None:
                found.append((index, False, b"", 0, 0, False))
            else:
                state = (bytes(block.slots), block.free_slots, block.coeff, block.under_reclaim)
                found.append((index, one is not None, *state))
        return TreeHidden(tree.current, tree.last, tuple(found))

    def install(self, hidden: TreeHidden) -> None:
        """Make the tree as it was then, none of the group's calls being done."""
        tree = self.tree
        self.inserted.clear()
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

    def named(self, hidden: TreeHidden) -> TreeHidden:
        """By the blocks that mallocs have inserted since :meth:`install`, released since or not.

        A state that was taken back and done again may name blocks that were made before.
        """
        made = {block.index: block for block in self.inserted.values()}
        current, last = (
            one if one is None else made.get(one.index, one)
            for one in (hidden.current, hidden.last)
        )
        return TreeHidden(current, last, hidden.variant)

    # -- malloc -----------------------------------------------------------------------------

    def fits(self, block: Block, slot: int) -> bool:
        """Whether a malloc from ``block`` gives ``slot``: the lowest free one."""
        if block.index in self.unseen:
            lowest = block.slots.find(FREE, 0, self.slots)
            return block.slots[slot] in (FREE, UNSEEN) and (lowest < 0 or lowest >= slot)
        lowest = block.slots.find(FREE, 0, self.slots)
        return lowest == slot or (lowest < 0 and slot == self.slots)

    def found(self, call: BlockCall) -> Block | None:
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

    def insert(self) -> tuple[Block, TreeSaved] | None:
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
        return block, TreeSaved(current, last, counter, free_total, *fresh)

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

    def can_free(self, call: BlockCall) -> bool:
        """Whether the object is allocated."""
        block = self.tree.blocks.get(call.block)
        return block is not None and call.slot < MAX_SLOTS and block.slots[call.slot] != FREE

    def release(self, call: BlockCall) -> None:
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

    def recovers(self, call: BlockCall) -> bool:
        """Whether a shrink that has marked the block can have evicted the object."""
        return self.reclaims(call) and self.tree.blocks[call.block].slots[call.slot] != FREE

    def reclaims(self, call: BlockCall) -> bool:
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

    def force(self, call: BlockCall) -> None:
        """Make the tree agree with a call that nothing explains; ``current`` is then unknown."""
        tree = self.tree
        block = tree.blocks.get(call.block)
        if call.kind in (BlockKind.MALLOC, BlockKind.MISFIT):
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
        elif call.kind in (BlockKind.CHOOSE, BlockKind.SETTLE) and block is not None:
            block.under_reclaim = call.kind == BlockKind.CHOOSE
        tree.current = UNKNOWN

    def answer(self, call: BlockCall) -> str:
        """What the model does instead of ``call``, in words."""
        return self.instead_of(call).text(call)

    def instead_of(self, call: BlockCall) -> Answer:
        """What the model does instead of ``call``."""
        if call.kind == BlockKind.MISFIT:
            return Answer(Said.OTHER_TYPE)
        if call.kind in (BlockKind.MALLOC, BlockKind.FAILED_MALLOC):
            return self._given(call)
        if call.kind == BlockKind.FREE:
            exists = call.block in self.tree.blocks
            return Answer(Said.FREE_ALREADY if exists else Said.NO_BLOCK)
        if call.kind == BlockKind.RECOVER:
            return Answer(Said.NOT_TO_RECOVER)
        if call.kind == BlockKind.SETTLE:
            return Answer(Said.NOT_RECLAIMED)
        said = Said.TAKES if call.kind == BlockKind.PASS else Said.DOES_NOT_TAKE
        return Answer(said, next(iter(self.oldest_first()), -1))

    def _given(self, call: BlockCall) -> Answer:
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

    def cause(self, call: BlockCall) -> Cause:
        """Which kind of fault in a trace that claims to be whole would look like this."""
        block = self.tree.blocks.get(call.block)
        if call.kind == BlockKind.FREE:
            return Cause.MALLOC_LOST
        if call.kind == BlockKind.MALLOC:
            taken = block is not None and block.slots[call.slot] != FREE
            if taken:
                return Cause.FREE_LOST
            if block is None and call.block > self.tree.counter:
                return Cause.BLOCKS_LOST
        return Cause.OTHER_RULE
