# SPDX-License-Identifier: GPL-2.0-only
"""Shows what a validation found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console

from ztrace.allocator.ztree.calls import BlockCall, BlockKind
from ztrace.console import count_text, lost_lines, ns_text, table
from ztrace.replay.validate import Verdict
from ztrace.replay.validate.placement_verdict import PoolPlacement, Way
from ztrace.replay.validate.races import Race
from ztrace.replay.validate.ztree_verdict import TreesVerdict, TreeVerdict, Unexplained
from ztrace.text import counted
from ztrace.traces.metadata import Metadata

SHOWN = 5  # failures printed; --json has more


def show_verdict(out: Console, verdict: Verdict, metadata: Metadata) -> None:
    """Print the figures of trees and pools, what differs, and the conclusion."""
    trees, pools = verdict.trees, verdict.pools
    if trees is not None:
        _show_trees(out, trees)
    if pools:
        _show_pools(out, pools)
    for line in lost_lines(metadata):
        out.print(line)
    if trees is not None:
        for note in _notes(trees):
            out.print(note)
        for one in trees.unexplained[:SHOWN]:
            out.print()
            _show_unexplained(out, one)
        _show_races(out, trees)
        out.print()
        out.print(_conclusion(trees))
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
    firsts = {
        "place": pool.places.first,
        "size": pool.sizes.first,
        "refusal": pool.errors.first,
        "shrink": pool.shrinks.first,
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


def _show_trees(out: Console, verdict: TreesVerdict) -> None:
    def row(name: str, slot: str, *counts: int) -> list[str]:
        return [name, slot, *map(count_text, counts)]

    names = ("calls", "explained", "in_part", "overlapping", "dead_ends", "out_of_order", "split")
    rows = [
        row(
            f"{tree.pool}/{tree.tree}{_mark(tree)}",
            f"{tree.slot_bytes}",
            *(getattr(tree.tally, name) for name in names),
        )
        for tree in verdict.trees
    ]
    rows.append(row("all", "", *(verdict.total(name) for name in names)))
    headers = (
        "tree",
        "slot",
        "calls",
        "explained",
        "in part",
        "overlap",
        "backtr",
        "moved",
        "split",
    )
    out.print(table(headers, rows))
    out.print("tree: pool/type; overlap: calls that overlapped others; backtr: dead ends of the")
    out.print("search; moved: took effect after a call that returned later; split: mallocs with")
    out.print("another call between their steps; in part: explained, with something unknown")


def _mark(tree: TreeVerdict) -> str:
    return "<" if tree.began_before else ""


def _notes(verdict: TreesVerdict) -> list[str]:
    notes = list(verdict.notes)
    if any(tree.began_before for tree in verdict.trees):
        notes.append("<: the tree had blocks before the trace; of those only what calls tell")
    if verdict.shrinks:
        notes.append(
            f"shrinks: {verdict.shrinks:,}, of which {verdict.shrinks_undetermined:,} evicted "
            "nothing, so that no record tells which block they looked at"
        )
    if verdict.errors_agree or verdict.errors_differ:
        notes.append(
            f"refusals by size: {verdict.errors_agree:,} as the model's, "
            f"{verdict.errors_differ:,} not"
        )
    return notes


def _describe(call: BlockCall) -> str:
    what = {
        BlockKind.MALLOC: f"malloc({call.size}) = block {call.block} slot {call.slot}",
        BlockKind.MISFIT: f"malloc({call.size}) = block {call.block} slot {call.slot}",
        BlockKind.FREE: f"free(block {call.block} slot {call.slot})",
        BlockKind.FAILED_MALLOC: f"malloc({call.size}) = -ENOMEM",
    }.get(call.kind, f"shrink, {call.kind.name.lower()} block {call.block}")
    length = ns_text(call.end - call.ts)
    return f"row {call.row} cpu {call.cpu} task {call.tid} at {call.ts} +{length}: {what}"


def _show_unexplained(out: Console, one: Unexplained) -> None:
    failure = one.failure
    out.print(f"not explained, tree {one.pool}/{one.tree}:")
    out.print(f"  {_describe(failure.call)}", soft_wrap=True)
    out.print(f"  the model: {failure.answer}", soft_wrap=True)
    out.print(f"  likely: {one.cause}", soft_wrap=True)
    for call in failure.around:
        if call is not failure.call:
            out.print(f"  beside it: {_describe(call)}", soft_wrap=True)


def _show_races(out: Console, verdict: TreesVerdict) -> None:
    for hazard, count in sorted(verdict.race_counts.items()):
        races = [race for race in verdict.races if race.hazard == hazard]
        out.print()
        out.print(f"{hazard}: {count:,} x; {races[0].what}; first:", soft_wrap=True)
        for line in _race_lines(races[0]):
            out.print(f"  {line}", soft_wrap=True)


def _race_lines(race: Race) -> list[str]:
    return [f"tree {race.pool}/{race.tree}", *(_describe(call) for call in race.calls)]


def _conclusion(verdict: TreesVerdict) -> str:
    calls, explained = verdict.total("calls"), verdict.total("explained")
    word = "explained" if verdict.explained else "NOT explained"
    return (
        f"{word}: {count_text(explained)} of {counted(calls, 'call')} on "
        f"{counted(verdict.cpus, 'CPU')}; {verdict.wall_s:.1f} s"
    )
