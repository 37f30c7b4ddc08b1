# SPDX-License-Identifier: GPL-2.0-only
"""The bundled recordings can tell the model from models with one rule changed.

Each mutant changes one rule of the posted ztree. If a recording explained one as well as the
model, it would prove nothing about that rule. ``pytest -s`` shows the table.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from allocator.ztree import FREE, Block, BlockTree, Released
from replay.validate import Verdict, validate
from traces import TraceReader

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"
NAMES = tuple(sorted(path.name for path in SAMPLES.glob("*.parquet")))


class StrictlyBetter(BlockTree):
    """A free makes its block current only if its coeff is greater: > instead of >=."""

    def prefers(self, block: Block, current: Block) -> bool:
        return block.coeff > current.coeff


class NeverPrefers(BlockTree):
    """A free never takes the place of a current block."""

    def prefers(self, block: Block, current: Block) -> bool:
        return False


class AlwaysPrefers(BlockTree):
    """Every free makes its block current."""

    def prefers(self, block: Block, current: Block) -> bool:
        return True


class CoeffAfter(BlockTree):
    """The coeff compared is the one after the free, not the one before."""

    def prefers(self, block: Block, current: Block) -> bool:
        slots = self.kind.slots
        return block.free_slots * (slots - block.free_slots) >= current.coeff


class CoeffIsFree(BlockTree):
    """coeff is the number of free slots instead of free times used."""

    def weigh(self, block: Block) -> None:
        block.coeff = block.free_slots


class LastFirst(BlockTree):
    """malloc looks at last before current."""

    def look(self) -> Block | None:
        for block in (self.last, self.current):
            if block is not None and block.free_slots > 0:
                return block
        return None


class OnlyCurrent(BlockTree):
    """malloc does not look at last."""

    def look(self) -> Block | None:
        current = self.current
        return current if current is not None and current.free_slots > 0 else None


class AnyBlock(BlockTree):
    """malloc finds any block with a free slot, oldest first: nothing is stranded."""

    def look(self) -> Block | None:
        found = super().look()
        if found is None and self.free_total > 0:
            found = next((one for one in self.blocks.values() if one.free_slots > 0), None)
        return found


class HighestSlot(BlockTree):
    """malloc takes the highest free slot."""

    def take(self, block: Block, *, adopt: bool = False) -> int:
        slot = block.slots.rfind(FREE, 0, self.kind.slots)
        lower = block.slots.find(FREE, 0, self.kind.slots)
        taken = super().take(block, adopt=adopt)
        if taken == lower and slot > lower:
            block.slots[slot], block.slots[lower] = block.slots[lower], FREE
            return slot
        return taken


class NotAdopted(BlockTree):
    """A new block does not become current."""

    def take(self, block: Block, *, adopt: bool = False) -> int:
        return super().take(block)


class NotLast(BlockTree):
    """A new block does not become last unless it is the only one."""

    def insert(self) -> Block:
        before = self.last
        block = super().insert()
        if before is not None:
            self.last = before
        return block


class DeleteKeepsCurrent(BlockTree):
    """A block that becomes empty leaves another current block alone."""

    def release(self, index: int, slot: int) -> Released:
        before = self.current
        done = super().release(index, slot)
        if done.deleted and before is not None and before.index in self.blocks:
            self.current = before
        return done


class DeleteForgetsCurrent(BlockTree):
    """When a block becomes empty current is none instead of last."""

    def release(self, index: int, slot: int) -> Released:
        done = super().release(index, slot)
        if done.deleted:
            self.current = None
        return done


class DeleteLastKeepsCurrent(BlockTree):
    """When the last block becomes empty, current stays."""

    def release(self, index: int, slot: int) -> Released:
        before = self.current
        done = super().release(index, slot)
        if done.deleted and self.last is None and before is not done.block:
            self.current = before
        return done


class NeverDeletes(BlockTree):
    """A block that becomes empty stays."""

    def release(self, index: int, slot: int) -> Released:
        counter, last, current = self.counter, self.last, self.current
        done = super().release(index, slot)
        if done.deleted and done.block is not None:
            block = done.block
            block.slots[:] = bytes(len(block.slots))
            block.free_slots = self.kind.slots
            self.blocks[block.index] = block
            self.free_total += self.kind.slots
            self.counter, self.last, self.current = counter, last, current
            self.weigh(block)
        return done


class IndexReused(BlockTree):
    """A new block takes the lowest index that is not in use."""

    def insert(self) -> Block:
        index = 0
        while index in self.blocks:
            index += 1
        self.counter = index
        return super().insert()


MUTANTS = (
    *(StrictlyBetter, NeverPrefers, AlwaysPrefers, CoeffAfter, CoeffIsFree),
    *(LastFirst, OnlyCurrent, AnyBlock, HighestSlot, NotAdopted, NotLast),
    *(DeleteKeepsCurrent, DeleteForgetsCurrent, DeleteLastKeepsCurrent),
    *(NeverDeletes, IndexReused),
)


def verdict_of(name: str, tree: type[BlockTree]) -> Verdict:
    with TraceReader(SAMPLES / name) as reader:
        return validate(reader, tree_class=tree)


def test_the_model_itself_is_explained() -> None:
    assert all(verdict_of(name, BlockTree).explained for name in NAMES)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_each_mutant_is_rejected(mutant: type[BlockTree]) -> None:
    rejected = 0
    for name in NAMES:
        verdict = verdict_of(name, mutant)
        assert verdict.explained == (verdict.unexplained_count == 0)
        rejected += not verdict.explained
        missing = verdict.total("calls") - verdict.total("explained")
        print(f"{mutant.__name__:24}{name:26}{missing:8,} calls not explained")
    assert rejected
