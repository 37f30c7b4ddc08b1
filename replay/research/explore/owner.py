# SPDX-License-Identifier: GPL-2.0-only
"""Micro-steps of the calls of the pool's user: malloc, free, map, unmap, and a store's end.

Each function is one step of replay.explore.steps; it returns where its call goes on, or None.
The labels (a1 ... m4) are lock, work and unlock of the posted functions, in their order.
"""

from __future__ import annotations

from ztrace.allocator.ztree.model import FREE, MAPPED, UNMAPPED, Block, BlockTree
from ztrace.replay.research.explore.machine import (
    EVICTED,
    FLYING,
    FREED,
    LIVE,
    POOL,
    Frame,
    Machine,
    Object,
)

# -- malloc: ztree_alloc() and alloc_block() ---------------------------------------------------


def look(machine: Machine, cpu: int, frame: Frame) -> Frame:
    """Find a block with a free slot (a1 to a3)."""
    tree = machine.tree
    for name, near in (("current", tree.current), ("last", tree.last)):
        if near is None:
            continue
        machine.touch(near, "H3", "H4", f"malloc follows `{name}` to")
        if near.free_slots > 0:
            machine.tree_lock = cpu
            machine.say(f"{name}, block {near.index}, has {near.free_slots} free")
            return frame._replace(step="take", block=near.index)
    if "G" in machine.closed:
        machine.tree_lock = cpu
    machine.say("no free slot")
    return frame._replace(step="insert", seen=tree.counter)


def insert(machine: Machine, cpu: int, frame: Frame) -> Frame:
    """Add a block (a4 to a6)."""
    block = machine.tree.insert()
    machine.blocks[block.index] = block
    machine.say(f"block {block.index} becomes last")
    return frame._replace(step="adopt", block=block.index)


def adopt(machine: Machine, cpu: int, frame: Frame) -> Frame:
    """Make it current (a7), not looking at it again."""
    tree, block = machine.tree, machine.blocks[frame.block]
    lost = tree.current
    tree.adopt(block)
    machine.tree_lock = cpu
    machine.say(f"block {block.index} becomes current")
    # A block added since this call found none, and pushed out before it is full.
    if lost is not None and lost is not block and lost is not tree.last:
        added_since = lost.index >= frame.seen and lost.index not in machine.released
        if added_since and lost.free_slots:
            machine.meet(
                "H5",
                f"block {lost.index} is neither current nor last any more: its {lost.free_slots} "
                "free slots are lost to malloc",
            )
    return frame._replace(step="take")


def take(machine: Machine, cpu: int, frame: Frame) -> Frame:
    """Lock the block and count the slot (a8, a9)."""
    block = machine.blocks[frame.block]
    machine.touch(block, "H3", "H4", "malloc takes a slot of its new")
    before = block.free_slots
    machine.tree.claim(block)
    machine.say(f"free_slots {before} -> {block.free_slots}")
    if before == 0:
        machine.meet("H1", f"free_slots of block {block.index} wraps from 0 to {block.free_slots}")
    if block.under_reclaim:
        machine.meet("H6", f"malloc takes a slot of block {block.index}, which is under reclaim")
    machine.block_locks[block.index] = cpu
    machine.tree_lock = None
    return frame._replace(step="mark")


def mark(machine: Machine, cpu: int, frame: Frame) -> Frame | None:
    """Search and mark a slot, build the handle (a10 to a12)."""
    block, k = machine.blocks[frame.block], frame.call.k
    machine.touch(block, "H7", "H6", "malloc marks a slot of")
    slot = machine.tree.mark(block)
    handle = machine.handle(block.index, slot)
    machine.say(f"#{k} = {handle:#x}")
    twice = machine.holders(handle, FLYING, LIVE)
    if twice:
        machine.meet("H2", f"#{k} and #{twice[0]} have the same handle {handle:#x}")
    elif slot == machine.tree.kind.slots:
        machine.meet("H2", f"slot {slot} of block {block.index} does not exist: {handle:#x}")
    store = frame.call.op == "store"
    machine.objects[k] = Object(FLYING if store else LIVE, handle)
    machine.counted.pop(handle, None)
    machine.dropped -= {handle}
    machine.unlock_block(block)
    return frame._replace(step="map: find") if store else None


# -- free: ztree_free() ------------------------------------------------------------------------


