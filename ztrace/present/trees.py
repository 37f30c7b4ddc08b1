# SPDX-License-Identifier: GPL-2.0-only
"""Shows what the search for an order of ztree's calls found."""

from __future__ import annotations

from rich.console import Console

from ztrace.allocator.ztree.calls import BlockCall, BlockKind
from ztrace.console import count_text, ns_text, table
from ztrace.replay.validate.races import Race
from ztrace.replay.validate.ztree_verdict import TreesVerdict, TreeVerdict, Unexplained
from ztrace.text import counted

SHOWN = 5  # failures printed; --json has more


def show_trees(out: Console, verdict: TreesVerdict) -> None:
    """Print the figures of each block tree."""

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


def show_found(out: Console, verdict: TreesVerdict) -> None:
    """Print what was noted, what is not explained, the races met, and the conclusion."""
    for note in _notes(verdict):
        out.print(note)
    for one in verdict.unexplained[:SHOWN]:
        out.print()
        _show_unexplained(out, one)
    _show_races(out, verdict)
    out.print()
    out.print(_conclusion(verdict))


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
        if call.row != failure.call.row:
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
