# SPDX-License-Identifier: GPL-2.0-only
"""What a real allocator answered, as a trace: report, compare, stat and validate read it as any."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ztrace.allocator.registry import recorded_traits
from ztrace.allocator.traits import Check
from ztrace.replay.measured.calls import COMPACT, MALLOC, SHRINK, WRITEBACK, Calls
from ztrace.replay.measured.figures import NOT_PLAYED, Answers, least_cycles
from ztrace.traces.metadata import Kernel, Machine, Metadata, PoolInfo, Probe
from ztrace.traces.schema import Batch

_ROWS = 1 << 20
_LONGEST_NS = 2**32 - 1

_COMPACTED = 0
"""``kind`` of an event, the other is an eviction that was refused: tracer/program/files.py."""

PROGRAM, TEST_BOX = "program", "test box"


@dataclass(frozen=True)
class Where:
    """Where calls were played: ``kind`` is PROGRAM (the kernel is one) or TEST_BOX.

    ``kernel`` is what the user called it, ``release`` what it calls itself.
    """

    kind: str
    kernel: str
    release: str
    cpu_model: str


def metadata(
    source: Metadata, trace: Path, allocator: str, calls: Calls, answers: Answers, where: Where
) -> Metadata:
    """What the measured trace says of itself; ``source`` is of the trace that was played."""
    used = [pool for pool in source.pools if pool.allocator != "unknown"]
    header = used[0].header_bytes if used else 0
    threads = len(calls.first) - 1
    return Metadata(
        source="measure",
        kernel=Kernel(release=where.release),
        machine=Machine(cpu_model=where.cpu_model, cpus=threads, page_bytes=4096, arch="x86_64"),
        pools=[
            PoolInfo(
                allocator=allocator,
                compressor=used[0].compressor if used else "unknown",
                created_in_recording=True,
                empty_at_start=True,
                header_bytes=header + calls.more_bytes,
            )
        ],
        probes={op: Probe(kind="call", symbol=allocator) for op in ("malloc", "free")},
        clock="TSC",
        filters=dict(source.filters),
        sampling=dict(source.sampling),
        duration_ns=0,
        extra={
            "measure": {
                "where": where.kind,
                "kernel": where.kernel,
                "trace": trace.name,
                "rounds": len(answers.cycles) - 1,
                "duration_of_a_call": "least over the rounds" if threads == 1 else "one round's",
                "clock_cycles": answers.clock_cycles,
                "ns_per_cycle": answers.ns_per_cycle,
                "adds_maps": calls.adds_maps,
                "left_out": calls.left_out,
                **({"broken": vars(answers.broken)} if answers.broken else {}),
            }
        },
    )


def _one_lock(allocator: str) -> bool:
    """Whether a call's last lock is the one that orders it among those of other CPUs."""
    return recorded_traits(allocator).check in (Check.LOCKED, Check.SEARCHED)


def rows(calls: Calls, answers: Answers, allocator: str) -> Iterator[Batch]:
    """The trace's rows. A call on an object that was refused is none; a compaction that the
    allocator queued and an eviction that the plan did not have are rows after the call after which
    they were. A shrink's row comes after those of all that was done while it ran, and lasts so.

    ``allocator``: of one whose calls are put in order by when they held its lock, that is told.
    """
    alone = len(calls.first) == 2
    events = answers.events
    compacted = events["kind"] == _COMPACTED
    # A page that was compacted from a queue has told so itself.
    told = (calls.op == COMPACT) & compacted.any()
    played = (answers.ret < NOT_PLAYED) & ~told
    at = np.flatnonzero(played)
    origin = int(answers.begin_cycles[at].min(initial=2**63))
    op, ret = calls.op[at], answers.ret[at]
    is_malloc, is_compaction, is_shrink = op == MALLOC, op == COMPACT, op == SHRINK
    cycles = least_cycles(calls, answers)[at]
    # These must hold what was done meanwhile, and so are of the round whose moments are told.
    nested = is_shrink | (op == WRITEBACK)
    cycles[nested] = answers.cycles[0][at[nested]] - answers.clock_cycles
    cycles[is_shrink] = answers.place[at[is_shrink]]
    thread = np.searchsorted(calls.first, at, side="right") - 1
    if alone:
        key = 3 * at
        key[is_shrink] += 2 + 3 * answers.handle[at[is_shrink]].astype(np.int64)
    else:
        # As a recorder sees calls: in the order in which they return.
        key = (answers.begin_cycles[at] - np.uint64(origin)).astype(np.int64)
        key += answers.cycles[0][at]
    key = np.concatenate([key, 3 * events["after"].astype(np.int64) + 1])
    order = np.argsort(key, kind="stable")

    failed = is_malloc & (ret < 0)
    none = np.zeros(len(events), np.int64)
    begin = np.concatenate([answers.begin_cycles[at], events["begin"]]) - np.uint64(origin)
    event_cycles = events["cycles"].astype(np.int64) - answers.clock_cycles
    columns = {
        "ts_ns": np.rint(begin * answers.ns_per_cycle).astype(np.int64),
        "dur_ns": _ns(np.concatenate([cycles, event_cycles]), answers),
        "op": np.concatenate([op, np.where(compacted, COMPACT, WRITEBACK).astype(np.int8)]),
        "size": np.concatenate([calls.size_bytes[at], none]),
        "handle": np.concatenate([answers.handle[at], events["place"]]),
        "ret": np.concatenate([ret, np.where(compacted, 0, -errno.EEXIST)]),
        "place": np.concatenate([answers.place[at], events["place"]]),
        "total": np.concatenate([answers.total_bytes[at], events["total"]]),
        "cpu": np.concatenate([thread, none]),
        "tid": np.concatenate([thread + 1, none + 1]),
    }
    if answers.lock_cycles is not None and _one_lock(allocator):
        of_calls = np.minimum(answers.lock_cycles[at].astype(np.int64), cycles)
        columns["lock_ns"] = np.concatenate([_ns(of_calls, answers), none])
    untold = np.full(len(order), not alone)
    untold[len(at) :] |= ~compacted
    null = {
        "size": np.concatenate([~is_malloc & ~is_shrink, none == 0]),
        "handle": np.concatenate([failed | is_compaction | is_shrink, compacted]),
        "place": np.concatenate([(answers.place[at] == 0) | is_shrink, ~compacted]),
        "total": untold,
        **({"lock_ns": columns["lock_ns"] == 0} if "lock_ns" in columns else {}),
    }
    for start in range(0, len(order), _ROWS):
        chosen = order[start : start + _ROWS]
        yield {
            name: pa.array(values[chosen], mask=null[name][chosen] if name in null else None)
            for name, values in columns.items()
        }


def _ns(cycles: NDArray[np.int64], answers: Answers) -> NDArray[np.int64]:
    ns = np.rint(np.maximum(cycles, 0) * answers.ns_per_cycle)
    return np.minimum(ns, _LONGEST_NS).astype(np.int64)
