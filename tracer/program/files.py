# SPDX-License-Identifier: GPL-2.0-only
"""The two files between this process and the player in the kernel: calls in, answers out.

Their layout is that of ``struct ztrace_plan`` and ``struct ztrace_answers`` in kernel/play.h.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztrace.tracer.errors import TracerError
from ztrace.traces.schema import OP_CODE

PLAN_MAGIC = 0x315F6E616C707A74
ANSWERS_MAGIC = 0x315F7277736E617A

MALLOC, FREE, READ, WRITE, UNMAP, COMPACT, SHRINK, EVICTED, NO_PAGE = range(9)
"""``enum ztrace_op``."""

NOT_LIVE, CANNOT, NOT_ASKED, NOT_MADE = range(1 << 30, (1 << 30) + 4)
"""Answers that no call of a kernel gives: the object's malloc was refused before; the allocator
has no such call, or nothing to do in it; the shrink did not ask for that eviction; the allocator
broke before the call returned."""

COMPACTED, REFUSED = 0, 1
"""``enum ztrace_event_kind``: kinds of an event."""

_CALL = np.dtype([("object", "<u4"), ("what", "<u4")])
_PLAN = np.dtype(
    [
        ("magic", "<u8"),
        ("calls", "<u4"),
        ("objects", "<u4"),
        ("threads", "<u4"),
        ("rounds", "<u4"),
        ("deferred", "<u4"),
        ("crowded", "<u4"),
        ("noted", "<u4"),
        ("unchecked", "<u4"),
    ]
)
_ANSWERS = np.dtype(
    [
        ("magic", "<u8"),
        ("calls", "<u4"),
        ("rounds", "<u4"),
        ("events", "<u4"),
        ("clock_cycles", "<u4"),
        ("begin_cycles", "<u8"),
        ("begin_ns", "<u8"),
        ("end_cycles", "<u8"),
        ("end_ns", "<u8"),
        ("base_pages", "<u8"),
        ("broken", "<u4"),
        ("broken_round", "<u4"),
        ("broken_call", "<u4"),
        ("broken_thread", "<u4"),
        ("broken_said", "S128"),
    ]
)
EVENT = np.dtype(
    [
        ("place", "<u8"),
        ("begin", "<u8"),
        ("total", "<u8"),
        ("after", "<u4"),
        ("cycles", "<u4"),
        ("kind", "<u4"),
        ("reserved", "<u4"),
    ]
)
"""What no call of the plan is. ``kind`` COMPACTED: a compaction that the allocator queued, with the
page's address as ``place`` and the pool's bytes after it as ``total``. REFUSED: an eviction that a
shrink asked for and the plan did not have there, with its handle as ``place``. When it began and
for how long, in cycles; the number of the call ``after`` which it was."""

_KINDS = {
    OP_CODE["malloc"]: MALLOC,
    OP_CODE["free"]: FREE,
    OP_CODE["map"]: READ,
    OP_CODE["unmap"]: UNMAP,
    OP_CODE["compact"]: COMPACT,
    OP_CODE["shrink"]: SHRINK,
    OP_CODE["writeback"]: EVICTED,
}


@dataclass(frozen=True)
class Plan:
    """What is to be played, all arrays of shape (calls,).

    ``op``: codes of traces.schema. ``object``: below ``objects``, which object a call is about.
    ``size_bytes``: of the object. ``is_write``: whether a map is one to write, or a malloc one
    for which there is no page to be had (only of a program that was built ``watched``). ``first``:
    shape (threads + 1,), the calls of thread i are those from first[i] to before first[i + 1].
    ``deferred``: compactions that the allocator queues run where the plan has one, else at once.
    ``noted``: every round places objects and is noted, and of the last one answers are kept.
    ``unchecked``: that two objects have one handle goes on unnoticed, as in a kernel.

    A shrink has as ``object`` how many of the calls after it are made while it runs, as
    ``size_bytes`` its pages. Among these a writeback ends an eviction of its object, with the errno
    that it has as ``size_bytes``: those before it and after the last one are made in it. Shrinks
    do not nest, and are for one thread.
    """

    op: NDArray[np.int8]
    object: NDArray[np.uint32]
    size_bytes: NDArray[np.uint32]
    is_write: NDArray[np.bool_]
    objects: int
    first: NDArray[np.uint64]
    deferred: bool = False
    noted: bool = False
    unchecked: bool = False

    @property
    def calls(self) -> int:
        """How many calls there are."""
        return len(self.op)

    @property
    def threads(self) -> int:
        """How many CPUs play them."""
        return len(self.first) - 1


def write_plan(plan: Plan, rounds: int, path: Path) -> None:
    """Write a plan to be played ``rounds`` times after the round that places objects."""
    kinds = np.full(256, 255, np.uint8)
    kinds[list(_KINDS)] = list(_KINDS.values())
    played = kinds[plan.op]
    played[plan.is_write & (played == READ)] = WRITE
    played[plan.is_write & (played == MALLOC)] = NO_PAGE
    calls = np.empty(plan.calls, _CALL)
    calls["object"] = plan.object
    calls["what"] = played.astype(np.uint32) << np.uint32(24) | plan.size_bytes
    head = np.zeros(1, _PLAN)
    head["magic"] = PLAN_MAGIC
    head["calls"], head["objects"] = plan.calls, plan.objects
    head["threads"], head["rounds"] = plan.threads, rounds
    head["deferred"], head["noted"] = plan.deferred, plan.noted
    head["unchecked"] = plan.unchecked
    head["crowded"] = plan.threads > len(os.sched_getaffinity(0))
    with path.open("wb") as file:
        head.tofile(file)
        plan.first.astype("<u8").tofile(file)
        calls.tofile(file)


@dataclass(frozen=True)
class Break:
    """How an allocator broke: in ``round`` (0 places objects), while ``thread`` was in the plan's
    call number ``call`` (None: in no call, but in work of the allocator's own), and what it, the
    player or the dying kernel ``said``."""

    round: int
    thread: int
    call: int | None
    said: str


@dataclass(frozen=True)
class Answers:
    """What an allocator answered, arrays of shape (calls,) unless said otherwise.

    ``begin_cycles``: entry in the placing round, by the CPU's clock. ``handle``, ``ret``,
    ``place`` (0: not told), ``total_bytes`` (the pool's own figure) and ``held_pages`` (taken from
    the page allocator since the pool was made) after the call, of the placing round; the latter
    two are 0 where several threads played. Of a shrink ``handle`` is the number of calls that were
    made while it ran, ``place`` its cycles in the placing round with these. ``cycles``: shape
    (1 + rounds, calls), the placing round first, what the clock costs not subtracted. ``events``:
    of dtype EVENT, in the order in which they ran.

    Of an allocator that has ``broken`` there are the answers until then, and in ``cycles`` the
    placing round and those that were played whole.

    Only of several threads: ``lock_cycles``, from the beginning of a call to when it let go of the
    last spinlock of the allocator's own, 0 if it took none, in the placing round; and
    ``waited_cycles``, in which it waited for such locks, of the shape of ``cycles``.
    """

    begin_cycles: NDArray[np.uint64]
    handle: NDArray[np.uint64]
    place: NDArray[np.uint64]
    total_bytes: NDArray[np.uint64]
    held_pages: NDArray[np.uint32]
    ret: NDArray[np.int32]
    cycles: NDArray[np.uint32]
    events: NDArray[Any]
    clock_cycles: int
    ns_per_cycle: float
    lock_cycles: NDArray[np.uint32] | None = None
    waited_cycles: NDArray[np.uint32] | None = None
    broken: Break | None = None


def read_answers(path: Path, plan: Plan) -> Answers:
    """Read what the player wrote; TracerError if it is not whole or not of this plan."""
    with path.open("rb") as file:
        head = np.fromfile(file, _ANSWERS, 1)
        if len(head) != 1 or head["magic"][0] != ANSWERS_MAGIC or head["calls"][0] != plan.calls:
            raise TracerError(f"{path}: these are not the answers of the calls that were played")
        head = head[0]
        rounds, n = int(head["rounds"]), plan.calls
        arrays = {
            name: np.fromfile(file, kind, n)
            for name, kind in (
                ("begin_cycles", "<u8"),
                ("handle", "<u8"),
                ("place", "<u8"),
                ("total_bytes", "<u8"),
                ("held_pages", "<u4"),
                ("ret", "<i4"),
            )
        }
        cycles = np.fromfile(file, "<u4", (1 + rounds) * n)
        watched = n if plan.threads > 1 else 0
        lock = np.fromfile(file, "<u4", watched)
        waited = np.fromfile(file, "<u4", (1 + rounds) * watched)
        events = np.fromfile(file, EVENT, int(head["events"]))
    whole = len(cycles) == (1 + rounds) * n and len(waited) == (1 + rounds) * watched
    if not whole or len(events) != head["events"]:
        raise TracerError(f"{path}: the answers are cut short; is the disk full?")
    broken = None
    if head["broken"]:
        at = int(head["broken_call"])
        broken = Break(
            round=int(head["broken_round"]),
            thread=int(head["broken_thread"]),
            call=at if at < n else None,
            said=bytes(head["broken_said"]).decode(errors="replace"),
        )
    played = 1 + rounds if broken is None or plan.noted else max(1, broken.round)
    lasted_cycles = int(head["end_cycles"] - head["begin_cycles"])
    return Answers(
        **arrays,
        cycles=cycles.reshape(1 + rounds, n)[:played],
        lock_cycles=lock if watched else None,
        waited_cycles=waited.reshape(1 + rounds, n)[:played] if watched else None,
        broken=broken,
        events=events,
        clock_cycles=int(head["clock_cycles"]),
        ns_per_cycle=int(head["end_ns"] - head["begin_ns"]) / max(1, lasted_cycles),
    )
