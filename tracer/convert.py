# SPDX-License-Identifier: GPL-2.0-only
"""Spool to trace: records become columns, pool sizes join the call they follow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ztrace.allocator.registry import recorded_traits
from ztrace.allocator.traits import Tells
from ztrace.tracer.ring import (
    HAS_AUX,
    HAS_HANDLE,
    HAS_KEY,
    HAS_LOCK,
    HAS_PLACE,
    HAS_SIZE,
    OP_TOTAL,
    RECORD,
    Records,
)
from ztrace.tracer.spool import SpoolReader, following
from ztrace.traces import Metadata, TraceWriter
from ztrace.traces.schema import OP_CODE, OPS

STORE, MALLOC, FREE = OP_CODE["store"], OP_CODE["malloc"], OP_CODE["free"]
MAP, COMPACT, INVALIDATE = OP_CODE["map"], OP_CODE["compact"], OP_CODE["invalidate"]
COUNTED = (MALLOC, FREE, COMPACT)

NO_TOTAL = np.uint64(2**64 - 1)

# Records held back at a window's end so that a malloc there still meets its pool size.
HELD = 4096


def convert(
    spool: Path,
    output: Path,
    *,
    force: bool = False,
    advance: Callable[[int], None] = lambda rows: None,
    notes: Sequence[str] = (),
) -> Metadata:
    """Write the trace ``output`` from ``spool``; returns its metadata, with more ``notes``.

    ``advance`` is called with the number of rows of each piece written. A spool cut short
    makes a trace with a note saying so. Of a recording that rotated, the spool after this one is
    looked into for what belongs to this one's last calls, if it is still there.
    TracerError or TraceError for files that are unusable.
    """
    reader = SpoolReader(spool)
    start, state = reader.documents()
    whole = state.pop("final", False)
    metadata = Metadata.from_json(json.dumps({**start, **state}), str(spool))
    metadata.notes += notes
    layout = _Layout(
        page_bytes=metadata.machine.page_bytes,
        headers=np.array([pool.header_bytes for pool in metadata.pools] or [0], np.uint32),
        mapped_places=[
            number
            for number, pool in enumerate(metadata.pools)
            if recorded_traits(pool.allocator).tells is Tells.MAP
        ],
    )
    with TraceWriter(output, metadata, force=force) as writer:
        zram = metadata.source == "zram"
        for records, totals in _own_records(reader, metadata.pieces.last, zram=zram):
            rows = records["op"] < len(OPS)
            writer.write(columns(records[rows], totals[rows], layout))
            advance(int(rows.sum()))
        if reader.torn_bytes or not whole:
            writer.metadata.notes.append(
                f"the recorder was cut off: {reader.torn_bytes} bytes of the spool's end are "
                "unusable, and what it had not yet written is missing (under a second, or what "
                "came after the disk was full); losses are those known by then"
            )
    return metadata


def _own_records(
    reader: SpoolReader, number: int, *, zram: bool
) -> Iterator[tuple[Records, NDArray[np.uint64]]]:
    """The records of a spool with their totals (:func:`with_totals`).

    ``number`` is the file's in a recording that rotated: what answers its last calls may be among
    the first records of the next one.
    """
    read = given = 0

    def batches() -> Iterator[Records]:
        nonlocal read
        for batch in reader.records():
            read += len(batch)
            yield batch
        after = following(reader.path, number)
        if after.exists():
            seen = 0
            for batch in SpoolReader(after).records():
                yield batch
                seen += len(batch)
                if seen >= HELD:
                    break

    for records, totals in with_totals(batches(), zram=zram):
        own = read - given
        yield records[:own], totals[:own]
        given += len(records[:own])


def with_totals(
    batches: Iterator[Records], *, zram: bool = False
) -> Iterator[tuple[Records, NDArray[np.uint64]]]:
    """Yield all records again, each malloc and free with the pool's size after it.

    zswap asks for a pool's size right after it stored or freed an entry, in the same task, so
    a size belongs to the last malloc or free of its task and pool. NO_TOTAL: none was asked.
    Of zram, a malloc gets the slot that its task frees next, which is the one it writes.
    """
    carried: Records = np.empty(0, RECORD)
    for batch in batches:
        window = np.concatenate([carried, batch])
        totals, open_calls = _join_totals(window)
        if zram:
            open_calls = np.sort(np.concatenate([open_calls, _join_slots(window)]))
        recent = open_calls[open_calls >= len(window) - HELD]
        cut = int(recent[0]) if recent.size else len(window)
        yield window[:cut], totals[:cut]
        carried = window[cut:]
    if len(carried):
        yield carried, _join_totals(carried)[0]


def _join_totals(window: Records) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
    """Sizes by position, and the positions of calls that no size followed yet, ascending."""
    op = window["op"]
    is_call = ((op == MALLOC) & (window["ret"] == 0)) | (op == FREE)
    who = window["tid"].astype(np.uint64) << np.uint64(16) | window["pool"]
    joined = _join(is_call, op == OP_TOTAL, who)
    totals = np.full(len(window), NO_TOTAL)
    totals[joined.calls] = window["aux"][joined.answers]
    return totals, joined.open


def _join_slots(window: Records) -> NDArray[np.intp]:
    """Give mallocs the slots that zram frees after them; returns those still without one."""
    op = window["op"]
    is_call = (op == MALLOC) & (window["ret"] == 0) & ((window["has"] & HAS_KEY) == 0)
    joined = _join(is_call, op == INVALIDATE, window["tid"].astype(np.uint64))
    window["key"][joined.calls] = window["key"][joined.answers]
    window["has"][joined.calls] |= HAS_KEY
    return joined.open


class _Joined(NamedTuple):
    """Positions of calls and, alike, of their answers; of calls without one yet, ascending."""

    calls: NDArray[np.intp]
    answers: NDArray[np.intp]
    open: NDArray[np.intp]


def _join(
    is_call: NDArray[np.bool_], is_answer: NDArray[np.bool_], who: NDArray[np.uint64]
) -> _Joined:
    """Pair each answer with a call right before it among what the same ``who`` did."""
    at = np.flatnonzero(is_call | is_answer)
    at = at[np.lexsort((at, who[at]))]
    group, call = who[at], is_call[at]
    same = np.zeros(len(at), bool)  # as the next one
    same[:-1] = group[:-1] == group[1:]
    answered = np.zeros(len(at), bool)
    answered[:-1] = call[:-1] & ~call[1:] & same[:-1]
    source = np.flatnonzero(answered)
    return _Joined(at[source], at[source + 1], np.sort(at[call & ~same]))


@dataclass(frozen=True)
class _Layout:
    """What the columns of a recording need to know beside its records.

    ``headers``: what zswap adds to an object's size, by pool. ``mapped_places``: pools whose
    objects' places are the addresses that they are mapped at.
    """

    page_bytes: int
    headers: NDArray[np.uint32]
    mapped_places: Sequence[int]


def columns(records: Records, totals: NDArray[np.uint64], layout: _Layout) -> dict[str, Any]:
    """The trace's columns of records; ``totals`` by position, NO_TOTAL where there is none."""
    has, op, aux, pool = records["has"], records["op"], records["aux"], records["pool"]
    size = records["size"].copy()
    store = (op == STORE) & ((has & HAS_SIZE) != 0)
    size[store] -= layout.headers[np.minimum(pool[store], len(layout.headers) - 1)]
    failed = (op == MALLOC) & (records["ret"] != 0)
    # A driver that counts its pages was read as the call returned.
    counted = np.isin(op, COUNTED) & ((has & HAS_AUX) != 0)
    totals = np.where(counted, aux * np.uint64(layout.page_bytes), totals)
    mapped = (op == MAP) & ((has & HAS_AUX) != 0) & np.isin(pool, layout.mapped_places)
    place = np.where(mapped, aux, records["place"])
    return {
        "ts_ns": records["ts"].astype(np.int64),
        "dur_ns": records["dur"],
        "op": op.astype(np.int8),
        "pool": pool.astype(np.uint8),
        "key": _nullable(records["key"], has & HAS_KEY),
        "size": _nullable(size, has & HAS_SIZE),
        "handle": _nullable(records["handle"], np.where(failed, 0, has & HAS_HANDLE)),
        "ret": records["ret"],
        "place": _nullable(place, mapped | ((has & HAS_PLACE) != 0)),
        "total": _nullable(totals, totals != NO_TOTAL),
        "lock_ns": _nullable(records["lock"], has & HAS_LOCK),
        "cpu": records["cpu"],
        "tid": records["tid"],
        "cgroup": records["cgroup"],
    }


def _nullable(values: NDArray[Any], present: NDArray[Any]) -> Any:
    return pa.array(values, mask=present == 0)
