# SPDX-License-Identifier: GPL-2.0-only
"""The block table of ztree that holds given objects in the least memory, exactly.

A block type is an order and a number of slots. Its slot is the block's share cut to whole longs
(``tree_desc[]`` of the posted ztree.c), and an object goes to the first type whose slot it fits.
In full blocks an object then takes ``page << order`` / slots bytes, its *share* of a block. What
is minimised is the sum of the shares of all objects. Blocks that are not full are left out: how
many there are depends on the order of calls, which replay tells (trial.py).

**Why the answer is the least there is.**

1.  Only the order of slots matters. A table is a set of types with ascending slots; type j
    takes the sizes above the slot of the type before it, up to its own. So the sum over a table
    is a sum over neighbouring pairs (i, j) of types: (objects with sizes in (slot_i, slot_j]) x
    share_j. It depends on no other type.
2.  Of types with one slot a table has use for one at most, the first, and it may as well be the
    one of least share: the same objects would go to it. So one candidate a slot is enough.
3.  A type whose slot is larger than another's that takes a whole page is of no use either: a
    share is at least its slot and less than its slot plus a long, slots are multiples of a long,
    so shares ascend with slots, and every size that it would take fits the smaller one.
    The last type is therefore the smallest one that takes a whole page.
4.  Let least(k, j) be the least sum for sizes up to slot_j over tables of k types of which j is
    the last. Cut the last type off the best such table, and what is left is a table of k - 1
    types that ends at some i before j; its sum must be least(k - 1, i), or exchanging it for a
    better one would better the whole, by 1. Hence
    ``least(k, j) = min over i < j of least(k - 1, i) + (objects in (slot_i, slot_j]) * share_j``,
    with ``least(1, j) = (objects up to slot_j) * share_j``, and the optimum is the least of
    least(k, last) over all k that are allowed.

All of it is done in whole numbers. Of several best tables, the one with fewest types is chosen:
a type is one more block that is partly filled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from ztrace.allocator.protocol import check_page_bytes
from ztrace.allocator.ztree.model import BlockType, block_types
from ztrace.replay.errors import ReplayError

_Least = tuple[int | Fraction, tuple[int, ...]]  # a sum of shares, and the types that have it


@dataclass(frozen=True)
class Limits:
    """What a table may be: ztree's own limits, or others. Sizes in bytes.

    ``types``: most block types; ``least_slots`` and ``most_slots`` of a block; ``most_order``:
    a block is at most ``page_bytes << most_order``. ReplayError for impossible ones.
    """

    types: int = 16
    least_slots: int = 8
    most_slots: int = 16
    most_order: int = 3
    page_bytes: int = 4096
    long_bytes: int = 8

    def __post_init__(self) -> None:
        check_page_bytes(self.page_bytes)
        if not 1 <= self.types <= 16:
            raise ReplayError(f"{self.types} block types: a handle has room for 1 to 16")
        if not 1 <= self.least_slots <= self.most_slots <= 16:
            raise ReplayError(
                f"{self.least_slots} to {self.most_slots} slots: a handle has room for 1 to 16, "
                "the least number first"
            )
        if not 0 <= self.most_order <= 10:
            raise ReplayError(f"order {self.most_order}: the page allocator gives 0 to 10")


def share(kind: BlockType) -> Fraction:
    """Bytes that an object takes in a full block of a type."""
    return Fraction(kind.block_bytes, kind.slots)


def candidates(limits: Limits) -> list[BlockType]:
    """Types that a best table may need, slots ascending; the last one takes a whole page.

    ReplayError if there is none that does.
    """
    orders, slots = range(limits.most_order + 1), range(limits.least_slots, limits.most_slots + 1)
    best: dict[int, BlockType] = {}
    for pair in ((order, count) for order in orders for count in slots):
        [kind] = block_types(limits.page_bytes, limits.long_bytes, [pair])
        known = best.get(kind.slot_bytes)
        if kind.slot_bytes and (known is None or share(kind) < share(known)):
            best[kind.slot_bytes] = kind
    ascending = [best[slot] for slot in sorted(best)]
    for at, kind in enumerate(ascending):
        if kind.slot_bytes >= limits.page_bytes:
            return ascending[: at + 1]
    raise ReplayError(
        f"no block of order 0 to {limits.most_order} with {limits.least_slots} to "
        f"{limits.most_slots} slots takes a whole page of {limits.page_bytes} bytes; allow "
        "fewer slots or a higher order"
    )


def static_bytes(
    objects: Mapping[int, int | Fraction], table: Sequence[tuple[int, int]], limits: Limits
) -> Fraction:
    """Bytes that objects (size -> how many) take in full blocks of a table."""
    kinds = block_types(limits.page_bytes, limits.long_bytes, table)
    total = Fraction(0)
    for size, count in objects.items():
        total += count * next(share(kind) for kind in kinds if size <= kind.slot_bytes)
    return total


def best_table(objects: Mapping[int, int | Fraction], limits: Limits) -> list[tuple[int, int]]:
    """(order, slots) of each type of a best table for objects: size (1 to a page) -> how many.

    Numbers may be fractions. ReplayError for a size outside, no objects, or impossible limits.
    """
    if not any(objects.values()):
        raise ReplayError("no objects: nothing to fit a block table to")
    if not 1 <= min(objects) <= max(objects) <= limits.page_bytes:
        raise ReplayError(f"an object of no size from 1 to {limits.page_bytes} bytes")
    kinds = candidates(limits)
    unit = math.lcm(*(kind.slots for kind in kinds))
    shares = [kind.block_bytes * (unit // kind.slots) for kind in kinds]
    # below[j]: objects up to the slot of type j.
    slots = [0, *(kind.slot_bytes for kind in kinds)]
    below: list[int | Fraction] = [0]
    for low, high in pairwise(slots):
        count = sum(count for size, count in objects.items() if low < size <= high)
        below.append(below[-1] + count)
    below.pop(0)

    # After round k, known[j] is least(k, j) with the types of a table that has it.
    known: list[_Least | None] = [
        (count * each, (j,)) for j, (count, each) in enumerate(zip(below, shares, strict=True))
    ]
    best = known[-1]
    for _ in range(limits.types - 1):
        known = [_longer(known[:j], below, j, each) for j, each in enumerate(shares)]
        found = known[-1]
        if found is not None and best is not None and found[0] < best[0]:
            best = found
    assert best is not None
    return [(kinds[j].order, kinds[j].slots) for j in best[1]]


def _longer(
    known: Sequence[_Least | None], below: Sequence[int | Fraction], j: int, each: int
) -> _Least | None:
    """The best table that has one of those known before type ``j``, an object of which takes
    ``each``; None if none is known."""
    ways = (
        (one[0] + (below[j] - below[i]) * each, (*one[1], j))
        for i, one in enumerate(known)
        if one is not None
    )
    return min(ways, default=None)
