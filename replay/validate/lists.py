# SPDX-License-Identifier: GPL-2.0-only
"""z3fold's lists as a recording tells them, and what a search through them can have found.

Each page with room is on one list of one CPU, by its free chunks. A search begins without the lock
(__z3fold_alloc()): it looks at the lists of its own CPU, one after another, and for an empty one it
is enough that it was empty at the moment of that look. So it is asked whether there were such
moments, one after another, since the search began.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")

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
    """A time in which a list was empty; ``end`` -1: it is so still, or was until just now."""

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
        self._first: dict[Key, list[tuple[int, int]]] = {}  # when which page was first, from when
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

    def link(self, page: int, key: Key, at: int) -> None:
        """Put a page on a list. All see it when the next operation is made, if not before."""
        self.unlink(page, at)
        pages = self._pages.setdefault(key, {})
        if not pages:
            self._times(key)
            self._filled.append(key)
        pages[page] = None
        self._where[page] = key
        self._note_first(key, at)

    def unlink(self, page: int, at: int) -> None:
        """Take a page off the list that it is on, if it is on one."""
        key = self._where.pop(page, None)
        if key is None:
            return
        del self._pages[key][page]
        if self._pages[key]:
            self._note_first(key, at)
        else:
            self._times(key).append(_Empty(at))
            self._changed.add(key)

    def _note_first(self, key: Key, at: int) -> None:
        self._first.setdefault(key, []).append((at, next(reversed(self._pages[key]))))
        self._changed.add(key)

    def forget(self) -> None:
        """No search is under way: only what is empty now is of use later."""
        for key in self._changed:
            del self._times(key)[:-1]
            del self._first.get(key, [])[:-1]
        self._changed.clear()

    def taken(
        self, looks: Sequence[Look], page: int, cpu: int, at: int, chunks: int, busy: Busy
    ) -> list[Look]:
        """How far a search can have got that takes ``page`` at ``at`` on ``cpu``; [] if it cannot.

        ``looks``: how far it had got before. It looks for so many ``chunks``.
        """
        its_cpu, number = self._where[page]

        def passing(own: int) -> list[Look]:
            """The same, if the task was on CPU ``own`` as it looked at its CPU's lists."""
            first = [
                Look(at)
                for look in looks
                if look.next_cpu < 0 and its_cpu == own == cpu and number >= chunks
                if self._all_empty(own, chunks, number, look.since, at) is not None
            ]
            exact = [
                Look(at, its_cpu + 1)
                for look in looks
                if number == chunks and its_cpu >= look.next_cpu
                if self._passes(look, own, its_cpu, at, chunks, busy)
            ]
            return first + exact

        return self._on_some_cpu(passing, cpu)

    def none(self, looks: Sequence[Look], cpu: int, at: int, chunks: int, busy: Busy) -> bool:
        """Whether a search can have ended before ``at`` without having found a page."""

        def passing(own: int) -> bool:
            return any(self._passes(look, own, self._cpus, at, chunks, busy) for look in looks)

        return self._on_some_cpu(passing, cpu)

    def _on_some_cpu(self, passing: Callable[[int], T], cpu: int) -> T:
        """What is possible if a task was on ``cpu`` as it began, else on another."""
        found = passing(cpu)
        for other in range(self._cpus):
            if found:
                break
            if other != cpu:
                found = passing(other)
                self.elsewhere += bool(found)
        return found

    def _passes(self, look: Look, own: int, end: int, at: int, chunks: int, busy: Busy) -> bool:
        """Whether a search can get to the exact list of CPU ``end`` before ``at``."""
        since: int | None = look.since
        if look.next_cpu < 0:
            since = self._all_empty(own, chunks, self._sizes, look.since, at)
        for cpu in range(max(0, look.next_cpu), end):
            if since is None:
                break
            moments = (
                self._first_empty((cpu, chunks), since, at),
                self._first_locked((cpu, chunks), since, at, busy),
            )
            since = min((one for one in moments if one is not None), default=None)
        return since is not None

    def _times(self, key: Key) -> list[_Empty]:
        return self._empty.setdefault(key, [_Empty(_ALWAYS)])

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
            if (one.end < 0 or one.end > since) and one.begin <= at:
                return max(one.begin, since)
        return None

    def _first_locked(self, key: Key, since: int, at: int, busy: Busy) -> int | None:
        """The first moment at which another call may have had the lock of a list's first page."""
        firsts = self._first.get(key, [])
        for number, (begin, page) in enumerate(firsts):
            end = firsts[number + 1][0] if number + 1 < len(firsts) else at
            begin = max(begin, since)
            if begin <= end and busy(page, begin, end):
                return begin
        return None
