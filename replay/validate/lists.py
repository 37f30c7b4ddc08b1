# SPDX-License-Identifier: GPL-2.0-only
"""z3fold's lists as a recording tells them, and what a search through them can have found.

Each page with room is on one list of one CPU, by its free chunks. A search begins without the lock
(__z3fold_alloc()): it looks at the lists of its own CPU, one after another, and for an empty one it
is enough that it was empty at the moment of that look. So it is asked whether there were such
moments, one after another, since the search began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

Key = tuple[int, int]
"""CPU and number of a list."""

Busy = Callable[[int, int, int], bool]
"""Whether other calls may have held the lock of a page at some time between two."""

_ALWAYS = -1


class Look(NamedTuple):
    """How far a search can have got at time ``since``: to the exact lists from CPU ``next_cpu`` on,
    or, if that is -1, it begins (again)."""

    since: int
    next_cpu: int = -1


class _Empty:
    """A time in which a list was empty; ``end`` -1: it is so still, -2: until just now."""

    __slots__ = ("begin", "end")

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.end = -1


class Lists:
    """The lists of one pool; ``sizes``: how many there are of a CPU.

    ``elsewhere`` counts searches that only the lists of another CPU explain than that on which
    they ended: their task was moved meanwhile.
    """

    def __init__(self, cpus: int, sizes: int) -> None:
        self._cpus = cpus
        self._sizes = sizes
        self._pages: dict[Key, dict[int, None]] = {}
        self._where: dict[int, Key] = {}
        self._empty: dict[Key, list[_Empty]] = {}
        self._filled: list[Key] = []  # since the last operation
        self._changed: set[Key] = set()
        self.elsewhere = 0

    def where(self, page: int) -> Key | None:
        """The list that a page is on."""
        return self._where.get(page)

    def is_newest(self, page: int) -> bool:
        """Whether a page that is on a list is the first that a search sees there."""
        return next(reversed(self._pages[self._where[page]])) == page

    def passed(self, at: int) -> None:
        """An operation has been looked at: what was done before it can be seen by all."""
        for key in self._filled:
            self._empty[key][-1].end = at
        self._filled.clear()

    def link(self, page: int, key: Key) -> None:
        """Put a page on a list. All see it when the next operation is made, if not before."""
        self.unlink(page, 0)
        pages = self._pages.setdefault(key, {})
        if not pages:
            self._times(key)[-1].end = -2
            self._filled.append(key)
            self._changed.add(key)
        pages[page] = None
        self._where[page] = key

    def unlink(self, page: int, at: int) -> None:
        """Take a page off the list that it is on, if it is on one."""
        key = self._where.pop(page, None)
        if key is None:
            return
        del self._pages[key][page]
        if not self._pages[key]:
            self._times(key).append(_Empty(at))
            self._changed.add(key)

    def forget(self) -> None:
        """No search is under way: only what is empty now is of use later."""
        for key in self._changed:
            del self._times(key)[:-1]
        self._changed.clear()

    def taken(
        self, looks: Iterable[Look], page: int, cpu: int, at: int, chunks: int, busy: Busy
    ) -> list[Look]:
        """How far a search can have got that takes ``page`` at ``at`` on ``cpu``; [] if it cannot.

        ``looks``: how far it had got before. It looks for so many ``chunks``.
        """
        its_cpu, number = self._where[page]
        found = []
        for look in looks:
            since: int | None = look.since
            if look.next_cpu < 0:
                own = its_cpu == cpu and number >= chunks
                if own and self._all_empty(cpu, chunks, number, look.since, at) is not None:
                    found.append(Look(at))
                since = None
                if number == chunks:
                    since = self._nothing_fits(cpu, chunks, look.since, at)
            if since is None or number != chunks or its_cpu < look.next_cpu:
                continue
            if self._passed_over(max(0, look.next_cpu), its_cpu, chunks, since, at, busy):
                found.append(Look(at, its_cpu + 1))
        return found

    def none(self, looks: Iterable[Look], cpu: int, at: int, chunks: int, busy: Busy) -> bool:
        """Whether a search can have ended before ``at`` without having found a page."""
        for look in looks:
            moment: int | None = look.since
            if look.next_cpu < 0:
                moment = self._nothing_fits(cpu, chunks, look.since, at)
            if moment is not None and self._passed_over(
                max(0, look.next_cpu), self._cpus, chunks, moment, at, busy
            ):
                return True
        return False

    def _times(self, key: Key) -> list[_Empty]:
        return self._empty.setdefault(key, [_Empty(_ALWAYS)])

    def _nothing_fits(self, cpu: int, chunks: int, since: int, at: int) -> int | None:
        """When a look through the lists of a CPU can have ended at the earliest without a page."""
        for own in (cpu, *(other for other in range(self._cpus) if other != cpu)):
            moment = self._all_empty(own, chunks, self._sizes, since, at)
            if moment is not None:
                self.elsewhere += own != cpu
                return moment
        return None

    def _all_empty(self, cpu: int, first: int, end: int, since: int, at: int) -> int | None:
        """When a look at lists ``first`` to ``end`` can have ended at the earliest, all empty."""
        for number in range(first, end):
            moment = self._first_empty((cpu, number), since, at)
            if moment is None:
                return None
            since = moment
        return since

    def _first_empty(self, key: Key, since: int, at: int) -> int | None:
        """The first moment from ``since`` to ``at`` at which a list was empty."""
        times = self._empty.get(key)
        if times is None:
            return since
        for one in times:
            until = at if one.end < 0 else one.end
            if until >= since and one.begin <= at:
                return max(one.begin, since)
        return None

    def _passed_over(
        self, first: int, end: int, chunks: int, since: int, at: int, busy: Busy
    ) -> bool:
        """Whether the lists of just a size of some CPUs were empty, or their first page locked."""
        for cpu in range(first, end):
            moment = self._first_empty((cpu, chunks), since, at)
            if moment is not None:
                since = moment
            elif not busy(next(reversed(self._pages[cpu, chunks])), since, at):
                return False
        return True
