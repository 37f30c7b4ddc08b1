# SPDX-License-Identifier: GPL-2.0-only
"""zsmalloc's calls in the order in which they held the lock.

``lock_ns`` of a malloc or free is the time from its beginning to the moment at which it took or
freed its slot, seen under the lock: the pool's in 6.1, the class's later. Classes share nothing
but the count of pages, so the order is exact. A malloc that finds no room drops the lock, builds a
zspage and takes the lock again; the recorded moment is the second one. That it added a zspage
although one has room by then is right if there was none at some moment since it began.

zsmalloc gives an emptied zspage back unless one of its pages is locked. If not, the free's own
reading of the pool's size shows it, or a later malloc takes one of its slots.

:class:`LockReplay` plays the calls and says what differs; lock_native.py does the same in the core
as long as nothing does.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ztrace.allocator import create
from ztrace.allocator.traits import SLOT_BITS
from ztrace.allocator.zsmalloc.model import SizeClass, Zsmalloc, Zspage
from ztrace.replay.read.lives import Lives
from ztrace.replay.validate.calls import (
    ABSENT,
    COMPACT,
    FOREVER,
    FREE,
    MALLOC,
    Calls,
    overlapping,
)
from ztrace.replay.validate.page_counts import Counter
from ztrace.replay.validate.placement_verdict import PoolPlacement

OPS = (MALLOC, FREE, COMPACT)


class Call(NamedTuple):
    """One call as Python's own numbers: the columns of CALL that are played, ABSENT for null."""

    op: int
    row: int
    ts: int
    end: int
    handle: int
    size: int
    ret: int
    place: int
    total: int


class Played(Protocol):
    """Plays a pool's calls on its model."""

    def play(self, calls: Calls, moments: NDArray[np.int64]) -> None:
        """Play calls sorted by the moments at which they held the lock."""

    def finish(self) -> bool:
        """The trace has ended. False: the model answers otherwise, and what differs is not told."""


class LockOrder:
    """One pool that began empty, a window of its calls at a time, played by ``played``."""

    def __init__(self, result: PoolPlacement, played: Played) -> None:
        self.result = result
        self._played = played
        self._held: Calls | None = None
        self._returned = -1  # latest end of calls begun so far

    def feed(self, calls: Calls, limit: int) -> None:
        """Take over calls sorted by ts, before which no later call began but from ``limit`` on."""
        result = self.result
        calls = calls[np.isin(calls["op"], OPS)]
        result.cpus.update(np.unique(calls["cpu"]).tolist())
        result.calls += len(calls)
        found, self._returned = overlapping(calls, self._returned)
        result.overlapping += found
        held = calls if self._held is None else np.concatenate([self._held, calls])
        known = held["lock_ns"] != ABSENT
        moment = np.where(held["op"] == COMPACT, held["ts"], held["end"])
        moment = np.where(known, held["ts"] + held["lock_ns"].astype(np.int64), moment)
        order = np.lexsort((held["row"], moment))
        ready = int(np.searchsorted(moment[order], limit, side="left"))
        chosen = order[:ready]
        self._played.play(held[chosen], moment[chosen])
        self._held = held[np.sort(order[ready:])]

    def finish(self) -> PoolPlacement | None:
        """End of the trace; None if the model answers otherwise and that is not told."""
        assert self._held is not None
        self.feed(self._held[:0], FOREVER)
        if not self._played.finish():
            return None
        if ties := self.result.counts["ties"]:
            self.result.notes.append(
                f"{ties:,} calls held the lock at the recorded moment of another; these were "
                "played as they returned"
            )
        return self.result


def note_compacted_beside(result: PoolPlacement) -> None:
    """Say that a compaction's place among the calls is not known."""
    result.notes.append(
        "a compaction ran beside other calls, and in which order no record tells: "
        "differences from there on are counted as undetermined"
    )


