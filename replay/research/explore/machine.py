# SPDX-License-Identifier: GPL-2.0-only
"""One block tree that several CPUs work on: its state between two micro-steps.

The rules are :class:`allocator.ztree.model.BlockTree`'s. What a single flow of control does not
need is added here: who holds which lock, how far each CPU is, which blocks' memory was released,
and what only an observer knows (who owns an object, who counted a slot), by which hazards are
recognised.
"""

from __future__ import annotations

from typing import NamedTuple

from ztrace.allocator.ztree.model import Block, BlockTree, Ztree
from ztrace.replay.research.explore.calls import Call, Program

POOL = Ztree()
"""Gives types and handles; never changed."""
MAX_INDEX = 1 << 20
"""Block indices do not come round here (H28 is not a race)."""

GAPS = {"G": "the tree lock is held from look to take", "F": "the tree lock is held through free"}
"""Variants of ztree in which a window is closed, to see what it was that a schedule needed."""

# How an object is seen from outside; FLYING is a store whose user has not recorded it yet.
ABSENT, FLYING, LIVE, FREED, EVICTED = range(5)


class Object(NamedTuple):
    """What the observer knows about the object of one malloc."""

    state: int = ABSENT
    handle: int = -1


class Frame(NamedTuple):
    """Where a CPU is: the micro-step that comes next and what its call remembers until then."""

    call: Call
    number: int  # of the call in its program
    step: str
    block: int = -1  # index of the block at hand
    slot: int = -1
    seen: int = 0  # malloc: tree.counter at look; reclaim: free_slots as read
    outer: Frame | None = None  # a free inside evict: the reclaim that waits for it


class Finding(NamedTuple):
    """A hazard (``H1`` ...) or, with an empty name, a consequence worth saying."""

    name: str
    text: str


