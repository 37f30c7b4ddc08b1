# SPDX-License-Identifier: GPL-2.0-only
"""Recorded calls as one block tree sees them, and what the model does instead of one."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class BlockKind(IntEnum):
    """What a call asks of one tree. A shrink is several calls, one per critical section.

    The numbers are those of check.h, as are those of the other enums here.
    """

    MALLOC = 0
    FREE = 1
    FAILED_MALLOC = 2  # -ENOMEM: looked, found no free slot, got no pages
    PASS = 3  # a shrink that found this tree's oldest block current or last, or no block
    CHOOSE = 4  # a shrink marks this tree's oldest block
    RECOVER = 5  # a shrink takes back a slot whose object was evicted
    SETTLE = 6  # a shrink ends, giving the block back if it is empty
    MISFIT = 7  # a malloc whose size belongs to another tree than its handle


class BlockCall(NamedTuple):
    """One call as one tree sees it. Times in ns; ``row`` is its row in the trace."""

    ts: int
    end: int
    kind: BlockKind
    block: int
    slot: int
    row: int
    cpu: int
    tid: int
    size: int


class BlockStep(IntEnum):
    """How far a step takes a call. WHOLE: it took effect at one moment."""

    WHOLE = 0
    LOOK = 1  # a malloc found no free slot and let go of the lock
    INSERT = 2  # it added its block and let go of the lock again: gap G of H1
    TAKE = 3  # it made its block current and took a slot

    @property
    def ends(self) -> bool:
        """Whether it is its call's last one."""
        return self in (BlockStep.WHOLE, BlockStep.TAKE)


class Said(IntEnum):
    """What the model does instead of a call."""

    OTHER_TYPE = 0
    NO_FREE_SLOT = 1
    NEW_BLOCK_ADRIFT = 2  # whose index nobody knows yet
    NEW_BLOCK = 3
    GIVES = 4
    NO_BLOCK = 5
    FREE_ALREADY = 6
    NOT_TO_RECOVER = 7
    NOT_RECLAIMED = 8
    TAKES = 9
    DOES_NOT_TAKE = 10


class Answer(NamedTuple):
    """``block``, -1 for none, and ``slot`` are those of the model's answer."""

    said: Said
    block: int = -1
    slot: int = 0

    def text(self, call: BlockCall) -> str:
        """The answer to ``call`` in words."""
        block = None if self.block < 0 else self.block
        where = f"block {call.block} slot {call.slot}"
        texts = {
            Said.OTHER_TYPE: (
                f"a handle of another type: {call.size} bytes do not belong to this one"
            ),
            Said.NO_FREE_SLOT: f"not block {call.block}, which has no free slot",
            Said.NEW_BLOCK_ADRIFT: "a new block",
            Said.NEW_BLOCK: f"a new block {block}, slot 0",
            Said.GIVES: f"block {block} slot {self.slot}",
            Said.NO_BLOCK: f"block {call.block} does not exist",
            Said.FREE_ALREADY: f"{where} is free already",
            Said.NOT_TO_RECOVER: f"{where} is free already, or its block not under reclaim",
            Said.NOT_RECLAIMED: f"block {call.block} is not under reclaim",
            Said.TAKES: f"shrink takes block {block} of this tree",
            Said.DOES_NOT_TAKE: f"shrink does not take block {call.block}; the oldest is {block}",
        }
        return texts[self.said]
