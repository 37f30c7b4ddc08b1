# SPDX-License-Identifier: GPL-2.0-only
"""Hazard H1 of the posted ztree (docs/hazards.md), proved by a recording of several CPUs.

By calls that returned, so it rests on no model: a malloc during which other CPUs got every slot of
a block, and which itself got one slot more of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztrace.allocator.ztree.model import MAX_SLOTS, POSTED_TABLE, SLOT_BITS, TYPE_SHIFT
from ztrace.traces.schema import OP_CODE

MALLOC, FREE = OP_CODE["malloc"], OP_CODE["free"]
_INDEX_MASK = np.uint64((1 << (TYPE_SHIFT - SLOT_BITS)) - 1)
_SLOTS = np.array([slots for _, slots in POSTED_TABLE])

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Calls:
    """Mallocs and frees that returned 0, arrays of one length in the order in which they
    returned: ``op``, ``cpu``, ``begin`` and ``end`` by one clock, block ``type``, ``block`` and
    ``slot`` of the handle."""

    op: Ints
    cpu: Ints
    begin: Ints
    end: Ints
    type: Ints
    block: Ints
    slot: Ints

    @classmethod
    def of(
        cls, op: NDArray[Any], cpu: NDArray[Any], begin: Ints, end: Ints, handle: NDArray[np.uint64]
    ) -> Calls:
        """From columns of one length in any order, with other calls among them."""
        at = np.flatnonzero(np.isin(op, (MALLOC, FREE)))
        at = at[np.argsort(end[at], kind="stable")]
        told = handle[at]
        return cls(
            op=op[at].astype(np.int64),
            cpu=cpu[at].astype(np.int64),
            begin=begin[at],
            end=end[at],
            type=(told >> np.uint64(TYPE_SHIFT)).astype(np.int64),
            block=(told >> np.uint64(SLOT_BITS) & _INDEX_MASK).astype(np.int64),
            slot=(told & np.uint64(MAX_SLOTS - 1)).astype(np.int64),
        )


@dataclass(frozen=True)
class Proof:
    """H1 happened to the call number ``call`` (of Calls), in ``block`` of a ``type``; ``others``:
    numbers of the mallocs of other CPUs that took its slots meanwhile."""

    call: int
    type: int
    block: int
    others: tuple[int, ...]


def shared(calls: Calls) -> int:
    """How many mallocs returned a handle that another object had: its own malloc had returned, its
    free had not begun."""
    key = (calls.type << 56 | calls.block) << SLOT_BITS | calls.slot
    malloc = calls.op == MALLOC
    order = np.lexsort((np.where(malloc, calls.end, calls.begin), key))
    alive = np.where(malloc, 1, -1)[order].cumsum()
    # Every handle's calls begin with none alive.
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    before = np.concatenate([[0], alive[first[1:] - 1]])
    alive -= np.repeat(before, np.diff(first, append=len(order)))
    return int((malloc[order] & (alive > 1)).sum())


def prove(calls: Calls) -> Proof | None:
    """The first H1 that the calls prove, by when its malloc returned; None if there is none."""
    by_block = _ByBlock(calls)
    slots = _SLOTS[calls.type]
    # A slot that no block has. Where a block has as many as a handle can tell, one more reads as
    # the first slot of the next block.
    wide = slots == MAX_SLOTS
    beyond = (calls.slot >= slots) | (wide & (calls.slot == 0) & (calls.block > 0))
    for call in np.flatnonzero((calls.op == MALLOC) & beyond).tolist():
        block = int(calls.block[call]) - int(wide[call])
        others = [one for one in by_block.meanwhile(call, block) if calls.slot[one] < slots[call]]
        if len(set(calls.slot[others].tolist())) == slots[call]:
            return Proof(call, int(calls.type[call]), block, tuple(others))
    return None


class _ByBlock:
    """Calls by the block that their handle names."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._key = calls.type << 56 | calls.block
        self._order = np.argsort(self._key, kind="stable")
        self._sorted = self._key[self._order]

    def _of(self, type_: int, block: int) -> Ints:
        key = type_ << 56 | block
        low, high = np.searchsorted(self._sorted, (key, key + 1)).tolist()
        found: Ints = self._order[low:high]
        return found

    def meanwhile(self, call: int, block: int) -> list[int]:
        """Mallocs of other CPUs in a block of the same type that overlapped ``call``."""
        calls = self._calls
        at = self._of(int(calls.type[call]), block)
        chosen = (calls.end[at] >= calls.begin[call]) & (calls.begin[at] <= calls.end[call])
        chosen &= (calls.op[at] == MALLOC) & (calls.cpu[at] != calls.cpu[call])
        found: list[int] = at[chosen].tolist()
        return found