class Undefined(Exception):
    """The step touched released memory; nothing can be said about what comes after."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.finding = Finding(name, text)


FIRST_STEP = {
    "malloc": "look",
    "store": "look",
    "free": "free: find, count",
    "reclaim": "reclaim: choose",
    "map": "map: find",
    "unmap": "unmap: find",
}


class Machine:
    """The state of a block tree, its locks and the CPUs' calls.

    ``closed`` names the windows (keys of GAPS) that this variant of ztree does not have. A state
    without a step to take is an end: ``dead`` if the kernel's behaviour is undefined from here.
    """

    __slots__ = (
        *("blocks", "block_locks", "closed", "counted", "dead", "dropped", "findings", "frames"),
        *("objects", "programs", "released", "said", "shared", "tree", "tree_lock"),
    )

    def __init__(self, type_number: int, objects: int, closed: frozenset[str]) -> None:
        self.closed = closed
        self.tree = BlockTree(POOL.types[type_number], MAX_INDEX)
        self.blocks: dict[int, Block] = {}  # released ones too
        self.released: dict[int, str] = {}  # block index -> the call that released it
        self.tree_lock: int | None = None
        self.block_locks: dict[int, int] = {}  # block index -> CPU
        self.objects = [Object()] * (objects + 1)  # by number, from 1
        self.counted: dict[int, str] = {}  # handle -> the call that counted its slot as free
        self.dropped: frozenset[int] = frozenset()  # handles whose free was dropped
        self.shared: frozenset[int] = frozenset()  # blocks that two reclaimers chose at once
        self.programs: tuple[Program, ...] = ()
        self.frames: list[Frame | None] = []
        self.dead = False
        self.said: list[str] = []  # of the last step only
        self.findings: list[Finding] = []  # of the last step only

    def load(self, programs: tuple[Program, ...]) -> None:
        """Let every CPU begin with the first call of its program."""
        self.programs = programs
        self.frames = [None] * len(programs)
        for cpu in range(len(programs)):
            self.begin(cpu, 0)

    def begin(self, cpu: int, number: int) -> None:
        """Let a CPU go on with call ``number`` of its program, if there is one."""
        program = self.programs[cpu]
        if number < len(program):
            self.frames[cpu] = Frame(program[number], number, FIRST_STEP[program[number].op])
        else:
            self.frames[cpu] = None

    def clone(self) -> Machine:
        """Copy the state; programs, which never change, are shared."""
        new = Machine.__new__(Machine)
        new.closed, new.programs, new.dead = self.closed, self.programs, self.dead
        new.blocks = {index: _copy(block) for index, block in self.blocks.items()}
        old, tree = self.tree, BlockTree(self.tree.kind, MAX_INDEX)
        tree.blocks = {index: new.blocks[index] for index in old.blocks}
        tree.current = None if old.current is None else new.blocks[old.current.index]
        tree.last = None if old.last is None else new.blocks[old.last.index]
        tree.counter, tree.free_total = old.counter, old.free_total
        new.tree, new.tree_lock = tree, self.tree_lock
        new.released, new.block_locks = self.released.copy(), self.block_locks.copy()
        new.objects, new.counted = self.objects.copy(), self.counted.copy()
        new.dropped, new.shared, new.frames = self.dropped, self.shared, self.frames.copy()
        new.said, new.findings = [], []
        return new

    def key(self) -> tuple[object, ...]:
        """Equal for two states exactly if all that can follow is equal."""
        tree = self.tree
        return (
            tuple(self.frames),
            tuple(self.objects),
            tree.counter,
            -1 if tree.current is None else tree.current.index,
            -1 if tree.last is None else tree.last.index,
            self.tree_lock,
            tuple(sorted(self.block_locks.items())),
            tuple(
                (index, bytes(one.slots), one.free_slots, one.coeff, one.under_reclaim)
                for index, one in self.blocks.items()
            ),
            tuple(sorted(self.released.items())),
            tuple(sorted(self.counted.items())),
            self.dropped,
            self.shared,
            self.dead,
        )

    # -- what a step says ---------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Describe what the current step did."""
        self.said.append(text)

    def meet(self, name: str, text: str) -> None:
        """Note a hazard that the current step runs into, or with no name a consequence."""
        self.findings.append(Finding(name, text))

    def touch(self, block: Block, by_free: str, by_reclaim: str, doing: str) -> None:
        """Read or write a block; Undefined, named by who released it, if it was released."""
        releaser = self.released.get(block.index)
        if releaser is not None:
            name = by_free if releaser == "free" else by_reclaim
            raise Undefined(name, f"{doing} block {block.index}, which {releaser} has released")

    # -- locks --------------------------------------------------------------------------------

    def tree_is_free(self, cpu: int) -> bool:
        """Whether ``cpu`` holds the tree lock or could take it."""
        return self.tree_lock is None or self.tree_lock == cpu

    def unlock_block(self, block: Block) -> None:
        """Release a block's lock."""
        del self.block_locks[block.index]

    # -- objects ------------------------------------------------------------------------------

    def handle(self, index: int, slot: int) -> int:
        """The handle of a slot of this tree."""
        return POOL.encode(self.tree.kind.number, index, slot)

    def exists(self, k: int) -> bool:
        """Whether object ``k`` was handed to its user."""
        return self.objects[k].state not in (ABSENT, FLYING)

    def holders(self, handle: int, *states: int) -> list[int]:
        """Numbers of the objects that have this handle and one of these states."""
        return [
            k for k, one in enumerate(self.objects) if one.handle == handle and one.state in states
        ]

    def release(self, block: Block, call: str) -> None:
        """Give back a block's memory; the caller has taken it out of the tree."""
        self.released[block.index] = call
        self.say("empty, released")
        for slot in range(self.tree.kind.slots):
            for k in self.holders(self.handle(block.index, slot), LIVE):
                self.meet("", f"block {block.index} is released although object #{k} is in it")
        for name, near in (("current", self.tree.current), ("last", self.tree.last)):
            if near is block:
                self.meet("", f"`{name}` still points at block {block.index}")


def _copy(block: Block) -> Block:
    new = Block(block.index, block.free_slots)
    new.slots[:] = block.slots
    new.coeff, new.under_reclaim = block.coeff, block.under_reclaim
    return new
