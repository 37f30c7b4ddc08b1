# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace validate``: is the model the allocator that ran?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console

from ztrace.allocator.registry import builtin
from ztrace.allocator.table import Table
from ztrace.allocator.ztree.calls import BlockCall, BlockKind
from ztrace.console import console, count_text, lost_lines, ns_text, print_json, progress, table
from ztrace.outputs import OUTPUT, Command
from ztrace.replay.order.file import OrderWriter
from ztrace.replay.validate import Verdict, validate
from ztrace.replay.validate.native import reason_missing
from ztrace.replay.validate.placement import compare_places
from ztrace.replay.validate.placement_verdict import Placement, PoolPlacement, Way
from ztrace.replay.validate.races import Race
from ztrace.replay.validate.verdict import TreeVerdict, Unexplained
from ztrace.replay.validate.ztree_run import can_explain
from ztrace.streams import say
from ztrace.traces import Metadata, TraceReader

SHOWN = 5  # failures and races printed; --json has more

BEGINNINGS = {"trace": None, "empty": True, "late": False}


@click.command(
    "validate", cls=Command, epilog="Example: ztrace validate trace.parquet --order order.parquet"
)
@click.argument("trace", type=click.Path(path_type=Path))
@click.option(
    "--begins",
    type=click.Choice(list(BEGINNINGS)),
    default="trace",
    show_default=True,
    help="Whether the pools were empty when recording began: as the trace says, or as you do.",
)
@click.option(
    "--order",
    "order_path",
    type=OUTPUT,
    help="Write the order found, for ztrace replay --order.",
)
@click.option("--force", is_flag=True, help="Replace the order file if it exists.")
@click.option(
    "--engine",
    type=click.Choice(["python", "native"]),
    help="Search for ztree's order in Python or, the same, in C; native where it was built.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--backend",
    metavar="NAME",
    help="Compare with this model instead of the recorded kernel's; of ztree, with the block table "
    "that its module was built with: ztree:table=FILE.",
)
def command(
    trace: Path,
    begins: str,
    order_path: Path | None,
    force: bool,
    engine: str | None,
    as_json: bool,
    backend: str | None,
) -> int:
    """Search for an order of TRACE's calls in which the model gives the kernel's handles.

    For ztree: calls that overlap on several CPUs may have taken effect in either order, and a
    malloc that finds no free slot takes effect in three steps. TRACE is explained if there is
    an order of all steps, each inside the interval recorded for its call, that gives every
    handle the kernel gave.

    For zbud, z3fold and zsmalloc, whose handles are addresses: where each object lies and each
    pool's size are compared. Of several CPUs' calls on zbud an order is searched, on zsmalloc it
    is that of the lock, and on z3fold it is not known: there only a difference that no
    overlapping call can have made counts against the model.

    Exit status 0 if all agrees, 1 if a call cannot be explained, 2 for bad input.
    """
    with ExitStack() as stack:
        reader = stack.enter_context(TraceReader(trace))
        metadata = reader.metadata
        if not all(can_explain(pool.allocator) for pool in metadata.pools):
            if order_path is not None:
                raise click.UsageError("--order is for traces of ztree")
            if engine == "native":
                raise click.UsageError("--engine native is for traces of ztree")
            with progress(trace.name, reader.num_rows) as advance:
                placement = compare_places(reader, backend=backend, advance=advance)
            return _show_placement(placement, metadata, as_json)
        if engine is None and (missing := reason_missing()):
            say(f"{missing}; the search in Python takes longer")
        table = None if backend is None else _table(backend)
        writer = None
        if order_path is not None:
            writer = stack.enter_context(OrderWriter(order_path, trace, force=force))
        with progress(trace.name, 2 * reader.num_rows) as advance:
            verdict = validate(
                reader,
                engine=engine,
                starts_empty=BEGINNINGS[begins],
                table=table,
                on_order=writer.write if writer else None,
                advance=advance,
            )
    if as_json:
        print_json(verdict.to_dict())
        return 0 if verdict.explained else 1
    out = console()
    _show_trees(out, verdict)
    for line in lost_lines(metadata):
        out.print(line)
    for note in _notes(verdict):
        out.print(note)
    for one in verdict.unexplained[:SHOWN]:
        out.print()
        _show_unexplained(out, one)
    _show_races(out, verdict)
    out.print()
    out.print(_conclusion(verdict))
    return 0 if verdict.explained else 1


