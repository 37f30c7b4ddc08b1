# SPDX-License-Identifier: GPL-2.0-only
"""Splits a trace into its pools' block trees and has each checked."""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztrace.allocator.native import library
from ztrace.allocator.table import Table
from ztrace.allocator.ztree.calls import BlockCall, BlockKind
from ztrace.allocator.ztree.model import MAX_SLOTS, SLOT_BITS, TYPE_SHIFT, BlockTree, Ztree
from ztrace.replay.errors import ReplayError
from ztrace.replay.validate.calls import (
    CALL,
    FREE,
    MALLOC,
    SEEN,
    SHRINK,
    WRITEBACK,
    Calls,
    Seen,
    groups,
    windows,
)
from ztrace.replay.validate.found_order import FoundOrder, can_explain
from ztrace.replay.validate.native import CHECKER, NativeStream, reason_missing
from ztrace.replay.validate.partial import refuse_partial
from ztrace.replay.validate.races import Race, races_in
from ztrace.replay.validate.stream import PythonStream, Sinks, Stream
from ztrace.replay.validate.ztree_checker import BlockFailure, BlockSteps
from ztrace.replay.validate.ztree_verdict import KEPT, TreesVerdict, TreeVerdict, Unexplained
from ztrace.traces.reader import TraceReader

_BLOCK_MASK = (1 << TYPE_SHIFT) - 1  # of a handle, without the block's type


def explain_trees(
    reader: TraceReader,
    *,
    engine: str | None = None,
    starts_empty: bool | None = None,
    tree_class: type[BlockTree] = BlockTree,
    table: Table | None = None,
    pools: Collection[int] | None = None,
    on_order: Callable[[FoundOrder], None] | None = None,
    advance: Callable[[int], object] = lambda rows: None,
) -> TreesVerdict:
    """Search for an order of all recorded ztree calls that gives the recorded handles.

    ``engine``: ``python`` or ``native``, the same in the native core, which is the default where
    it is. ``starts_empty`` overrides what the trace says about its pools; where neither says so, a
    tree whose first malloc gave block 0, slot 0 is taken to begin with the trace. ``tree_class`` is
    the model's tree (tests put broken ones here), ``table`` the block table that the recorded
    module was built with if not the posted one. ``pools``: those to be explained, if not all.
    ``on_order`` gets the order found, stretch by stretch, sorted by ``at_ns`` over all trees.
    ``advance`` gets numbers of rows, in all twice the trace's.

    ReplayError for a trace that is not of ztree, or of some objects only; TraceError for a damaged
    one, NativeMissing for ``native`` where there is no core.
    """
    began = time.perf_counter()
    refuse_partial(reader)
    if engine == "native":
        library(CHECKER)
    # The core has the posted rules only.
    in_core = tree_class is BlockTree and engine != "python" and not reason_missing()
    run = _Run(reader, starts_empty, tree_class, table, on_order, in_core)
    for window in windows(reader, advance):
        calls = window.calls
        run.feed(calls if pools is None else calls[_of(calls, pools)], window.until)
    verdict = run.finish()
    verdict.wall_s = time.perf_counter() - began
    return verdict


def _of(calls: Calls, pools: Collection[int]) -> NDArray[np.bool_]:
    return np.isin(calls["pool"], list(pools))


@dataclass
class _Tree:
    """A tree's checker, made when its beginning is understood, and calls not yet checked."""

    verdict: TreeVerdict
    held: Seen = field(default_factory=lambda: np.empty(0, SEEN))
    checker: Stream | None = None
    marked: dict[int, BlockCall] = field(default_factory=dict)  # blocks under reclaim
    races: list[Race] = field(default_factory=list)
    race_counts: Counter[str] = field(default_factory=Counter)
    unexplained: list[Unexplained] = field(default_factory=list)


