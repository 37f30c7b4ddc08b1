# SPDX-License-Identifier: GPL-2.0-only
"""One zbud pool's calls checked by the native core, as replay.validate.zbud_stream does it.

The core says what the Python checker says, to the count; of failures, it tells the first.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from ctypes import POINTER, Structure, c_int, c_int64, c_uint32, c_uint64, c_void_p
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from ztrace.allocator import native
from ztrace.allocator.causes import Cause
from ztrace.allocator.native.library import Interface, codes_of, library, shape
from ztrace.allocator.zbud.steps import PageAnswer, PageCall, PageKind, PageStep, Says
from ztrace.replay.validate.calls import SEEN, Seen
from ztrace.replay.validate.checker import Failure
from ztrace.replay.validate.native import TRIED, array, refuse, shape_of
from ztrace.replay.validate.page_counts import Sizes
from ztrace.replay.validate.zbud_checker import PoolTally
from ztrace.replay.validate.zbud_stream import call_of

_READING = np.dtype([(name, np.int64) for name in ("row", "pages", "low", "high")])


class _Tally(Structure):
    """struct zv_page_tally."""

    _fields_ = tuple(
        (name, c_uint64)
        for name in (
            *("calls", "explained", "groups", "overlapping", "largest_group", "dead_ends"),
            *("cut_short", "undecided"),
        )
    )


class _Found(Structure):
    """struct zv_pages_found."""

    _fields_ = (
        ("tally", _Tally),
        ("readings", c_void_p),
        ("readings_len", c_uint64),
        ("failed", c_uint64),
        ("first", c_uint64 * (SEEN.itemsize // 8)),  # struct zv_call
        *((name, c_void_p) for name in ("around", "tried")),
        *((name, c_uint64) for name in ("around_len", "tried_len")),
        ("page", c_int64),
        ("says", c_uint32),
        ("cause", c_uint32),
    )


PAGES = Interface(
    "zv_page_layout",
    {
        "zv_pages_create": (c_void_p, (c_uint32, c_int)),
        "zv_pages_destroy": (None, (c_void_p,)),
        "zv_pages_check": (c_int, (c_void_p, c_void_p, c_void_p, c_uint64)),
        "zv_pages_found_of": (POINTER(_Found), (c_void_p,)),
    },
    {
        "zv_page_tally": shape(_Tally),
        "zv_reading": shape_of(_READING),
        "zv_pages_found": shape(_Found),
    },
    {
        **codes_of("ZV_PAGE_", PageKind),
        **codes_of("ZV_STEP_", PageStep),
        **codes_of("ZV_SAYS_", Says),
    },
)
"""What page_check.h gives."""


def reason_missing() -> str | None:
    """Why the core cannot check, in a line; None if it can."""
    return native.reason_missing(PAGES)


class NativePages:
    """Checks one pool in the core; NativeMissing if there is none."""

    def __init__(
        self, page_bytes: int, on_failure: Callable[[Failure[PageCall]], None], locked: bool
    ) -> None:
        self._core = library(PAGES)
        self._page_bytes = page_bytes
        self._on_failure = on_failure
        self._failed = 0
        self.tally = PoolTally()
        made = self._core.zv_pages_create(page_bytes, locked)
        if not made:
            raise MemoryError("the native core has no memory left")
        self._pages = c_void_p(made)
        weakref.finalize(self, self._core.zv_pages_destroy, self._pages)

    def check(self, calls: Seen, pages: NDArray[np.int64], sizes: Sizes) -> None:
        """See PageStream; the GIL is released meanwhile."""
        calls, pages = np.ascontiguousarray(calls, SEEN), np.ascontiguousarray(pages, np.int64)
        code = self._core.zv_pages_check(
            self._pages, calls.ctypes.data, pages.ctypes.data, len(calls)
        )
        refuse(code)
        found: _Found = self._core.zv_pages_found_of(self._pages).contents
        for field in fields(PoolTally):
            setattr(self.tally, field.name, getattr(found.tally, field.name))
        read = array(found.readings, found.readings_len, _READING)
        sizes.note_all(read["row"], read["pages"], read["low"], read["high"])
        if found.failed and not self._failed:
            self._on_failure(self._failure(found))
        self._failed = found.failed

    def _failure(self, found: _Found) -> Failure[PageCall]:
        call = call_of(np.frombuffer(bytes(found.first), SEEN)[0], self._page_bytes)
        answer = PageAnswer(Says(found.says), (found.page + 1) * self._page_bytes)
        group = array(found.around, found.around_len, SEEN)
        around = tuple(call_of(one, self._page_bytes) for one in group)
        tried = array(found.tried, found.tried_len, TRIED).tolist()
        steps = tuple((around[number], PageStep(step)) for number, step in tried)
        return Failure(call, answer.text, Cause(found.cause).text, around, steps)
