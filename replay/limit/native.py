# SPDX-License-Identifier: GPL-2.0-only
"""The closed loop in the native core: :mod:`replay.limit.demand` and :mod:`replay.limit.zswap`.

A trace is read once; the demands found in a batch are then played by each zswap, in the core's
memory, with no GIL. The answers are those of the two modules, which are the specification.
"""

from __future__ import annotations

import ctypes
import weakref
from ctypes import (
    POINTER,
    Structure,
    byref,
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ztrace.allocator import HazardError, native
from ztrace.allocator.native.library import (
    FATAL,
    NO_MEMORY,
    Config,
    Interface,
    codes_of,
    library,
    shape,
)
from ztrace.allocator.native.pool import config_of, fatal_hazard, kind_of, met_hazards
from ztrace.allocator.registry import builtin
from ztrace.replay.limit.demand import (
    COLUMNS,
    NotTold,
    Want,
    first_size,
    hit_the_limit,
    uses_frontswap,
)
from ztrace.replay.limit.zswap import Counts, Limit, Rules, Worker
from ztrace.replay.read.arrow import point_at
from ztrace.traces.metadata import Metadata
from ztrace.traces.schema import OP_CODE

_POOLS = 256
_HAZARDS = 24
_MOST = 2**62  # what pages and times of a limit are cut to; no pool is as large
_KINDS = {"store": 1, "load": 2, "invalidate": 3, "malloc": 4, "free": 5}
_RULES = {Rules.DRIVER: 0, Rules.LRU: 1}
_COUNTS = tuple(field.name for field in fields(Counts))


class _Options(Structure):
    """struct zl_reading_options."""

    _fields_ = (
        ("kind_of", c_uint8 * 128),
        ("header_bytes", c_int32 * _POOLS),
        ("limited", c_uint8),
        ("frontswap", c_uint8),
        ("first_size", c_int64),
    )


class _Columns(Structure):
    """struct zl_columns."""

    _fields_ = (
        ("rows", c_uint64),
        ("first_row", c_uint64),
        *((name, c_void_p) for name in ("op", "pool", "key", "size", "ret", "ts_ns", "tid")),
        *((name, c_void_p) for name in ("key_valid", "size_valid")),
        *((name, c_uint64) for name in ("key_at", "size_at")),
    )


class _Demand(Structure):
    """struct zl_demand."""

    _fields_ = (
        ("at_ns", c_int64),
        ("size", c_int64),
        ("key", c_uint64),
        ("row", c_uint64),
        ("want", c_uint32),
    )


DEMAND = np.dtype(_Demand)


class _Told(Structure):
    """struct zl_told."""

    _fields_ = (("sizes", c_uint64), ("frees", c_uint32))


class _Zswap(Structure):
    """struct zl_options."""

    _fields_ = (
        ("max_pages", c_uint64),
        ("accept_pages", c_uint64),
        ("delay_ns", c_int64),
        ("page_ns", c_int64),
        ("header_bytes", c_int32),
        ("rules", c_uint32),
    )


class _Counts(Structure):
    """struct zl_counts."""

    _fields_ = tuple((name, c_int64) for name in _COUNTS)


class _Result(Structure):
    """struct zl_result."""

    _fields_ = (
        ("counts", _Counts),
        ("peak_held_bytes", c_uint64),
        ("stored_bytes", c_uint64),
        ("entries", c_uint64),
        ("area_low", c_uint64 * 3),
        ("area_high", c_int64 * 3),
        ("stopped_row", c_uint64),
        ("stopped", c_int32),
        ("hazard_rows", c_uint64 * _HAZARDS),
    )


LOOP = Interface(
    "zl_layout",
    {
        "zl_read_create": (c_void_p, (POINTER(_Options),)),
        "zl_read_destroy": (None, (c_void_p,)),
        "zl_read": (
            c_int,
            (c_void_p, POINTER(_Columns), POINTER(POINTER(_Demand)), POINTER(c_uint64)),
        ),
        "zl_told_of": (None, (c_void_p, POINTER(_Told))),
        "zl_create": (c_void_p, (c_char_p, POINTER(Config), POINTER(_Zswap))),
        "zl_destroy": (None, (c_void_p,)),
        "zl_play": (c_int, (c_void_p, POINTER(_Demand), c_uint64)),
        "zl_result_of": (POINTER(_Result), (c_void_p,)),
        "zl_model_of": (c_void_p, (c_void_p,)),
    },
    {
        "zl_reading_options": shape(_Options),
        "zl_columns": shape(_Columns),
        "zl_demand": shape(_Demand),
        "zl_told": shape(_Told),
        "zl_options": shape(_Zswap),
        "zl_counts": shape(_Counts),
        "zl_result": shape(_Result),
    },
    {
        **{f"ZL_{name.upper()}_ROW": kind for name, kind in _KINDS.items()},
        **{f"ZL_{rules.name}": number for rules, number in _RULES.items()},
        **codes_of("ZL_", Want),
    },
)
"""What demand.h and zswap.h give."""


def reason_missing() -> str | None:
    """Why the core cannot play the loop, in a line; None if it can."""
    return native.reason_missing(LOOP)


class Demands(NamedTuple):
    """Demands in the core's memory, until the next batch is read."""

    at: ctypes._Pointer[_Demand]
    len: int

    def array(self) -> npt.NDArray[Any]:
        """A copy, of dtype DEMAND."""
        if not self.len:
            return np.zeros(0, DEMAND)
        return np.frombuffer(ctypes.string_at(self.at, self.len * DEMAND.itemsize), DEMAND)


class NativeReading:
    """As :class:`replay.limit.demand.Reading`. MemoryError if the core has no memory left."""

    def __init__(self, metadata: Metadata, told: NotTold) -> None:
        self.told = told
        self._library = library(LOOP)
        options = _Options(
            limited=hit_the_limit(metadata),
            frontswap=uses_frontswap(metadata),
            first_size=first_size(metadata),
        )
        for name, kind in _KINDS.items():
            options.kind_of[OP_CODE[name]] = kind
        for at, pool in enumerate(metadata.pools[:_POOLS]):
            options.header_bytes[at] = pool.header_bytes
        self._reading = _owned(
            self, self._library.zl_read_create(byref(options)), "zl_read_destroy"
        )

    def read(self, batch: pa.RecordBatch, first: int) -> Demands:
        """The demands of a batch, whose first row has this number."""
        columns = _Columns(rows=batch.num_rows, first_row=first)
        point_at(columns, batch, COLUMNS)
        found, count = POINTER(_Demand)(), c_uint64()
        if self._library.zl_read(self._reading, byref(columns), byref(found), byref(count)):
            raise MemoryError("the native core has no memory left")
        told = _Told()
        self._library.zl_told_of(self._reading, byref(told))
        self.told.sizes, self.told.frees = told.sizes, bool(told.frees)
        return Demands(found, count.value)


class NativeZswap:
    """One zswap in the core and what is measured of it; ``backend`` is a built-in one.

    MemoryError if the core has no memory left.
    """

    def __init__(
        self, backend: str, limit: Limit, rules: Rules, header_bytes: int, worker: Worker
    ) -> None:
        found = builtin(backend)
        assert found is not None, backend
        self._library = library(LOOP)
        options = _Zswap(
            max_pages=min(limit.max_pages, _MOST),
            accept_pages=min(limit.accept_pages(rules), _MOST),
            delay_ns=min(worker.delay_ns, _MOST),
            page_ns=min(worker.page_ns, _MOST),
            header_bytes=header_bytes,
            rules=_RULES[rules],
        )
        kind, config = kind_of(found.name, found.arguments), config_of(found.name, found.arguments)
        made = self._library.zl_create(kind.encode(), byref(config), byref(options))
        self._zswap = _owned(self, made, "zl_destroy")

    def play(self, demands: Demands) -> None:
        """Play demands; nothing after the model's fault."""
        if self._library.zl_play(self._zswap, demands.at, demands.len) == NO_MEMORY:
            raise MemoryError("the native core has no memory left")

    @property
    def _result(self) -> _Result:
        found: _Result = self._library.zl_result_of(self._zswap).contents
        return found

    @property
    def counts(self) -> Counts:
        """What happened so far."""
        raw = self._result.counts
        return Counts(**{name: getattr(raw, name) for name in _COUNTS})

    @property
    def peak_held_bytes(self) -> int:
        """The most memory held after a demand."""
        return int(self._result.peak_held_bytes)

    @property
    def areas(self) -> tuple[int, int, int]:
        """The time that passed in ns, and its product with the pages stored and the bytes held."""
        raw = self._result
        passed, entries, held = (
            (high << 64) + low for high, low in zip(raw.area_high, raw.area_low, strict=True)
        )
        return passed, entries, held

    @property
    def stopped(self) -> tuple[int, HazardError] | None:
        """The row of the demand that the kernel would not have survived, and why."""
        raw = self._result
        if not raw.stopped:
            return None
        if raw.stopped != FATAL:
            raise RuntimeError(f"row {raw.stopped_row}: the model answered {raw.stopped}")
        return raw.stopped_row, fatal_hazard(self._library, self._model)

    @property
    def hazards(self) -> dict[str, tuple[int, int, str]]:
        """Name -> how often, the row of the first demand that met it, what it was then."""
        rows = self._result.hazard_rows
        return {
            one.name.decode(): (one.count, rows[at], one.first.decode())
            for at, one in enumerate(met_hazards(self._library, self._model))
        }

    @property
    def _model(self) -> int:
        model: int = self._library.zl_model_of(self._zswap)
        return model


def _owned(owner: object, made: int | None, destroy: str) -> c_void_p:
    """What the core made, destroyed with its owner."""
    if not made:
        raise MemoryError("the native core has no memory left")
    pointer = c_void_p(made)
    weakref.finalize(owner, getattr(library(LOOP), destroy), pointer)
    return pointer
