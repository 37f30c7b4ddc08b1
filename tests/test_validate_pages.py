# SPDX-License-Identifier: GPL-2.0-only
"""Validation on machines of any page size, and of one CPU's shrinks.

The histories are the models' own: every answer must be found again, and none after damage.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.engines import validate_places
from ztrace.allocator import HasPlace, Pool, create
from ztrace.allocator.z3fold.model import Z3fold
from ztrace.replay.validate import validate_trace
from ztrace.replay.validate.placement_verdict import PoolPlacement
from ztrace.traces import OP_CODE, Metadata, TraceReader, TraceWriter
from ztrace.traces.metadata import Kernel, Machine, PoolInfo

PAGES = (4096, 16384, 65536)
SPECS = {
    "zbud": "zbud",
    "z3fold": "z3fold:work=deferred",
    "zsmalloc": "zsmalloc:6.12",
    "ztree": "ztree",
}
RELEASES = {"zsmalloc": "6.12.1"}
SHRINKING = ("zbud", "z3fold")
TYPES = {"handle": pa.uint64(), "place": pa.uint64(), "op": pa.int8()}
BASE = 0xFFFF888000000000

Row = dict[str, Any]


class Guest:
    """A pool on one CPU and the rows that a recorder would write."""

    def __init__(self, allocator: str, page_bytes: int, *, seed: int = 1) -> None:
        spec = SPECS[allocator]
        pool: Pool = create(f"{spec}{',' if ':' in spec else ':'}page_bytes={page_bytes}")
        self.allocator, self.page_bytes, self.pool = allocator, page_bytes, pool
        self.dice = random.Random(seed)
        self.now = 1000
        self.rows: list[Row] = []
        self.live: dict[int, int] = {}  # the model's handle -> the recorded one

    def run(self, calls: int, *, shrinks: bool = False) -> list[Row]:
        """Calls one after the other."""
        for _ in range(calls):
            what = self.dice.random()
            if shrinks and what < 0.02 and self.live:
                self.shrink()
            elif what < 0.45 and self.live:
                self.free(self.dice.choice(list(self.live)))
            else:
                self.malloc()
            if isinstance(self.pool, Z3fold) and self.pool.deferred and what < 0.3:
                number = next(iter(self.pool._queue))
                self.pool.compact_page(number)
                self.row("compact", place=self.address(number, 0), size=0)
        return self.rows

    def malloc(self) -> None:
        size = self.dice.randint(1, self.page_bytes * 9 // 10)
        ours = self.pool.malloc(size)
        handle, place = ours, None
        if isinstance(self.pool, HasPlace) and self.allocator != "ztree":
            page, position = self.pool.place(ours)
            handle = BASE + 8 * (len(self.rows) + (1 << 30))
            if self.allocator == "zbud":
                handle = self.address(page, position)
            elif self.allocator == "zsmalloc":
                place = 0x780000000000 + 64 * page << 16 | position
        self.live[ours] = handle
        self.row("malloc", handle=handle, size=size, place=place)
        if self.dice.random() < 0.5 or self.allocator == "z3fold":
            self.use(ours)

    def use(self, ours: int) -> None:
        place = None
        if self.allocator == "z3fold":
            assert isinstance(self.pool, HasPlace)
            place = self.address(*self.pool.place(ours))
        self.pool.map(ours)
        self.row("map", handle=self.live[ours], place=place)
        self.pool.unmap(ours)
        self.row("unmap", handle=self.live[ours])

    def free(self, ours: int) -> None:
        self.pool.free(ours)
        self.row("free", handle=self.live.pop(ours))

    def shrink(self) -> None:
        began = self.now + 60

        def evict(ours: int) -> int:
            """As 6.1's zswap: look, write, free, and unmap what is no more."""
            entered, handle = self.now + 70, self.live[ours]
            busy = self.dice.random() < 0.2
            self.now = entered
            self.use(ours)
            if not busy:
                self.free(ours)
                self.row("unmap", handle=handle)
            self.row("writeback", handle=handle, ret=-17 if busy else 0, began=entered)
            return -17 if busy else 0

        answer = self.pool.shrink(1, evict).ret
        self.row("shrink", ret=answer, began=began, total=None)

    def address(self, page: int, position: int) -> int:
        return BASE + (page + 1) * self.page_bytes + position

    def row(self, op: str, *, began: int | None = None, **rest: Any) -> None:
        self.now += 100
        ts = self.now if began is None else began
        row: Row = {"ts_ns": ts, "dur_ns": self.now + 50 - ts, "op": OP_CODE[op], "ret": 0}
        row |= {"size": None, "handle": None, "place": None, "total": self.pool.total_bytes}
        self.rows.append({**row, **rest})


