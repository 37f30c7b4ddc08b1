# SPDX-License-Identifier: GPL-2.0-only
"""Which races of the posted ztree a found order went through (docs/hazards.md)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ztrace.allocator.ztree.calls import BlockCall, BlockKind, BlockStep


@dataclass(frozen=True)
class Race:
    """One race: the calls in it, the first of them the one it happened to."""

    hazard: str
    what: str
    pool: int
    tree: int
    calls: tuple[BlockCall, ...]


def races_in(
    pool: int, tree: int, steps: Sequence[tuple[BlockCall, BlockStep]], marked: dict[int, BlockCall]
) -> Iterator[Race]:
    """The races in one stretch of found order.

    ``marked`` is kept from stretch to stretch of a tree: the blocks under reclaim.
    """
    yield from _split_mallocs(pool, tree, steps)
    yield from _overlapping_frees(pool, tree, steps)
    yield from _dropped_frees(pool, tree, steps, marked)


def _split_mallocs(
    pool: int, tree: int, steps: Sequence[tuple[BlockCall, BlockStep]]
) -> Iterator[Race]:
    """Mallocs between whose steps another call acted."""
    where = {(call.row, step): at for at, (call, step) in enumerate(steps)}
    for call, step in steps:
        if step != BlockStep.INSERT:
            continue
        looked, inserted = where.get((call.row, BlockStep.LOOK)), where[call.row, BlockStep.INSERT]
        took = where.get((call.row, BlockStep.TAKE))
        if looked is None or took is None:
            continue
        rivals = tuple(
            other for other, what in steps[looked + 1 : inserted] if what == BlockStep.INSERT
        )
        if rivals:
            what = "two CPUs saw no free slot and both inserted a block"
            yield Race("H5", what, pool, tree, (call, *rivals))
        gap = steps[inserted + 1 : took]
        users = tuple(
            other
            for other, _ in gap
            if other.kind == BlockKind.MALLOC and other.block == call.block
        )
        if users:
            what = (
                f"{len(users)} slots of a new block were taken before the call that inserted it "
                "took its own (the window of H1)"
            )
            yield Race("H1", what, pool, tree, (call, *users))
        if any(other.kind == BlockKind.FREE and other.block == call.block for other, _ in gap):
            what = "a slot of a new block was freed before its inserter took one (window of H3)"
            yield Race("H3", what, pool, tree, (call, *users))


def _overlapping_frees(
    pool: int, tree: int, steps: Sequence[tuple[BlockCall, BlockStep]]
) -> Iterator[Race]:
    """Frees of one block that overlapped, the later of which may have released the block."""
    frees = [call for call, _ in steps if call.kind == BlockKind.FREE]
    for position, second in enumerate(frees):
        # Nothing of this block follows: it may be gone. Whether it is, the caller knows not.
        if any(later.block == second.block for later in frees[position + 1 :]):
            continue
        rivals = tuple(
            first
            for first in frees[:position]
            if first.block == second.block and first.end >= second.ts and second.end >= first.ts
        )
        if rivals:
            what = "frees of one block overlapped on two CPUs (the window of H7)"
            yield Race("H7", what, pool, tree, (second, *rivals))


def _dropped_frees(
    pool: int, tree: int, steps: Sequence[tuple[BlockCall, BlockStep]], marked: dict[int, BlockCall]
) -> Iterator[Race]:
    """Frees by others in a block that was being reclaimed."""
    for call, _ in steps:
        if call.kind == BlockKind.CHOOSE:
            marked[call.block] = call
        elif call.kind == BlockKind.SETTLE:
            marked.pop(call.block, None)
        elif call.kind == BlockKind.FREE and call.block in marked:
            shrink = marked[call.block]
            if call.tid != shrink.tid:
                what = "a free was dropped, its block was under reclaim"
                yield Race("H15", what, pool, tree, (call, shrink))
