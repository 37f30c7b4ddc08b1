# SPDX-License-Identifier: GPL-2.0-only
"""The BPF ring buffer read in bulk: mapped, decoded as one array, no Python call per event.

Layout of the mapping (kernel/bpf/ringbuf.c): a page with the consumer's position, a page with
the producer's, then the data twice in a row, so that a record never wraps. Each record has an
eight-byte header, its length with a busy and a discard bit. All our records are of one size,
so the data between two positions are a plain array.
"""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

from ztrace.tracer.errors import TracerError

# struct record of probes/zswap.c.
RECORD = np.dtype(
    [
        ("ts", "<u8"),
        ("key", "<u8"),
        ("handle", "<u8"),
        ("aux", "<u8"),
        ("place", "<u8"),
        ("cgroup", "<u8"),
        ("dur", "<u4"),
        ("lock", "<u4"),
        ("size", "<u4"),
        ("ret", "<i4"),
        ("tid", "<u4"),
        ("cpu", "<u2"),
        ("pool", "u1"),
        ("op", "u1"),
        ("has", "u1"),
        ("unused", "u1", 7),
    ]
)

# A record as it lies in the ring: its header, then itself, the whole a multiple of eight bytes.
SLOT = np.dtype([("length", "<u4"), ("page", "<u4"), ("record", RECORD)])

# The same to copy from: numpy moves plain bytes ten times as fast as a record field by field.
OPAQUE_SLOT = np.dtype([("length", "<u4"), ("page", "<u4"), ("record", f"V{RECORD.itemsize}")])

BUSY = 1 << 31

# Events are counted by op code, those known to have failed FAILED higher.
KINDS, FAILED = 64, 32

HAS_KEY, HAS_SIZE, HAS_HANDLE, HAS_AUX, HAS_POOL, HAS_PLACE, HAS_LOCK = 1, 2, 4, 8, 16, 32, 64
# enum op of probes/zswap.c: those of a trace, in its order (traces/schema.py), and TOTAL.
OP_NAMES = (
    *("store", "load", "invalidate", "writeback", "malloc", "free", "map", "unmap"),
    *("shrink", "compact", "sample", "link", "unlink"),
)
OP_STORE, OP_LOAD, OP_INVALIDATE, OP_WRITEBACK, OP_MALLOC, OP_FREE = range(6)
OP_TOTAL = 16

Records = NDArray[np.void]


class Ring:
    """Consumer of one BPF ring buffer map. Only one may exist for a map at a time."""

    def __init__(self, map_fd: int, ring_bytes: int) -> None:
        page = mmap.PAGESIZE
        self._bytes = ring_bytes
        self._consumer_page = mmap.mmap(map_fd, page, mmap.MAP_SHARED)
        self._producer_pages = mmap.mmap(
            map_fd, page + 2 * ring_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )
        self._consumed = np.frombuffer(self._consumer_page, "<u8", 1)
        self._produced = np.frombuffer(self._producer_pages, "<u8", 1)
        self._data_offset = page

    def take(self) -> Records:
        """Copy out and release all finished records, oldest first; shape (n,), dtype RECORD.

        A record that a CPU has reserved and not yet submitted ends the batch.
        """
        start = int(self._consumed[0])
        count = (int(self._produced[0]) - start) // SLOT.itemsize
        if not count:
            return np.empty(0, RECORD)
        slots = np.frombuffer(
            self._producer_pages, OPAQUE_SLOT, count, self._data_offset + start % self._bytes
        )
        lengths = slots["length"]
        busy = np.flatnonzero(lengths & BUSY)
        if busy.size:
            count = int(busy[0])
        if (lengths[:count] != RECORD.itemsize).any():
            raise TracerError("ring buffer: a record of unexpected length; please report this")
        records = slots["record"][:count].copy().view(RECORD)
        self._consumed[0] = start + count * SLOT.itemsize
        return records

    def close(self) -> None:
        """Unmap the ring."""
        del self._consumed, self._produced
        self._consumer_page.close()
        self._producer_pages.close()


def from_bytes(raw: bytes) -> Records:
    """Records from their bytes; ValueError if these are not a whole number of records."""
    return np.frombuffer(raw, RECORD)


def by_kind(records: Records) -> NDArray[np.int64]:
    """How many records there are of each kind; shape (KINDS,)."""
    kinds = records["op"] + np.uint8(FAILED) * (records["ret"] != 0)
    return np.bincount(kinds, minlength=KINDS)


def named(counts: NDArray[np.int64]) -> dict[str, int]:
    """Calls by op from counts by kind, failed or not; zeros and what makes no rows left out."""
    both = counts[:FAILED] + counts[FAILED:]
    return {op: int(both[code]) for code, op in enumerate(OP_NAMES) if both[code]}
