# SPDX-License-Identifier: GPL-2.0-only
"""The block table of ztree or zblock that holds given objects in the least memory, exactly.

A block type is an order and a number of slots. Its slot is the block's share, without the header
that late ztree and zblock keep in a block, cut to whole longs (``tree_desc[]`` of the posted
ztree.c), and an object goes to the first type whose slot it fits.
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
3.  A type is of no use beside another one whose slot is as large or larger and whose share is no
    more. Take out of a table all that are so beside others of it: what they held goes to a type of
    no larger share, as those that are left ascend in shares as in slots. Then put a type that is of
    use into the place of each that is of none beside it, and take out again: there are no more
    types than before, and the sum has not grown. So only types that are of use beside all others
    are needed; they ascend in both, and the last one of a table is the smallest that takes the
    largest object.
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
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

from ztrace.allocator.protocol import check_page_bytes
from ztrace.allocator.ztree.model import BlockType, block_types
from ztrace.replay.errors import ReplayError

_Least = tuple[int, tuple[int, ...]]  # a sum of shares, and the types that have it


@dataclass(frozen=True)
class Limits:
    """What a table may be: ztree's own limits, or others. Sizes in bytes.

    ``types``: most block types; ``least_slots`` and ``most_slots`` of a block; ``most_order``:
    a block is at most ``page_bytes << most_order``. ``header_bytes``: what metadata takes of a
    block; ``spare``: by how much a slot must be larger than an object; ``reach``: the largest
    object that the table must take, None: a page. ``handle_types``, ``handle_slots``: for how many
    a handle has room. ReplayError for impossible ones.
    """

    types: int = 16
    least_slots: int = 8
    most_slots: int = 16
    most_order: int = 3
    page_bytes: int = 4096
    long_bytes: int = 8
    header_bytes: int = 0
    spare: int = 0
    reach: int | None = None
    handle_types: int = 16
    handle_slots: int = 16

    def __post_init__(self) -> None:
        check_page_bytes(self.page_bytes)
        if not 1 <= self.types <= self.handle_types:
            raise ReplayError(
                f"{self.types} block types: a handle has room for 1 to {self.handle_types}"
            )
        if not 1 <= self.least_slots <= self.most_slots <= self.handle_slots:
            raise ReplayError(
                f"{self.least_slots} to {self.most_slots} slots: a handle has room for 1 to "
                f"{self.handle_slots}, the least number first"
            )
        if not 0 <= self.most_order <= 10:
            raise ReplayError(f"order {self.most_order}: the page allocator gives 0 to 10")

    @property
    def largest(self) -> int:
        """Bytes of the largest object that a table must take."""
        return self.page_bytes if self.reach is None else self.reach

    def kinds(self, table: Sequence[tuple[int, int]]) -> tuple[BlockType, ...]:
        """The types of a table."""
        return block_types(self.page_bytes, self.long_bytes, table, self.header_bytes)

    def takes(self, kind: BlockType) -> int:
        """The largest object that a type takes, in bytes."""
        return kind.slot_bytes - self.spare


def share(kind: BlockType) -> Fraction:
    """Bytes that an object takes in a full block of a type."""
    return Fraction(kind.block_bytes, kind.slots)


def candidates(limits: Limits) -> list[BlockType]:
    """Types that a best table may need, slots ascending; the last one takes the largest object.

    ReplayError if there is none that does.
    """
    orders, slots = range(limits.most_order + 1), range(limits.least_slots, limits.most_slots + 1)
    best: dict[int, BlockType] = {}
    for pair in ((order, count) for order in orders for count in slots):
        [kind] = limits.kinds([pair])
        known = best.get(kind.slot_bytes)
        if limits.takes(kind) > 0 and (known is None or share(kind) < share(known)):
            best[kind.slot_bytes] = kind
    useful: list[BlockType] = []
    for slot in sorted(best, reverse=True):
        if not useful or share(best[slot]) < share(useful[-1]):
            useful.append(best[slot])
    useful.reverse()
    for at, kind in enumerate(useful):
        if limits.takes(kind) >= limits.largest:
            return useful[: at + 1]
    whole = "a whole page of " if limits.largest == limits.page_bytes else ""
    raise ReplayError(
        f"no block of order 0 to {limits.most_order} with {limits.least_slots} to "
        f"{limits.most_slots} slots takes {whole}{limits.largest} bytes; allow "
        "fewer slots or a higher order"
    )


def static_bytes(
    objects: Mapping[int, int | Fraction], table: Sequence[tuple[int, int]], limits: Limits
) -> Fraction:
    """Bytes that objects (size -> how many) take in full blocks of a table."""
    kinds = limits.kinds(table)
    total = Fraction(0)
    for size, count in objects.items():
        total += count * next(share(kind) for kind in kinds if size <= limits.takes(kind))
    return total


def best_table(objects: Mapping[int, int | Fraction], limits: Limits) -> list[tuple[int, int]]:
    """(order, slots) of each type of a best table for objects: size (1 to the largest) -> how many.

    Numbers may be fractions. ReplayError for a size outside, no objects, or impossible limits.
    """
    if not any(objects.values()):
        raise ReplayError("no objects: nothing to fit a block table to")
    if not 1 <= min(objects) <= max(objects) <= limits.largest:
        raise ReplayError(f"an object of no size from 1 to {limits.largest} bytes")
    kinds = candidates(limits)
    unit = math.lcm(*(kind.slots for kind in kinds))
    shares = [kind.block_bytes * (unit // kind.slots) for kind in kinds]
    # below[j]: objects that type j is large enough for, times ``whole``.
    whole = math.lcm(*(Fraction(count).denominator for count in objects.values()))
    sizes = sorted(objects)
    sums = [0, *accumulate(int(objects[size] * whole) for size in sizes)]
    below = [sums[bisect_right(sizes, limits.takes(kind))] for kind in kinds]

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
    known: Sequence[_Least | None], below: Sequence[int], j: int, each: int
) -> _Least | None:
    """The best table that has one of those known before type ``j``, an object of which takes
    ``each``; None if none is known."""
    ways = (
        (one[0] + (below[j] - below[i]) * each, (*one[1], j))
        for i, one in enumerate(known)
        if one is not None
    )
    return min(ways, default=None)
