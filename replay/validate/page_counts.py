# SPDX-License-Identifier: GPL-2.0-only
"""Recorded pool sizes against the values that a pool's count of pages can have had.

A size was read as a call returned. What other CPUs' calls were doing at that time may or may not
have changed the count before it was read, so on several CPUs a reading is compared with a range.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass
class Sizes:
    """Readings compared, ``equal``: those in range, of these ``sure``: only one value was possible.

    ``error_pages``: how far the farthest reading lies from its range. ``first`` describes it.
    """

    compared: int = 0
    equal: int = 0
    sure: int = 0
    error_pages: int = 0
    first: str | None = None

    def note(self, row: int, pages: int, low: int, high: int) -> None:
        """Compare one reading of ``pages``."""
        self.compared += 1
        if low == pages == high:  # nearly all
            self.equal += 1
            self.sure += 1
            return
        if low <= pages <= high:
            self.equal += 1
            self.sure += low == high
            return
        self.error_pages = max(self.error_pages, low - pages, pages - high)
        if self.first is None:
            possible = f"{low}" if low == high else f"{low} to {high}"
            self.first = f"row {row}: kernel {pages} pages, model {possible}"

    def note_all(
        self,
        row: NDArray[np.int64],
        pages: NDArray[np.int64],
        low: NDArray[np.int64],
        high: NDArray[np.int64],
    ) -> None:
        """Compare several readings, in the order of their calls."""
        equal = (low <= pages) & (pages <= high)
        self.compared += int(equal.sum())
        self.equal += int(equal.sum())
        self.sure += int((equal & (low == high)).sum())
        for at in np.flatnonzero(~equal).tolist():
            self.note(int(row[at]), int(pages[at]), int(low[at]), int(high[at]))


class _Change(NamedTuple):
    """The count changed by ``pages`` at some time from ``begin`` to ``end``, in ns."""

    begin: int
    end: int
    row: int
    pages: int


class _Reading(NamedTuple):
    """The count was read at some time from ``begin`` to ``end``, after ``row``'s own change."""

    begin: int
    end: int
    row: int
    pages: int


@dataclass
class Counter:
    """The count of one pool, from changes and readings that come in order of ``begin``.

    ``puts_off``: whether a free may give pages back some time after it returned.
    """

    sizes: Sizes = field(default_factory=Sizes)
    settled: int = 0
    changes: deque[_Change] = field(default_factory=deque)
    readings: deque[_Reading] = field(default_factory=deque)
    puts_off: bool = True
    kept: int = 0  # pages whose giving back was put off, as their free's own reading shows

    def change(self, begin: int, end: int, row: int, pages: int) -> None:
        """Note a change, by its call's row."""
        self.changes.append(_Change(begin, end, row, pages))

    def read(self, begin: int, end: int, row: int, pages: int) -> None:
        """Note a reading; it is compared when everything that began before its end is known."""
        self.readings.append(_Reading(begin, end, row, pages))

    def advance(self, now: int) -> None:
        """Compare readings: no change that began before ``now`` is still to come."""
        while self.readings and self.readings[0].end < now:
            reading = self.readings.popleft()
            # What every later reading comes after is settled.
            while self.changes and self.changes[0].end < reading.begin:
                self.settled += self.changes.popleft().pages
            low, high = self._range(reading)
            correction = self._put_off(reading, low, high) if self.puts_off else 0
            self.settled += correction
            self.kept += correction
            self.sizes.note(reading.row, reading.pages, low + correction, high + correction)

    def _range(self, reading: _Reading) -> tuple[int, int]:
        low = high = self.settled
        for begin, end, row, pages in self.changes:
            if begin > reading.end:
                break
            if end < reading.begin or row == reading.row:
                low, high = low + pages, high + pages
            else:
                low, high = low + min(pages, 0), high + max(pages, 0)
        return low, high

    def _put_off(self, reading: _Reading, low: int, high: int) -> int:
        """Pages that a free has emptied and not given back yet; negative: those of before now."""
        if low <= reading.pages <= high:
            return 0
        own = -sum(change.pages for change in self.changes if change.row == reading.row)
        if own > 0 and low <= reading.pages - own <= high:
            return own
        return -self.kept if low <= reading.pages + self.kept <= high else 0

    def revive(self, begin: int, end: int, row: int, pages: int) -> None:
        """A malloc uses pages again whose giving back was put off."""
        if self.kept >= pages:
            self.kept -= pages
        else:
            self.change(begin, end, row, pages)
