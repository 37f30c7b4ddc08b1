# SPDX-License-Identifier: GPL-2.0-only
"""zbud, z3fold and zsmalloc against their recorded calls: does every object lie where the model
puts it?

Their handles are addresses, so what is compared is which objects share a page (or zspage) and
where in it they lie, and the pool's size after each call. Calls are played in recorded order.
On one CPU that is the order in which they took effect. On several it need not be, and then
differences say nothing about the rules: the verdict says how many calls overlapped.

Where an object lies in the kernel: zbud, the handle itself; zsmalloc, the zspage and slot seen
as it took the slot (column ``place`` of a malloc); z3fold, the address at which it is mapped
(``place`` of a map), since its objects move. z3fold's queued compactions are played when the
kernel ran them, zsmalloc's when a whole pool was compacted (rows of op ``compact``).
"""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from allocator import HasPlace, Pool, create
from allocator.z3fold import Z3fold
from allocator.zsmalloc import Zsmalloc
from replay.errors import ReplayError
from traces.reader import TraceReader
from traces.schema import OP_CODE

MALLOC, FREE, MAP, UNMAP, COMPACT, SHRINK = (
    OP_CODE[name] for name in ("malloc", "free", "map", "unmap", "compact", "shrink")
)
COLUMNS = ("ts_ns", "dur_ns", "op", "pool", "size", "handle", "ret", "place", "total", "cpu")

ALLOCATORS = ("zbud", "z3fold", "zsmalloc")

PAGE_SHIFT = 12
SLOT_BITS = 16  # of a zsmalloc place; above them is the zspage's address


@dataclass
class Agreement:
    """How many answers were compared, how many are equal, and the first that is not."""

    compared: int = 0
    equal: int = 0
    first: str | None = None

    def note(self, equal: bool, what: Callable[[], str]) -> None:
        """Count one comparison; ``what`` describes it if it is the first difference."""
        self.compared += 1
        self.equal += equal
        if not equal and self.first is None:
            self.first = what()


@dataclass
class PoolPlacement:
    """One pool's comparison with its model."""

    pool: int
    allocator: str
    backend: str
    starts_empty: bool
    calls: int = 0
    overlapping: int = 0
    places: Agreement = field(default_factory=Agreement)
    totals: Agreement = field(default_factory=Agreement)
    errors: Agreement = field(default_factory=Agreement)
    compactions: int = 0
    compactions_unmatched: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    cpus: set[int] = field(default_factory=set)

    @property
    def agrees(self) -> bool:
        """Whether everything that was compared is equal."""
        parts = (self.places, self.totals, self.errors)
        return all(one.equal == one.compared for one in parts) and not self.compactions_unmatched


