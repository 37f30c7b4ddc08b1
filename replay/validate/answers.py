# SPDX-License-Identifier: GPL-2.0-only
"""What is said of a call that no order explains: the model's answer, and the likeliest cause."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ztrace.replay.validate.steps import Call


class Said(IntEnum):
    """What the model does instead of a call. The numbers are those of check.h."""

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

    def text(self, call: Call) -> str:
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


class Cause(IntEnum):
    """Which kind of fault would look like this. The numbers are those of check.h."""

    CUT_SHORT = 0
    MALLOC_LOST = 1
    FREE_LOST = 2
    BLOCKS_LOST = 3
    OTHER_RULE = 4

    @property
    def text(self) -> str:
        """The cause in words."""
        return _CAUSES[self]


_CAUSES = {
    Cause.CUT_SHORT: (
        "too many calls overlapped: the search was given up before all orders were tried"
    ),
    Cause.MALLOC_LOST: "a malloc of this handle is missing before it (lost event)",
    Cause.FREE_LOST: "a free of this handle is missing before it (lost event)",
    Cause.BLOCKS_LOST: ("mallocs that made the blocks before this one are missing (lost events)"),
    Cause.OTHER_RULE: "a rule that differs from the model's, or a call recorded wrongly",
}