def _table(backend: str) -> Table | None:
    """The block table of a specification of the posted ztree, None for the posted one."""
    found = builtin(backend)
    if found is None or found.name != "ztree" or "variant" in found.arguments:
        raise click.UsageError(
            f"--backend {backend}: the trace is of ztree; write ztree:table=FILE"
        )
    table: Table | None = found.arguments.get("table")
    return table


def _show_placement(placement: Placement, metadata: Metadata, as_json: bool) -> int:
    """Print the comparison of places and pool sizes; returns the exit status."""
    if as_json:
        print_json(placement.to_dict())
        return 0 if placement.agrees else 1
    out = console()
    headers = ("pool", "calls", "overlap", "explained", "undet.", "sizes equal")
    rows = []
    for pool in placement.pools:
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
    for line in lost_lines(metadata):
        out.print(line)
    for pool in placement.pools:
        for line in _placement_notes(pool):
            out.print(f"pool {pool.pool}: {line}", soft_wrap=True)
    word = "agrees" if placement.agrees else "does NOT agree"
    if placement.agrees and any(pool.order == Way.CORRECTED for pool in placement.pools):
        word = "agrees, wherever the trace determines it,"
    out.print(f"the model {word} with the kernel; {placement.wall_s:.1f} s")
    return 0 if placement.agrees else 1


ORDERS = {
    Way.RECORDED: "calls played as they returned; explained: the object lies as in the kernel",
    Way.FOUND: "explained: there is an order in which the model gives the kernel's handle",
    Way.LOCK: "calls played as they held the lock; explained: the object lies as in the kernel",
    Way.CORRECTED: "calls played as they returned, the model corrected after each difference; "
    "decisive: comparisons that no other CPU's call can have changed",
}


def _placement_notes(pool: PoolPlacement) -> Iterator[str]:
    yield ORDERS[pool.order]
    if pool.counts:
        yield ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in pool.counts.items())
    if pool.shrinks.compared:
        yield (
            f"{pool.shrinks.compared:,} shrinks played, {pool.shrinks.equal:,} of them evicted the "
            "kernel's objects"
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
        yield f"largest difference of sizes: {pool.sizes.error_pages:,} pages"
    if pool.undetermined:
        yield (
            f"{pool.undetermined:,} differences are undetermined: they may come from calls of "
            "other CPUs, whose order the trace does not tell"
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
            f"{pool.overlapping:,} calls overlapped: differences from the first of these on need "
            "not be the model's"
        )
    if not pool.starts_empty:
        yield "not known to be empty at the start; older objects are missing"
    yield from pool.notes


def _show_trees(out: Console, verdict: Verdict) -> None:
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


def _notes(verdict: Verdict) -> list[str]:
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


def _show_races(out: Console, verdict: Verdict) -> None:
    for hazard, count in sorted(verdict.race_counts.items()):
        races = [race for race in verdict.races if race.hazard == hazard]
        out.print()
        out.print(f"{hazard}: {count:,} x; {races[0].what}; first:", soft_wrap=True)
        for line in _race_lines(races[0]):
            out.print(f"  {line}", soft_wrap=True)


def _race_lines(race: Race) -> list[str]:
    return [f"tree {race.pool}/{race.tree}", *(_describe(call) for call in race.calls)]


def _conclusion(verdict: Verdict) -> str:
    calls, explained = verdict.total("calls"), verdict.total("explained")
    word = "explained" if verdict.explained else "NOT explained"
    return (
        f"{word}: {count_text(explained)} of {count_text(calls)} calls on {verdict.cpus} CPUs; "
        f"{verdict.wall_s:.1f} s"
    )