def free_count(machine: Machine, cpu: int, frame: Frame) -> Frame | None:
    """Find the block, count the slot, delete the block or choose current (f1 to f3)."""
    tree, k = machine.tree, frame.call.k
    if frame.outer is None:
        if machine.objects[k].state != LIVE:
            machine.say(f"#{k} was evicted, nothing to free")
            return None
        handle = machine.objects[k].handle
        machine.objects[k] = Object(FREED, handle)
    else:
        handle = machine.handle(frame.outer.block, frame.outer.slot)
    place = POOL.decode(handle)
    block = tree.blocks.get(place.block)
    if block is not None and not block.under_reclaim:
        _meet_coeff(machine, block)
    done = tree.count_free(place.block)
    if block is None:
        machine.say(f"block {place.block} not found")
        machine.meet("", f"free of {handle:#x} finds no block")
        return frame.outer
    if done.dropped:
        machine.say(f"block {block.index} is under reclaim: dropped")
        if frame.outer is None:
            machine.dropped |= {handle}
        return frame.outer
    machine.say(f"block {block.index}, free_slots -> {block.free_slots}")
    if machine.counted.get(handle) == "reclaim":
        inner = "H21" if block.index in machine.shared else ""
        machine.meet(
            inner if frame.outer else "H18",
            f"slot {place.slot} of block {block.index} is counted as free twice",
        )
    machine.counted[handle] = "free" if frame.outer is None else "reclaim"
    if done.deleted:
        machine.release(block, "free")
        return frame.outer
    machine.tree_lock = cpu
    return frame._replace(step="free: lock", block=block.index, slot=place.slot)


def _meet_coeff(machine: Machine, block: Block) -> None:
    """Look at the comparison that free is about to make (not made if the block is deleted)."""
    tree, current = machine.tree, machine.tree.current
    if block.free_slots + 1 == tree.kind.slots or current is None:
        return
    machine.touch(current, "H3", "H4", "free follows `current` to")
    exact = _coeff(tree, block) >= _coeff(tree, current)
    if tree.prefers(block, current) != exact:
        stale = block if block.coeff != _coeff(tree, block) else current
        wrong = "does not become" if exact else "becomes"
        machine.meet(
            "H9",
            f"coeff of block {stale.index} is stale, {stale.coeff} instead of "
            f"{_coeff(tree, stale)}: block {block.index} {wrong} current",
        )


def _coeff(tree: BlockTree, block: Block) -> int:
    return block.free_slots * (tree.kind.slots - block.free_slots)


def free_lock(machine: Machine, cpu: int, frame: Frame) -> Frame:
    """Change from the tree lock to the block lock (f4, f5)."""
    machine.block_locks[frame.block] = cpu
    if "F" not in machine.closed:
        machine.tree_lock = None
    machine.say(f"block {frame.block}")
    return frame._replace(step="free: mark")


def free_mark(machine: Machine, cpu: int, frame: Frame) -> Frame | None:
    """Mark the slot (f6, f7)."""
    block = machine.blocks[frame.block]
    machine.touch(block, "H7", "H20", "free writes to and unlocks")
    machine.tree.clear(block, frame.slot)
    machine.say(f"block {block.index}, slot {frame.slot} FREE")
    machine.unlock_block(block)
    if machine.tree_lock == cpu:
        machine.tree_lock = None
    return frame.outer


# -- map and unmap: ztree_map(), ztree_unmap(); and the end of a store ------------------------


def find(machine: Machine, cpu: int, frame: Frame) -> Frame | None:
    """Resolve the handle (m1, m2)."""
    one = machine.objects[frame.call.k]
    if one.state in (FREED, EVICTED):
        machine.say(f"#{frame.call.k} is gone, nothing to do")
        return None
    if machine.tree.current is not None:
        machine.touch(machine.tree.current, "H25", "H25", f"{frame.call} follows `current` to")
    place = POOL.decode(one.handle)
    block = machine.tree.find(place.block)
    if block is None:
        machine.say(f"block {place.block} not found")
        machine.meet("H26", f"{frame.call} of {one.handle:#x}: block not found, NULL returned")
        return None
    machine.say(f"block {block.index}")
    step = frame.step.replace("find", "mark")
    return frame._replace(step=step, block=block.index, slot=place.slot)


def set_state(machine: Machine, cpu: int, frame: Frame) -> Frame | None:
    """Set the state whatever it was (m3, m4)."""
    block = machine.blocks[frame.block]
    machine.touch(block, "H24", "H24", f"{frame.call} writes to")
    to_map = frame.step == "map: mark"
    if block.slots[frame.slot] == FREE:
        machine.meet("H24", f"{frame.call}: slot {frame.slot} of block {block.index} was FREE")
    block.slots[frame.slot] = MAPPED if to_map else UNMAPPED
    machine.say(f"slot {frame.slot} {'MAPPED' if to_map else 'UNMAPPED'}")
    if frame.call.op != "store":
        return None
    return frame._replace(step="unmap: find" if to_map else "publish")


def publish(machine: Machine, cpu: int, frame: Frame) -> None:
    """End of a store: the user's evict callback now knows the object."""
    handle = machine.objects[frame.call.k].handle
    place = POOL.decode(handle)
    machine.objects[frame.call.k] = Object(LIVE, handle)
    machine.say(f"the user records #{frame.call.k}")
    if place.block in machine.released:
        machine.meet("", f"the user keeps {handle:#x}, whose block was released")
    elif machine.blocks[place.block].slots[place.slot] == FREE:
        machine.meet("", f"the user keeps {handle:#x}, whose slot is FREE")
