# SPDX-License-Identifier: GPL-2.0-only
"""One small scenario for each race of docs/hazards.md that micro-steps can show."""

from __future__ import annotations

from typing import NamedTuple

# Block 0 holds #1 (evictable) and #2 (never mapped) and is neither current nor last.
_TWO_IN_BLOCK_0 = "store; malloc*12; free #3-9"


class Builtin(NamedTuple):
    """The calls for one hazard and what exactly counts as meeting it."""

    title: str
    calls: str
    setup: str = ""


BUILTIN = {
    "H1": Builtin("malloc counts a slot of its new, full block: 0 wraps", "malloc | malloc*9"),
    "H2": Builtin("malloc gives a slot that does not exist or is in use", "malloc | malloc*9"),
    "H3": Builtin("malloc uses its new block, which a free released", "malloc | malloc; free #2"),
    "H4": Builtin("malloc uses its new block, which reclaim released", "malloc | malloc; reclaim"),
    "H5": Builtin("two add a block, one with free slots is lost", "malloc | malloc"),
    "H6": Builtin("malloc takes a slot of a block under reclaim", "malloc | malloc; reclaim"),
    "H7": Builtin("free writes to a block that a free released", "free #1 | free #2", "malloc*2"),
    "H9": Builtin(
        "a stale coeff decides what becomes current", "free #9 | free #3", "malloc*11; free #1-2"
    ),
    "H15": Builtin("a free is dropped, its slot leaked", "free #1 | reclaim", "malloc*9"),
    "H16": Builtin(
        "an unfinished store's slot is given away", "store | malloc; reclaim", "malloc*7"
    ),
    "H19": Builtin("free and reclaim count the same slot", "free #1 | reclaim", _TWO_IN_BLOCK_0),
    "H20": Builtin(
        "free writes to a block that reclaim released",
        "reclaim | reclaim; free #2",
        _TWO_IN_BLOCK_0,
    ),
    "H21": Builtin("two reclaimers work on one block", "reclaim | reclaim", _TWO_IN_BLOCK_0),
    "H22": Builtin(
        "an update of free_slots is lost", "reclaim | reclaim", "store*2; malloc*11; free #3-9"
    ),
    "H24": Builtin(
        "a mapped object is evicted, or a free slot mapped",
        "map #1; unmap #1 | reclaim",
        _TWO_IN_BLOCK_0,
    ),
}
