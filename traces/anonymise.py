# SPDX-License-Identifier: GPL-2.0-only
"""Anonymising: a trace that replays as before and no longer tells whose it was.

Numbers that identify something are replaced by 1, 2, 3 … in the order in which they first
appear, so nothing leads back from a name to what it stood for, and equal stays equal.
docs/files.md lists what is kept and what is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ztrace.traces.columns import valid, values
from ztrace.traces.errors import TraceError
from ztrace.traces.extent import extent
from ztrace.traces.metadata import (
    RELATIVE,
    Counters,
    Kernel,
    Machine,
    Metadata,
    PoolInfo,
    Probe,
)
from ztrace.traces.reader import TraceReader
from ztrace.traces.writer import TraceWriter

Numbers = npt.NDArray[np.uint64]

_BLOCK = np.uint64((1 << 60) - 1)  # a handle that is a number, without the block's type
_BLOCK_LIMIT = np.uint64(1 << 36)  # beyond 2**32 blocks of 16 slots it is none
_SLOT_BITS = 16  # of a place that is an address and a slot
_KERNEL_HALF = np.uint64(0xFFFF << 48)
_PAGE_SHIFTS = range(12, 21)


class Forms(NamedTuple):
    """Allocators, by name, whose numbers have a form of their own; all others' are addresses.

    ``numbers``: a handle is a number of a block and a slot, which is the model's answer.
    ``slots``: a place is an address << 16 | slot.
    """

    numbers: Container[str] = ()
    slots: Container[str] = ()


class Names:
    """Numbers 64-bit values 1, 2, 3 … by first appearance; 16 bytes for each distinct value."""

    def __init__(self) -> None:
        self._values: Numbers = np.empty(0, np.uint64)  # ascending
        self._names: Numbers = np.empty(0, np.uint64)  # of each

    def __len__(self) -> int:
        return len(self._values)

    def __call__(self, values: Numbers) -> Numbers:
        """Return the name of each value, new values named in the order of the array."""
        distinct, first, back = np.unique(values, return_index=True, return_inverse=True)
        at = np.searchsorted(self._values, distinct)
        known = np.zeros(len(distinct), bool)
        inside = at < len(self._values)
        known[inside] = self._values[at[inside]] == distinct[inside]
        names = np.empty(len(distinct), np.uint64)
        names[known] = self._names[at[known]]
        fresh = np.flatnonzero(~known)
        appearing = fresh[np.argsort(first[fresh])]
        names[appearing] = len(self) + 1 + np.arange(len(fresh), dtype=np.uint64)
        self._values = np.insert(self._values, at[fresh], distinct[fresh])
        self._names = np.insert(self._names, at[fresh], names[fresh])
        named: Numbers = names[back.reshape(-1)]
        return named


def anonymise(
    reader: TraceReader,
    writer: TraceWriter,
    forms: Forms,
    *,
    keep_machine: bool = False,
    keep_handles: bool = False,
    advance: Callable[[int], object] = lambda rows: None,
) -> None:
    """Write all rows of ``reader`` to ``writer``, renamed, and the metadata without identity.

    ``keep_machine`` keeps the kernel's full release and build, its configuration's digest, the
    CPU model and the size of memory. ``keep_handles`` keeps the handles of pools whose allocator
    the trace does not name. ``advance`` gets numbers of rows, in all twice the trace's. Memory:
    16 bytes for each distinct task, cgroup, swap slot and page. TraceError for a damaged trace.
    """
    metadata = reader.metadata
    first_ns, last_ns = extent(reader, advance)
    if last_ns - first_ns >= 2**63:
        raise TraceError(
            f"{reader.path}: times from {first_ns} to {last_ns} ns are too far apart; correct ts_ns"
        )
    writer.metadata = anonymous(metadata, keep_machine=keep_machine)
    rename = _Renaming(metadata, forms, first_ns, keep_handles)
    for batch in reader.batches():
        writer.write(rename(batch))
        advance(batch.num_rows)


def anonymous(metadata: Metadata, *, keep_machine: bool = False) -> Metadata:
    """The metadata without what identifies a machine, its users or the time."""
    kernel, machine = metadata.kernel, metadata.machine
    digits = re.match(r"\d+(\.\d+)*", kernel.release)
    return Metadata(
        schema=metadata.schema,
        tool=metadata.tool,
        source=metadata.source if metadata.source in ("zswap", "zram") else "unknown",
        kernel=replace(kernel, extra={})
        if keep_machine
        else Kernel(release=digits[0] if digits else "unknown"),
        machine=replace(machine, extra={})
        if keep_machine
        else Machine(cpus=machine.cpus, page_bytes=machine.page_bytes, arch=machine.arch),
        pools=[replace(pool, extra={}) for pool in metadata.pools],
        # A path (zram's backing device) may hold any name.
        parameters={k: v for k, v in metadata.parameters.items() if "/" not in v},
        probes={op: Probe(probe.kind, probe.symbol) for op, probe in metadata.probes.items()},
        probe_cost_ns=metadata.probe_cost_ns,
        clock=RELATIVE,
        filters=dict.fromkeys(metadata.filters, "(dropped)"),
        sampling=metadata.sampling,
        duration_ns=metadata.duration_ns,
        lost=metadata.lost,
        losses_counted=metadata.losses_counted,
        left_out=metadata.left_out,
        pieces=replace(metadata.pieces, extra={}),
        counters=_since_start(metadata.counters),
        order=metadata.order,
        notes=["anonymised: tasks, cgroups, swap slots and addresses are renamed"],
    )


def _since_start(counters: Counters) -> Counters:
    """vmstat counts since boot; only what was counted while recording concerns the trace."""
    start, end = dict(counters.start), dict(counters.end)
    for name in [*start, *end]:
        if name.startswith("vmstat.") and not name.startswith("vmstat.nr_"):
            if name in start and name in end:
                end[name] -= start[name]
                start[name] = 0
            else:
                start.pop(name, None)
                end.pop(name, None)
    return Counters(start, end, [replace(one, extra={}) for one in counters.check])


class _Renaming:
    """Renames the columns of a trace, batch after batch."""

    def __init__(self, metadata: Metadata, forms: Forms, first_ns: int, keep_handles: bool) -> None:
        self.first_ns = first_ns
        self.tasks, self.cgroups, self.slots = Names(), Names(), Names()
        self.pages, self.zspages = Names(), Names()
        shift = metadata.machine.page_bytes.bit_length() - 1
        self.page_shift = np.uint64(shift if shift in _PAGE_SHIFTS else _PAGE_SHIFTS[0])
        pools = [*metadata.pools, *[PoolInfo()] * 256][:256]
        self.numbered = np.array([pool.allocator in forms.numbers for pool in pools])
        self.kept = np.array([keep_handles and pool.allocator == "unknown" for pool in pools])
        self.has_slots = np.array([pool.allocator in forms.slots for pool in pools])

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        pool = batch.column("pool").to_numpy()
        renamed = {
            "ts_ns": pa.array(batch.column("ts_ns").to_numpy() - self.first_ns),
            "tid": _mapped(batch.column("tid"), self.tasks, zero=False),
            "cgroup": _mapped(batch.column("cgroup"), self.cgroups, zero=False),
            "key": _mapped(batch.column("key"), self.slots),
        }
        # One after the other: both columns hold pages, which are named as they appear.
        handle, place = batch.column("handle"), batch.column("place")
        renamed["handle"] = _mapped(
            handle, lambda values: self._handles(values, pool[valid(handle)])
        )
        renamed["place"] = _mapped(place, lambda values: self._places(values, pool[valid(place)]))
        columns = [
            renamed.get(name, column)
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        ]
        return pa.RecordBatch.from_arrays(columns, schema=batch.schema)

    def _handles(self, handles: Numbers, pool: npt.NDArray[np.uint8]) -> Numbers:
        is_number = self.numbered[pool] & ((handles & _BLOCK) < _BLOCK_LIMIT)
        address = ~(is_number | self.kept[pool])
        out = handles.copy()
        out[address] = self._addresses(handles[address])
        return out

    def _places(self, places: Numbers, pool: npt.NDArray[np.uint8]) -> Numbers:
        out = places.copy()
        slotted = self.has_slots[pool]
        shift, slot = np.uint64(_SLOT_BITS), np.uint64((1 << _SLOT_BITS) - 1)
        out[slotted] = (self.zspages(places[slotted] >> shift) << shift) | (places[slotted] & slot)
        out[~slotted] = self._addresses(places[~slotted])
        return out

    def _addresses(self, addresses: Numbers) -> Numbers:
        """Name the page, keep the position in it; in the upper half, where no number is."""
        position = (np.uint64(1) << self.page_shift) - np.uint64(1)
        named = self.pages(addresses >> self.page_shift) << self.page_shift
        return named | (addresses & position) | _KERNEL_HALF


def _mapped(
    column: pa.Array, names: Callable[[Numbers], Numbers], *, zero: bool = True
) -> pa.Array:
    """The column with its values mapped and its nulls kept; 0 is kept too unless ``zero``."""
    present, out = valid(column), values(column).astype(np.uint64)
    chosen = present if zero else present & (out != 0)
    out[chosen] = names(out[chosen])
    return pa.array(out, pa.uint64(), mask=~present).cast(column.type)