@dataclass
class Placement:
    """All pools of a trace."""

    trace: str
    pools: list[PoolPlacement]
    lost: int
    wall_s: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether every pool agrees with its model."""
        return all(pool.agrees for pool in self.pools)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        return {
            "trace": self.trace,
            "explained": self.agrees,
            "lost_events": self.lost,
            "pools": [
                {**asdict(pool), "cpus": sorted(pool.cpus), "explained": pool.agrees}
                for pool in self.pools
            ],
            "measured_here": {"wall_s": self.wall_s},
        }


def compare_places(
    reader: TraceReader,
    *,
    backend: str | None = None,
    advance: Callable[[int], object] = lambda rows: None,
) -> Placement:
    """Play a trace of zbud, z3fold or zsmalloc through its model and compare what can be.

    ``backend`` replaces the model chosen from the trace's kernel. ReplayError for a trace of
    another allocator, without allocator calls, or with calls that cannot have happened.
    """
    began = time.perf_counter()
    checks: dict[int, _Check] = {}
    row = 0
    for batch in reader.batches(columns=COLUMNS):
        op = batch.column("op").indices.to_pylist()
        rest = (batch.column(name).to_pylist() for name in COLUMNS if name != "op")
        for code, ts, dur, pool, size, handle, ret, place, total, cpu in zip(
            op, *rest, strict=True
        ):
            if code in _PLAYED:
                check = checks.get(pool)
                if check is None:
                    check = checks[pool] = _Check(reader, pool, backend)
                check.play(row, code, ts, dur, size, handle, ret, place, total, cpu)
            row += 1
        advance(batch.num_rows)
    if not checks:
        raise ReplayError(f"{reader.path}: no malloc or free in it; nothing to validate")
    results = [checks[number].result for number in sorted(checks)]
    lost = reader.metadata.lost_total()
    return Placement(str(reader.path), results, lost, time.perf_counter() - began)


_PLAYED = (MALLOC, FREE, MAP, UNMAP, COMPACT)


def model_of(allocator: str, kernel_release: str, cpus: int) -> str:
    """The backend that models an allocator as a kernel has it.

    zsmalloc's rules changed in 6.3 and 6.4; a kernel between the ones that were examined gets
    the nearer rules. z3fold's lists are per CPU.
    """
    if allocator == "z3fold":
        return f"z3fold:cpus={max(1, cpus)},work=deferred"
    if allocator == "zsmalloc":
        head = kernel_release.split("-")[0].split("+")[0].split(".")
        try:
            version = int(head[0]), int(head[1])
        except (ValueError, IndexError):
            version = 6, 12
        return "zsmalloc:6.1" if version < (6, 3) else "zsmalloc:6.12"
    return allocator


class _Check:
    """One pool: its model, and which of the kernel's pages is which of the model's."""

    def __init__(self, reader: TraceReader, number: int, backend: str | None) -> None:
        metadata = reader.metadata
        pools = metadata.pools
        allocator = pools[number].allocator if number < len(pools) else "unknown"
        if allocator not in ALLOCATORS:
            raise ReplayError(f"{reader.path}: pool {number} is {allocator}; no places to compare")
        spec = backend or model_of(allocator, metadata.kernel.release, metadata.machine.cpus)
        self.where = str(reader.path)
        self.whole = metadata.starts_empty() and not metadata.lost_total()
        self.model: Pool = create(spec)
        if not isinstance(self.model, HasPlace):
            raise ReplayError(f"{spec}: this model does not tell where objects lie")
        self.placed: HasPlace = self.model
        self.allocator = allocator
        self.result = PoolPlacement(number, allocator, spec, pools[number].empty_at_start)
        self.live: dict[int, int] = {}  # recorded handle -> the model's
        self.kernel_page: dict[int, int] = {}  # the model's page -> the kernel's
        self.model_page: dict[int, int] = {}  # and back
        self.objects: Counter[int] = Counter()  # live objects by page of the model
        self.latest = -(1 << 62)

    def play(
        self,
        row: int,
        op: int,
        ts: int,
        dur: int,
        size: int | None,
        handle: int | None,
        ret: int,
        place: int | None,
        total: int | None,
        cpu: int,
    ) -> None:
        """Play one row and compare what it tells."""
        result = self.result
        result.calls += 1
        result.cpus.add(cpu)
        result.overlapping += ts <= self.latest
        self.latest = max(self.latest, ts + dur)
        if isinstance(self.model, Z3fold):
            self.model.cpu = cpu
        if op == COMPACT:
            self._compact(place, size)
        elif op == MALLOC:
            self._malloc(row, size or 0, handle, ret, place)
        elif handle is None or handle not in self.live:
            result.unknown["free" if op == FREE else "use"] += 1
            return
        elif op == FREE:
            self._free(handle)
        elif op == MAP:
            self.model.map(self.live[handle])
            if place is not None and self.allocator == "z3fold":
                self._compare(row, handle, place >> PAGE_SHIFT, place & (1 << PAGE_SHIFT) - 1)
        else:
            self.model.unmap(self.live[handle])
        if total is not None:
            ours = self.model.total_bytes
            result.totals.note(total == ours, lambda: f"row {row}: kernel {total}, model {ours}")

    def _malloc(self, row: int, size: int, handle: int | None, ret: int, place: int | None) -> None:
        result = self.result
        if ret == -errno.ENOMEM:
            return  # no page was to be had: not the model's matter
        try:
            given = self.model.malloc(size)
        except OSError as refusal:
            code = -(refusal.errno or 0)
            result.errors.note(ret == code, lambda: f"row {row}: kernel {ret}, model {code}")
            return
        if ret < 0 or handle is None:
            result.errors.note(False, lambda: f"row {row}: kernel {ret}, model took {size} bytes")
            self.model.free(given)
            return
        if handle in self.live:
            if self.whole:
                raise ReplayError(
                    f"{self.where}: row {row}: malloc gave {handle:#x}, which is allocated there, "
                    "yet the trace says that it is whole"
                )
            result.unknown["reissued"] += 1
            self._free(handle)
        self.live[handle] = given
        self.objects[self.placed.place(given).page] += 1
        if self.allocator == "zbud":
            self._compare(row, handle, handle >> PAGE_SHIFT, handle & (1 << PAGE_SHIFT) - 1)
        elif self.allocator == "zsmalloc" and place is not None:
            self._compare(row, handle, place >> SLOT_BITS, place & (1 << SLOT_BITS) - 1)

    def _free(self, handle: int) -> None:
        given = self.live.pop(handle)
        self.objects[self.placed.place(given).page] -= 1
        self.model.free(given)

    def _compact(self, place: int | None, at_once: int | None) -> None:
        """A compaction of z3fold's queue, or of a whole zsmalloc pool."""
        result = self.result
        if isinstance(self.model, Z3fold):
            if at_once:
                return  # within a free; the model does that itself
            result.compactions += 1
            page = self.model_page.get((place or 0) >> PAGE_SHIFT)
            done = page is not None and self.model.compact_page(page)
            result.compactions_unmatched += not done
        elif isinstance(self.model, Zsmalloc):
            result.compactions += 1
            self.model.compact()
        else:
            return
        self._count_objects()

    def _count_objects(self) -> None:
        """Count again after objects have moved. z3fold knows its pages, and moves too often."""
        if not isinstance(self.model, Z3fold):
            self.objects = Counter(self.placed.place(given).page for given in self.live.values())

    def _is_used(self, page: int) -> bool:
        """Whether a page of the model still holds an object."""
        if isinstance(self.model, Z3fold):
            return page in self.model.pages
        return bool(self.objects[page])

    def _compare(self, row: int, handle: int, kernel_page: int, position: int) -> None:
        """Note whether an object lies where the model has it."""
        ours = self.placed.place(self.live[handle])
        bound = self.kernel_page.get(ours.page)
        rival = self.model_page.get(kernel_page)
        # A page number of the model is used once, an address of the kernel's again and again.
        free = bound is None and (rival is None or not self._is_used(rival))
        equal = ours.position == position and (bound == kernel_page or free)
        self.result.places.note(
            equal,
            lambda: (
                f"row {row}: {handle:#x} lies in the kernel's page {kernel_page:#x} "
                f"(the model's {rival}) at {position}, in the model's page {ours.page} "
                f"at {ours.position}"
            ),
        )
        self.kernel_page[ours.page] = kernel_page
        self.model_page[kernel_page] = ours.page
