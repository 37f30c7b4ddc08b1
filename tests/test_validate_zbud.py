# SPDX-License-Identifier: GPL-2.0-only
"""zbud on several CPUs: small histories against brute force over all interleavings of their steps.

The brute force below knows neither the checker nor the model: it states zbud's rules once more,
as a function from an immutable state to the next. ZTRACE_HISTORIES=n in the environment makes n
times as many histories.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.dice import Dice, Drawn
from ztrace.allocator.zbud.model import Page, Zbud
from ztrace.replay.validate.calls import ABSENT, CALL, Calls
from ztrace.replay.validate.placement_verdict import PoolPlacement, Way
from ztrace.replay.validate.zbud_native import reason_missing
from ztrace.replay.validate.zbud_run import ZbudRun
from ztrace.traces import OP_CODE

TIMES = int(os.environ.get("ZTRACE_HISTORIES", "1"))
PAGE = 4096
CHUNK = 64
SIZES = (700, 1300, 1400, 2000, 2600)
ROW = np.dtype([*CALL.descr, ("total", np.uint64), ("lock_ns", np.uint64)])
FULL = 0


class Row(NamedTuple):
    """A row of a trace, in the order in which calls returned."""

    op: str
    ts: int
    end: int
    page: int = 0
    offset: int = 0
    size: int = 0
    ret: int = 0
    tid: int = 1
    total: int | None = None
    lock: int | None = None  # when a malloc or free held the lock, the last time

    @property
    def handle(self) -> int:
        return (self.page + 1) * PAGE + self.offset

    @property
    def end_of_page(self) -> int:
        return 0 if self.offset == CHUNK else 1


def columns(rows: list[Row]) -> Calls:
    calls = np.zeros(len(rows), ROW)
    for number, row in enumerate(rows):
        calls[number] = (
            *(row.ts, row.end, number, row.handle, row.size, row.ret, row.tid, row.tid % 4),
            *(OP_CODE[row.op], 0, ABSENT if row.total is None else row.total * PAGE),
            ABSENT if row.lock is None else row.lock - row.ts,
        )
    return calls[np.lexsort((calls["row"], calls["ts"]))]


def check(rows: list[Row], *, pieces: int = 1, model: type[Zbud] = Zbud) -> PoolPlacement:
    """The verdict, the same of both engines where the core has the model."""
    found = [run_by(engine, rows, pieces, model) for engine in engines_of(model)]
    assert all(one == found[0] for one in found)
    assert not found[0].notes
    return found[0]


def engines_of(model: type[Zbud]) -> list[str]:
    return ["python"] if model is not Zbud or reason_missing() else ["python", "native"]


def run_by(engine: str, rows: list[Row], pieces: int, model: type[Zbud]) -> PoolPlacement:
    way = Way.LOCK if any(row.lock is not None for row in rows) else Way.FOUND
    run = ZbudRun(PoolPlacement(0, "zbud", "zbud", True, way), model(), engine)
    calls = columns(rows)
    cuts = np.linspace(0, len(calls), pieces + 1).astype(int)
    for first, last in pairwise(cuts.tolist()):
        until = int(calls["ts"][last]) if last < len(calls) else 1 << 62
        run.feed(calls[first:last], until)
    return run.finish()


def explained(result: PoolPlacement) -> bool:
    assert (result.places.equal < result.places.compared) == (result.places.first is not None)
    return result.places.first is None and result.errors.first is None


# -- brute force -----------------------------------------------------------------------------

Ends = tuple[int, int]  # chunks in use at both ends


class Pool(NamedTuple):
    """zbud: pages by number, lists newest first, pages in order of use, the latest first."""

    pages: tuple[tuple[int, Ends], ...] = ()
    lists: tuple[tuple[int, ...], ...] = ((),) * 63
    used: tuple[int, ...] = ()
    reclaimed: frozenset[int] = frozenset()
    given: tuple[tuple[tuple[int, int], int], ...] = ()  # (page, end) -> when its malloc returned


# A thread's step: (what, page, end of page, chunks, offset, earliest, latest, and from when on a
# malloc may have looked for a page in vain)
Todo = tuple[str, int, int, int, int, int, int, int]


def _listed(pool: Pool, number: int, ends: Ends | None) -> Pool:
    """The page with these ends, newest on its list; None: gone."""
    lists = [tuple(n for n in one if n != number) for one in pool.lists]
    pages = dict(pool.pages)
    pages.pop(number, None)
    if ends is not None:
        pages[number] = ends
        if number not in pool.reclaimed:
            at = FULL if all(ends) else 63 - sum(ends)
            lists[at] = (number, *lists[at])
    used = pool.used if ends is not None else tuple(n for n in pool.used if n != number)
    return Pool(tuple(sorted(pages.items())), tuple(lists), used, pool.reclaimed, pool.given)


def _given(pool: Pool, number: int, end: int, returned: int) -> Pool:
    """The page's object at one end was given by a malloc that returned at that time."""
    given = {**dict(pool.given), (number, end): returned}
    return pool._replace(given=tuple(sorted(given.items())))


