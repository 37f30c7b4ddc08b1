# SPDX-License-Identifier: GPL-2.0-only
"""One block tree's calls checked by the native core: :class:`replay.validate.stream.Stream`.

The core says what the Python checker says, to the count. It does the search, the rules and the
order; races and texts are made here, of the few stretches of order in which there may be a race.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import (
    POINTER,
    Structure,
    byref,
    c_int,
    c_int64,
    c_uint32,
    c_uint64,
    c_void_p,
)
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztrace.allocator import native
from ztrace.allocator.causes import Cause
from ztrace.allocator.native.library import NO_MEMORY, Interface, Shape, codes_of, library, shape
from ztrace.allocator.ztree.calls import Answer, BlockKind, BlockStep, Said
from ztrace.allocator.ztree.model import BlockTree
from ztrace.replay.errors import ReplayError
from ztrace.replay.validate.calls import SEEN, Seen
from ztrace.replay.validate.found_order import FoundOrder
from ztrace.replay.validate.stream import Sinks, call_of
from ztrace.replay.validate.ztree_checker import BlockFailure, TreeTally

_FOREVER = 2**63 - 1


# struct zv_failure; struct zv_call is SEEN.
_FAILURE = np.dtype(
    [
        *(("call", SEEN), ("block", np.int64), ("slot", np.int32), ("said", np.uint8)),
        *(("cause", np.uint8), ("around", np.uint64), ("around_len", np.uint64)),
        *(("tried", np.uint64), ("tried_len", np.uint64)),
    ],
    align=True,
)


TRIED = np.dtype([("number", np.uint32), ("step", np.uint8)], align=True)
"""struct zv_tried."""


class _Tally(Structure):
    """struct zv_tally."""

    _fields_ = (
        *((name, c_uint64) for name in ("calls", "explained", "in_part", "groups")),
        *((name, c_uint64) for name in ("overlapping", "largest_group", "dead_ends")),
        *((name, c_uint64) for name in ("most_hypotheses", "out_of_order", "cut_short", "split")),
    )


class _Found(Structure):
    """struct zv_found."""

    _fields_ = (
        *((name, c_void_p) for name in ("at_ns", "row", "step")),
        ("order_len", c_uint64),
        *((name, c_void_p) for name in ("race_calls", "race_steps", "race_ends")),
        ("races_len", c_uint64),
        ("failures", c_void_p),
        ("around", c_void_p),
        ("tried", c_void_p),
        ("failures_len", c_uint64),
        ("failed", c_uint64),
        ("undecided_since", c_int64),
        ("tally", _Tally),
    )


def shape_of(record: np.dtype[np.void]) -> Shape:
    """The shape of a structure as NumPy lays it out."""
    fields = (record.fields or {}).items()
    return {"": (0, record.itemsize)} | {
        name: (offset, dtype.itemsize) for name, (dtype, offset, *_) in fields
    }


CHECKER = Interface(
    "zv_layout",
    {
        "zv_create": (c_void_p, (c_uint32, c_uint64, c_int, c_int)),
        "zv_destroy": (None, (c_void_p,)),
        "zv_check": (c_int, (c_void_p, c_void_p, c_uint64, c_int64, POINTER(c_uint64))),
        "zv_finish": (c_int, (c_void_p,)),
        "zv_found_of": (POINTER(_Found), (c_void_p,)),
    },
    {
        "zv_call": shape_of(SEEN),
        "zv_tried": shape_of(TRIED),
        "zv_failure": shape_of(_FAILURE),
        "zv_tally": shape(_Tally),
        "zv_found": shape(_Found),
    },
    codes_of("ZV_", BlockKind, BlockStep, Said, Cause),
)
"""What check.h gives."""


def reason_missing() -> str | None:
    """Why the core cannot check, in a line; None if it can."""
    return native.reason_missing(CHECKER)


def refuse(code: int) -> None:
    """Raise what the code of a check stands for, unless it is 0."""
    if code == NO_MEMORY:
        raise MemoryError("the native core has no memory left")
    if code:
        raise ReplayError(f"the native core cannot check these calls (code {code})")


class NativeStream:
    """Checks one tree in the core; NativeMissing if there is none.

    ``tree`` must be new; its rules are the posted ones. ``on_steps`` gets only stretches that
    may have a race in them. ``on_failure`` gets the first failures in full, of the others only
    the ``count``.
    """

    def __init__(
        self,
        tree: BlockTree,
        starts_empty: bool,
        sinks: Sinks,
        on_more_failures: Callable[[int], None],
    ) -> None:
        self._core = library(CHECKER)
        self._sinks = sinks
        self._on_more_failures = on_more_failures
        self._failed = 0
        self.tally = TreeTally()
        self.undecided_since: int | None = None
        made = self._core.zv_create(
            tree.kind.slots, tree.max_index, starts_empty, sinks.on_order is not None
        )
        if not made:
            raise MemoryError("the native core has no memory left")
        self._tree = c_void_p(made)

    def __del__(self) -> None:
        if getattr(self, "_tree", None):
            self._core.zv_destroy(self._tree)

    def check(self, calls: Seen, limit: int) -> int:
        """See Stream; the GIL is released meanwhile."""
        calls = np.ascontiguousarray(calls, SEEN)
        done = c_uint64()
        self._take(
            self._core.zv_check(self._tree, calls.ctypes.data, len(calls), limit, byref(done))
        )
        return done.value

    def finish(self) -> None:
        """See Stream."""
        self._take(self._core.zv_finish(self._tree))

    # -- what was found ----------------------------------------------------------------------

    def _take(self, code: int) -> None:
        refuse(code)
        found: _Found = self._core.zv_found_of(self._tree).contents
        for field in fields(TreeTally):
            setattr(self.tally, field.name, getattr(found.tally, field.name))
        since = found.undecided_since
        self.undecided_since = None if since == _FOREVER else since
        if self._sinks.on_order is not None and found.order_len:
            arrays = [
                array(getattr(found, name), found.order_len, dtype)
                for name, dtype in (("at_ns", np.int64), ("row", np.int64), ("step", np.int8))
            ]
            self._sinks.on_order(FoundOrder(*arrays))
        self._take_races(found)
        self._take_failures(found)

    def _take_races(self, found: _Found) -> None:
        if not found.races_len:
            return
        ends = array(found.race_ends, found.races_len, np.uint64).tolist()
        calls = [call_of(one) for one in array(found.race_calls, ends[-1], SEEN)]
        steps = [BlockStep(one) for one in array(found.race_steps, ends[-1], np.int8).tolist()]
        for first, end in zip([0, *ends], ends, strict=False):
            self._sinks.on_steps(list(zip(calls[first:end], steps[first:end], strict=True)))

    def _take_failures(self, found: _Found) -> None:
        for one in array(found.failures, found.failures_len, _FAILURE):
            first = found.around + int(one["around"]) * SEEN.itemsize
            around = tuple(call_of(each) for each in array(first, int(one["around_len"]), SEEN))
            call = call_of(one["call"])
            answer = Answer(Said(one["said"]), int(one["block"]), int(one["slot"])).text(call)
            first = (found.tried or 0) + int(one["tried"]) * TRIED.itemsize
            tried = array(first, int(one["tried_len"]), TRIED).tolist()
            steps = tuple((around[number], BlockStep(step)) for number, step in tried)
            cause = Cause(one["cause"]).text
            self._sinks.on_failure(BlockFailure(call, answer, cause, around, steps))
        self._on_more_failures(found.failed - self._failed - found.failures_len)
        self._failed = found.failed


def array(address: int | None, length: int, dtype: Any) -> NDArray[Any]:
    """A copy of an array of the core's."""
    if address is None or not length:
        return np.empty(0, dtype)
    size = length * np.dtype(dtype).itemsize
    return np.frombuffer(ctypes.string_at(address, size), dtype)
