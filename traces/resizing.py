# SPDX-License-Identifier: GPL-2.0-only
"""A trace as another compressor would have made it: the same calls on objects of other sizes.

Either every compressed size is multiplied, or the sizes follow real pages: of all pages that the
recorded compressor brings to about an object's size (the nearest by rank, :data:`NEIGHBOURS` of
them), one is drawn, and the object gets what the other compressor makes of that page. An object's
store gets the same size as its malloc.

Order, lifetimes and who did what stay. Handles stay as names of objects; what the allocator
answered for the old sizes (place, total, lock_ns) is dropped, and the pools' allocator is
:data:`RESIZED`, so that nothing is compared with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ztrace.traces.columns import valid, values
from ztrace.traces.errors import TraceError
from ztrace.traces.metadata import Metadata
from ztrace.traces.pages import Pages
from ztrace.traces.reader import TraceReader
from ztrace.traces.schema import COLUMNS, OP_CODE
from ztrace.traces.writer import TraceWriter

RESIZED = "resized"
NEIGHBOURS = 33

Ints = npt.NDArray[np.int64]
NewSizes = Callable[[Ints], Ints]
"""Compressed sizes in bytes, header off -> new ones; called once for all objects of a piece."""

_MALLOC, _STORE = OP_CODE["malloc"], OP_CODE["store"]
_DROPPED = ("place", "total", "lock_ns")


def scaled(factor: float) -> NewSizes:
    """Sizes times ``factor``, rounded half to even. TraceError unless it is above 0 and finite."""
    if not 0 < factor < float("inf"):
        raise TraceError(f"scale {factor:g}: must be above 0; write for instance 0.8")
    return lambda sizes: np.rint(np.minimum(sizes * factor, 2**31)).astype(np.int64)


def learned(pages: Pages, seed: int = 0) -> NewSizes:
    """Sizes by pages that were compressed by two: the recorded compressor, then the other one."""
    known, other = pages.sizes.values()
    order = np.argsort(known, kind="stable")
    known, other = known[order], other[order]
    random = np.random.default_rng(seed)
    width = min(NEIGHBOURS, len(known))

    def draw(sizes: Ints) -> Ints:
        # Equal sizes are many: the middle of those that are equal is where the neighbours lie.
        low = np.searchsorted(known, sizes, side="left")
        high = np.searchsorted(known, sizes, side="right")
        span = np.maximum(high - low, width)
        first = np.clip((low + high - span) // 2, 0, len(known) - span)
        drawn: Ints = other[first + (random.random(len(sizes)) * span).astype(np.int64)]
        return drawn

    return draw


def clip_sizes(sizes: Ints, new_sizes: NewSizes, header: Ints, page_bytes: int) -> Ints:
    """New sizes of objects, with their header, from 1 byte of data to a page in all."""
    return np.clip(new_sizes(sizes - header), 1, page_bytes - header) + header


def header_bytes(metadata: Metadata) -> Ints:
    """What zswap puts before each object, by pool number; shape (256,)."""
    headers = np.zeros(256, np.int64)
    for number, pool in enumerate(metadata.pools[:256]):
        headers[number] = pool.header_bytes
    return headers


def resize(
    reader: TraceReader,
    path: Path,
    new_sizes: NewSizes,
    *,
    compressor: str | None,
    note: str,
    force: bool = False,
    advance: Callable[[int], object] = lambda rows: None,
) -> int:
    """Write the trace with new sizes; returns how many objects got one.

    ``compressor``: the new one's name, None if it stays. ``note`` goes into the metadata.
    TraceError if the trace has no malloc, or an object larger than its page.
    """
    metadata = reader.metadata
    page_bytes = metadata.machine.page_bytes or 4096
    headers = header_bytes(metadata)
    stores = _Stores()
    changed = rows = 0
    columns = [name for name in COLUMNS if name not in _DROPPED]
    with TraceWriter(path, _described(metadata, compressor, note), force=force) as writer:
        for batch in reader.batches(columns):
            op = batch.column("op").indices.to_numpy()
            nulls = ~valid(batch.column("size"))
            size = values(batch.column("size")).astype(np.int64)
            # A store's size is without the header.
            header = np.where(op == _STORE, 0, headers[batch.column("pool").to_numpy()])
            takes = np.isin(op, (_MALLOC, _STORE)) & ~nulls & (size > header)
            _refuse_larger(reader, rows, takes & (size > page_bytes), size, page_bytes)
            rows += batch.num_rows
            made = size.copy()
            made[takes] = clip_sizes(size[takes], new_sizes, header[takes], page_bytes)
            changed += int((takes & (op == _MALLOC)).sum())
            at = np.flatnonzero(takes)
            stores.follow(at, op, batch.column("tid").to_numpy(), size - header, made - header)
            made[at] = stores.sizes + header[at]
            given = {name: batch.column(name) for name in columns if name != "size"}
            writer.write({**given, "size": np.ma.masked_array(made, nulls)})
            advance(batch.num_rows)
        if not changed:
            raise TraceError(f"{reader.path}: no malloc in it; nothing to resize")
    return changed


def _refuse_larger(
    reader: TraceReader, first: int, larger: npt.NDArray[np.bool_], size: Ints, page_bytes: int
) -> None:
    """TraceError naming the first object that is larger than a page: some would keep their size."""
    if not larger.any():
        return
    at = int(np.argmax(larger))
    known = reader.metadata.machine.page_bytes
    said = f"its pages have {page_bytes}" if known else "its page size is not known"
    raise TraceError(
        f"{reader.path}: row {first + at}: an object of {size[at]:,} bytes, and {said}; "
        "import it again with --page-bytes 16384 (or what the machine's pages have)"
    )


class _Stores:
    """Gives a store the size of the malloc that its task made within it, just before."""

    def __init__(self) -> None:
        self._mallocs: dict[int, tuple[int, int]] = {}  # task -> size before, size now
        self.sizes: Ints = np.zeros(0, np.int64)

    def follow(
        self, at: npt.NDArray[np.intp], op: Ints, tid: Ints, before: Ints, after: Ints
    ) -> None:
        """Set ``sizes``, those of the rows ``at``; the other arrays are of all rows."""
        sizes = after[at]
        columns = [column[at].tolist() for column in (op, tid, before, after)]
        for i, (code, task, old, new) in enumerate(zip(*columns, strict=True)):
            if code == _MALLOC:
                self._mallocs[task] = old, new
            elif self._mallocs.get(task, (None,))[0] == old:
                sizes[i] = self._mallocs.pop(task)[1]
        self.sizes = sizes


def _described(metadata: Metadata, compressor: str | None, note: str) -> Metadata:
    pools = [
        replace(pool, allocator=RESIZED, compressor=compressor or pool.compressor)
        for pool in metadata.pools
    ]
    return replace(metadata, pools=pools, notes=[*metadata.notes, note])
