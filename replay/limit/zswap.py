# SPDX-License-Identifier: GPL-2.0-only
"""zswap above an allocator model: its pool limit, its writeback, and the disk below.

Two sets of rules, both of mm/zswap.c:

*   ``6.1`` (until 6.5, by the driver: zswap_frontswap_store(), zswap_is_full(),
    zswap_can_accept(), shrink_worker(), zswap_writeback_entry()). The pool is full above the
    limit. A store that finds it full is rejected, counted in pool_limit_hit, and queues a job;
    the job asks the allocator's driver for one page (zpool_shrink), which chooses what is
    evicted. Once full, the pool rejects everything, uncounted and without a job, until it is
    below the accept threshold. The pool's size is looked at after each store and free, not after
    a job: the page that a job freed is not seen before the next free. A slot's stale object is
    freed before the new store. Loads leave the object where it is.

*   ``6.12`` (from 6.8 on, 7.2 alike, by zswap's own list: zswap_store(), zswap_check_limits(),
    shrink_worker(), shrink_memcg_cb()). Full means at the limit. While full has been reached and
    the pool is not yet down to the accept threshold, each failed store queues a job. It goes
    through zswap's own list of objects, oldest first, one at a time: one still marked as
    referenced, as each is when it is stored, loses the mark and goes to the end; another is
    written back. It ends at the accept threshold or after 16 objects not written back. A slot's
    stale object is freed after the new one is allocated. Loads free the object.

What a trace does not tell, and what is assumed for it:

*   When the worker runs, and how fast: see :class:`Worker`. A shrink of 6.1 is done at one moment,
    before what is stored while it goes on. The worker can be queued again only after it has begun.
*   Whether a page is in the swap cache, where it cannot be written back to (-EEXIST): from a load
    that left the object in place until the slot is stored or given up. In truth memory pressure
    may have dropped it from there earlier.
*   Which cgroup a page belongs to: all are taken to be one's. With several the rules of 6.12
    would take one object of each in turn. Limits of cgroups are not applied.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from ztrace.allocator import Pool
from ztrace.replay.errors import ReplayError
from ztrace.replay.limit.demand import Demand, Want

MAX_RECLAIM_RETRIES = 16
_NOT_ALLOCATED = -1  # in place of a handle: a same-filled page takes no memory


class Rules(StrEnum):
    """Whose rules of the pool limit; see the module."""

    DRIVER = "6.1"
    LRU = "6.12"


@dataclass(frozen=True)
class Limit:
    """zswap's parameters: ``max_percent`` of ``memory_pages``, ``accept_percent`` of that.

    All whole numbers, as in the kernel. A limit in bytes is 100 % of as much memory.
    """

    memory_pages: int
    max_percent: int = 100
    accept_percent: int = 90

    def __post_init__(self) -> None:
        if not 1 <= self.max_percent <= 100 or not 0 <= self.accept_percent <= 100:
            raise ReplayError("--limit is 1 to 100 %, --accept 0 to 100 %, in whole percent")
        if not self.max_pages:
            raise ReplayError("--limit: less than a page; write a share, 20%, or a size, 20M")

    @property
    def max_pages(self) -> int:
        """zswap_max_pages()."""
        return self.memory_pages * self.max_percent // 100

    def is_full(self, pages: int, rules: Rules) -> bool:
        """zswap_is_full() of 6.1; the first test of zswap_check_limits() of 6.12."""
        return self.max_pages < pages if rules is Rules.DRIVER else pages >= self.max_pages

    def accept_pages(self, rules: Rules) -> int:
        """The threshold of zswap_can_accept() of 6.1; zswap_accept_thr_pages() of 6.12."""
        if rules is Rules.DRIVER:
            return self.memory_pages * self.accept_percent // 100 * self.max_percent // 100
        return self.max_pages * self.accept_percent // 100

    def can_accept(self, pages: int, rules: Rules) -> bool:
        """zswap_can_accept() of 6.1; the second test of zswap_check_limits()."""
        accept = self.accept_pages(rules)
        return pages < accept if rules is Rules.DRIVER else pages <= accept


@dataclass(frozen=True)
class Worker:
    """How the worker keeps up: it begins ``delay_ns`` after it was queued and takes
    ``page_ns`` for each page that it writes back, nothing for others. 0, 0: it is always done
    before the workload's next call."""

    delay_ns: int = 0
    page_ns: int = 0


AT_ONCE = Worker()


class Entry(NamedTuple):
    """A stored page: the model's handle and the bytes compressed."""

    handle: int
    size: int


