# SPDX-License-Identifier: GPL-2.0-only
"""Where recorded events go: nowhere, to one spool or several in turn, or to memory for a while."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztrace.tracer.ring import KINDS, OP_NAMES, OP_TOTAL, Records, by_kind
from ztrace.tracer.spool import SpoolWriter, numbered

FLIGHT_BYTES = 64 << 20
"""What a flight keeps in memory at most, compressed, unless told otherwise."""


@dataclass(frozen=True)
class Trigger:
    """Calls of an op that took longer than ``limit_ns``."""

    op: str
    limit_ns: int

    def fired(self, records: Records) -> str | None:
        """What the first such call was; None if there is none."""
        slow = (records["op"] == OP_NAMES.index(self.op)) & (records["dur"] > self.limit_ns)
        if not slow.any():
            return None
        one = records[int(np.argmax(slow))]
        return (
            f"a {self.op} of {int(one['dur']) / 1e6:.3f} ms on CPU {int(one['cpu'])}, task "
            f"{int(one['tid'])}, at {int(one['ts'])} ns"
        )


@dataclass(frozen=True)
class Limits:
    """What ends a recording or one of its files, None: nothing does.

    Bytes are a spool's. ``rotate_…``: a new file at so many bytes or after so long.
    ``flight_ns``: only what is not older is kept, until a trigger fires or recording ends.
    """

    max_events: int | None = None
    max_bytes: int | None = None
    rotate_bytes: int | None = None
    rotate_ns: int | None = None
    flight_ns: int | None = None
    triggers: tuple[Trigger, ...] = ()

    @property
    def rotates(self) -> bool:
        """Whether there may be several files."""
        return self.rotate_bytes is not None or self.rotate_ns is not None

    def is_turn(self, piece_bytes: int, piece_ns: int) -> bool:
        """Whether a file of that size and age is to be the last of its kind."""
        return (self.rotate_bytes is not None and piece_bytes >= self.rotate_bytes) or (
            self.rotate_ns is not None and piece_ns >= self.rotate_ns
        )


def first_rows(records: Records, rows: int) -> Records:
    """The records up to the one that makes so many rows, all if they make fewer."""
    made = np.cumsum(records["op"] < OP_TOTAL)
    return records[: int(np.searchsorted(made, rows)) + 1] if rows else records[:0]


class Nowhere:
    """Takes what an output takes and keeps nothing, for looking on.

    ``written_bytes`` so far, in all. ``given_up``: events taken and not kept, by kind.
    """

    def __init__(self) -> None:
        self.written_bytes = 0
        self.given_up: NDArray[np.int64] = np.zeros(KINDS, np.int64)

    def start(self, document: dict[str, Any]) -> None:
        """Take what is known when recording begins."""

    def records(self, records: Records) -> None:
        """Take records, shape (n,)."""

    def state(self, document: dict[str, Any]) -> None:
        """Take the latest losses, pools and counters."""

    def finish(self) -> None:
        """Write what is still held: nothing comes any more."""

    def close(self) -> None:
        """Close what is open."""


class Spools(Nowhere):
    """One spool, or several in turn; each is whole in itself. ``paths`` are those so far."""

    def __init__(self, path: Path) -> None:
        """Create the first spool; OSError if that is not possible."""
        super().__init__()
        self._earlier_bytes = 0
        self.paths = [path]
        self._writer = SpoolWriter(path)

    @property
    def piece_bytes(self) -> int:
        """Bytes in the spool that is written now."""
        return self._writer.size_bytes

    def turn(self) -> None:
        """End this spool and go on in the next, which needs a start of its own."""
        self._writer.close()
        self._earlier_bytes += self._writer.size_bytes
        path = numbered(self.paths[0], len(self.paths))
        self._writer = SpoolWriter(path)
        self.paths.append(path)

    def start(self, document: dict[str, Any]) -> None:
        self._writer.start(document)

    def records(self, records: Records) -> None:
        self._writer.records(records)
        self.written_bytes = self._earlier_bytes + self._writer.size_bytes

    def state(self, document: dict[str, Any]) -> None:
        self._writer.state(document)
        self.written_bytes = self._earlier_bytes + self._writer.size_bytes

    def close(self) -> None:
        self._writer.close()


@dataclass(frozen=True)
class _Kept:
    """A frame of records, the latest return of its calls in ns, and how many there are."""

    last_ns: int
    frame: bytes
    kinds: NDArray[np.int64] = field(repr=False)


class Flight(Nowhere):
    """Keeps the last events in memory, compressed, and writes them when told to finish.

    ``cut_short``: more than ``most_bytes`` came within that time, so less of it was kept.
    ``written_bytes`` are in memory.
    """

    def __init__(
        self,
        path: Path,
        keep_ns: int,
        most_bytes: int = FLIGHT_BYTES,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Create the spool, so that nothing stands in its way later; OSError if it cannot be.

        ``clock``: now in ns, as the events' times.
        """
        super().__init__()
        self.paths = [path]
        self.cut_short = False
        self._keep_ns, self._most_bytes, self._clock = keep_ns, most_bytes, clock
        self._writer = SpoolWriter(path)
        self._kept: deque[_Kept] = deque()
        self._state: dict[str, Any] | None = None

    def start(self, document: dict[str, Any]) -> None:
        self._writer.start(document)

    def records(self, records: Records) -> None:
        last = int((records["ts"] + records["dur"]).max())
        kept = _Kept(last, self._writer.packed(records), by_kind(records))
        self._kept.append(kept)
        self.written_bytes += len(kept.frame)
        self._give_up_old()

    def state(self, document: dict[str, Any]) -> None:
        self._state = document

    def _give_up_old(self) -> None:
        oldest = self._clock() - self._keep_ns
        while self._kept and (
            self._kept[0].last_ns < oldest
            or (self.written_bytes > self._most_bytes and len(self._kept) > 1)
        ):
            self.cut_short = self.cut_short or self._kept[0].last_ns >= oldest
            gone = self._kept.popleft()
            self.written_bytes -= len(gone.frame)
            self.given_up += gone.kinds

    def finish(self) -> None:
        while self._kept:
            self._writer.append(self._kept.popleft().frame)
        if self._state is not None:
            self._writer.state(self._state)

    def close(self) -> None:
        self._writer.close()