class _Run:
    """The state of one validation."""

    def __init__(
        self,
        reader: TraceReader,
        starts_empty: bool | None,
        tree_class: type[BlockTree],
        table: Table | None,
        on_order: Callable[[FoundOrder], None] | None,
        in_core: bool,
    ) -> None:
        metadata = reader.metadata
        self.verdict = TreesVerdict(str(reader.path), lost=metadata.lost_total())
        self.starts_empty = starts_empty
        self.declared = [pool.empty_at_start for pool in metadata.pools]
        self.allocators = [pool.allocator for pool in metadata.pools]
        self.tree_class = tree_class
        self.in_core = in_core
        page_bytes = metadata.machine.page_bytes or 4096
        self.model = (
            Ztree(page_bytes=page_bytes)
            if table is None
            else Ztree(page_bytes=page_bytes, table=table)
        )
        self.slot_sizes = np.array([kind.slot_bytes for kind in self.model.types])
        self.trees: dict[tuple[int, int], _Tree] = {}
        self.carried: Calls = np.empty(0, CALL)
        self.cpus: set[int] = set()
        self.on_order = on_order
        self.order: list[FoundOrder] = []

    # -- from windows to trees ---------------------------------------------------------------

    def feed(self, calls: Calls, until: int) -> None:
        """Take over calls sorted by ts, before which no later call began."""
        self._refuse_others(np.unique(calls["pool"]).tolist())
        calls = np.concatenate([self.carried, calls])
        # A shrink is understood once the evictions inside it are all there.
        open_shrinks = calls["ts"][(calls["op"] == SHRINK) & (calls["end"] >= until)]
        limit = int(open_shrinks.min()) if open_shrinks.size else until
        ready = int(np.searchsorted(calls["ts"], limit, side="left"))
        self.carried = calls[ready:]
        self.cpus.update(np.unique(calls["cpu"][:ready]).tolist())
        for key, seen in self._split(calls[:ready], calls):
            tree = self._tree(*key)
            tree.held = _merged(tree.held, seen) if len(tree.held) else seen
        for tree in self.trees.values():
            self._check(tree, limit)
        self._emit(limit)

    def _refuse_others(self, pools: list[int]) -> None:
        """ReplayError for calls to a pool of another allocator; one without calls is no matter."""
        for number in pools:
            allocator = self.allocators[number] if number < len(self.allocators) else "unknown"
            if not can_explain(allocator):
                raise ReplayError(
                    f"{self.verdict.trace}: pool {number} is {allocator}; only ztree can be "
                    "validated so"
                )

    def _split(self, calls: Calls, nearby: Calls) -> Iterator[tuple[tuple[int, int], Seen]]:
        """The calls as each (pool, tree) sees them, sorted by (ts, row)."""
        parts = [self._objects(calls), self._shrinks(calls, nearby)]
        keys = np.concatenate([keys for keys, _ in parts])
        seen = np.concatenate([seen for _, seen in parts])
        # Objects are sorted by time; what shrinks do lies between them.
        sections = len(parts[1][0]) > 0
        sorting = np.lexsort((seen["row"], seen["ts"], keys)) if sections else _by_key(keys)
        keys, seen = keys[sorting], seen[sorting]
        cuts = np.flatnonzero(keys[1:] != keys[:-1]) + 1
        for first, last in pairwise([0, *cuts.tolist(), len(keys)] if len(keys) else []):
            yield divmod(int(keys[first]), 16), seen[first:last]

    def _objects(self, calls: Calls) -> tuple[NDArray[np.int64], Seen]:
        """Mallocs and frees, with their keys: pool * 16 + tree."""
        calls = calls[(calls["op"] == MALLOC) | (calls["op"] == FREE)]
        failed = (calls["op"] == MALLOC) & (calls["ret"] < 0)
        # Which refusals the size decides; -ENOMEM of a possible size is the page allocator's.
        sized = (calls["size"] > 0) & (calls["size"] <= self.model.page_bytes)
        by_size = failed & ~(sized & (calls["ret"] == -errno.ENOMEM))
        self._compare_errors(calls[by_size])
        calls = calls[~by_size]
        handle = calls["handle"]
        is_malloc = calls["op"] == MALLOC
        nothing = is_malloc & (calls["ret"] < 0)
        fitting = np.searchsorted(self.slot_sizes, calls["size"]).astype(np.int64)
        tree = np.where(nothing, fitting, (handle >> np.uint64(TYPE_SHIFT)).astype(np.int64))
        seen = _seen(calls)
        seen["kind"] = np.where(is_malloc, BlockKind.MALLOC, BlockKind.FREE)
        seen["kind"][nothing] = BlockKind.FAILED_MALLOC
        seen["kind"][is_malloc & ~nothing & (fitting != tree)] = BlockKind.MISFIT
        seen["block"] = (handle & np.uint64(_BLOCK_MASK)) >> np.uint64(SLOT_BITS)
        seen["slot"] = handle & np.uint64(MAX_SLOTS - 1)
        return calls["pool"].astype(np.int64) * 16 + np.minimum(tree, 15), seen

    def _compare_errors(self, failed: Calls) -> None:
        size, ret = failed["size"], failed["ret"]
        right = np.where(size == 0, -errno.EINVAL, -errno.ENOSPC)
        agree = int(((right == ret) & ((size == 0) | (size > self.model.page_bytes))).sum())
        self.verdict.errors_agree += agree
        self.verdict.errors_differ += len(failed) - agree

    def _shrinks(self, calls: Calls, nearby: Calls) -> tuple[NDArray[np.int64], Seen]:
        """The critical sections of shrinks, placed between the evictions inside them."""
        keys: list[int] = []
        rows: list[tuple[Any, ...]] = []
        shrinks = calls[calls["op"] == SHRINK]
        evictions = nearby[nearby["op"] == WRITEBACK] if len(shrinks) else nearby[:0]
        for shrink in shrinks:
            self.verdict.shrinks += 1
            inside = evictions[
                (evictions["tid"] == shrink["tid"])
                & (evictions["ts"] >= shrink["ts"])
                & (evictions["end"] <= shrink["end"])
            ]
            if not len(inside):
                # It chose a block with nothing to evict, or none: which, no record tells.
                self.verdict.shrinks_undetermined += 1
                continue
            for key, row in _sections(shrink, inside):
                keys.append(key)
                rows.append(row)
        return np.array(keys, np.int64), np.array(rows, SEEN)

    # -- one tree ----------------------------------------------------------------------------

    def _tree(self, pool: int, number: int) -> _Tree:
        key = pool, number
        if key not in self.trees:
            if number >= len(self.model.types):
                raise ReplayError(
                    f"{self.verdict.trace}: a handle of block type {number}, but the table has "
                    f"{len(self.model.types)}; give the table that the module was built with"
                )
            kind = self.model.types[number]
            began = TreeVerdict(pool, number, kind.slot_bytes, None, False, False)  # type: ignore[arg-type]
            self.trees[key] = _Tree(began)
        return self.trees[key]

    def _check(self, tree: _Tree, limit: int) -> None:
        """Check the calls of ``tree`` that no later call can overlap."""
        held = tree.held
        if tree.checker is None:
            # Shrinks that pass a tree before anything is in it say nothing of it.
            held = tree.held = held[np.maximum.accumulate(held["kind"] != BlockKind.PASS)]
            first = next(groups(held, limit), None)
            if first is None:
                return
            tree.checker = self._begin(tree, held[: first[1]])
        if len(held):
            tree.held = held[tree.checker.check(held, limit) :]

    def _begin(self, tree: _Tree, first: Seen) -> Stream:
        """Make the checker, deciding whether the tree was empty; ``first``: its first calls."""
        verdict = tree.verdict
        pool, number = verdict.pool, verdict.tree
        declared = pool < len(self.declared) and self.declared[pool]
        empty = self.starts_empty if self.starts_empty is not None else declared
        if not empty and self.starts_empty is None:
            is_first = (
                (first["kind"] == BlockKind.MALLOC) & (first["block"] == 0) & (first["slot"] == 0)
            )
            empty = bool(is_first.any())
            verdict.assumed_empty = empty
        verdict.began_before = not empty
        model = self.tree_class(self.model.types[number], self.model.trees[number].max_index)

        def on_steps(steps: BlockSteps) -> None:
            for race in races_in(pool, number, steps, tree.marked):
                tree.race_counts[race.hazard] += 1
                if tree.race_counts[race.hazard] <= KEPT:
                    tree.races.append(race)

        def on_more_failures(count: int) -> None:
            self.verdict.unexplained_count += count

        def on_failure(failure: BlockFailure) -> None:
            on_more_failures(1)
            if len(tree.unexplained) < KEPT:
                cause = self._cause(failure, tree)
                tree.unexplained.append(Unexplained(pool, number, failure, cause))

        sinks = Sinks(on_steps, on_failure, None if self.on_order is None else self._keep)
        checker: Stream
        if self.in_core:
            checker = NativeStream(model, empty, sinks, on_more_failures)
        else:
            checker = PythonStream(model, empty, sinks)
        verdict.tally = checker.tally
        return checker

    def _cause(self, failure: BlockFailure, tree: _Tree) -> str:
        if self.verdict.lost:
            return f"one of the {self.verdict.lost} lost events"
        if tree.verdict.began_before or tree.verdict.assumed_empty:
            return f"the trace begins late; otherwise {failure.cause}"
        return failure.cause

    def finish(self) -> TreesVerdict:
        """End of the trace."""
        forever = int(np.iinfo(np.int64).max)
        self.feed(np.empty(0, CALL), forever)
        for tree in self.trees.values():
            if tree.checker is not None:
                tree.checker.finish()
        self._emit(forever)
        verdict = self.verdict
        verdict.cpus = len(self.cpus)
        self._keep_first()
        checked = [tree.verdict for tree in self.trees.values() if tree.checker is not None]
        verdict.trees = sorted(checked, key=lambda tree: (tree.pool, tree.tree))
        assumed = [f"{tree.pool}/{tree.tree}" for tree in verdict.trees if tree.assumed_empty]
        if assumed:
            verdict.notes.append(
                "the trace does not say whether its pools were empty when it began; taken as "
                f"empty, because the first malloc gave block 0 slot 0: trees {', '.join(assumed)}"
            )
        if verdict.total("cut_short"):
            verdict.notes.append(
                f"{verdict.total('cut_short')} groups of overlapping calls had too many orders to "
                "try them all; of later calls that the untried ones allow some may be refused"
            )
        if not verdict.trees:
            raise ReplayError(f"{verdict.trace}: no malloc or free in it; nothing to validate")
        return verdict

    def _keep_first(self) -> None:
        """Of each tree's first races and failures keep the first of all, by row."""
        verdict = self.verdict
        trees = self.trees.values()
        failures = [one for tree in trees for one in tree.unexplained]
        verdict.unexplained = sorted(failures, key=lambda one: one.failure.call.row)[:KEPT]
        races = [race for tree in trees for race in tree.races]
        races.sort(key=lambda race: (race.hazard, race.calls[0].row))
        kept: Counter[str] = Counter()
        for race in races:
            kept[race.hazard] += 1
            if kept[race.hazard] <= KEPT:
                verdict.races.append(race)
        for tree in trees:
            verdict.race_counts += tree.race_counts

    # -- the order found ---------------------------------------------------------------------

    def _keep(self, order: FoundOrder) -> None:
        self.order.append(order)

    def _emit(self, limit: int) -> None:
        """Hand out the part of the order before which nothing can come any more."""
        if self.on_order is None or not self.order:
            return
        for tree in self.trees.values():
            if len(tree.held):
                limit = min(limit, int(tree.held["ts"][0]))
            if tree.checker is not None and tree.checker.undecided_since is not None:
                limit = min(limit, tree.checker.undecided_since)
        merged = FoundOrder(
            np.concatenate([part.at_ns for part in self.order]),
            np.concatenate([part.row for part in self.order]),
            np.concatenate([part.step for part in self.order]),
        )
        sorting = np.argsort(merged.at_ns, kind="stable")
        ready = int(np.searchsorted(merged.at_ns[sorting], limit, side="left"))
        self.on_order(_pick(merged, sorting[:ready]))
        self.order = [_pick(merged, sorting[ready:])]


