# SPDX-License-Identifier: GPL-2.0-only
"""The one door to validation: each pool is checked in the way that its allocator's traits say.

Pools of ztree, whose handles tell where an object lies, are explained by an order of the calls
(ztree_run.py). Of the others it is compared where objects lie (placement.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ztrace.allocator.registry import builtin, load, recorded_traits
from ztrace.allocator.specification import family
from ztrace.allocator.table import Table
from ztrace.allocator.traits import Check, Tells
from ztrace.replay.errors import ReplayError
from ztrace.replay.read.checked import check
from ztrace.replay.validate.calls import PLAYED
from ztrace.replay.validate.found_order import FoundOrder, can_explain
from ztrace.replay.validate.partial import refuse_partial
from ztrace.replay.validate.placement import Places
from ztrace.replay.validate.verdict import Verdict
from ztrace.traces.metadata import Metadata
from ztrace.traces.reader import TraceReader

TREE_PASSES = 2


def validate_trace(
    reader: TraceReader,
    *,
    backend: str | None = None,
    engine: str | None = None,
    starts_empty: bool | None = None,
    on_order: Callable[[FoundOrder], None] | None = None,
    advance: Callable[[int], object] = lambda rows: None,
) -> Verdict:
    """Whether the models of a trace's allocators answer its calls as the kernel did.

    ``backend`` replaces the model chosen from the trace's kernel; of ztree, it names the block
    table that the recorded module was built with. ``engine``, ``python`` or ``native``, is where an
    order is searched: of ztree's calls, and of zbud's on several CPUs. The rest is for pools of
    ztree: ``starts_empty`` and ``on_order`` as for :func:`explain_trees`. ``advance`` gets numbers
    of rows, in all the trace's.

    ReplayError for a trace without allocator calls, of some objects only, with calls that cannot
    have happened, or of an allocator that cannot be validated; BackendError for an impossible
    backend, NativeMissing for the engine ``native`` where there is no core; TraceError for a
    damaged trace.
    """
    began = time.perf_counter()
    if backend is not None:
        load(backend)
    refuse_partial(reader)
    check(reader)
    metadata = reader.metadata
    verdict = Verdict(str(reader.path), metadata.lost_events())
    all_trees = all(can_explain(pool.allocator) for pool in metadata.pools)
    used = [] if all_trees else _used_pools(reader)
    trees = [number for number in used if can_explain(_allocator(metadata, number))]
    others = [number for number in used if number not in trees]
    if others and "unknown" in (_allocator(metadata, number) for number in trees):
        trees, others = [], used  # it is tried as ztree only where it may be alone
    for number in others:
        allocator = _allocator(metadata, number)
        nothing = recorded_traits(allocator).tells is Tells.NOTHING
        _refuse(reader, f"pool {number} is {allocator}; no places to compare", nothing)
    of_trees = backend is not None and (not others or can_explain(family(backend)))
    places = Places(reader, others, None if of_trees and trees else backend, engine)
    share = _Share(advance, TREE_PASSES * bool(all_trees or trees) + places.passes)
    if all_trees or trees:
        from ztrace.replay.validate.ztree_run import explain_trees

        verdict.trees = explain_trees(
            reader,
            engine=engine,
            starts_empty=starts_empty,
            table=_table(backend) if backend is not None and of_trees else None,
            pools=None if all_trees else trees,
            on_order=on_order,
            advance=share,
        )
    verdict.pools = places.compare(share)
    verdict.wall_s = time.perf_counter() - began
    return verdict


def searches_trees(metadata: Metadata) -> bool:
    """Whether an order of ztree's calls is searched, which the core can do and a file can hold."""
    return not metadata.pools or any(can_explain(pool.allocator) for pool in metadata.pools)


def in_core(metadata: Metadata) -> bool:
    """Whether the core can validate a pool of the trace: a third party's, or z3fold's on several
    CPUs, only Python can.
    """
    many = metadata.machine.cpus != 1
    traits = [recorded_traits(pool.allocator) for pool in metadata.pools]
    played = any(one.native and not (many and one.check is Check.CORRECTED) for one in traits)
    return played or searches_trees(metadata)


def _allocator(metadata: Metadata, pool: int) -> str:
    return metadata.pools[pool].allocator if pool < len(metadata.pools) else "unknown"


def _refuse(reader: TraceReader, why: str, refused: bool) -> None:
    if refused:
        raise ReplayError(f"{reader.path}: {why}")


def _used_pools(reader: TraceReader) -> list[int]:
    """Pools that calls were made to; ReplayError if there is none."""
    calls = np.zeros(256, np.int64)
    for batch in reader.batches(columns=("op", "pool")):
        op = batch.column("op").indices.to_numpy()
        calls += np.bincount(batch.column("pool").to_numpy()[np.isin(op, PLAYED)], minlength=256)
    _refuse(reader, "no malloc or free in it; nothing to validate", not calls.any())
    return np.flatnonzero(calls).tolist()


def _table(backend: str) -> Table | None:
    """The block table of a specification of the posted ztree, None for the posted one."""
    found = builtin(backend)
    if found is None or not can_explain(found.name) or "variant" in found.arguments:
        raise ReplayError(f"--backend {backend}: the trace is of ztree; write ztree:table=FILE")
    table: Table | None = found.arguments.get("table")
    return table


@dataclass
class _Share:
    """Progress of one of several passes over the rows, as its share of the rows."""

    advance: Callable[[int], object]
    passes: int
    done: int = 0

    def __call__(self, rows: int) -> None:
        before = self.done // self.passes
        self.done += rows
        self.advance(self.done // self.passes - before)
