# SPDX-License-Identifier: GPL-2.0-only
"""A zsmalloc pool's calls played in the core, as replay.validate.lock_order plays them.

The core says that all they tell is what the model does, to the count. Where something differs it
says no more than that; what, the model in Python tells.
"""

from __future__ import annotations

import weakref
from ctypes import (
    POINTER,
    Structure,
    byref,
    c_int,
    c_int32,
    c_int64,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ztrace.allocator import native
from ztrace.allocator.native.library import Config, Interface, codes_of, library, shape
from ztrace.allocator.native.pool import config_of
from ztrace.allocator.registry import builtin
from ztrace.allocator.traits import SLOT_BITS
from ztrace.replay.validate.calls import ABSENT, COMPACT, FREE, MALLOC, Calls
from ztrace.replay.validate.lock_order import note_compacted_beside
from ztrace.replay.validate.native import refuse
from ztrace.replay.validate.placement_verdict import PoolPlacement


class _Kind(IntEnum):
    """Kinds of calls of lock_check.h."""

    MALLOC = 0
    FREE = 1
    COMPACT = 2


_OPS = {_Kind.MALLOC: MALLOC, _Kind.FREE: FREE, _Kind.COMPACT: COMPACT}


class _Call(Structure):
    """struct zv_lock_call."""

    _fields_ = (
        *((name, c_int64) for name in ("now", "ts", "end", "row", "size", "pages")),
        *((name, c_uint64) for name in ("handle", "address")),
        ("slot", c_uint32),
        ("ret", c_int32),
        ("kind", c_uint8),
    )


class _Tally(Structure):
    """struct zv_lock_tally."""

    _fields_ = (
        *((name, c_uint64) for name in ("places", "errors", "unknown", "compactions")),
        *((name, c_uint64) for name in ("sizes", "sure_sizes", "moved", "added_beside_room")),
        *((name, c_uint64) for name in ("put_off", "ties")),
        *((name, c_uint8) for name in ("beside", "differs")),
    )


LOCKS = Interface(
    "zv_lock_layout",
    {
        "zv_locks_create": (c_void_p, (POINTER(Config),)),
        "zv_locks_destroy": (None, (c_void_p,)),
        "zv_locks_play": (c_int, (c_void_p, c_void_p, c_uint64)),
        "zv_locks_finish": (c_int, (c_void_p,)),
        "zv_locks_tally": (POINTER(_Tally), (c_void_p,)),
    },
    {"zv_lock_call": shape(_Call), "zv_lock_tally": shape(_Tally)},
    codes_of("ZV_LOCK_", _Kind),
)
"""What lock_check.h gives."""


def reason_missing() -> str | None:
    """Why the core cannot play the calls, in a line; None if it can."""
    return native.reason_missing(LOCKS)


class NativeLocks:
    """See Played; NativeMissing if there is no core."""

    def __init__(self, result: PoolPlacement) -> None:
        self._core = library(LOCKS)
        self._result = result
        model = builtin(result.backend)
        assert model is not None
        config = config_of(model.name, model.arguments)
        self._page_bytes = config.page_bytes
        made = self._core.zv_locks_create(byref(config))
        if not made:
            raise MemoryError("the native core has no memory left")
        self._locks = c_void_p(made)
        weakref.finalize(self, self._core.zv_locks_destroy, self._locks)

    def play(self, calls: Calls, moments: NDArray[np.int64]) -> None:
        """See Played; the GIL is released meanwhile."""
        told = np.zeros(len(calls), np.dtype(_Call))
        told["now"] = moments
        for name in ("ts", "end", "row", "size", "handle", "ret"):
            told[name] = calls[name]
        for kind, op in _OPS.items():
            told["kind"][calls["op"] == op] = kind
        told["address"] = calls["place"] >> np.uint64(SLOT_BITS)
        told["slot"] = calls["place"] & np.uint64((1 << SLOT_BITS) - 1)
        pages = (calls["total"] // np.uint64(self._page_bytes)).astype(np.int64)
        told["pages"] = np.where(calls["total"] == np.uint64(ABSENT), -1, pages)
        refuse(self._core.zv_locks_play(self._locks, told.ctypes.data, len(told)))

    def finish(self) -> bool:
        """See Played."""
        refuse(self._core.zv_locks_finish(self._locks))
        tally: _Tally = self._core.zv_locks_tally(self._locks).contents
        if tally.differs:
            return False
        result = self._result
        result.places.compared = result.places.equal = tally.places
        result.errors.compared = result.errors.equal = tally.errors
        result.sizes.compared = result.sizes.equal = tally.sizes
        result.sizes.sure = tally.sure_sizes
        result.compactions = tally.compactions
        if tally.unknown:
            result.unknown["free"] = tally.unknown
        names = ("moved", "added_beside_room", "put_off", "ties")
        result.counts = {name.replace("_", " "): getattr(tally, name) for name in names}
        if tally.beside:
            note_compacted_beside(result)
        return True