def _latest(pool: Pool, number: int) -> Pool:
    return pool._replace(used=(number, *(n for n in pool.used if n != number)))


def _filled(ends: Ends, end: int, chunks: int) -> Ends:
    return (chunks, ends[1]) if end == 0 else (ends[0], chunks)


def _find(pool: Pool, chunks: int) -> int | None:
    return next((one[0] for one in pool.lists[chunks:] if one), None)


def _after(pool: Pool, todo: Todo) -> Pool | str | None:
    """The pool after a step, None if the step cannot be, or the step that must follow first."""
    what, number, end, chunks, offset, _, returned, began = todo
    pages = dict(pool.pages)
    if what == "malloc":
        found = _find(pool, chunks)
        if found is None:
            return "grow" if end == 0 else None
        free = 0 if not pages[found][0] else 1
        if (found, free) != (number, end) or (end and offset != PAGE - CHUNK * chunks):
            return None
        pool = _given(pool, number, end, returned)
        return _latest(_listed(pool, number, _filled(pages[number], end, chunks)), number)
    if what == "grow":
        if number in pages:
            return None
        return _latest(_listed(_given(pool, number, 0, returned), number, (chunks, 0)), number)
    if what == "no page":
        return pool if _find(pool, chunks) is None else None
    if number not in pages:
        return None
    if what == "free":
        in_use = pages[number][end]
        if not in_use or (end and offset != PAGE - CHUNK * in_use):
            return None
        if dict(pool.given)[number, end] >= began:
            return None  # nobody can know of it yet
        ends = _filled(pages[number], end, 0)
        gone = not any(ends) and number not in pool.reclaimed
        return _listed(pool, number, None if gone else ends)
    if what == "reclaim":
        if not pool.used or pool.used[-1] != number:
            return None
        lists = tuple(tuple(n for n in one if n != number) for one in pool.lists)
        reclaimed = pool.reclaimed | {number}
        return pool._replace(lists=lists, used=pool.used[:-1], reclaimed=reclaimed)
    assert what == "put back"
    if number not in pool.reclaimed:
        return None
    pool = pool._replace(reclaimed=pool.reclaimed - {number})
    if not any(pages[number]):
        return _listed(pool, number, None)
    return _latest(_listed(pool, number, pages[number]), number)


