# SPDX-License-Identifier: GPL-2.0-only
"""The micro-steps of the posted ztree: what one CPU does without another being able to intervene.

A step that takes a lock is not enabled while another CPU holds it; locks are kept from step to
step as the posted code keeps them (the tree lock until the block lock is there). Memory is
released in the step that takes the block out of the tree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ztrace.replay.research.explore import owner, reclaim
from ztrace.replay.research.explore.machine import Finding, Frame, Machine, Undefined


class Step(NamedTuple):
    """A micro-step: the locks it takes (or needs to hold), what it does, the gap behind it."""

    run: Callable[[Machine, int, Frame], Frame | None]
    tree: bool = False
    block: bool = False
    gap: str = ""


def enabled(machine: Machine, cpu: int) -> bool:
    """Whether a CPU can take its next step: it has one, and nothing that it waits for."""
    frame = machine.frames[cpu]
    if frame is None or machine.dead:
        return False
    if frame.call.op in ("free", "map", "unmap") and not machine.exists(frame.call.k):
        return False
    step = STEPS[frame.step]
    if step.tree and not machine.tree_is_free(cpu):
        return False
    return not step.block or machine.block_locks.get(frame.block, cpu) == cpu


def advance(machine: Machine, cpu: int) -> list[Finding]:
    """Take a CPU's next step, which must be enabled; return the hazards that it runs into."""
    machine.said, machine.findings = [], []
    frame = machine.frames[cpu]
    assert frame is not None
    step = STEPS[frame.step]
    try:
        after = step.run(machine, cpu, frame)
    except Undefined as undefined:
        machine.findings.append(undefined.finding)
        machine.dead = True
        return machine.findings
    if after is None:
        machine.begin(cpu, frame.number + 1)
    else:
        machine.frames[cpu] = after
    return machine.findings


def gap_after(machine: Machine, step: str) -> str:
    """The name of the window that opens behind a step, or an empty text."""
    gap = STEPS[step].gap
    return "" if gap in machine.closed else gap


STEPS = {
    "look": Step(owner.look, tree=True),
    "insert": Step(owner.insert, tree=True, gap="G"),
    "adopt": Step(owner.adopt, tree=True),
    "take": Step(owner.take, block=True),
    "mark": Step(owner.mark),
    "free: find, count": Step(owner.free_count, tree=True),
    "free: lock": Step(owner.free_lock, block=True, gap="F"),
    "free: mark": Step(owner.free_mark),
    "reclaim: choose": Step(reclaim.choose, tree=True),
    "reclaim: read slot": Step(reclaim.read_slot),
    "reclaim: evict": Step(reclaim.evict),
    "reclaim: mark": Step(reclaim.slot_free, block=True),
    "reclaim: read count": Step(reclaim.read_count),
    "reclaim: write count": Step(reclaim.write_count),
    "reclaim: settle": Step(reclaim.settle, tree=True),
    "map: find": Step(owner.find, tree=True),
    "map: mark": Step(owner.set_state, block=True),
    "unmap: find": Step(owner.find, tree=True),
    "unmap: mark": Step(owner.set_state, block=True),
    "publish": Step(owner.publish),
}
