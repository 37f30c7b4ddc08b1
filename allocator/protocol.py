# SPDX-License-Identifier: GPL-2.0-only
"""What every backend answers: the kernel's zpool driver interface in Python.

The kernel's interface is ``struct zpool_driver`` (include/linux/zpool.h, 5.12 to 6.4):
create, malloc, free, shrink, map, unmap, total_size. Errors are the kernel's: ``OSError``
carrying its errno.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ztrace.errors import ZtraceError

# Called once per object that the driver wants gone; returns 0 or -errno like the kernel's
# zpool_ops.evict (zswap_writeback_entry in 6.1).
Evict = Callable[[int], int]


class BackendError(ZtraceError):
    """A backend that cannot be made: unknown name or impossible parameter."""


class Shrunk(NamedTuple):
    """What zpool_shrink gave: ``ret`` as returned (negative = -errno), ``reclaimed`` as stored."""

    ret: int
    reclaimed: int


def shrink_by_page(pages: int, reclaim: Callable[[], int]) -> Shrunk:
    """A shrink page by page, as zbud's and z3fold's drivers do it.

    ``reclaim`` gives back one page, or says with a negative errno why it cannot, which ends it.
    """
    total, ret = 0, -EINVAL
    while total < pages:
        ret = reclaim()
        if ret < 0:
            break
        total += 1
    return Shrunk(ret, total)


class Place(NamedTuple):
    """Where an object is: ``page`` numbers the pages in the order in which they were allocated.

    ``position`` is a byte offset in the page (zbud, z3fold) or a slot number (zsmalloc, whose
    ``page`` is the first of the zspage).
    """

    page: int
    position: int


@dataclass
class Hazards:
    """Faults of the modelled allocator that a history ran into, by name (``H12`` ...).

    ``counts`` maps a name to how often it was met, ``first`` to what happened the first time.
    """

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def meet(self, name: str, what: str) -> None:
        """Count one meeting with hazard ``name``; remember the first one's description."""
        self.counts[name] = self.counts.get(name, 0) + 1
        self.first.setdefault(name, what)


class HazardError(Exception):
    """The kernel's behaviour past this point is undefined (memory corruption, crash).

    ``name`` is the hazard (``H12``), ``what`` what happened; the pool must not be used any more.
    """

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name}: {what}")
        self.name = name
        self.what = what


class Pool(Protocol):
    """One pool of one backend. Sizes in bytes, handles as the kernel would return them."""

    @property
    def name(self) -> str:
        """The specification the pool was created from, for instance ``ztree``."""
        ...

    @property
    def page_bytes(self) -> int:
        """PAGE_SIZE of the modelled machine."""
        ...

    @property
    def hazards(self) -> Hazards:
        """Faults met so far."""
        ...

    @property
    def total_bytes(self) -> int:
        """The driver's own figure (zpool_driver.total_size), wrong where the driver is wrong."""
        ...

    @property
    def held_bytes(self) -> int:
        """Memory really held in whole pages, without the driver's separate metadata."""
        ...

    def malloc(self, size: int) -> int:
        """Allocate ``size`` bytes; return the handle or raise OSError with the driver's errno."""
        ...

    def free(self, handle: int) -> None:
        """Free an object. Like the kernel's, it reports nothing to the caller."""
        ...

    def map(self, handle: int) -> None:
        """Begin to use an object's memory."""
        ...

    def unmap(self, handle: int) -> None:
        """End the use begun by :meth:`map`."""
        ...

    def shrink(self, pages: int, evict: Evict) -> Shrunk:
        """Ask the driver to give back ``pages`` pages; raise OSError(EINVAL) if it cannot."""
        ...

    def stats(self) -> dict[str, Any]:
        """Counters of the backend's state and work; keys are the backend's, values plain.

        Every model of ours has ``pages_allocated`` (in all, given back or not), ``searched``
        (lists or blocks that malloc and compaction looked at for room) and ``objects_moved``.
        """
        ...


@runtime_checkable
class HasPlace(Protocol):
    """A pool that can tell where its objects are."""

    def place(self, handle: int) -> Place:
        """Return where a live object is now."""
        ...


@runtime_checkable
class HasSteps(Protocol):
    """A pool whose malloc lets other calls come between two parts of it."""

    def begin_malloc(self, size: int) -> Any:
        """Do the first part of a malloc, which ends without a place."""
        ...

    def end_malloc(self, begun: Any) -> int:
        """Do the second part; return the handle."""
        ...


@runtime_checkable
class HasCpus(Protocol):
    """A pool that keeps lists for each of so many ``cpus``."""

    cpus: int
    cpu: int
    """The CPU of the calls that follow."""


@runtime_checkable
class CompactsPool(Protocol):
    """A pool that is compacted as a whole."""

    def compact(self) -> int:
        """Compact the pool; return the pages freed."""
        ...


@runtime_checkable
class CompactsPages(HasPlace, Protocol):
    """A pool whose worker compacts queued pages, one by one if ``work`` is ``deferred``."""

    work: str
    pages: Mapping[int, Any]
    """Those in use, by number."""

    def compact_page(self, page: int) -> bool:
        """Compact one page, of the model's number; False if it is not queued."""
        ...


def check_page_bytes(page_bytes: int) -> None:
    """Raise BackendError unless ``page_bytes`` can be a machine's page size."""
    if page_bytes not in (4096, 8192, 16384, 32768, 65536, 131072, 262144):
        raise BackendError(f"{page_bytes} bytes: a page is a power of two from 4096 to 262144")


def error(code: int) -> OSError:
    """Build the OSError for a (positive) errno with the system's text."""
    return OSError(code, os.strerror(code))


EINVAL, ENOSPC, ENOMEM, EAGAIN = errno.EINVAL, errno.ENOSPC, errno.ENOMEM, errno.EAGAIN
