# SPDX-License-Identifier: GPL-2.0-only
"""What a recorded workload wanted of zswap: pages to store, to load and to give up.

What zswap made of it under its own limit, the shrinks, writebacks and frees of the recording, is
left out: that is for a model to say.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import pyarrow as pa

from ztrace.replay.errors import ReplayError
from ztrace.replay.read.checked import checked
from ztrace.replay.read.rows import NO_HANDLE
from ztrace.text import counted
from ztrace.traces.metadata import Metadata
from ztrace.traces.reader import TraceReader
from ztrace.traces.schema import OP_CODE

_COLUMNS = ("ts_ns", "op", "pool", "key", "size", "ret", "tid")
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

    Because it began late: ``loads`` that the kernel's zswap answered of slots that are not stored
    before in the trace, and ``drops`` of such, which are told apart where frontswap is.
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


def demands(
    reader: TraceReader, told: NotTold, advance: Callable[[int], object] = lambda rows: None
) -> Iterator[Demand]:
    """Yield a trace's demands in recorded order; ``told`` is filled in meanwhile.

    ``advance`` gets the rows of each batch. ReplayError for a trace without stores.
    """
    metadata = reader.metadata
    if metadata.source != "zswap":
        raise ReplayError(f"{reader.path}: recorded of {metadata.source}; zswap's limit is zswap's")
    limited = _hit_the_limit(metadata)
    frontswap = uses_frontswap(metadata)
    headers = [pool.header_bytes for pool in metadata.pools]
    given: dict[int, list[tuple[int, int, int]]] = {}  # task -> (key, size, ts) of its mallocs
    freed: dict[int, int] = {}  # task -> key of its last free
    stored: set[int] = set()  # slots, by key, of stores so far
    last_size = metadata.machine.page_bytes // 2
    first, stores, frees = 0, 0, False
    for batch in checked(reader, (*_COLUMNS, "dur_ns")):
        for row, (ts, op, pool, key, size, ret, tid) in enumerate(_rows(batch), first):
            if op == _MALLOC:
                if ret >= 0 or ret == _REFUSED_SIZE:
                    header = headers[pool] if pool < len(headers) else 0
                    given.setdefault(tid, []).append((key, size - header, ts))
            elif op == _FREE:
                freed[tid] = key
                frees = True
            elif op == _STORE:
                stores += 1
                stored.add(key)
                mine = [one for one in given.pop(tid, ()) if one[2] >= ts]
                for of, compressed, _ in mine:
                    last_size = compressed
                    slot = key if of == _NO_KEY else of
                    yield Demand(Want.STORE, ts, slot, compressed, row)
                if mine:
                    continue
                if ret >= 0:
                    yield Demand(Want.STORE, ts, key, 0 if size < 0 else size, row)
                elif limited and ret in (-errno.ENOMEM, -errno.EPERM):
                    told.sizes += 1
                    told.frees = frontswap
                    yield Demand(Want.STORE, ts, key, last_size, row)
                else:
                    yield Demand(Want.WRITE, ts, key, 0, row)
            elif op == _LOAD:
                told.loads += ret >= 0 and key not in stored
                kept = frees and ret >= 0 and not frontswap and freed.pop(tid, None) != key
                yield Demand(Want.LOAD_KEPT if kept else Want.LOAD, ts, key, 0, row)
            elif op == _INVALIDATE:
                told.drops += frontswap and key != _NO_KEY and key not in stored
                yield Demand(Want.DROP_ALL if key == _NO_KEY else Want.DROP, ts, key, 0, row)
        first += batch.num_rows
        advance(batch.num_rows)
    if not stores:
        raise ReplayError(
            f"{reader.path}: no stores in it; a pool limit needs zswap's own calls: record them, "
            "or take a trace that has them"
        )


def _hit_the_limit(metadata: Metadata) -> bool:
    """Whether the recorded kernel rejected pages for its limit; yes if it does not say."""
    counters = metadata.counters
    name = "zswap.pool_limit_hit"
    if name not in counters.end:
        return True
    return counters.end[name] > counters.start.get(name, 0)


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[int, ...]]:
    """Rows as plain numbers, in the order of _COLUMNS; a null key is _NO_KEY, a null size -1."""
    columns = [
        batch.column(name).indices.to_numpy() if name == "op" else batch.column(name)
        for name in _COLUMNS
    ]
    fill = {"key": pa.scalar(_NO_KEY, pa.uint64())}
    plain = []
    for name, column in zip(_COLUMNS, columns, strict=True):
        if name in fill:
            column = column.fill_null(fill[name]).to_numpy()
        elif name == "size":
            column = column.cast(pa.int64()).fill_null(-1).to_numpy()
        elif name != "op":
            column = column.to_numpy()
        plain.append(column.tolist())
    return zip(*plain, strict=True)
