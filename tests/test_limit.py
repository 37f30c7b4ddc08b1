# SPDX-License-Identifier: GPL-2.0-only
"""zswap's pool limit over the models: known answers by both kernels' rules, what is taken from a
trace and what is left, nothing lost on the way, the command."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Callable
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_cross_replay import Command, metadata, ztrace
from ztrace.allocator import HazardError, create
from ztrace.replay import ReplayError, replay_trace
from ztrace.replay.limit import (
    AT_ONCE,
    Demand,
    Limit,
    NotTold,
    Play,
    Rules,
    Worker,
    play,
    recorded_limit,
    recorded_rules,
)
from ztrace.replay.limit.demand import EarlierSlots, Reading, Want, batches
from ztrace.replay.limit.zswap import MAX_RECLAIM_RETRIES, Zswap
from ztrace.traces import OP_CODE, OPS, SCHEMA, Metadata, PoolInfo, TraceReader, TraceWriter
from ztrace.traces.metadata import Kernel, Probe

__all__ = ["ztrace"]  # a fixture

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"
LARGE = 3000  # one such object in a page of zbud
COLUMNS = (
    *("ts_ns", "dur_ns", "op", "pool", "key", "size", "handle", "ret", "cpu", "tid", "cgroup"),
)


def zbud(limit: Limit, rules: Rules, **options: Any) -> Zswap:
    return Zswap(create("zbud"), limit, rules, **options)


_clock = count(0, 10)  # a demand every 10 ns, over all tests


def run(zswap: Zswap, *wanted: tuple[Want, int] | tuple[Want, int, int]) -> Zswap:
    """Demands (what, slot, size), LARGE if not said."""
    for one in wanted:
        size = one[2] if len(one) == 3 else LARGE
        zswap.demand(Demand(one[0], next(_clock), one[1], size, 0))
    return zswap


def counts(zswap: Zswap) -> dict[str, int]:
    """Those that are not 0."""
    return {name: count for name, count in vars(zswap.counts).items() if count}


def stores(*keys: int) -> list[tuple[Want, int]]:
    return [(Want.STORE, key) for key in keys]


# -- the rules of 6.1 ------------------------------------------------------------------------


def test_full_above_the_limit_then_closed_until_below_the_threshold() -> None:
    """Limit 2 pages, accepts below 1. The page that a job frees is not seen before the next free,
    so the next store finds the pool full again and queues another."""
    zswap = zbud(Limit(2, accept_percent=50), Rules.DRIVER)
    run(zswap, *stores(1, 2, 3))  # the third is checked at 2 pages, which is not above
    assert counts(zswap) == {"stored": 3}
    run(zswap, *stores(4, 5))
    assert counts(zswap) == {
        "stored": 3,
        "rejected": 2,
        "limit_hits": 2,
        "written_back": 1,
        "jobs": 1,
        "pages_freed": 1,  # the second job has not run yet
    }
    run(zswap, *stores(6))  # reached_full: neither counted nor queued
    assert counts(zswap) == {
        "stored": 3,
        "rejected": 3,
        "limit_hits": 2,
        "written_back": 2,
        "jobs": 2,
        "pages_freed": 2,
    }
    run(zswap, (Want.LOAD, 1), (Want.LOAD, 4), (Want.LOAD, 3), (Want.DROP, 3), *stores(7))
    assert set(zswap.entries) == {7}
    assert counts(zswap) == {
        "stored": 4,
        "rejected": 3,
        "limit_hits": 2,
        "jobs": 2,
        "pages_freed": 2,
        "written_back": 2,
        "refaults": 1,
        "disk_loads": 1,
        "hits": 1,
    }
    assert (zswap.counts.written_pages, zswap.counts.read_pages) == (5, 2)


def test_what_is_in_the_swap_cache_is_not_written_back() -> None:
    """1 was loaded and is still in place: refused, so zbud tries the next page."""
    zswap = zbud(Limit(2), Rules.DRIVER)
    run(zswap, *stores(1, 2, 3), (Want.LOAD, 1), *stores(4, 5))
    assert set(zswap.entries) == {1, 3}
    assert (zswap.counts.evictions_failed, zswap.counts.written_back) == (1, 1)
    # Given up and stored anew it is evictable.
    zswap = zbud(Limit(2), Rules.DRIVER)
    run(zswap, *stores(1), (Want.LOAD, 1), *stores(1, 2, 3, 4, 5))
    assert set(zswap.entries) == {2, 3}


def test_a_stale_object_is_freed_before_the_new_store() -> None:
    """At 3 pages with a limit of 2 a slot that is stored again makes room for itself."""
    zswap = run(zbud(Limit(2, accept_percent=100), Rules.DRIVER), *stores(1, 2, 3, 3))
    assert counts(zswap) == {"stored": 4}
    zswap = run(zbud(Limit(2), Rules.DRIVER), *stores(1, 2, 3, 4, 4, 4, 1, 1))
    assert 4 not in zswap.entries and 1 not in zswap.entries


def test_a_driver_without_shrink_writes_nothing_back() -> None:
    zswap = Zswap(create("zsmalloc:6.1"), Limit(2), Rules.DRIVER)
    run(zswap, *stores(*range(1, 20)))
    assert zswap.counts.written_back == 0
    assert zswap.counts.reclaim_fails == zswap.counts.jobs > 0
    assert zswap.counts.rejected == zswap.counts.limit_hits > 0


def test_ztree_evicts_a_block_and_zswap_counts_that_as_a_failure() -> None:
    """H23. Blocks of 8 pages and as many objects; the oldest is neither current nor last."""
    zswap = Zswap(create("ztree"), Limit(24), Rules.DRIVER)
    run(zswap, *((Want.STORE, key, 4000) for key in range(26)), (Want.LOAD, 50))
    assert zswap.counts.written_back == 8 and zswap.counts.reclaim_fails == 1
    assert zswap.counts.pages_freed == 8
    assert set(zswap.entries) == set(range(8, 25))
    assert zswap.model.hazards.counts["H23"] == 1


def test_ztree_runs_off_its_table() -> None:
    """H12: its only block is in use."""
    zswap = Zswap(create("ztree"), Limit(7), Rules.DRIVER)
    with pytest.raises(HazardError, match="H12"):
        run(zswap, *stores(1, 2, 3))


def test_same_filled_pages_take_no_memory() -> None:
    zswap = run(zbud(Limit(1), Rules.DRIVER), *((Want.STORE, key, 0) for key in range(50)))
    assert zswap.counts.stored == 50 and zswap.model.held_bytes == 0
    run(zswap, (Want.LOAD, 7), (Want.DROP, 7))
    assert zswap.counts.hits == 1 and 7 not in zswap.entries


# -- the rules of 6.12 -----------------------------------------------------------------------


def test_second_chance_down_to_the_threshold() -> None:
    """Full at 2 pages. Both objects lose their mark, then the older one goes: 1 page, accepted."""
    zswap = zbud(Limit(2, accept_percent=50), Rules.LRU)
    run(zswap, *stores(1, 2, 3), *stores(4))
    assert set(zswap.entries) == {2, 4}
    assert counts(zswap) == {
        "stored": 3,
        "rejected": 1,
        "limit_hits": 1,
        "jobs": 1,
        "written_back": 1,
        "pages_freed": 1,
    }
    run(zswap, *stores(5), *stores(6))  # 2 has no mark any more, 4 has
    assert set(zswap.entries) == {4, 6}


def test_a_job_gives_up_after_so_many_marks() -> None:
    """20 marked objects in 20 pages: 16 lose their mark, then 4 more and the first is written."""
    zswap = zbud(Limit(20, accept_percent=90), Rules.LRU)
    run(zswap, *stores(*range(20)), *stores(50), (Want.LOAD, 60))
    assert MAX_RECLAIM_RETRIES == 16
    assert (zswap.counts.jobs, zswap.counts.written_back) == (1, 0)
    run(zswap, *stores(51), (Want.LOAD, 60))
    assert (zswap.counts.jobs, zswap.counts.written_back) == (2, 2)
    assert set(zswap.entries) == set(range(2, 20))


def test_loads_free_the_object_unless_the_recorded_kernel_kept_it() -> None:
    zswap = run(zbud(Limit(9), Rules.LRU), *stores(1, 2), (Want.LOAD, 1), (Want.LOAD_KEPT, 2))
    assert set(zswap.entries) == {2}
    assert zswap.counts.hits == 2


def test_a_failed_store_frees_the_stale_object_and_queues_while_full() -> None:
    zswap = zbud(Limit(2, accept_percent=0), Rules.LRU)
    run(zswap, *stores(1, 2, 2), (Want.LOAD, 60))
    assert set(zswap.entries) == set()  # 2 was stale, 1 written back: threshold 0
    assert counts(zswap)["rejected"] == 1
    assert zswap.counts.jobs == 1


@pytest.mark.parametrize("rules", list(Rules))
def test_the_limit_comes_before_the_compressor(rules: Rules) -> None:
    """A page that does not compress is not tried while the pool is full."""
    zswap = zbud(Limit(1, accept_percent=100), rules, worker=Worker(delay_ns=10**6))
    run(zswap, *stores(1, 2), (Want.WRITE, 3), (Want.WRITE, 4))
    hits = {Rules.DRIVER: 2, Rules.LRU: 3}[rules]  # of 6.12, the second store too
    assert counts(zswap) == {"stored": 4 - hits, "rejected": hits, "limit_hits": hits}
    run(zswap, (Want.DROP_ALL, 0), (Want.WRITE, 5))
    assert zswap.counts.incompressible == 1


def test_the_new_object_is_allocated_before_the_stale_one_is_freed() -> None:
    zswap = run(zbud(Limit(9), Rules.LRU), *stores(1, 1))
    assert zswap.model.stats()["pages_allocated"] == 2 and zswap.model.held_bytes == 4096


# -- the worker ------------------------------------------------------------------------------


@pytest.mark.parametrize(("delay_ns", "hits"), [(0, 2), (15, 4), (1000, 5)])
def test_a_late_worker(delay_ns: int, hits: int) -> None:
    """Stores every 10 ns; those that find the pool full before the jobs have run are hits."""
    zswap = zbud(Limit(2), Rules.DRIVER, worker=Worker(delay_ns))
    run(zswap, *stores(1, 2, 3, 4, 5, 6, 7, 8))
    assert zswap.counts.limit_hits == hits


def test_a_slow_worker() -> None:
    """From 30 ns on full. The job begins at 40, unmarks both objects and writes one back; while
    that keeps it, until 75, it cannot begin again, but the pool is at the threshold already."""
    zswap = zbud(Limit(2, accept_percent=50), Rules.LRU, worker=Worker(0, 35))
    run(zswap, *stores(1, 2, 3, 4))
    assert (zswap.counts.written_back, set(zswap.entries)) == (1, {2, 4})
    run(zswap, *stores(5, 6))  # both find it full: the next job waits for the first one's write
    assert zswap.counts.jobs == 1
    assert zswap.counts.rejected == 3
    run(zswap, (Want.DROP, 99), (Want.DROP, 99))
    assert (zswap.counts.jobs, zswap.counts.written_back) == (2, 2)


# -- nothing is lost -------------------------------------------------------------------------

WANTED = st.tuples(
    st.sampled_from([Want.STORE, Want.STORE, Want.STORE, Want.LOAD, Want.DROP, Want.WRITE]),
    st.integers(0, 40),
    st.integers(0, 4096),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(WANTED, max_size=200),
    st.sampled_from(["zbud", "z3fold", "zsmalloc:6.1", "zsmalloc:7.2", "zblock:2025"]),
    st.sampled_from(list(Rules)),
    st.integers(1, 12),
    st.sampled_from([(0, 0), (35, 0), (0, 25), (35, 7)]),
)
def test_every_page_is_in_one_place(
    wanted: list[tuple[Want, int, int]],
    backend: str,
    rules: Rules,
    pages: int,
    delays: tuple[int, int],
) -> None:
    zswap = Zswap(create(backend), Limit(pages), rules, worker=Worker(*delays))
    alive: set[int] = set()
    seen = dict.fromkeys(Want, 0)
    for number, one in enumerate(wanted):
        run_at = Demand(one[0], 10 * number, one[1], one[2], number)
        if one[0] is Want.LOAD and one[1] not in alive:
            continue
        zswap.demand(run_at)
        seen[one[0]] += 1
        if one[0] in (Want.STORE, Want.WRITE):
            alive.add(one[1])
        elif one[0] is Want.DROP or (one[0] is Want.LOAD and rules is Rules.LRU):
            alive.discard(one[1])
            if one[0] is Want.LOAD:
                zswap.demand(Demand(Want.DROP, 10 * number, one[1], 0, number))
        on_disk = set(zswap._written)
        assert not on_disk & set(zswap.entries)
        assert on_disk | set(zswap.entries) == alive
    done = zswap.counts
    wanted_in = seen[Want.STORE] + seen[Want.WRITE]
    assert wanted_in == done.stored + done.rejected + done.refused + done.incompressible
    assert seen[Want.LOAD] == done.hits + done.refaults + done.disk_loads
    assert done.incompressible <= seen[Want.WRITE]
    assert done.limit_hits <= done.rejected
    zswap.demand(Demand(Want.DROP_ALL, 10**6, 0, 0, 0))
    assert zswap.model.held_bytes == zswap.stored_bytes == 0
    assert not zswap.entries and not zswap._key_of and not zswap._lru


# -- traces ----------------------------------------------------------------------------------


def trace(path: Path, rows: list[dict[str, Any]], meta: Metadata) -> Path:
    """Rows of ``op`` and what differs from the usual: a call every us of task 7, 900 ns long, in
    the order of return; ``inside`` makes it begin and end within the call that follows."""
    made = []
    for number, given_ in enumerate(rows):
        row: dict[str, Any] = dict.fromkeys(COLUMNS, 0)
        row |= {"ts_ns": 1000 * number, "dur_ns": 900, "tid": 7}
        row |= {"key": None, "size": None, "handle": None, **given_}
        if number and rows[number - 1].get("inside"):
            within = takewhile(lambda one: one.get("inside"), reversed(rows[:number]))
            row["ts_ns"] -= 1000 * sum(1 for _ in within)
        row.pop("inside", None)
        made.append(row | {"op": OP_CODE[row["op"]]})
    types = {name: SCHEMA.field(name).type for name in COLUMNS}
    types["op"] = pa.int8()
    with TraceWriter(path, meta, force=True) as writer:
        writer.write({name: pa.array([r[name] for r in made], types[name]) for name in COLUMNS})
    return path


def stored(key: int, size: int, ret: int = 0, store: int | None = None) -> list[dict[str, Any]]:
    """A store of a page with its malloc, as 6.1 records it for zbud."""
    malloc: dict[str, Any] = {"op": "malloc", "key": key, "size": size + 8, "ret": ret}
    if ret == 0:
        malloc["handle"] = 100 + key
    failed = ret if store is None else store
    after = {"op": "store", "key": key, "size": size if not failed else None, "ret": failed}
    return [{**malloc, "inside": True}, after]


def wanted_of(path: Path) -> tuple[list[tuple[Want, int, int]], NotTold]:
    told = NotTold()
    with TraceReader(path) as reader:
        reading = Reading(reader.metadata, told)
        found = [
            (one.want, one.key, one.size)
            for first, batch in batches(reader)
            for one in reading.read(batch, first)
        ]
    return found, told


def test_what_a_recording_of_6_1_wanted(tmp_path: Path) -> None:
    rows = [
        *stored(1, 1000),
        *stored(2, 4000, -errno.ENOSPC),  # zbud cannot, others can
        {"op": "store", "key": 3, "ret": -errno.EINVAL},  # nor could the compressor
        {"op": "store", "key": 4, "ret": -errno.ENOMEM},  # the limit: 4000 is the size before
        {"op": "store", "key": 5, "size": 0},  # same-filled
        {"op": "load", "key": 1},
        {"op": "load", "key": 4, "ret": -1},
        {"op": "invalidate", "key": 1},
        {"op": "invalidate"},
    ]
    found, told = wanted_of(trace(tmp_path / "t", rows, metadata("zbud", header=8)))
    assert found == [
        *((Want.STORE, 1, 1000), (Want.STORE, 2, 4000), (Want.WRITE, 3, 0)),
        *((Want.STORE, 4, 4000), (Want.STORE, 5, 0)),
        *((Want.LOAD, 1, 0), (Want.LOAD, 4, 0), (Want.DROP, 1, 0)),
        (Want.DROP_ALL, 2**64 - 1, 0),
    ]
    assert told == NotTold(sizes=1, frees=True)


def test_a_kernel_that_never_hit_its_limit_rejected_for_other_reasons(tmp_path: Path) -> None:
    meta = metadata("zsmalloc", release="6.12.1")
    meta.counters.end = {"zswap.pool_limit_hit": 4}
    meta.counters.start = {"zswap.pool_limit_hit": 4}
    rows = [*stored(1, 1000), {"op": "store", "key": 3, "ret": -errno.EPERM}]
    found, told = wanted_of(trace(tmp_path / "t", rows, meta))
    assert found[1] == (Want.WRITE, 3, 0) and told == NotTold()
    meta.counters.end = {"zswap.pool_limit_hit": 5}
    found, told = wanted_of(trace(tmp_path / "t", rows, meta))
    assert found[1] == (Want.STORE, 3, 1008) and told == NotTold(sizes=1, frees=False)


def test_loads_of_6_12_that_kept_the_object(tmp_path: Path) -> None:
    rows = [
        *(*stored(1, 1000), *stored(2, 1000)),
        {"op": "free", "key": 1, "handle": 101, "inside": True},
        {"op": "load", "key": 1},
        {"op": "load", "key": 2},
        {"op": "load", "key": 9, "ret": -errno.ENOENT},
    ]
    found, _ = wanted_of(trace(tmp_path / "t", rows, metadata("zbud", release="6.12.1")))
    assert [one[0] for one in found[2:]] == [Want.LOAD, Want.LOAD_KEPT, Want.LOAD]


def test_large_folios_store_a_page_a_malloc(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"op": "malloc", "key": 8, "size": 10, "handle": 1, "inside": True},
        {"op": "malloc", "key": 9, "size": 20, "handle": 2, "inside": True},
        {"op": "store", "key": 8, "size": 20, "ts_ns": 0},
    ]
    found, _ = wanted_of(trace(tmp_path / "t", rows, metadata("zsmalloc", release="7.2.1")))
    assert found == [(Want.STORE, 8, 10), (Want.STORE, 9, 20)]


def test_whose_rules_is_told_by_the_probe(tmp_path: Path) -> None:
    meta = metadata("zbud", release="6.5.0-odd")
    meta.probes["store"] = Probe("fentry", "zswap_store")
    rows = [*stored(1, 1000), {"op": "store", "key": 4, "ret": -errno.ENOMEM}]
    assert not wanted_of(trace(tmp_path / "t", rows, meta))[1].frees
    meta.probes["store"] = Probe("fentry", "zswap_frontswap_store")
    assert wanted_of(trace(tmp_path / "t", rows, meta))[1].frees
    meta = metadata("zbud", release="mainline")
    with pytest.raises(ReplayError, match="whose rules"):
        wanted_of(trace(tmp_path / "t", rows, meta))


@pytest.mark.parametrize(("source", "message"), [("zram", "recorded of zram"), ("zswap", "stores")])
def test_traces_without_zswaps_calls(tmp_path: Path, source: str, message: str) -> None:
    meta = metadata("zbud")
    meta.source = source
    rows: list[dict[str, Any]] = [{"op": "malloc", "size": 9, "handle": 1}]
    with pytest.raises(ReplayError, match=message):
        wanted_of(trace(tmp_path / "t", rows, meta))


def test_without_a_limit_the_pool_is_that_of_a_replay() -> None:
    path = SAMPLES / "ztree-6.1-bursts.parquet"
    with TraceReader(path) as reader:
        [outcome] = play(reader, [Play("ztree", AT_ONCE, Limit(10**6), Rules.DRIVER)])
    replayed = replay_trace(path, "ztree")
    assert outcome.peak_held_bytes == replayed.held_bytes.peak
    assert replayed.held_bytes.mean is not None
    assert outcome.mean_held_bytes == pytest.approx(replayed.held_bytes.mean, rel=0.02)
    done = outcome.counts
    assert done.stored == replayed.pools[0].mallocs and done.jobs == done.rejected == 0
    assert done.hits == replayed.calls["load"] and done.read_pages == 0


def test_a_real_kernel_under_its_limit() -> None:
    """Every count that the kernel kept, with its shrinks withheld from the model."""
    table = pq.read_table(SAMPLES / "zbud-6.1-limit.parquet", columns=["op", "ret"])
    recorded = list(zip(table["op"].to_pylist(), table["ret"].to_pylist(), strict=True))
    with TraceReader(SAMPLES / "zbud-6.1-limit.parquet") as reader:
        metadata = reader.metadata
        limit = recorded_limit(metadata)
        assert limit == Limit(164_013, 1, 90)
        [outcome] = play(reader, [Play("zbud", AT_ONCE, limit, recorded_rules(metadata))])
    done, kernel = outcome.counts, outcome.kernel
    assert kernel is not None and outcome.as_recorded
    assert done.written_back == kernel.written_back == 39
    assert done.limit_hits == kernel.limit_hits == 25
    end = metadata.counters.end
    assert done.stored == end["vmstat.zswpout"] == 36_618
    assert done.hits == end["vmstat.zswpin"] == 11_092
    assert done.reclaim_fails == end["zswap.reject_reclaim_fail"] == 2
    assert done.refused == end["zswap.reject_compress_poor"] == 63
    assert done.rejected == outcome.not_told.sizes == 11_319
    assert done.jobs == recorded.count(("shrink", 0)) + recorded.count(("shrink", -errno.EAGAIN))
    assert done.evictions_failed == recorded.count(("writeback", -errno.ENOMEM)) == 69


def test_recorded_shrinks_writebacks_and_frees_are_not_looked_at(tmp_path: Path) -> None:
    draw = random.Random(5)
    rows: list[dict[str, Any]] = []
    more: list[dict[str, Any]] = []
    for number in range(400):
        key = draw.randrange(60)
        part: list[dict[str, Any]]
        if draw.random() < 0.6:
            part = [*stored(key, draw.randint(20, 3900))]
        else:
            part = [{"op": draw.choice(["load", "invalidate"]), "key": key}]
        rows += part
        more += part
        if number % 3 == 0:
            more.append(
                {"op": "writeback", "key": key, "handle": 5, "ts_ns": rows[-1].get("ts_ns", 0)}
            )
            more.append({"op": "free", "key": key, "handle": 5})
            more.append({"op": "shrink", "size": 1})
    meta = metadata("zbud", header=8)
    found = wanted_of(trace(tmp_path / "a", rows, meta))
    assert found == wanted_of(trace(tmp_path / "b", more, meta))
    assert len(found[0]) > 300


# -- limits and the command --------------------------------------------------------------------


@pytest.mark.parametrize("bad", [(9, 0, 90), (9, 101, 90), (9, 50, 101), (1, 50, 90)])
def test_impossible_limits(bad: tuple[int, int, int]) -> None:
    with pytest.raises(ReplayError, match="--limit"):
        Limit(*bad)


def test_the_limits_are_the_kernels_whole_numbers() -> None:
    """164,004 pages, 5 %: 8,200.2 pages; 90 % of memory first: 147,603.6, of which 7,380.15."""
    limit = Limit(164_004, 5, 90)
    assert limit.max_pages == 8200 and limit.accept_pages(Rules.LRU) == 7380
    assert not limit.is_full(8200, Rules.DRIVER) and limit.is_full(8201, Rules.DRIVER)
    assert limit.is_full(8200, Rules.LRU) and not limit.is_full(8199, Rules.LRU)
    assert limit.can_accept(7379, Rules.DRIVER) and not limit.can_accept(7380, Rules.DRIVER)
    assert limit.can_accept(7380, Rules.LRU) and not limit.can_accept(7381, Rules.LRU)


@pytest.fixture
def limited(tmp_path: Path) -> Path:
    """Recorded on zbud in 6.1 by a kernel with 100 pages of memory."""
    meta = metadata("zbud", header=8)
    meta.machine.memory_bytes = 100 * 4096
    meta.parameters = {"max_pool_percent": "2", "accept_threshold_percent": "50"}
    meta.counters.end = {"zswap.pool_limit_hit": 2, "zswap.written_back_pages": 2}
    rows = [row for key in range(3) for row in stored(key, LARGE)]
    rows += [{"op": "store", "key": key, "ret": -errno.ENOMEM} for key in (3, 4, 5)]
    rows += [{"op": "load", "key": 0, "ret": -1}]
    return trace(tmp_path / "limited.parquet", rows, meta)


def test_the_command_beside_the_kernels_counters(ztrace: Command, limited: Path) -> None:
    arguments = ("replay", limited, "--backend", "zbud", "--limit", "recorded")
    status, out, err = ztrace(*arguments, "--worker", "0,0")
    assert (status, err) == (0, "")
    assert "the kernel under this limit: written back 2, limit hits 2, rejected 3" in out
    assert "zbud: written back 2, limit hits 2, rejected 3" in out
    assert "3 stores were rejected when this was recorded" in out
    status, out, _ = ztrace(*arguments, "--json")
    first, late = json.loads(out)["replays"]
    assert first["worker"] == {"delay_ns": 0, "page_ns": 0}
    assert late["worker"] == {"delay_ns": 300_000, "page_ns": 300_000}
    assert first["counts"]["written_back"] == 2 and first["counts"]["refaults"] == 1
    assert first["disk_written_bytes"] == 5 * 4096 and first["disk_read_bytes"] == 4096
    assert first["as_recorded"] and first["rules"] == "6.1"
    assert late["counts"]["written_back"] == 0


def test_all_backends_side_by_side(ztrace: Command, limited: Path) -> None:
    status, out, _ = ztrace("replay", limited, "--backend", "all", "--limit", "8k")
    assert status == 1  # ztree has too few blocks: H12
    for name in ("zbud", "z3fold", "zsmalloc:6.1", "ztree*", "zblock:2025"):
        assert f"\n{name} " in out, name
    assert "ztree: figures end at row" in out and "H12" in out
    assert "zsmalloc:6.1: cannot write back" in out
    assert "the kernel under this limit" not in out
    head = out[: out.index("the same with a worker")]
    assert max(map(len, head.splitlines()[1:])) <= 84


def test_a_shrinker_that_is_not_played_is_mentioned(ztrace: Command, tmp_path: Path) -> None:
    for enabled in ("Y", "N"):
        meta = metadata("zsmalloc", release="6.12.1")
        meta.parameters = {"shrinker_enabled": enabled}
        path = trace(tmp_path / enabled, stored(1, 1000), meta)
        status, out, _ = ztrace("replay", path, "--backend", "zsmalloc:6.12", "--limit", "8k")
        assert status == 0
        assert ("(shrinker_enabled)" in out) == (enabled == "Y")


Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "0%"], "1 to 100 %"),
        (["--limit", "101%"], "not a whole percentage"),
        (["--limit", "2.5%"], "not a whole percentage"),
        (["--limit", "100"], "less than a page"),
        (["--limit", "much"], "is no size"),
        (["--limit", "9k", "--accept", "x"], "not a whole percentage"),
        (["--limit", "9k", "--every", "5%"], "--limit goes with"),
        (["--limit", "9k", "--time"], "--limit goes with"),
        (["--limit", "9k", "--worker", "1ms"], "is not two durations"),
        (["--accept", "50%"], "are for --limit"),
        (["--limit", "9k", "--backend", "slab"], "no backend 'slab'"),
    ],
)
def test_bad_use(ztrace: Run, limited: Path, arguments: list[str], message: str) -> None:
    status, out, err = ztrace("replay", limited, "--backend", "zbud", *arguments)
    assert (status, out) == (2, "")
    assert message in err and "Traceback" not in err


def test_a_trace_that_does_not_say_its_limit(tmp_path: Path) -> None:
    meta = metadata("zbud")
    with pytest.raises(ReplayError, match="how much memory"):
        recorded_limit(meta, 20)
    meta.machine.memory_bytes = 1 << 20
    with pytest.raises(ReplayError, match="accept_threshold_percent"):
        recorded_limit(meta, 20)
    assert recorded_limit(meta, 20, 90).max_pages == 51


def test_slots_stored_before_the_trace_are_counted() -> None:
    """By the rows of one batch and of several: a slot known before, in it, and after."""
    rows = [
        *(("invalidate", 1, 0), ("store", 1, 0), ("load", 1, 0), ("load", 2, 0)),
        *(("load", 3, -2), ("store", 2, 0), ("invalidate", 2, 0), ("invalidate", None, 0)),
        *(("load", 1, 0), ("invalidate", 4, 0), ("store", 4, -12), ("load", 4, 0)),
    ]
    late = Metadata(kernel=Kernel("6.1.0"), pools=[PoolInfo("zbud", empty_at_start=False)])
    for size in range(1, len(rows) + 1):
        told = NotTold()
        earlier = EarlierSlots(late, told)
        for first in range(0, len(rows), size):
            ops, keys, rets = zip(*rows[first : first + size], strict=True)
            op = pa.DictionaryArray.from_arrays(
                pa.array([OP_CODE[name] for name in ops], pa.int8()), pa.array(OPS)
            )
            columns = {"op": op, "key": pa.array(keys, pa.uint64()), "ret": pa.array(rets)}
            earlier.read(pa.RecordBatch.from_pydict(columns))
        assert (told.loads, told.drops) == (1, 2), size
    assert told.lines() == [
        "unknown slots: load 1, invalidate 2; stored before the trace, their pages are in no model"
    ]