def _threads(rows: list[Row]) -> list[tuple[Todo, ...]]:
    threads: list[tuple[Todo, ...]] = []
    for row in rows:
        place = (row.page, row.end_of_page, -(-row.size // CHUNK), row.offset)
        if row.op in ("malloc", "free"):
            what = "no page" if row.op == "malloc" and row.ret else row.op
            held = (row.ts, row.end) if row.lock is None else (row.lock, row.lock)
            threads.append(((what, *place, *held, row.ts),))
        elif row.op == "shrink":
            evictions = [
                one
                for one in rows
                if one.op == "writeback" and one.tid == row.tid and row.ts <= one.ts <= row.end
            ]
            if evictions:
                page = (evictions[0].page, 0, 0, 0)
                chosen = ("reclaim", *page, row.ts, evictions[0].ts, row.ts)
                back = ("put back", *page, evictions[-1].end, row.end, evictions[-1].end)
                threads.append((chosen, back))
    return threads


def explainable(rows: list[Row]) -> bool:
    """Whether some interleaving of the steps, each in its interval, gives every handle."""
    seen = set()
    nodes = [(Pool(), tuple(_threads(rows)), -(1 << 60))]
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        pool, threads, now = node
        if not any(threads):
            return True
        for number, steps in enumerate(threads):
            if not steps:
                continue
            moment = max(now, steps[0][5])
            if moment > steps[0][6]:
                break  # too late for this step, whatever is done before
            after = _after(pool, steps[0])
            left = steps[1:]
            if after == "grow":
                left = (("grow", *steps[0][1:]),)
                after = pool
                moment = max(now, steps[0][7])
            if after is not None:
                assert isinstance(after, Pool)
                nodes.append((after, (*threads[:number], left, *threads[number + 1 :]), moment))
    return False


# -- histories that a kernel could have made -------------------------------------------------


@dataclass
class Kernel:
    """CPUs that make calls step by step, in an order that the dice decide."""

    dice: Dice
    cpus: int
    calls_left: int
    reclaim: bool
    locked: bool = False  # the rows tell when calls held the lock, and no sizes
    now: int = 1000
    pool: Pool = field(default_factory=Pool)
    live: list[tuple[int, int]] = field(default_factory=list)  # page, offset
    rows: list[Row] = field(default_factory=list)
    odd: bool = False  # something that no record tells

    def run(self, filled: int) -> list[Row]:
        """The rows that all calls give, after ``filled`` mallocs one after the other."""
        for _ in range(filled):
            for _ in self._malloc(9):
                self.now += 1
        calls: list[Iterator[Any] | None] = [None] * self.cpus
        while True:
            ready = [n for n, call in enumerate(calls) if call is not None or self.calls_left > 0]
            if not ready:
                return self.rows
            cpu = ready[self.dice.number(0, len(ready) - 1)]
            self.now += self.dice.number(0, 2)
            call = calls[cpu]
            if call is None:
                self.calls_left -= 1
                self.now += 1  # no task begins a call at the very end of its last
                call = calls[cpu] = self._begin(10 + cpu)
            if next(call, None) is None:
                calls[cpu] = None

    def _begin(self, tid: int) -> Iterator[Any]:
        what = self.dice.one_of(["malloc", "malloc", "free", "free", "shrink"])
        if what == "shrink" and self.reclaim:
            return self._shrink(tid)
        if what != "malloc" and self.live:
            chosen = self.live.pop(self.dice.number(0, len(self.live) - 1))
            return self._free(tid, *chosen)
        return self._malloc(tid)

    def _do(self, what: str, page: int, end: int = 0, chunks: int = 0, offset: int = 0) -> None:
        after = _after(self.pool, (what, page, end, chunks, offset, 0, 0, 1))
        assert isinstance(after, Pool), (what, page, end)
        self.pool = after
        self.now += self.locked  # no two calls hold the lock at one moment

    def _row(self, op: str, began: int, lock: int, **rest: Any) -> None:
        if self.locked:
            rest["lock"] = lock
        elif op in ("malloc", "free"):
            rest["total"] = len(self.pool.pages)
        self.rows.append(Row(op, began, self.now, **rest))

    def _malloc(self, tid: int) -> Iterator[Any]:
        began = self.now
        size = self.dice.one_of(SIZES)
        chunks = -(-size // CHUNK)
        yield "entered"
        page = _find(self.pool, chunks)
        if page is not None:
            end = 0 if not dict(self.pool.pages)[page][0] else 1
            offset = PAGE - CHUNK * chunks if end else CHUNK
            lock = self.now
            self._do("malloc", page, end, chunks, offset)
        else:
            lock = self.now
            self.now += self.locked
            yield "looked"
            used = dict(self.pool.pages)
            page = next(n for n in range(99) if n not in used)
            if self.dice.number(0, 15) == 0:
                self._row("malloc", began, lock, size=size, ret=-errno.ENOMEM, tid=tid)
                return
            offset, lock = CHUNK, self.now
            self._do("grow", page, 0, chunks, offset)
        yield "done"
        self.live.append((page, offset))
        self._row("malloc", began, lock, page=page, offset=offset, size=size, tid=tid)

    def _free(self, tid: int, page: int, offset: int) -> Iterator[Any]:
        began = self.now
        yield "entered"
        lock = self.now
        self._do("free", page, int(offset != CHUNK), 0, offset)
        yield "freed"
        self._row("free", began, lock, page=page, offset=offset, tid=tid)

    def _shrink(self, tid: int) -> Iterator[Any]:
        began = self.now
        yield "entered"
        if not self.pool.used:
            return
        page = self.pool.used[-1]
        ends = dict(self.pool.pages)[page]
        self._do("reclaim", page)
        evicted = False
        for end, offset in ((0, CHUNK), (1, PAGE - CHUNK * ends[1])):
            yield "looked at an end"
            if not ends[end]:
                continue
            evicted = True
            begun = self.now
            yield "evicting"
            refused = self.dice.number(0, 3) == 0
            if not refused and (page, offset) in self.live:
                self.now += 1  # than the malloc returned
                self.live.remove((page, offset))
                self._do("free", page, end, 0, offset)
                lock = self.now if self.locked else None
                self.rows.append(Row("free", self.now, self.now, page, offset, tid=tid, lock=lock))
            ret = -errno.EEXIST if refused else 0
            self.rows.append(Row("writeback", begun, self.now, page, offset, ret=ret, tid=tid))
            if refused:
                break
        self.odd |= not evicted
        yield "putting back"
        self._do("put back", page)
        yield "put back"
        self.rows.append(Row("shrink", began, self.now, tid=tid))


def made(dice: Dice, reclaim: bool, locked: bool = False) -> list[Row] | None:
    """A history; None: nothing that a trace tells happened in it, or more than that."""
    kernel = Kernel(dice, dice.number(2, 3), dice.number(2, 9), reclaim, locked)
    rows = kernel.run(dice.number(0, 6))
    return rows if rows and not kernel.odd else None


def damage(dice: Dice, rows: list[Row]) -> list[Row] | None:
    """The same with something else said of one call or two; None: of none that is left."""
    rows = [row._replace(total=None) for row in rows]
    for _ in range(dice.number(1, 2)):
        chosen = dice.number(0, len(rows) - 1)
        row = rows[chosen]
        what = dice.one_of(["page", "end", "size", "drop", "exchange", "time", "lock"])
        if what == "drop" and len(rows) > 1:
            rows.pop(chosen)
            continue
        if row.op not in ("malloc", "free"):
            continue
        if what == "page":
            rows[chosen] = row._replace(page=dice.number(0, 4))
        elif what == "end":
            offset = PAGE - CHUNK * -(-row.size // CHUNK) if row.offset == CHUNK else CHUNK
            rows[chosen] = row._replace(offset=offset)
        elif what == "size" and row.op == "malloc":
            rows[chosen] = row._replace(size=dice.one_of(SIZES))
        elif what == "exchange":
            other = dice.number(0, len(rows) - 1)
            if rows[other].op == row.op:
                rows[chosen] = row._replace(page=rows[other].page, offset=rows[other].offset)
                rows[other] = rows[other]._replace(page=row.page, offset=row.offset)
        elif what == "time":
            shift = dice.number(-12, 12)
            lock = None if row.lock is None else row.lock + shift
            rows[chosen] = row._replace(ts=row.ts + shift, end=row.end + shift, lock=lock)
        elif what == "lock" and row.lock is not None:
            rows[chosen] = row._replace(lock=dice.number(row.ts, row.end))
    return rows if any(row.op in ("malloc", "free") for row in rows) else None


@st.composite
def histories(draw: Any, reclaim: bool, locked: bool = False) -> list[Row]:
    return _possible(made(Drawn(draw), reclaim, locked))


@st.composite
def long_histories(draw: Any) -> list[Row]:
    return Kernel(Drawn(draw), 2, 40, False).run(6)


@st.composite
def damaged(draw: Any, reclaim: bool, locked: bool = False) -> list[Row]:
    dice = Drawn(draw)
    return _possible(damage(dice, _possible(made(dice, reclaim, locked))))


def _possible(rows: list[Row] | None) -> list[Row]:
    assume(rows is not None)
    assert rows is not None
    return rows


WAYS = pytest.mark.parametrize(
    ("reclaim", "locked"),
    [(False, False), (True, False), (False, True), (True, True)],
    ids=["objects", "reclaim", "objects-locked", "reclaim-locked"],
)


@WAYS
def test_histories_that_happened_are_explained(reclaim: bool, locked: bool) -> None:
    seen = {"histories": 0, "groups": 0, "undecided": 0, "sizes in a range": 0, "shrinks": 0}

    @settings(max_examples=300 * TIMES, deadline=None, derandomize=True)
    @given(histories(reclaim, locked), st.integers(1, 3))
    def explains(rows: list[Row], pieces: int) -> None:
        assert explainable(rows)
        found = check(rows, pieces=pieces)
        assert explained(found), found.places.first
        sizes = found.sizes
        assert found.agrees and sizes.equal == sizes.compared, sizes.first
        seen["histories"] += 1
        seen["groups"] += found.counts["groups"] > 0
        seen["undecided"] += found.counts["undecided"] > 0
        seen["sizes in a range"] += sizes.sure < sizes.equal
        seen["shrinks"] += any(row.op == "shrink" for row in rows)

    explains()
    print(f"\n{seen}")
    untold = {"shrinks"} if not reclaim else set()
    if locked:
        untold |= {"groups", "undecided", "sizes in a range"}
    assert min(count for name, count in seen.items() if name not in untold) > 0
    assert not locked or reclaim or not seen["groups"]  # nothing is left to search


@WAYS
def test_damaged_histories_are_explained_exactly_when_brute_force_does(
    reclaim: bool, locked: bool
) -> None:
    """Which page 6.1 reclaims is known less exactly: there nothing possible is refused."""
    seen = {(truth, verdict): 0 for truth in (True, False) for verdict in (True, False)}

    @settings(max_examples=300 * TIMES, deadline=None, derandomize=True)
    @given(damaged(reclaim, locked))
    def agrees(rows: list[Row]) -> None:
        found = check(rows)
        truth, verdict = explainable(rows), explained(found)
        assert verdict == truth or (reclaim and verdict), found.places.first
        seen[truth, verdict] += 1

    agrees()
    print(f"\n{seen}")
    assert seen[True, True] > 30 and seen[False, False] > 30


# -- known answers, mutants ------------------------------------------------------------------


def malloc(ts: int, end: int, page: int, size: int, *, last: bool = False, tid: int = 1) -> Row:
    return Row("malloc", ts, end, page, PAGE - CHUNK * -(-size // CHUNK) if last else CHUNK, size)


def test_a_later_malloc_decides_which_of_two_pages_came_first() -> None:
    """Two CPUs put a page each on the same list; the newer one is taken first."""
    rows = [
        *(malloc(10 * n, 10 * n + 4, n, 2000) for n in range(2)),
        *(malloc(40 + 10 * n, 44 + 10 * n, 1 - n, 1900, last=True) for n in range(2)),
        Row("free", 100, 120, 0, CHUNK),
        Row("free", 105, 110, 1, CHUNK),
    ]
    for order, good in (((0, 1), True), ((1, 0), True), ((0, 0), False), ((2, 0), False)):
        after = [malloc(200 + 10 * n, 204 + 10 * n, page, 1900) for n, page in enumerate(order)]
        found = check([*rows, *after])
        assert explained(found) == explainable([*rows, *after]) == good
        assert found.counts["undecided"] == 1


def test_two_cpus_may_each_add_a_page() -> None:
    both = [malloc(0, 20, 0, 2000), malloc(5, 25, 1, 1000)]
    assert explained(check(both))
    apart = [malloc(0, 20, 0, 2000), malloc(21, 25, 1, 1000)]
    assert not explained(check(apart)) and not explainable(apart)


def test_after_a_call_that_cannot_be_checking_goes_on() -> None:
    rows = [malloc(0, 5, 0, 2000), malloc(10, 15, 0, 1900), malloc(20, 25, 0, 1000, last=True)]
    found = check(rows)
    assert (found.places.equal, found.places.compared) == (2, 3)
    assert found.places.first is not None
    assert found.places.first.startswith("row 1: malloc 0x1040, the model: page 0x1000;")


class Mutant(Zbud):
    """Takes the page that it chooses."""

    def _find(self, chunks: int) -> Page | None:
        number = self.choose(chunks)
        if number is None:
            return None
        self.unlink(self.pages[number])
        return self.pages[number]


class OldestFirst(Mutant):
    """Takes the oldest page of a list."""

    def choose(self, chunks: int) -> int | None:
        lists = self.lists[chunks:]
        return next((next(iter(pages)) for pages in lists if pages), None)


class WorstFit(Mutant):
    """Takes a page with the most room."""

    def choose(self, chunks: int) -> int | None:
        lists = reversed(self.lists[chunks:])
        return next((next(reversed(pages)) for pages in lists if pages), None)


class RoundsUp(Zbud):
    """Needs a chunk more than the object."""

    def chunks_of(self, size: int) -> int:
        return super().chunks_of(size) + 1


@pytest.mark.parametrize("mutant", [OldestFirst, WorstFit, RoundsUp])
def test_a_mutant_of_the_model_is_rejected(mutant: type[Zbud]) -> None:
    rejected = []

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(long_histories())
    def tries(rows: list[Row]) -> None:
        assert explained(check(rows))
        rejected.append(not explained(check(rows, model=mutant)))

    tries()
    print(f"\n{sum(rejected)} of {len(rejected)} histories")
    assert sum(rejected) > 5


def churned(seed: int, count: int, damaged: int) -> list[Row]:
    """Overlapping calls of four tasks, each of which took effect at a moment; some damaged."""
    draw = random.Random(seed)
    model = Zbud()
    numbers: dict[int, int] = {}
    live: list[tuple[int, int]] = []  # handle, when its malloc returned
    free_at = [0] * 4
    rows: list[Row] = []
    for step in range(count):
        moment = 100 * step
        task = draw.choice([n for n in range(4) if free_at[n] < moment] or [0])
        begin = max(free_at[task] + 1, moment - draw.randrange(250))
        end = moment + draw.randrange(1 if begin > moment else 250)
        begin, end = min(begin, moment), max(end, moment)
        free_at[task] = end
        known = [at for at, (_, returned) in enumerate(live) if returned < moment]
        if known and draw.random() < 0.48:
            handle, returned = live.pop(draw.choice(known))
            begin = max(begin, returned + 1)
            model.free(handle)
            op, size = "free", 0
        else:
            op, size = "malloc", draw.choice(SIZES)
            handle = model.malloc(size)
            live.append((handle, end))
        page, offset = divmod(handle, PAGE)
        number = numbers.setdefault(page, len(numbers))
        total = len(model.pages)
        rows.append(Row(op, begin, end, number, offset, size, tid=task, total=total))
    for _ in range(damaged):
        at = draw.randrange(len(rows))
        rows[at] = rows[at]._replace(page=draw.randrange(20))
    return sorted(rows, key=lambda row: row.end)


@pytest.mark.parametrize("damaged", [0, 1, 40])
@pytest.mark.parametrize("seed", range(4))
def test_long_histories_by_both_engines(seed: int, damaged: int) -> None:
    rows = churned(seed, 1500, damaged)
    found = [run_by(engine, rows, 5, Zbud) for engine in engines_of(Zbud)]
    assert all(one == found[0] for one in found)
    assert found[0].overlapping > 500 and found[0].counts["undecided"] > 0
    assert (found[0].places.equal == found[0].places.compared) == (damaged == 0)
