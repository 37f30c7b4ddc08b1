# SPDX-License-Identifier: GPL-2.0-only
"""Micro-steps of ztree_reclaim_block() on one tree.

Each function is one step of replay.explore.steps; it returns where its call goes on, or None.
The evict callback is that of a correct user: an object that it knows it writes back and frees,
from within; one that it does not know it takes for freed already. It never refuses.
"""

from __future__ import annotations

from ztrace.allocator.ztree.model import FREE, MAPPED, OCCUPIED, UNMAPPED, Block
from ztrace.replay.research.explore.machine import EVICTED, FLYING, LIVE, Frame, Machine, Object

_STATES = {FREE: "FREE", OCCUPIED: "OCCUPIED", MAPPED: "MAPPED", UNMAPPED: "UNMAPPED"}


def choose(machine: Machine, cpu: int, frame: Frame) -> Frame | None:
    """Mark the oldest block (r1, r2)."""
    oldest = next(iter(machine.tree.blocks.values()), None)
    already = oldest is not None and oldest.under_reclaim
    block = machine.tree.choose()
    if block is None:
        machine.say("no block, or the oldest is current or last")
        return None
    machine.say(f"block {block.index}")
    if already:
        machine.shared |= {block.index}
        machine.meet("H21", f"two reclaimers work on block {block.index}")
    return frame._replace(step="reclaim: read slot", block=block.index, slot=0)


def read_slot(machine: Machine, cpu: int, frame: Frame) -> Frame:
    """Read a slot's state without a lock (r3)."""
    state = _of_reclaim(machine, frame).slots[frame.slot]
    machine.say(f"slot {frame.slot} is {_STATES[state]}")
    return frame._replace(step="reclaim: evict") if state == UNMAPPED else _next(machine, frame)


def _next(machine: Machine, frame: Frame) -> Frame:
    slot = frame.slot + 1
    done = slot == machine.tree.kind.slots
    return frame._replace(step="reclaim: settle" if done else "reclaim: read slot", slot=slot)


def _of_reclaim(machine: Machine, frame: Frame) -> Block:
    block = machine.blocks[frame.block]
    machine.touch(block, "H21", "H21", "reclaim goes on with")
    return block


def evict(machine: Machine, cpu: int, frame: Frame) -> Frame:
    """Call evict without a lock (r4): 0 also if the object is not known."""
    handle = machine.handle(frame.block, frame.slot)
    after = frame._replace(step="reclaim: mark")
    if machine.blocks[frame.block].slots[frame.slot] == MAPPED:
        machine.meet("H24", f"slot {frame.slot} of block {frame.block} is evicted while mapped")
    for k in machine.holders(handle, LIVE):
        machine.objects[k] = Object(EVICTED, handle)
        machine.say(f"slot {frame.slot}: #{k} written back")
        return after._replace(step="free: find, count", outer=after)
    machine.say(f"slot {frame.slot}: no such object, returns 0")
    for k in machine.holders(handle, FLYING):
        machine.meet("H16", f"the slot of #{k}, whose store has not ended, is given away")
    return after


def slot_free(machine: Machine, cpu: int, frame: Frame) -> Frame:
    """Mark the slot (r5)."""
    _of_reclaim(machine, frame).slots[frame.slot] = FREE
    machine.dropped -= {machine.handle(frame.block, frame.slot)}
    machine.say(f"slot {frame.slot} FREE")
    return frame._replace(step="reclaim: read count")


def read_count(machine: Machine, cpu: int, frame: Frame) -> Frame:
    """First half of free_slots++ without a lock (r6)."""
    seen = _of_reclaim(machine, frame).free_slots
    machine.say(f"free_slots is {seen}")
    return frame._replace(step="reclaim: write count", seen=seen)


def write_count(machine: Machine, cpu: int, frame: Frame) -> Frame:
    """Second half of free_slots++ without a lock (r6)."""
    block, handle = _of_reclaim(machine, frame), machine.handle(frame.block, frame.slot)
    before = block.free_slots
    machine.tree.credit(block, frame.seen)
    machine.say(f"free_slots -> {block.free_slots}")
    if before != frame.seen:
        machine.meet(
            "H22", f"lost update: free_slots was {before} when {frame.seen} + 1 was written"
        )
    if block.slots[frame.slot] == FREE:  # else a malloc has taken it in the meantime
        counted = machine.counted.get(handle)
        if counted is not None:
            shared = "H21" if block.index in machine.shared else ""
            machine.meet(
                "H19" if counted == "free" else shared,
                f"slot {frame.slot} of block {block.index} is counted as free twice",
            )
        machine.counted[handle] = "reclaim"
    return _next(machine, frame)._replace(seen=0)


def settle(machine: Machine, cpu: int, frame: Frame) -> None:
    """Decide and give the block back or leave it (r7, r8)."""
    block = _of_reclaim(machine, frame)
    if machine.tree.settle(block):
        machine.say(f"block {block.index}")
        machine.release(block, "reclaim")
        return
    machine.say(f"block {block.index} stays, free_slots {block.free_slots}")
    for slot in range(machine.tree.kind.slots):
        if block.slots[slot] != FREE and machine.handle(block.index, slot) in machine.dropped:
            machine.meet(
                "H15",
                f"slot {slot} of block {block.index} is leaked: its free was dropped, it stays "
                f"{_STATES[block.slots[slot]]}",
            )
            machine.dropped -= {machine.handle(block.index, slot)}