@dataclass
class Counts:
    """What happened. Pages, unless it says bytes.

    ``stored``; ``rejected`` for the limit, of which ``limit_hits`` are counted as pool_limit_hit;
    ``refused`` by the allocator; ``incompressible``: the compressor's rejections, the same under
    any limit. ``written_back``; ``evictions_failed``: the page was in the swap cache.
    ``jobs`` of the worker, ``reclaim_fails`` as counted in reject_reclaim_fail; ``pages_freed``:
    by which the pool shrank during the jobs. ``hits``: loads answered from the pool,
    ``refaults``: from disk, of pages written back; ``disk_loads``: from disk, of others.
    """

    stored: int = 0
    rejected: int = 0
    limit_hits: int = 0
    refused: int = 0
    incompressible: int = 0
    written_back: int = 0
    evictions_failed: int = 0
    jobs: int = 0
    reclaim_fails: int = 0
    pages_freed: int = 0
    hits: int = 0
    refaults: int = 0
    disk_loads: int = 0

    @property
    def written_pages(self) -> int:
        """Pages that went to disk."""
        return self.rejected + self.refused + self.incompressible + self.written_back

    @property
    def read_pages(self) -> int:
        """Pages read from disk."""
        return self.refaults + self.disk_loads


class Zswap:
    """zswap with one pool of ``model``; ``header_bytes`` are added to each object's size.

    HazardError if the kernel's behaviour is
    undefined from a call on; then nothing more may be asked.
    """

    def __init__(
        self,
        model: Pool,
        limit: Limit,
        rules: Rules,
        *,
        header_bytes: int = 0,
        worker: Worker = AT_ONCE,
    ) -> None:
        self.model = model
        self.limit = limit
        self.rules = rules
        self.header_bytes = header_bytes
        self.worker = worker
        self.counts = Counts()
        self.entries: dict[int, Entry] = {}
        self.stored_bytes = 0
        self._key_of: dict[int, int] = {}  # handle -> slot
        self._lru: OrderedDict[int, bool] = OrderedDict()  # slot -> referenced, oldest first
        self._written: dict[int, bool] = {}  # slot on disk -> whether it was written back
        self._cached: set[int] = set()  # slots whose page is in the swap cache
        self._reached_full = False
        self._total_bytes = 0
        self._queued_ns: int | None = None  # when the job that waits may begin
        self._free_ns = 0  # when the worker is done with what it does
        self._failures: int | None = None  # of the job that walks the list, if one does

    def demand(self, one: Demand) -> None:
        """One demand of the workload, after whatever the worker did until then."""
        self.until(one.at_ns)
        key = one.key
        if one.want is Want.STORE or one.want is Want.WRITE:
            self._store(one)
        elif one.want is Want.LOAD or one.want is Want.LOAD_KEPT:
            self._load(key, kept=one.want is Want.LOAD_KEPT)
        elif one.want is Want.DROP:
            self._drop(key)
            self._written.pop(key, None)
            self._cached.discard(key)
        else:
            for each in list(self.entries):
                self._drop(each)
            self._written.clear()
            self._cached.clear()

    def until(self, now_ns: int) -> None:
        """Let the worker do what it has begun, or can begin, by now."""
        while True:
            if self._failures is not None and self._free_ns <= now_ns:
                self._measured(self._walk_one)
            elif self._queued_ns is not None and max(self._queued_ns, self._free_ns) <= now_ns:
                self._free_ns = max(self._queued_ns, self._free_ns)
                self._queued_ns = None
                self.counts.jobs += 1
                if self.rules is Rules.DRIVER:
                    self._measured(self._shrink)
                else:
                    self._failures = 0
            else:
                return

    # -- stores, loads, frees ---------------------------------------------------------------

    def _store(self, one: Demand) -> None:
        key, counts = one.key, self.counts
        self._cached.discard(key)
        if self.rules is Rules.DRIVER:
            self._drop(key)  # frontswap does, before it calls zswap
        if self._rejects(one.at_ns):
            counts.rejected += 1
        elif one.want is Want.WRITE:  # found out after the limit was looked at
            counts.incompressible += 1
        else:
            handle = self._allocate(one.size)
            if handle is not None:
                self._drop(key)
                self._written.pop(key, None)
                self._keep(key, Entry(handle, one.size))
                return
            counts.refused += 1
        self._drop(key)
        self._to_disk(key)
        self._queue_if_full(one.at_ns)

    def _rejects(self, now_ns: int) -> bool:
        """Whether the limit forbids a store now."""
        pages = self._pages()
        if self.limit.is_full(pages, self.rules):
            self.counts.limit_hits += 1
            self._reached_full = True
            if self.rules is Rules.DRIVER:
                self._queue(now_ns)
        elif self._reached_full and self.limit.can_accept(pages, self.rules):
            self._reached_full = False
        return self._reached_full

    def _pages(self) -> int:
        """The pool's size as zswap sees it: the driver's own figure, rounded up.

        That of 6.1 is from the last store or free; what a driver gives back at the end of a
        shrink, after the frees in it, is not seen before the next one.
        """
        total = self._total_bytes if self.rules is Rules.DRIVER else self.model.total_bytes
        return -(-total // self.model.page_bytes)

    def _look_at_total(self) -> None:
        """zswap_update_total_size() of 6.1."""
        self._total_bytes = self.model.total_bytes

    def _allocate(self, size: int) -> int | None:
        """The handle of a new object, written to; None if the allocator refuses."""
        if not size:
            return _NOT_ALLOCATED
        try:
            handle = self.model.malloc(size + self.header_bytes)
        except OSError:
            return None
        self._use(handle)
        return handle

    def _use(self, handle: int) -> None:
        self.model.map(handle)
        self.model.unmap(handle)

    def _keep(self, key: int, entry: Entry) -> None:
        self.entries[key] = entry
        self.stored_bytes += entry.size
        self.counts.stored += 1
        if entry.handle != _NOT_ALLOCATED:
            self._key_of[entry.handle] = key
            if self.rules is Rules.LRU:
                self._lru[key] = True
        self._look_at_total()

    def _drop(self, key: int) -> None:
        """Free a slot's object, if there is one."""
        entry = self.entries.pop(key, None)
        if entry is None:
            return
        self.stored_bytes -= entry.size
        if entry.handle != _NOT_ALLOCATED:
            del self._key_of[entry.handle]
            self._lru.pop(key, None)
            self.model.free(entry.handle)
        self._look_at_total()

    def _load(self, key: int, *, kept: bool) -> None:
        entry = self.entries.get(key)
        if entry is None:
            if self._written.get(key, False):
                self.counts.refaults += 1
            else:
                self.counts.disk_loads += 1
            return
        self.counts.hits += 1
        if entry.handle != _NOT_ALLOCATED:
            self._use(entry.handle)
        if self.rules is Rules.DRIVER:
            self._cached.add(key)
        elif not kept:
            self._drop(key)

    def _to_disk(self, key: int, *, written_back: bool = False) -> None:
        self._written[key] = written_back
        self._cached.discard(key)

    # -- the worker -------------------------------------------------------------------------

    def _queue_if_full(self, now_ns: int) -> None:
        """What zswap_store() of 6.12 does at its end when it failed."""
        if self.rules is Rules.LRU and self._reached_full:
            self._queue(now_ns)

    def _queue(self, now_ns: int) -> None:
        if self._queued_ns is None:
            self._queued_ns = now_ns + self.worker.delay_ns

    def _measured(self, work: Callable[[], None]) -> None:
        """Do a piece of work, note what it freed and how long it keeps the worker."""
        held, written = self.model.held_bytes, self.counts.written_back
        work()
        self.counts.pages_freed += (held - self.model.held_bytes) // self.model.page_bytes
        self._free_ns += (self.counts.written_back - written) * self.worker.page_ns

    def _shrink(self) -> None:
        """shrink_worker() of 6.1. It counts anything but 0 as a failure, also ztree's number of
        slots (H23)."""
        try:
            failed = self.model.shrink(1, self._evict).ret != 0
        except OSError:  # a driver that cannot, for which zpool_shrink() gives -EINVAL
            failed = True
        self.counts.reclaim_fails += failed

    def _evict(self, handle: int) -> int:
        """zswap_writeback_entry() of 6.1, which reads the slot from the object's header."""
        key = self._key_of.get(handle)
        self._use(handle)
        if key is None:  # no such entry: it was invalidated, which is success
            return 0
        if key in self._cached:
            self.counts.evictions_failed += 1
            return -errno.EEXIST
        self._write_back(key)
        return 0

    def _write_back(self, key: int) -> None:
        self._drop(key)
        self._to_disk(key, written_back=True)
        self.counts.written_back += 1

    def _walk_one(self) -> None:
        """One round of shrink_worker() with shrink_memcg_cb() of 6.12, over one cgroup's list."""
        assert self._failures is not None
        if not self._lru:
            self._failures = None  # 16 walks over no cgroup that has any
            return
        key, referenced = next(iter(self._lru.items()))
        if referenced:
            self._lru[key] = False
            self._lru.move_to_end(key)
            self._failures += 1
        else:
            self._use(self.entries[key].handle)
            self._write_back(key)
        if self._failures == MAX_RECLAIM_RETRIES or self.limit.can_accept(
            self._pages(), self.rules
        ):
            self._failures = None
