# SPDX-License-Identifier: GPL-2.0-only
"""The recorded calls of a zbud pool as the checker and the comparison of sizes want them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztrace.allocator.zbud.model import HEADER_CHUNKS, Zbud
from ztrace.allocator.zbud.steps import PageCall, PageKind
from ztrace.replay.validate.calls import (
    ABSENT,
    FOREVER,
    FREE,
    MALLOC,
    SEEN,
    SHRINK,
    WRITEBACK,
    Calls,
    Seen,
    last_end,
    overlapping,
)
from ztrace.replay.validate.checker import Failure
from ztrace.replay.validate.placement_verdict import PoolPlacement, Way
from ztrace.replay.validate.zbud_native import NativePages, reason_missing
from ztrace.replay.validate.zbud_stream import PageStream, PythonPages, seen


class ZbudRun:
    """One pool that began empty, a window of its calls at a time.

    If ``result.order`` is that of the lock, each malloc and free is where it held the lock, and
    only what remains together is searched.

    ``engine``: ``python`` or ``native``, the same in the native core, which is the default where
    it is; NativeMissing for ``native`` where there is none. A subclass of the model is Python's.
    """

    def __init__(self, result: PoolPlacement, model: Zbud, engine: str | None = None) -> None:
        self.result = result
        self._model = model
        self._page_bytes = model.page_bytes
        self._locked = result.order == Way.LOCK
        in_core = engine == "native" or (
            engine is None and type(model) is Zbud and not reason_missing()
        )
        self._stream: PageStream
        if in_core:
            self._stream = NativePages(model.page_bytes, self._fail, self._locked)
        else:
            self._stream = PythonPages(model, self._fail, self._locked)
        self._held: Calls | None = None
        self._returned = -1  # latest end of calls begun so far

    def feed(self, calls: Calls, limit: int) -> None:
        """Take over calls sorted by ts, before which no later call began but from ``limit`` on."""
        self.result.cpus.update(np.flatnonzero(np.bincount(calls["cpu"])).tolist())
        if self._locked:
            calls = self._narrowed(calls)
        held = calls if self._held is None else np.concatenate([self._held, calls])
        if self._locked:
            held = held[np.lexsort((held["row"], held["ts"]))]
        # Those that held the lock from ``limit`` on may share a moment with one that is to come.
        done = last_end(held[: np.searchsorted(held["ts"], limit)], limit)
        if done:
            self._stream.check(*self._decode(held[:done]), self.result.sizes)
        self._held = held[done:]

    def finish(self) -> PoolPlacement:
        """End of the trace."""
        assert self._held is not None
        self.feed(self._held[:0], FOREVER)
        result, tally = self.result, self._stream.tally
        result.calls = result.places.compared = tally.calls
        result.places.equal = tally.explained
        if not self._locked:
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
            self.result.refused = failure
            places.first = (
                f"row {call.row}: {call.kind.name.lower()} {call.handle:#x}, the model: "
                f"{failure.answer}; {failure.cause}"
            )

    def _narrowed(self, calls: Calls) -> Calls:
        """Calls as lasting no longer than the moment at which they held the lock."""
        found, self._returned = overlapping(
            calls[np.isin(calls["op"], (MALLOC, FREE))], self._returned
        )
        self.result.overlapping += found
        # A malloc that the size decides takes no lock, and of a shrink's it is not known when.
        known = calls["lock_ns"] != np.uint64(ABSENT)
        calls["lock_ns"][~known] = 0
        calls["ts"] += calls["lock_ns"].astype(np.int64)
        calls["end"][known] = calls["ts"][known]
        return calls

    # -- decoding ---------------------------------------------------------------------------

    def _decode(self, rows: Calls) -> tuple[Seen, NDArray[np.int64]]:
        """Calls, and the pool's size in pages as each returned, -1 where that is not recorded.

        Mallocs refused by the allocator are compared here; a shrink becomes its critical sections.
        """
        op, ret = rows["op"], rows["ret"]
        malloc = op == MALLOC
        asked, place = np.unique(rows["size"], return_inverse=True)
        answers = np.array([self._chunks(size) for size in asked.tolist()])[place]
        refused = malloc & ((answers < 0) | ((ret != 0) & (ret != -errno.ENOMEM)))
        for row, answer in zip(rows[refused], answers[refused].tolist(), strict=True):
            self._refuse(int(row["row"]), int(row["ret"]), min(answer, 0))
        taken = (op == FREE) | (malloc & ~refused)
        chosen = rows[taken]
        calls = np.zeros(len(chosen), SEEN)
        for name in ("ts", "end", "row", "cpu", "tid"):
            calls[name] = chosen[name]
        calls["began"] = calls["ts"]
        if self._locked:
            calls["began"] -= chosen["lock_ns"].astype(np.int64)
        malloc, failed = chosen["op"] == MALLOC, chosen["ret"] != 0
        offset = (chosen["handle"] % np.uint64(self._page_bytes)).astype(np.int64)
        page = (chosen["handle"] // np.uint64(self._page_bytes)).astype(np.int64) - 1
        chunks = np.where(malloc, answers[taken], 0)
        calls["kind"] = np.where(
            malloc, np.where(failed, PageKind.NO_PAGE, PageKind.MALLOC), PageKind.FREE
        )
        calls["block"] = np.where(malloc & failed, -1, page)
        calls["slot"] = offset != HEADER_CHUNKS * self._model.chunk_bytes
        calls["size"] = chunks | offset << 32
        unknown = chosen["total"] == np.uint64(ABSENT)
        pages = (chosen["total"] // np.uint64(self._page_bytes)).astype(np.int64)
        pages[unknown] = -1
        shrinks = rows[op == SHRINK]
        if not len(shrinks):
            return calls, pages
        # Only its critical sections count, and other calls overlap these or not.
        evictions = rows[op == WRITEBACK]
        sections = [
            seen(one, self._page_bytes)
            for shrink in shrinks
            for one in self._sections(shrink, evictions)
        ]
        calls = np.concatenate([calls, np.array(sections, SEEN)])
        pages = np.concatenate([pages, np.full(len(sections), -1)])
        order = np.lexsort((calls["row"], calls["ts"]))
        return calls[order], pages[order]

    def _chunks(self, size: int) -> int:
        """What the model makes of a size: chunks, or the negative errno."""
        try:
            return self._model.chunks_of(size)
        except OSError as refusal:
            return -(refusal.errno or 0)

    def _refuse(self, row: int, ret: int, code: int) -> None:
        """Compare the errno of a malloc refused by its size; 0: not by the model."""
        self.result.errors.note(ret == code, lambda: f"row {row}: kernel {ret}, model {code}")

    def _sections(self, shrink: Any, evictions: Calls) -> Iterator[PageCall]:
        """The critical sections of a shrink, told by what it evicted."""
        inside = evictions[
            (evictions["tid"] == shrink["tid"])
            & (evictions["ts"] >= shrink["ts"])
            & (evictions["end"] <= shrink["end"])
        ]
        if not len(inside):
            return
        who = (int(shrink["cpu"]), int(shrink["tid"]))
        row = int(shrink["row"])
        rounds = list(self._rounds(inside))
        begins = [int(shrink["ts"]), *(int(evicted["end"][-1]) for evicted in rounds)]
        ends = [*(int(evicted["ts"][0]) for evicted in rounds[1:]), int(shrink["end"])]
        for evicted, begin, end in zip(rounds, begins[:-1], ends, strict=True):
            number = int(evicted["handle"][0]) // self._page_bytes - 1
            chosen, done = int(evicted["ts"][0]), int(evicted["end"][-1])
            about = (number, False, 0, 0, -1, *who)
            yield PageCall(begin, max(begin, chosen), row, PageKind.RECLAIM, *about, begin)
            yield PageCall(done, max(done, end), row, PageKind.PUT_BACK, *about, done)

    def _rounds(self, evictions: Calls) -> Iterator[Calls]:
        """The evictions of one shrink a page at a time: first object, last object."""
        handle = evictions["handle"]
        page = handle // np.uint64(self._page_bytes)
        cuts = (page[1:] != page[:-1]) | (handle[1:] <= handle[:-1]) | (evictions["ret"][:-1] != 0)
        for first, last in pairwise([0, *(np.flatnonzero(cuts) + 1).tolist(), len(evictions)]):
            yield evictions[first:last]