class LockReplay:
    """Plays a pool's calls, in the order of the lock, on the model in Python."""

    def __init__(self, result: PoolPlacement) -> None:
        self.result = result
        model = create(result.backend)
        assert isinstance(model, Zsmalloc)
        self.model = model
        self.counter = Counter(result.sizes)
        result.counts = {"moved": 0, "added beside room": 0, "put off": 0, "ties": 0}
        # By recorded handle, the model's; in the order of the lock no free is late.
        self._lives: Lives[int] = Lives("", whole=False, waits=False)
        self._recorded: dict[int, int] = {}  # and back
        self._zspages: dict[int, Zspage] = {}  # by the kernel's address
        self._addresses: dict[Zspage, int] = {}
        self._gone: dict[int, Zspage] = {}  # given back; by the address it had
        self._full_until: dict[SizeClass, int] = {}  # when a class last had no room
        self._now = -1  # latest moment played
        self._row = -1  # latest row played
        self._compacting = -1  # end of a compaction
        self._compacted_beside = False

    def play(self, calls: Calls, moments: NDArray[np.int64]) -> None:
        """See Played."""
        for call, now in zip(_plain(calls), moments.tolist(), strict=True):
            self.counter.advance(now)
            self._play(call, now)

    def finish(self) -> bool:
        """See Played."""
        self.counter.advance(FOREVER)
        if self._compacted_beside:
            note_compacted_beside(self.result)
        return True

    def _play(self, call: Call, now: int) -> None:
        op, row, ts, end = call[:4]
        if op == MALLOC and self._refused(call):
            return
        counts = self.result.counts
        counts["moved"] += row < self._row
        counts["ties"] += now == self._now
        self._compacted_beside |= now <= self._compacting
        self._row, self._now = max(self._row, row), now
        if op == COMPACT:
            self._compact(ts, end, row)
        elif op == FREE:
            self._free(call.handle, now, end, row)
        else:
            self._malloc(call, now)
        if call.total != ABSENT:
            pages = call.total // self.model.page_bytes
            self.counter.read(now, end, row, pages)

    def _refused(self, call: Call) -> bool:
        """Whether a malloc failed; compares errors that the size decides."""
        size, ret, row = call.size, call.ret, call.row
        expected = 0
        if not 0 < size <= self.model.page_bytes:
            try:
                self.model.malloc(size)
            except OSError as refusal:
                expected = -(refusal.errno or 0)
        if ret == -errno.ENOMEM and not expected:
            return True  # no page was to be had
        if ret or expected:
            self.result.errors.note(
                ret == expected, lambda: f"row {row}: kernel {ret}, model {expected}"
            )
        return bool(ret or expected)

    # -- malloc -----------------------------------------------------------------------------

    def _malloc(self, call: Call, now: int) -> None:
        model, result = self.model, self.result
        _, row, ts, end, handle, size, _, place, _ = call
        size_class = model.size_class(size)
        if handle in self._lives.live:
            result.unknown["reissued"] += 1
            self._drop(handle, now, end, row)
        self._meet(size_class, now)
        address, slot = place >> SLOT_BITS, place & (1 << SLOT_BITS) - 1
        chosen = size_class.choose()
        known = self._zspages.get(address)
        again = self._put_off(size_class, chosen, address, slot)
        sure = again and self.counter.kept >= size_class.kind.pages
        fresh = known is None and slot == 0 and not sure
        if known is not None and chosen is known and chosen.free[-1] == slot:
            equal, given = True, model.malloc_from(known, size)
        elif fresh and (chosen is None or self._full_until.get(size_class, -1) >= ts):
            equal, given = True, self._add(size, 0, now, end, row)
            result.counts["added beside room"] += chosen is not None
        elif again:
            kept = self._gone[address]
            self._bind(kept, address)
            size_class.keep(kept)
            self.counter.revive(now, end, row, size_class.kind.pages)
            result.counts["put off"] += 1
            equal, given = True, model.malloc_from(kept, size)
        else:
            equal = False
            expected = "a new zspage"
            if chosen is not None:
                expected = f"zspage {self._addresses[chosen]:#x} slot {chosen.free[-1]}"
            given = self._force(size, known, slot, now, end, row)
        self._lives.give(handle, given, end, row)
        self._recorded[given] = handle
        self._bind(model.holder(given)[1], address)
        result.undetermined += not equal and self._compacted_beside
        result.places.note(
            equal,
            lambda: (
                f"row {row}: {handle:#x} lies in zspage {address:#x} slot {slot}, the model: "
                f"{expected}"
            ),
        )

    def _meet(self, size_class: SizeClass, now: int) -> None:
        """Note what the class was like until now."""
        if size_class.choose() is None:
            self._full_until[size_class] = now

    def _put_off(
        self, size_class: SizeClass, chosen: Zspage | None, address: int, slot: int
    ) -> bool:
        """Whether a malloc may have used a zspage again that could not be given back."""
        gone = self._gone.get(address)
        return (
            gone is not None
            and chosen is None
            and len(gone.free) == size_class.kind.slots
            and gone.free[-1] == slot
        )

    def _add(self, size: int, slot: int, now: int, end: int, row: int) -> int:
        """A malloc from a fresh zspage."""
        begun = self.model.begin_malloc(size)
        free = begun.zspage.free
        free.append(free.pop(free.index(slot)))
        self.counter.change(now, end, row, begun.size_class.kind.pages)
        return self.model.end_malloc(begun)

    def _force(
        self, size: int, known: Zspage | None, slot: int, now: int, end: int, row: int
    ) -> int:
        """Put an object where the kernel has it."""
        slots = self.model.size_class(size).kind.slots
        if known is not None and len(known.owners) == slots > slot:
            if known.owners[slot]:
                self._drop(self._recorded[known.owners[slot]], now, end, row)
            if known in self._addresses:
                known.free.append(known.free.pop(known.free.index(slot)))
                return self.model.malloc_from(known, size)
        return self._add(size, slot if slot < slots else 0, now, end, row)

    def _bind(self, zspage: Zspage, address: int) -> None:
        self._zspages[address] = zspage
        self._addresses[zspage] = address
        self._gone.pop(address, None)

    # -- free, compaction ---------------------------------------------------------------------

    def _free(self, handle: int, now: int, end: int, row: int) -> None:
        if handle in self._lives.live:
            self._drop(handle, now, end, row)
        else:
            self.result.note_unknown(FREE)

    def _drop(self, handle: int, now: int, end: int, row: int) -> None:
        given = self._lives.take(handle, now)
        assert given is not None
        del self._recorded[given]
        size_class, zspage = self.model.holder(given)
        self._meet(size_class, now)
        before = size_class.zspages
        self.model.free(given)
        if size_class.zspages < before:
            self._gone[self._addresses[zspage]] = zspage
            self._forget(zspage)
            self.counter.change(now, end, row, -size_class.kind.pages)

    def _forget(self, zspage: Zspage) -> None:
        address = self._addresses.pop(zspage)
        if self._zspages.get(address) is zspage:
            del self._zspages[address]

    def _compact(self, ts: int, end: int, row: int) -> None:
        """A compaction of the whole pool, which takes the classes' locks one by one."""
        self.result.compactions += 1
        self._compacting = end
        before = self.model.total_bytes
        self.model.compact()
        pages = (self.model.total_bytes - before) // self.model.page_bytes
        self.counter.change(ts, end, row, pages)
        used = {self.model.holder(given)[1] for given in self._lives.live.values()}
        for zspage in [one for one in self._addresses if one not in used]:
            self._forget(zspage)


def _plain(calls: Calls) -> Iterator[Call]:
    """Calls one by one. To read a field of a structured array takes as long as to play a call."""
    return map(Call._make, zip(*(calls[name].tolist() for name in Call._fields), strict=True))
