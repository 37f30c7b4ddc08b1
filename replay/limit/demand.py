# SPDX-License-Identifier: GPL-2.0-only
"""What a recorded workload wanted of zswap: pages to store, to load and to give up.

What zswap made of it under its own limit, the shrinks, writebacks and frees of the recording, is
left out: that is for a model to say.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ztrace.replay.errors import ReplayError
from ztrace.replay.read.checked import checked
from ztrace.replay.read.rows import NO_HANDLE
from ztrace.replay.read.source import Source
from ztrace.text import counted
from ztrace.traces.columns import values
from ztrace.traces.metadata import Metadata
from ztrace.traces.schema import OP_CODE

COLUMNS = ("ts_ns", "op", "pool", "key", "size", "ret", "tid")
"""What a reading reads of a trace."""

_STORE, _LOAD, _INVALIDATE, _MALLOC, _FREE = (
    OP_CODE[name] for name in ("store", "load", "invalidate", "malloc", "free")
)
_NO_KEY = NO_HANDLE
_REFUSED_SIZE = -errno.ENOSPC


class Want(IntEnum):
    """What is wanted. A page that no compressor could do anything about is one to WRITE.

    LOAD_KEPT: the recorded kernel, which frees what it loads, did not; the swap device is one that
    is read without the swap cache.
    """

    STORE = 0
    WRITE = 1
    LOAD = 2
    LOAD_KEPT = 3
    DROP = 4
    DROP_ALL = 5


class Demand(NamedTuple):
    """One demand: ``key`` is the swap slot, ``size`` compressed bytes, 0 for a same-filled page."""

    want: Want
    at_ns: int
    key: int
    size: int
    row: int


@dataclass
class NotTold:
    """What a trace does not tell of its workload.

    Because zswap was at its limit already: ``sizes``, pages it rejected before it had compressed
    them; they are taken to be as large as the last one before whose size is known. ``frees``:
    whether the kernel also keeps to itself when such a page is read or given up, as where
    frontswap stands before zswap.

    Because it began late: ``loads`` and ``drops``, see :class:`EarlierSlots`.
    """

    sizes: int = 0
    frees: bool = False
    loads: int = 0
    drops: int = 0

    def lines(self) -> list[str]:
        """What that means for figures, a line each; none if the trace tells all."""
        lines = []
        if self.sizes:
            were, their = ("was", "its size is") if self.sizes == 1 else ("were", "their sizes are")
            lines.append(
                f"{counted(self.sizes, 'store')} {were} rejected when this was recorded; {their} "
                "not known, those of the pages before are taken"
            )
        if self.frees:
            lines.append(
                "and whether they were read or given up later is not known: record with room"
            )
        unknown = {"load": self.loads, "invalidate": self.drops}
        if any(unknown.values()):
            counts = ", ".join(f"{name} {count:,}" for name, count in unknown.items() if count)
            lines.append(
                f"unknown slots: {counts}; stored before the trace, their pages are in no model"
            )
        return lines


def uses_frontswap(metadata: Metadata) -> bool:
    """Whether zswap was called through frontswap, as until 6.5.

    Told by the probe of store; without one, by the release. ReplayError if that is not known.
    """
    probe = metadata.probes.get("store")
    if probe is not None and probe.symbol != "unknown":
        return probe.symbol == "zswap_frontswap_store"
    major, _, rest = metadata.kernel.release.partition(".")
    minor = rest.partition(".")[0].partition("-")[0]
    if not (major.isdigit() and minor.isdigit()):
        raise ReplayError(
            f"kernel {metadata.kernel.release!r} is not known: whose rules of the pool limit are "
            "meant? choose with --rules"
        )
    return (int(major), int(minor)) < (6, 6)


class Reading:
    """What the rows of a zswap trace wanted, batch by batch, in recorded order.

    ``told`` is filled in meanwhile.
    """

    def __init__(self, metadata: Metadata, told: NotTold) -> None:
        self.told = told
        self._limited = hit_the_limit(metadata)
        self._frontswap = uses_frontswap(metadata)
        self._headers = [pool.header_bytes for pool in metadata.pools]
        self._given: dict[int, list[tuple[int, int, int]]] = {}  # task -> (key, size, ts)
        self._freed: dict[int, int] = {}  # task -> key of its last free
        self._last_size = first_size(metadata)
        self._frees = False

    def read(self, batch: pa.RecordBatch, first: int) -> Iterator[Demand]:
        """Yield the demands of a batch with :data:`COLUMNS`, whose first row has this number."""
        headers, given = self._headers, self._given
        for row, (ts, op, pool, key, size, ret, tid) in enumerate(_rows(batch), first):
            if op == _MALLOC:
                if ret >= 0 or ret == _REFUSED_SIZE:
                    header = headers[pool] if pool < len(headers) else 0
                    given.setdefault(tid, []).append((key, size - header, ts))
            elif op == _FREE:
                self._freed[tid] = key
                self._frees = True
            elif op == _STORE:
                mine = [one for one in given.pop(tid, ()) if one[2] >= ts]
                for of, compressed, _ in mine:
                    self._last_size = compressed
                    slot = key if of == _NO_KEY else of
                    yield Demand(Want.STORE, ts, slot, compressed, row)
                if mine:
                    continue
                if ret >= 0:
                    yield Demand(Want.STORE, ts, key, 0 if size < 0 else size, row)
                elif self._limited and ret in (-errno.ENOMEM, -errno.EPERM):
                    self.told.sizes += 1
                    self.told.frees = self._frontswap
                    yield Demand(Want.STORE, ts, key, self._last_size, row)
                else:
                    yield Demand(Want.WRITE, ts, key, 0, row)
            elif op == _LOAD:
                kept = (
                    self._frees
                    and ret >= 0
                    and not self._frontswap
                    and self._freed.pop(tid, None) != key
                )
                yield Demand(Want.LOAD_KEPT if kept else Want.LOAD, ts, key, 0, row)
            elif op == _INVALIDATE:
                yield Demand(Want.DROP_ALL if key == _NO_KEY else Want.DROP, ts, key, 0, row)


class EarlierSlots:
    """Counts calls on slots that a trace does not see stored: pages that were there before it.

    They are loads that the kernel's zswap answered and, where frontswap asks it for its own pages
    only, invalidates. Memory: 8 bytes for each slot; a trace that begins with empty pools and lost
    nothing has none, and is not looked at.
    """

    def __init__(self, metadata: Metadata, told: NotTold) -> None:
        self._told = told
        self._none = metadata.starts_empty() and not metadata.lost_total()
        self._frontswap = uses_frontswap(metadata)
        self._stored = np.zeros(0, np.uint64)

    def read(self, batch: pa.RecordBatch) -> None:
        """Look at the next rows, with :data:`COLUMNS`."""
        if self._none:
            return
        op, ret = batch.column("op").indices.to_numpy(), batch.column("ret").to_numpy()
        key = values(batch.column("key"), _NO_KEY)
        known_key = key != _NO_KEY
        stores = np.flatnonzero(known_key & (op == _STORE))
        slots, first = np.unique(key[stores], return_index=True)
        answered = (op == _LOAD) & (ret >= 0)
        asked = np.flatnonzero(known_key & (answered | (self._frontswap & (op == _INVALIDATE))))
        known = np.isin(key[asked], self._stored)
        if len(slots):
            at = np.minimum(np.searchsorted(slots, key[asked]), len(slots) - 1)
            known |= (slots[at] == key[asked]) & (stores[first[at]] < asked)
            self._stored = np.union1d(self._stored, slots)
        unknown = op[asked[~known]]
        self._told.loads += int((unknown == _LOAD).sum())
        self._told.drops += int((unknown == _INVALIDATE).sum())


def batches(
    reader: Source,
    advance: Callable[[int], object] = lambda rows: None,
    more: Sequence[str] = (),
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the number of the first row and the batch, with what a reading reads and ``more``.

    ``advance`` gets the rows of each once it was taken. ReplayError for a trace that is not of
    zswap, and at the end for one without stores.
    """
    if reader.metadata.source != "zswap":
        raise ReplayError(
            f"{reader.path}: recorded of {reader.metadata.source}; zswap's limit is zswap's"
        )
    first, stores = 0, False
    for batch in checked(reader, (*COLUMNS, "dur_ns", *more)):
        yield first, batch
        stores = stores or bool((batch.column("op").indices.to_numpy() == _STORE).any())
        first += batch.num_rows
        advance(batch.num_rows)
    if not stores:
        raise ReplayError(
            f"{reader.path}: no stores in it; this needs zswap's own calls: record them, "
            "or take a trace that has them"
        )


def hit_the_limit(metadata: Metadata) -> bool:
    """Whether the recorded kernel rejected pages for its limit; yes if it does not say."""
    counters = metadata.counters
    name = "zswap.pool_limit_hit"
    if name not in counters.end:
        return True
    return counters.end[name] > counters.start.get(name, 0)


def first_size(metadata: Metadata) -> int:
    """Bytes that a rejected page is taken to have before the size of any is known."""
    return metadata.machine.page_bytes // 2


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[int, ...]]:
    """Rows as plain numbers, in the order of COLUMNS; a null key is _NO_KEY, a null size -1."""
    columns = [
        batch.column(name).indices.to_numpy() if name == "op" else batch.column(name)
        for name in COLUMNS
    ]
    fill = {"key": pa.scalar(_NO_KEY, pa.uint64())}
    plain = []
    for name, column in zip(COLUMNS, columns, strict=True):
        if name in fill:
            column = column.fill_null(fill[name]).to_numpy()
        elif name == "size":
            column = column.cast(pa.int64()).fill_null(-1).to_numpy()
        elif name != "op":
            column = column.to_numpy()
        plain.append(column.tolist())
    return zip(*plain, strict=True)
