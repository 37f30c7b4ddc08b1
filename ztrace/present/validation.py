# SPDX-License-Identifier: GPL-2.0-only
"""Shows what a validation found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console

from ztrace.console import count_text, lost_lines, table
from ztrace.replay.validate import Verdict
from ztrace.replay.validate.placement_verdict import PoolPlacement, Way
from ztrace.text import counted
from ztrace.traces.metadata import Metadata


def show_verdict(out: Console, verdict: Verdict, metadata: Metadata) -> None:
    """Print the figures of trees and pools, what differs, and the conclusion."""
    trees, pools = verdict.trees, verdict.pools
    if trees is not None:
        from ztrace.present.trees import show_found, show_trees

        show_trees(out, trees)
    if pools:
        _show_pools(out, pools)
    for line in lost_lines(metadata):
        out.print(line)
    if trees is not None:
        show_found(out, trees)
    if pools:
        for pool in pools:
            for line in _placement_notes(pool):
                out.print(f"pool {pool.pool}: {line}", soft_wrap=True)
        out.print(_conclusion_of_pools(verdict))


def _show_pools(out: Console, pools: Sequence[PoolPlacement]) -> None:
    headers = ("pool", "calls", "overlap", "explained", "undet.", "sizes equal")
    rows = []
    for pool in pools:
        places, sizes = pool.places, pool.sizes
        rows.append(
            [
                f"{pool.pool} {pool.backend.split(':cpus')[0]}",
                count_text(pool.calls),
                count_text(pool.overlapping),
                f"{count_text(places.equal)} of {count_text(places.compared)}",
                count_text(pool.undetermined),
                f"{count_text(sizes.equal)} of {count_text(sizes.compared)}",
            ]
        )
    out.print(table(headers, rows))


def _conclusion_of_pools(verdict: Verdict) -> str:
    agrees = all(pool.agrees for pool in verdict.pools)
    word = "agrees" if agrees else "does NOT agree"
    if agrees and any(pool.order == Way.CORRECTED for pool in verdict.pools):
        word = "agrees, wherever the trace determines it,"
    return f"the model {word} with the kernel; {verdict.wall_s:.1f} s"


WAYS = {
    Way.RECORDED: "calls played as they returned; explained: the object lies as in the kernel",
    Way.FOUND: "explained: there is an order in which the model gives the kernel's handle",
    Way.LOCK: "calls played as they held the lock; explained: the object lies as in the kernel",
    Way.LISTED: "calls played as they held the locks of pages and lists; explained: the object "
    "lies as in the kernel",
    Way.CORRECTED: "calls played as they returned, the model corrected after each difference; "
    "decisive: comparisons that no other CPU's call can have changed",
}


def _placement_notes(pool: PoolPlacement) -> Iterator[str]:
    yield WAYS[pool.order]
    if pool.counts:
        yield ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in pool.counts.items())
    if pool.shrinks.compared:
        yield (
            f"{counted(pool.shrinks.compared, 'shrink')} played, {pool.shrinks.equal:,} of them "
            "evicted the kernel's objects"
        )
    if pool.lists.compared:
        yield (
            f"{pool.lists.equal:,} of {pool.lists.compared:,} steps on lists and in pages follow "
            "from what was there"
        )
    firsts = {
        "place": pool.places.first,
        "size": pool.sizes.first,
        "refusal": pool.errors.first,
        "shrink": pool.shrinks.first,
        "list operation": pool.lists.first,
    }
    for name, first in firsts.items():
        if first is not None:
            yield f"first {name} that differs: {first}"
    if pool.sizes.sure < pool.sizes.equal:
        yield (
            f"of the equal sizes {pool.sizes.equal - pool.sizes.sure:,} were read while other "
            "calls ran, and are one of the values that these allow"
        )
    if pool.sizes.error_pages:
        yield f"largest difference of sizes: {counted(pool.sizes.error_pages, 'page')}"
    if pool.undetermined:
        are = "is" if pool.undetermined == 1 else "are"
        yield (
            f"{counted(pool.undetermined, 'difference')} {are} undetermined: they may come from "
            "calls of other CPUs, whose order the trace does not tell"
        )
    if pool.compactions:
        yield (
            f"{pool.compactions:,} recorded compactions played, "
            f"{pool.compactions_unmatched:,} of them of pages the model had not queued"
        )
    if pool.unknown:
        calls = ", ".join(f"{name} {count:,}" for name, count in pool.unknown.items())
        yield f"calls on objects from before the trace, or lost: {calls}"
    if len(pool.cpus) > 1 and pool.order == Way.RECORDED:
        yield (
            f"{len(pool.cpus)} CPUs; recorded order is not the order of the allocator's lock, and "
            f"{counted(pool.overlapping, 'call')} overlapped: differences from the first of these "
            "on need not be the model's"
        )
    if not pool.starts_empty:
        yield "not known to be empty at the start; older objects are missing"
    yield from pool.notes
