# SPDX-License-Identifier: GPL-2.0-only
"""What a recording leaves out by choice, told to the probes as defines: nothing of it costs
anything where it was not asked for.

A filter on objects takes or leaves whole lives, never single calls (probes/zswap.c).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ztrace.tracer.abi import LISTS, Probe
from ztrace.tracer.errors import TracerError

CGROUPS = Path("/sys/fs/cgroup")

UPPER, ALLOCATOR = "zswap", "allocator"
LEVELS = (UPPER, ALLOCATOR)

UPPER_OPS = ("store", "load", "invalidate", "writeback")
POOL_OPS = ("shrink", "compact")  # of a whole pool: no object's

MOST_TAKEN = 1 << 20
"""Objects and slots that the probes can follow at once, at most (:func:`room`)."""

_WORD = 2**64 - 1


@dataclass(frozen=True)
class Filters:
    """What to record; the default is everything.

    ``level``: only calls of this one of LEVELS. ``cgroups`` (folders of cgroup v2) and ``pids``:
    objects stored by a task in one of these, cgroups below included. ``min_size``: objects of at
    least that many bytes, as the allocator was asked for. ``sample``: one object of so many.
    An object must pass all that are given. ``lists``: also what is done to the allocator's lists.
    """

    level: str | None = None
    cgroups: Sequence[Path] = ()
    pids: Sequence[int] = ()
    min_size: int = 0
    sample: int = 1
    lists: bool = False

    @property
    def owned(self) -> bool:
        """Whether what decides is known only as an object is stored."""
        return bool(self.cgroups or self.pids or self.min_size)

    @property
    def by_object(self) -> bool:
        """Whether some objects are left out."""
        return self.owned or self.sample > 1

    def attaches(self, probe: Probe, *, histogram: bool = False) -> bool:
        """Whether a probe is needed: calls left out by level carry none.

        Only malloc knows a store's size and pool, so it always does. With some objects, or for
        histograms, nobody needs what belongs to a whole pool.
        """
        if probe in LISTS:
            return self.lists
        upper = probe.op in UPPER_OPS or probe.exit == "exit_invalidate"
        creates = probe.exit == "exit_create"
        if self.level == ALLOCATOR and upper:
            return False
        if self.level == UPPER and not (upper or creates or probe.op == "malloc"):
            return False
        if self.by_object and (probe.op in POOL_OPS or probe.exit == "exit_total"):
            return False
        places = probe.op is None and not upper and not creates
        return not (histogram and places)

    def records(self, op: str) -> bool:
        """Whether calls of an op get rows."""
        return self.level is None or (op in UPPER_OPS) == (self.level == UPPER)

    def defines(self, source: str, memory_bytes: int) -> dict[str, str | int]:
        """The defines of probes/zswap.c, for a machine with that much memory."""
        if self.lists:
            return {"LISTS": 1}
        if self.level == UPPER and not self.by_object:
            return {"WITHOUT_MALLOC": 1}
        if not self.by_object:
            return {}
        found: dict[str, str | int] = {
            "BY_OBJECT": 1,
            "MIN_SIZE": self.min_size,
            "PERIOD": self.sample,
            "MAX_TAKEN": room(memory_bytes),
        }
        if self.cgroups:
            found["GROUPS"] = len(self.cgroups)
        if self.pids:
            found["PIDS"] = ", ".join(str(pid) for pid in self.pids)
        if self.level == UPPER:
            found["WITHOUT_MALLOC"] = 1
        else:
            found["NOTE_OBJECTS"] = 1
        if self.level != ALLOCATOR:
            # A store of zram is inlined: its malloc comes without the slot.
            if source == "zram":
                found["SLOT_FOLLOWS"] = 1
            if self.owned or source == "zram":
                found["NOTE_SLOTS"] = 1
        return found

    def described(self, source: str) -> dict[str, str]:
        """For the trace's metadata, ``filters``; the level above the allocator is the source's."""
        found = {
            "level": source if self.level == UPPER else self.level or "",
            "cgroup": " or ".join(str(path) for path in self.cgroups),
            "pid": " or ".join(str(pid) for pid in self.pids),
            "min_size": str(self.min_size or ""),
        }
        return {name: value for name, value in found.items() if value}

    def sampling(self) -> dict[str, float]:
        """For the trace's metadata, ``sampling``."""
        return {"objects": float(self.sample)} if self.sample > 1 else {}


def room(memory_bytes: int) -> int:
    """How many objects and slots to follow at most: one for two pages of memory.

    The table takes 16 to 32 bytes for each while it is empty, about 80 more for each entry.
    """
    return max(4096, min(MOST_TAKEN, memory_bytes // 8192))


def is_sampled(number: int, period: int) -> bool:
    """Whether the probes take a slot (or, where it is not known, a handle): 1 in ``period``."""
    number = (number ^ number >> 33) * 0xFF51AFD7ED558CCD & _WORD
    number = (number ^ number >> 33) * 0xC4CEB9FE1A85EC53 & _WORD
    return (number ^ number >> 33) % period == 0


def find_cgroup(text: str) -> Path:
    """The folder of a cgroup, its path given from the root or from there; TracerError if none."""
    given = Path(text)
    for path in (given, CGROUPS / text.lstrip("/"), CGROUPS / "unified" / text.lstrip("/")):
        if (path / "cgroup.controllers").exists():
            return path
    raise TracerError(f"{text}: no cgroup (v2); there is a folder of it below {CGROUPS}")
