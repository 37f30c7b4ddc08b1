# SPDX-License-Identifier: GPL-2.0-only
"""A recorded shrink, driven through the model of its pool: see :mod:`replay.play.engine`."""

from __future__ import annotations

import errno
from collections.abc import Callable

from ztrace.allocator import HazardError
from ztrace.replay.play.pool_run import PoolRun
from ztrace.replay.read.evictions import evictions
from ztrace.replay.read.rows import Rows


class Shrinking:
    """The shrink that row ``last`` records; rows from ``first`` on returned while it ran.

    ``play(start, stop)`` plays rows as plain calls, ``stopped()`` says whether that ended the
    pool's replay. ``played``: rows are played up to there. ``diverged``: the model did not choose
    the objects that the kernel evicted.
    """

    def __init__(
        self,
        run: PoolRun,
        rows: Rows,
        first: int,
        last: int,
        play: Callable[[int, int], None],
        stopped: Callable[[], bool],
    ) -> None:
        self._run = run
        self._wanted = evictions(rows, first, last)
        self._pages = rows.size[last] or 1
        self._play = play
        self._stopped = stopped
        self._done = 0
        self.played = first
        self.diverged = False

    def drive(self) -> int:
        """Shrink the model; returns its answer. HazardError if that ended its replay."""
        try:
            answer = self._run.model.shrink(self._pages, self._evict).ret
        except OSError as refusal:
            answer = -(refusal.errno or 0)
        self.diverged |= self._done < len(self._wanted)
        return answer

    def _evict(self, handle: int) -> int:
        """The model asks for an eviction: play the rows of the recorded one, if it is the same."""
        if self.diverged or self._done == len(self._wanted):
            self.diverged = True
            return -errno.EEXIST
        one = self._wanted[self._done]
        known = self._run.live.get(one.handle)
        if handle != (one.handle if known is None else known[0]):
            self.diverged = True
            return -errno.EEXIST
        self._done += 1
        start, self.played = self.played, one.at + 1
        self._play(start, self.played)
        if self._stopped():
            raise HazardError("stopped", "the replay of this pool ended in an eviction")
        return one.ret
