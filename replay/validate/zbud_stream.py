# SPDX-License-Identifier: GPL-2.0-only
"""One zbud pool's calls as arrays, batch by batch: cut into groups and checked.

This is how the Python checker is driven; :mod:`replay.validate.zbud_native` is the same in the
core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ztrace.allocator.zbud.model import Zbud
from ztrace.allocator.zbud.steps import PageCall, PageKind
from ztrace.replay.validate.calls import FOREVER, Seen, groups
from ztrace.replay.validate.checker import Failure
from ztrace.replay.validate.page_counts import Sizes
from ztrace.replay.validate.zbud_checker import PoolChecker, PoolTally

_CHUNKS = (1 << 32) - 1  # of a call's size; from bit 32 on, where in the page its handle is

OnFailure = Callable[[Failure[PageCall]], None]


class PageStream(Protocol):
    """Checks one pool, which began empty."""

    tally: PoolTally

    def check(self, calls: Seen, pages: NDArray[np.int64], sizes: Sizes) -> None:
        """Check calls sorted by (ts, row) that no later one can overlap.

        ``pages``: the pool's size as each returned, or -1; it is compared in ``sizes``.
        """


class PythonPages:
    """Drives :class:`replay.validate.zbud_checker.PoolChecker`, which is the specification."""

    def __init__(self, model: Zbud, on_failure: OnFailure, locked: bool) -> None:
        self._checker = PoolChecker(model, on_failure, locked)
        self.tally = self._checker.tally

    def check(self, calls: Seen, pages: NDArray[np.int64], sizes: Sizes) -> None:
        """See :class:`PageStream`."""
        page_bytes = self._checker.model.page_bytes
        decoded = [
            call_of(one, page_bytes)._replace(total=total)
            for one, total in zip(calls, pages.tolist(), strict=True)
        ]
        for first, end in groups(calls, FOREVER):
            self._check(decoded[first:end], sizes)

    def _check(self, calls: list[PageCall], sizes: Sizes) -> None:
        """Check calls that overlap each other and no others, and the sizes that they read."""
        pages = self._checker.model.pages
        touched = {call.number for call in calls if call.kind != PageKind.NO_PAGE}
        if len(calls) == 1:
            self._checker.play(calls[0])
            if calls[0].total >= 0:
                sizes.note(calls[0].row, calls[0].total, len(pages), len(pages))
            return
        before = {number: number in pages for number in touched}
        base = len(pages) - sum(before.values())
        self._checker.group(calls)
        self._compare_sizes(calls, before, base, sizes)

    def _compare_sizes(
        self, calls: list[PageCall], before: dict[int, bool], base: int, sizes: Sizes
    ) -> None:
        """Compare what calls of a group read; ``before``: whether each of its pages was there."""
        # A page that several of the calls are about may have come and gone between them.
        alone: dict[int, int] = {}
        spans: dict[int, tuple[int, int]] = {}
        for call in calls:
            if call.number in before:
                begin, end = spans.get(call.number, (call.ts, call.end))
                spans[call.number] = min(begin, call.ts), max(end, call.end)
                alone[call.number] = -1 if call.number in alone else call.row
        pages = self._checker.model.pages
        begins = np.array([spans[number][0] for number in before], np.int64)
        ends = np.array([spans[number][1] for number in before], np.int64)
        was = np.array(list(before.values()), bool)
        now = np.array([number in pages for number in before], bool)
        only = np.array([alone[number] for number in before], np.int64)
        for call in calls:
            if call.total < 0:
                continue
            sure = np.where(begins > call.end, was, now)
            unsure = (begins <= call.end) & (ends >= call.ts) & (only != call.row)
            low = np.where(unsure, was & now & (only >= 0), sure).sum()
            high = np.where(unsure, was | now | (only < 0), sure).sum()
            sizes.note(call.row, call.total, base + int(low), base + int(high))


def seen(call: PageCall, page_bytes: int) -> tuple[int, ...]:
    """A call as a row of dtype SEEN."""
    offset = call.handle % page_bytes
    size = call.chunks | offset << 32
    return (
        *(call.ts, call.end, call.kind, call.number, int(not call.first), call.row),
        *(call.cpu, call.tid, size, call.began),
    )


def call_of(one: Any, page_bytes: int) -> PageCall:
    """A row of dtype SEEN as a PageCall, whose pool's size is not known."""
    ts, end, kind, number, slot, row, cpu, tid, size, began = one.item()
    handle = (number + 1) * page_bytes + (size >> 32)
    chunks = size & _CHUNKS
    at = (ts, end, row, PageKind(kind), number, not slot)
    return PageCall(*at, chunks, handle, -1, cpu, tid, began)
