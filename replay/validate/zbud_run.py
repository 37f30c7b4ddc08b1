# SPDX-License-Identifier: GPL-2.0-only
"""The recorded calls of a zbud pool as the checker and the comparison of sizes want them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np

from ztrace.allocator.zbud.model import HEADER_CHUNKS, Zbud
from ztrace.allocator.zbud.steps import PageCall, PageKind
from ztrace.replay.validate.calls import (
    ABSENT,
    FOREVER,
    FREE,
    MALLOC,
    SHRINK,
    WRITEBACK,
    Calls,
    groups,
)
from ztrace.replay.validate.checker import Failure
from ztrace.replay.validate.placement_verdict import PoolPlacement
from ztrace.replay.validate.zbud_checker import PoolChecker


class ZbudRun:
    """One pool that began empty, a window of its calls at a time."""

    def __init__(self, result: PoolPlacement, model: Zbud) -> None:
        self.result = result
        self.checker = PoolChecker(model, self._fail)
        self._held: Calls | None = None

    def feed(self, calls: Calls, limit: int) -> None:
        """Take over calls sorted by ts, before which no later call began but from ``limit`` on."""
        self.result.cpus.update(np.unique(calls["cpu"]).tolist())
        held = calls if self._held is None else np.concatenate([self._held, calls])
        done = 0
        for first, end in groups(held, limit):
            self._group(held[first:end])
            done = end
        self._held = held[done:]

    def finish(self) -> PoolPlacement:
        """End of the trace."""
        assert self._held is not None
        self.feed(self._held[:0], FOREVER)
        result, tally = self.result, self.checker.tally
        result.calls = result.places.compared = tally.calls
        result.places.equal = tally.explained
        result.overlapping = tally.overlapping
        told = ("calls", "explained", "overlapping")
        result.counts = {name: n for name, n in asdict(tally).items() if name not in told}
        if tally.cut_short:
            result.notes.append(
                f"{tally.cut_short:,} groups of overlapping calls had too many orders to try them "
                "all; of later calls that the untried ones allow some may be refused"
            )
        return result

    def _fail(self, failure: Failure[PageCall]) -> None:
        call, places = failure.call, self.result.places
        if places.first is None:
            places.first = (
                f"row {call.row}: {call.kind.name.lower()} {call.handle:#x}, the model: "
                f"{failure.answer}; {failure.cause}"
            )

    def _refuse(self, row: int, ret: int, code: int) -> None:
        """Compare the errno of a malloc refused by its size; 0: not by the model."""
        self.result.errors.note(ret == code, lambda: f"row {row}: kernel {ret}, model {code}")

    def _group(self, rows: Calls) -> None:
        calls = [call for row in rows if (call := self._decode(row)) is not None]
        shrinks = rows[rows["op"] == SHRINK]
        if len(shrinks):
            # Only its critical sections count, and other calls overlap these or not.
            for shrink in shrinks:
                calls += self._sections(shrink, rows[rows["op"] == WRITEBACK])
            calls.sort(key=lambda call: (call.ts, call.row))
        while calls:
            count, latest = 1, calls[0].end
            while count < len(calls) and calls[count].ts <= latest:
                latest = max(latest, calls[count].end)
                count += 1
            self._check(calls[:count])
            calls = calls[count:]

    def _check(self, calls: list[PageCall]) -> None:
        """Check calls that overlap each other and no others, and the sizes that they read."""
        pages = self.checker.model.pages
        touched = {call.number for call in calls if call.kind != PageKind.NO_PAGE}
        if len(calls) == 1:
            self.checker.play(calls[0])
            if calls[0].total >= 0:
                self.result.sizes.note(calls[0].row, calls[0].total, len(pages), len(pages))
            return
        before = {number: number in pages for number in touched}
        base = len(pages) - sum(before.values())
        self.checker.group(calls)
        self._compare_sizes(calls, before, base)

    def _compare_sizes(self, calls: list[PageCall], before: dict[int, bool], base: int) -> None:
        """Compare what calls of a group read; ``before``: whether each of its pages was there."""
        # A page that several of the calls are about may have come and gone between them.
        alone: dict[int, int] = {}
        spans: dict[int, tuple[int, int]] = {}
        for call in calls:
            if call.number in before:
                begin, end = spans.get(call.number, (call.ts, call.end))
                spans[call.number] = min(begin, call.ts), max(end, call.end)
                alone[call.number] = -1 if call.number in alone else call.row
        pages = self.checker.model.pages
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
            self.result.sizes.note(call.row, call.total, base + int(low), base + int(high))

    # -- decoding ---------------------------------------------------------------------------

    def _decode(self, row: Any) -> PageCall | None:
        op, ret = int(row["op"]), int(row["ret"])
        if op == FREE:
            return self._call(row, PageKind.FREE)
        if op != MALLOC:
            return None
        model = self.checker.model
        try:
            chunks = model.chunks_of(int(row["size"]))
        except OSError as refusal:
            self._refuse(int(row["row"]), ret, -(refusal.errno or 0))
            return None
        if ret == 0:
            return self._call(row, PageKind.MALLOC, chunks)
        if ret != -errno.ENOMEM:
            self._refuse(int(row["row"]), ret, 0)
            return None
        return self._call(row, PageKind.NO_PAGE, chunks)._replace(number=-1)

    def _call(self, row: Any, kind: PageKind, chunks: int = 0) -> PageCall:
        model, handle, total = self.checker.model, int(row["handle"]), int(row["total"])
        number, offset = divmod(handle, model.page_bytes)
        first = offset == HEADER_CHUNKS * model.chunk_bytes
        total = -1 if total == ABSENT else total // model.page_bytes
        times = (int(row["ts"]), int(row["end"]), int(row["row"]))
        who = (int(row["cpu"]), int(row["tid"]))
        return PageCall(*times, kind, number - 1, first, chunks, handle, total, *who)

    def _sections(self, shrink: Any, evictions: Calls) -> Iterator[PageCall]:
        """The critical sections of a shrink, told by what it evicted."""
        inside = evictions[
            (evictions["tid"] == shrink["tid"])
            & (evictions["ts"] >= shrink["ts"])
            & (evictions["ts"] <= shrink["end"])
        ]
        if not len(inside):
            return
        one = self._call(shrink, PageKind.RECLAIM)._replace(total=-1)
        rounds = list(self._rounds(inside))
        begins = [one.ts, *(int(evicted["end"][-1]) for evicted in rounds)]
        ends = [*(int(evicted["ts"][0]) for evicted in rounds[1:]), one.end]
        for evicted, begin, end in zip(rounds, begins[:-1], ends, strict=True):
            number = int(evicted["handle"][0]) // self.checker.model.page_bytes - 1
            chosen, done = int(evicted["ts"][0]), int(evicted["end"][-1])
            yield one._replace(ts=begin, end=max(begin, chosen), number=number)
            yield one._replace(ts=done, end=max(done, end), kind=PageKind.PUT_BACK, number=number)

    def _rounds(self, evictions: Calls) -> Iterator[Calls]:
        """The evictions of one shrink a page at a time: first object, last object."""
        handle = evictions["handle"]
        page = handle // np.uint64(self.checker.model.page_bytes)
        cuts = (page[1:] != page[:-1]) | (handle[1:] <= handle[:-1]) | (evictions["ret"][:-1] != 0)
        for first, last in pairwise([0, *(np.flatnonzero(cuts) + 1).tolist(), len(evictions)]):
            yield evictions[first:last]