def _by_key(keys: NDArray[np.int64]) -> NDArray[np.intp]:
    """Stable; numpy sorts 16 bits by radix."""
    return np.argsort(keys.astype(np.int16), kind="stable")


def _merged(held: Seen, seen: Seen) -> Seen:
    """Both, each sorted by (ts, row), together."""
    merged = np.concatenate([held, seen])
    if held["ts"][-1] < seen["ts"][0]:
        return merged
    return merged[np.lexsort((merged["row"], merged["ts"]))]


def _pick(order: FoundOrder, at: NDArray[np.intp]) -> FoundOrder:
    return FoundOrder(order.at_ns[at], order.row[at], order.step[at])


def _seen(calls: Calls) -> Seen:
    seen = np.zeros(len(calls), SEEN)
    for name in ("ts", "end", "row", "cpu", "tid", "size"):
        seen[name] = calls[name]
    return seen


def _sections(shrink: Any, evictions: Calls) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """(key, SEEN row) of each critical section of one shrink that evicted something."""
    who = (int(shrink["row"]), int(shrink["cpu"]), int(shrink["tid"]), 0)
    pool = int(shrink["pool"])
    rounds = list(_rounds(evictions))
    begins = [int(shrink["ts"]), *(int(one["end"][-1]) for one in rounds)]
    ends = [*(int(one["ts"][0]) for one in rounds[1:]), int(shrink["end"])]
    for one, begin, end in zip(rounds, begins[:-1], ends, strict=True):
        handles = one["handle"].tolist()
        number, block = handles[0] >> TYPE_SHIFT, (handles[0] & _BLOCK_MASK) >> SLOT_BITS

        def section(
            tree: int, first: int, last: int, kind: BlockKind, slot: int = 0, block: int = block
        ) -> Any:
            return pool * 16 + tree, (first, max(first, last), kind, block, slot, *who, first)

        chosen = int(one["ts"][0])
        for passed in range(number + 1, 16):
            yield section(passed, begin, chosen, BlockKind.PASS)
        yield section(number, begin, chosen, BlockKind.CHOOSE)
        following = [*one["ts"][1:].tolist(), end]
        for handle, ret, done, until in zip(
            handles, one["ret"].tolist(), one["end"].tolist(), following, strict=True
        ):
            if not ret:
                yield section(number, done, until, BlockKind.RECOVER, handle & MAX_SLOTS - 1)
        yield section(number, int(one["end"][-1]), end, BlockKind.SETTLE)


def _rounds(evictions: Calls) -> Iterator[Calls]:
    """The evictions of one shrink, a block at a time: it goes through the slots upwards."""
    handle = evictions["handle"]
    block = handle >> np.uint64(SLOT_BITS)
    cuts = (block[1:] != block[:-1]) | (handle[1:] <= handle[:-1])
    cuts |= evictions["ret"][:-1] != 0
    begins = [0, *(np.flatnonzero(cuts) + 1).tolist(), len(evictions)]
    for first, last in pairwise(begins):
        yield evictions[first:last]