def write(path: Path, rows: list[Row], guest: Guest, cpus: int = 1) -> TraceReader:
    metadata = Metadata(
        kernel=Kernel(release=RELEASES.get(guest.allocator, "6.1.0")),
        machine=Machine(cpus=cpus, page_bytes=guest.page_bytes),
        pools=[PoolInfo(guest.allocator, "lzo", True, True)],
    )
    with TraceWriter(path, metadata, force=True) as writer:
        writer.write(
            {
                name: pa.array([row[name] for row in rows], TYPES.get(name, pa.int64()))
                for name in rows[0]
            }
        )
    return TraceReader(path)


def compare(path: Path, rows: list[Row], guest: Guest, cpus: int = 1) -> PoolPlacement:
    with write(path, rows, guest, cpus) as reader:
        [pool] = validate_places(reader).pools
    return pool


def damage(rows: list[Row], guest: Guest) -> None:
    """Say that an object lies in a page of its own, or at another place in its page."""
    if guest.allocator == "z3fold":
        [*_, row] = [row for row in rows[:1500] if row["op"] == OP_CODE["map"]]
        row["place"] += guest.page_bytes // 64
    elif guest.allocator == "zsmalloc":
        [*_, row] = [row for row in rows[:1500] if row["op"] == OP_CODE["malloc"]]
        row["place"] ^= 1
    else:
        mallocs = [row for row in rows[:1500] if row["op"] == OP_CODE["malloc"]]
        one, other = mallocs[-2:]
        swapped = {one["handle"]: other["handle"], other["handle"]: one["handle"]}
        for row in (one, other):
            row["handle"] = swapped[row["handle"]]


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("page_bytes", PAGES)
@pytest.mark.parametrize("allocator", ["zbud", "z3fold", "zsmalloc"])
def test_places_on_any_page_size(
    allocator: str, page_bytes: int, cpus: int, tmp_path: Path
) -> None:
    guest = Guest(allocator, page_bytes)
    rows = guest.run(1500)
    pool = compare(tmp_path / "t", rows, guest, cpus)
    assert pool.agrees
    assert pool.places.equal == pool.places.compared > 700
    assert pool.sizes.equal == pool.sizes.compared > 1400
    damage(rows, guest)
    pool = compare(tmp_path / "t", rows, guest, cpus)
    assert not pool.agrees
    assert pool.places.equal < pool.places.compared


@pytest.mark.parametrize("page_bytes", PAGES)
def test_ztrees_handles_on_any_page_size(page_bytes: int, tmp_path: Path) -> None:
    guest = Guest("ztree", page_bytes)
    rows = guest.run(1500)
    with write(tmp_path / "t", rows, guest) as reader:
        verdict = validate_trace(reader)
    assert verdict.agrees
    assert verdict.explained == verdict.calls == 1500
    damage(rows, guest)
    with write(tmp_path / "t", rows, guest) as reader:
        assert not validate_trace(reader).agrees


@pytest.mark.parametrize("page_bytes", PAGES)
@pytest.mark.parametrize("allocator", SHRINKING)
@pytest.mark.parametrize("seed", range(3))
def test_one_cpus_shrinks_are_played(
    allocator: str, seed: int, page_bytes: int, tmp_path: Path
) -> None:
    guest = Guest(allocator, page_bytes, seed=seed)
    rows = guest.run(1500, shrinks=True)
    pool = compare(tmp_path / "t", rows, guest)
    assert pool.shrinks.equal == pool.shrinks.compared > 10
    assert pool.places.equal == pool.places.compared > 700
    assert pool.sizes.equal == pool.sizes.compared > 1400
    assert pool.agrees and not pool.unknown


def _returned_otherwise(shrink: Row, evictions: list[Row]) -> None:
    shrink["ret"] = -11 if not shrink["ret"] else 0


def _went_on_after_a_refusal(shrink: Row, evictions: list[Row]) -> None:
    evictions[0]["ret"] = -17


@pytest.mark.parametrize("lie", [_returned_otherwise, _went_on_after_a_refusal])
@pytest.mark.parametrize("allocator", SHRINKING)
def test_another_shrink_is_seen(
    allocator: str, lie: Callable[[Row, list[Row]], None], tmp_path: Path
) -> None:
    guest = Guest(allocator, 4096)
    rows = guest.run(1500, shrinks=True)
    for at, row in enumerate(rows):
        evictions = [
            one
            for one in rows[:at]
            if one["op"] == OP_CODE["writeback"] and one["ts_ns"] > row["ts_ns"]
        ]
        if row["op"] == OP_CODE["shrink"] and [one["ret"] for one in evictions] == [0, 0]:
            lie(row, evictions)
            break
    pool = compare(tmp_path / "t", rows, guest)
    assert not pool.agrees
    assert pool.shrinks.equal < pool.shrinks.compared
    assert pool.shrinks.first is not None and pool.shrinks.first.startswith(f"row {at}:")
