# SPDX-License-Identifier: GPL-2.0-only
"""What is played into real allocators, and what their answers mean: without a kernel."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ztrace.replay.errors import ReplayError
from ztrace.replay.measured.calls import MALLOC, read_calls
from ztrace.replay.measured.compared import compare
from ztrace.replay.measured.difference import Sample, differences, sample
from ztrace.replay.measured.figures import figures
from ztrace.replay.measured.recording import Where, metadata, rows
from ztrace.tracer.errors import TracerError
from ztrace.tracer.program.allocators import arguments, parse
from ztrace.tracer.program.files import (
    EVENT,
    NOT_LIVE,
    Answers,
    Break,
    Plan,
    read_answers,
    write_plan,
)
from ztrace.tracer.program.guest import where_broken
from ztrace.tracer.program.patching import patched
from ztrace.tracer.program.source import follow
from ztrace.traces import Kernel, Machine, Metadata, PoolInfo, TraceReader, TraceWriter
from ztrace.traces.schema import OPS

Row = tuple[str, int, int | None, int]
"""(op, size, handle, ret)"""

ONEPAGE = Path(__file__).parent / "measure" / "onepage.c"


def trace(path: Path, given: Sequence[Row], *, allocator: str = "ztree", header: int = 8) -> Path:
    """A trace of one pool with these calls."""
    about = Metadata(
        kernel=Kernel(release="6.1.0"),
        machine=Machine(cpus=1),
        pools=[PoolInfo(allocator=allocator, empty_at_start=True, header_bytes=header)],
    )
    with TraceWriter(path, about) as writer:
        writer.write(
            {
                "ts_ns": np.arange(len(given)) * 100,
                "op": [op for op, _, _, _ in given],
                "size": [size for _, size, _, _ in given],
                "handle": np.array([handle or 0 for _, _, handle, _ in given], np.uint64),
                "ret": [ret for _, _, _, ret in given],
            }
        )
    return path


def played(path: Path, allocator: str = "ztree", threads: int = 1) -> list[tuple[str, int, int]]:
    """(op, object, size) of what is played."""
    with TraceReader(path) as reader:
        calls = read_calls(reader, allocator, threads=threads)
    return [
        (OPS[op], number, size)
        for op, number, size in zip(
            calls.op.tolist(), calls.object.tolist(), calls.size_bytes.tolist(), strict=True
        )
    ]


def test_each_map_is_ended_before_the_next_call(tmp_path: Path) -> None:
    """Two objects that were mapped at once on two CPUs are not on one thread."""
    given: list[Row] = [
        ("malloc", 100, 1, 0),
        ("malloc", 200, 2, 0),
        ("map", 0, 1, 0),
        ("map", 0, 2, 0),
        ("unmap", 0, 1, 0),
        ("free", 0, 2, 0),
        ("unmap", 0, 2, 0),
    ]
    assert played(trace(tmp_path / "t", given)) == [
        *(("malloc", 0, 100), ("malloc", 1, 200)),
        *(("map", 0, 100), ("unmap", 0, 100), ("map", 1, 200), ("unmap", 1, 200)),
        ("free", 1, 200),
    ]


def test_a_trace_without_maps_gets_the_one_that_zswap_makes(tmp_path: Path) -> None:
    path = trace(tmp_path / "t", [("malloc", 100, 1, 0), ("free", 0, 1, 0)])
    assert [op for op, _, _ in played(path)] == ["malloc", "map", "unmap", "free"]
    with TraceReader(path) as reader:
        calls = read_calls(reader, "ztree")
    assert calls.adds_maps
    assert calls.is_write.tolist() == [False, True, False, False]


def test_a_handle_given_again_before_its_free_is_another_object(tmp_path: Path) -> None:
    """The free that was seen late means the older object."""
    given: list[Row] = [
        ("malloc", 100, 1, 0),
        ("malloc", 200, 1, 0),
        ("free", 0, 1, 0),
        ("map", 0, 1, 0),
        ("free", 0, 1, 0),
    ]
    assert played(trace(tmp_path / "t", given)) == [
        *(("malloc", 0, 100), ("malloc", 1, 200), ("free", 0, 100)),
        *(("map", 1, 200), ("unmap", 1, 200), ("free", 1, 200)),
    ]


def test_what_cannot_be_played_is_left_out_and_counted(tmp_path: Path) -> None:
    given: list[Row] = [
        ("free", 0, 7, 0),
        ("map", 0, 7, 0),
        ("malloc", 100, 7, 0),
        ("malloc", 50, None, -12),
        ("free", 0, 7, 0),
        ("free", 0, 7, 0),
        ("shrink", 0, None, 0),
    ]
    path = trace(tmp_path / "t", given)
    assert [op for op, _, _ in played(path, "zbud")] == ["malloc", "map", "unmap", "free"]
    with TraceReader(path) as reader:
        calls = read_calls(reader, "zbud")
    assert calls.left_out == {
        "shrinks": 1,
        "mallocs without memory": 1,
        "calls on unknown objects": 3,
    }


def test_a_shrink_stands_before_what_was_done_while_it_ran(tmp_path: Path) -> None:
    """Two evictions, one given up; a malloc of another task meanwhile; then one free after it."""
    given: list[tuple[str, int, int, int | None, int | None, int]] = [
        # op, ts, dur, size, handle, ret
        ("malloc", 0, 9, 100, 1, 0),
        ("malloc", 10, 9, 200, 2, 0),
        ("malloc", 20, 9, 300, 3, 0),
        ("map", 120, 5, None, 2, 0),
        ("malloc", 130, 5, 400, 4, 0),
        ("free", 140, 5, None, 2, 0),
        ("writeback", 110, 40, None, 2, 0),
        ("map", 160, 5, None, 1, 0),
        ("writeback", 155, 20, None, 1, -12),
        ("shrink", 100, 80, None, None, -11),
        ("free", 200, 5, None, 3, 0),
    ]
    names = ("op", "ts_ns", "dur_ns", "size", "handle", "ret")
    columns = {name: [row[i] for row in given] for i, name in enumerate(names)}
    about = Metadata(
        kernel=Kernel(release="6.1.0"),
        machine=Machine(cpus=1),
        pools=[PoolInfo(allocator="zbud", empty_at_start=True)],
    )
    with TraceWriter(tmp_path / "t", about) as writer:
        handle = pa.array(columns["handle"], pa.uint64())
        writer.write({**columns, "handle": handle, "tid": [7] * len(given)})
    assert played(tmp_path / "t", "zbud") == [
        *(("malloc", 0, 100), ("malloc", 1, 200), ("malloc", 2, 300)),
        ("shrink", 8, 1),  # so many calls follow that are made while it runs
        *(("map", 1, 200), ("unmap", 1, 200), ("malloc", 3, 400), ("free", 1, 200)),
        ("writeback", 1, 0),
        *(("map", 0, 100), ("unmap", 0, 100)),
        ("writeback", 0, 12),
        ("free", 2, 300),
    ]


def test_a_refused_malloc_is_played_and_what_it_gives_is_freed(tmp_path: Path) -> None:
    given: list[Row] = [("malloc", 4090, None, -28), ("malloc", 10, 3, 0)]
    ops = [(op, size) for op, _, size in played(trace(tmp_path / "t", given))]
    assert ops[:2] == [("malloc", 4090), ("free", 4090)]


def test_sizes_are_those_that_zswap_gives_each_allocator(tmp_path: Path) -> None:
    """ztree had a header of 8 bytes in 6.1, zsmalloc has none."""
    path = trace(tmp_path / "t", [("malloc", 108, 1, 0)])
    assert played(path, "zsmalloc")[0] == ("malloc", 0, 100)
    assert played(path, "zbud")[0] == ("malloc", 0, 108)


def test_threads_have_objects_of_their_own(tmp_path: Path) -> None:
    given: list[Row] = [("malloc", 10 + n, n + 1, 0) for n in range(6)]
    given += [("free", 0, n + 1, 0) for n in range(6)]
    path = trace(tmp_path / "t", given)
    with TraceReader(path) as reader:
        calls = read_calls(reader, "ztree", threads=2)
    middle = int(calls.first[1])
    assert calls.first.tolist() == [0, len(calls.op) // 2, len(calls.op)]
    assert not set(calls.object[:middle].tolist()) & set(calls.object[middle:].tolist())


def test_refuses_what_cannot_be_played(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="no malloc"):
        played(trace(tmp_path / "t", [("free", 0, 1, 0)]))
    with pytest.raises(ReplayError, match="row 1: malloc returned 7"):
        played(trace(tmp_path / "r", [("malloc", 10, 1, 0), ("malloc", 10, 2, 7)]))
    rows = {"ts_ns": [9000, 100, 200], "dur_ns": [5, 5, 5], "op": ["malloc"] * 3, "tid": [7] * 3}
    with TraceWriter(tmp_path / "o", Metadata()) as writer:
        writer.write({**rows, "size": [9, 9, 9], "handle": np.array([1, 2, 3], np.uint64)})
    with pytest.raises(ReplayError, match="row 1 returned"):
        played(tmp_path / "o")


def test_objects_are_paired_as_a_dictionary_would(tmp_path: Path) -> None:
    """Random calls on few handles, many of them unknown or given again."""
    chance = random.Random(15)
    given: list[Row] = []
    for _ in range(3000):
        op = chance.choice(("malloc", "free", "map"))
        given.append((op, 1 + len(given) % 4000, 1 + chance.randrange(40), 0))
    alive: dict[int, list[int]] = {}
    expected: list[tuple[str, int, int]] = []
    sizes: list[int] = []
    for op, size, handle, _ in given:
        queue = alive.setdefault(handle or 0, [])
        if op == "malloc":
            queue.append(len(sizes))
            sizes.append(size)
            expected.append((op, queue[-1], size))
        elif queue and op == "free":
            number = queue.pop(0)
            expected.append((op, number, sizes[number]))
        elif queue:
            expected += [(op, queue[-1], sizes[queue[-1]]), ("unmap", queue[-1], sizes[queue[-1]])]
    assert played(trace(tmp_path / "t", given)) == expected


# -- what an allocator answered ----------------------------------------------------------------


def answers(count: int, **changes: Any) -> Answers:
    """Of calls that took 100, 200 and 300 cycles in three rounds, and 1000 in the first."""
    cycles = np.full((4, count), 1000, np.uint32)
    cycles[1:] = [[300], [100], [200]]
    plain = Answers(
        begin_cycles=np.arange(count, dtype=np.uint64) * 10_000 + 5000,
        handle=np.zeros(count, np.uint64),
        place=np.zeros(count, np.uint64),
        total_bytes=np.full(count, 4096, np.uint64),
        held_pages=np.full(count, 2, np.uint32),
        ret=np.zeros(count, np.int32),
        cycles=cycles,
        events=np.zeros(0, EVENT),
        clock_cycles=20,
        ns_per_cycle=0.5,
    )
    return replace(plain, **changes)


def test_a_calls_time_is_its_least_over_the_timed_rounds(tmp_path: Path) -> None:
    path = trace(tmp_path / "t", [("malloc", 1000, 1, 0), ("free", 0, 1, 0)])
    with TraceReader(path) as reader:
        calls = read_calls(reader, "ztree")
    found = figures(calls, answers(4))
    assert found.times["malloc"].cycles == dict.fromkeys(("p50", "p99", "p999", "p9999", "max"), 80)
    assert found.times["malloc"].ns["p50"] == 40
    assert found.times["malloc"].single_max_ns == [140, 40, 90]
    assert (found.pages_peak, found.pages_mean) == (2, 2)
    # 1000 bytes in two pages after three of the four calls.
    assert found.density == pytest.approx(1000 * 3 / (4 * 2 * 4096))
    assert found.disagree == 1.0  # the second least is twice the least


def test_of_several_threads_the_middle_round_is_told_and_the_waits_of_all(tmp_path: Path) -> None:
    given: list[Row] = [("malloc", 1000, n + 1, 0) for n in range(4)]
    with TraceReader(trace(tmp_path / "t", given)) as reader:
        calls = read_calls(reader, "zsmalloc", threads=2)
    waited = np.zeros((4, len(calls.op)), np.uint32)
    waited[0] = 1000  # in the round that is not timed
    waited[1:, calls.op == MALLOC] = [[0, 0, 0, 40], [0, 0, 0, 0], [0, 0, 0, 80]]
    given_back = answers(len(calls.op), waited_cycles=waited)
    one = figures(calls, given_back).times["malloc"]
    assert set(one.cycles.values()) == {180}  # of 280, 80 and 180
    assert (one.waited_share, one.waited_p50_ns, one.waited_ns) == (2 / 12, 30, 5)
    of_guest = sample(calls, given_back)
    assert of_guest["malloc", "mean"] == of_guest["malloc", "p99"] == 180
    assert of_guest["malloc", "waited"] == 10


def test_a_recording_tells_when_calls_held_the_lock(tmp_path: Path) -> None:
    with TraceReader(
        trace(tmp_path / "t", [("malloc", 1000, n + 1, 0) for n in range(2)])
    ) as reader:
        calls = read_calls(reader, "zsmalloc", threads=2)
    lock = np.where(calls.op == MALLOC, [2000, 0, 0, 400, 0, 0], 0).astype(np.uint32)
    given_back = answers(len(calls.op), lock_cycles=lock)
    for allocator, told in (("zsmalloc", [490, 200]), ("zbud", [490, 200]), ("ztree", None)):
        batch = pa.Table.from_batches(
            [pa.RecordBatch.from_pydict(one) for one in rows(calls, given_back, allocator)]
        )
        assert ("lock_ns" in batch.column_names) == (told is not None)
        if told:
            # Within the call, 980 cycles of half a nanosecond each without the clock's own.
            assert batch.filter(pc.field("op") == MALLOC)["lock_ns"].to_pylist() == told
            assert batch["lock_ns"].null_count == 4


def test_percentiles_are_calls_that_were_made(tmp_path: Path) -> None:
    given: list[Row] = [("malloc", 10, n + 1, 0) for n in range(100)]
    given += [("map", 0, 1, 0)]
    path = trace(tmp_path / "t", given)
    with TraceReader(path) as reader:
        calls = read_calls(reader, "ztree")
    cycles = np.full((3, len(calls.op)), 20, np.uint32)
    cycles[:, :100] = 20 + np.arange(1, 101)
    found = figures(calls, answers(len(calls.op), cycles=cycles)).times["malloc"].cycles
    assert found == {"p50": 50, "p99": 99, "p999": 100, "p9999": 100, "max": 100}


def test_a_measured_trace_says_what_the_allocator_answered(tmp_path: Path) -> None:
    """zbud's handles are addresses: two objects in a page, the third alone; then a wrong one."""
    given: list[Row] = [("malloc", 100, n + 1, 0) for n in range(3)]
    path = trace(tmp_path / "t", [*given, ("malloc", 4090, None, -28)], allocator="zbud")
    page = 0x60000000
    for third, equal in ((0x60001040, 4), (0x60001080, 3)):
        with TraceReader(path) as reader:
            calls = read_calls(reader, "zbud")
            mallocs = np.flatnonzero(calls.op == MALLOC)
            handle = np.zeros(len(calls.op), np.uint64)
            ret = np.zeros(len(calls.op), np.int32)
            for at, value in zip(mallocs, (page + 64, page + 4096 - 128, third, 0), strict=True):
                handle[at : at + 3] = value
            ret[mallocs[3]], ret[mallocs[3] + 1] = -28, NOT_LIVE
            total = np.full(len(calls.op), 4096, np.uint64)
            total[mallocs[2] :] = 8192
            given_back = answers(len(calls.op), handle=handle, ret=ret, total_bytes=total)
            where = Where("program", "6.1", "6.1.192", "a CPU")
            about = metadata(reader.metadata, path, "zbud", calls, given_back, where)
        output = tmp_path / f"{third:x}.parquet"
        with TraceWriter(output, about) as writer:
            for batch in rows(calls, given_back, "zbud"):
                writer.write(batch)
        with TraceReader(output) as reader:
            assert reader.metadata.source == "measure"
            assert reader.metadata.kernel.release == "6.1.192"
            assert reader.num_rows == 10  # 3 x (malloc map unmap) and the refused malloc
        found = compare(output, "zbud")
        assert (found.compared, found.equal) == (4, equal)
        assert found.agrees == (equal == 4)
        assert (found.first is None) == (equal == 4)


def test_a_difference_is_told_by_pairs() -> None:
    """Guests that are slow are slow in both kernels; B is 5 ns slower in free, not in malloc."""
    slow = [0.0, 50.0, 20.0, 90.0]
    wobble = [1.0, -1.0, 1.0, -1.0]
    a: list[Sample] = [{("malloc", "mean"): 40 + s, ("free", "mean"): 30 + s} for s in slow]
    b: list[Sample] = [
        {("malloc", "mean"): 40 + s + w, ("free", "mean"): 35 + s + w / 10}
        for s, w in zip(slow, wobble, strict=True)
    ]
    malloc, free = differences(a, b, 1.0)
    assert (malloc.op, malloc.is_told) == ("malloc", False)
    assert malloc.low_ns < 0 < malloc.high_ns
    assert (free.op, free.is_told) == ("free", True)
    assert free.difference_ns == pytest.approx(5.0)
    # Student's t of three degrees of freedom, 3.182, on four pairs.
    assert free.high_ns - free.difference_ns == pytest.approx(3.182 * np.sqrt(0.04 / 3) / 2)
    with pytest.raises(ReplayError, match="two pairs"):
        differences(a[:1], b[:1], 1.0)


# -- files and sources -------------------------------------------------------------------------


def plan(calls: int) -> Plan:
    """A plan of that many mallocs."""
    return Plan(
        op=np.full(calls, MALLOC, np.int8),
        object=np.arange(calls, dtype=np.uint32),
        size_bytes=np.full(calls, 10, np.uint32),
        is_write=np.zeros(calls, bool),
        objects=calls,
        first=np.array([0, calls], np.uint64),
    )


def test_a_plan_is_laid_out_as_the_player_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "plan"
    write_plan(plan(3), 2, path)
    assert path.stat().st_size == 40 + 2 * 8 + 3 * 8  # struct ztrace_plan, first[], calls
    head = np.fromfile(path, "<u4", 10)
    assert head[2:].tolist() == [3, 3, 1, 2, 0, 0, 0, 0]


def test_answers_of_another_plan_or_cut_short_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    head = np.zeros(26, "<u8")
    head[0] = 0x315F7277736E617A
    head.view("<u4")[2:4] = 3, 2
    whole = head.tobytes() + bytes(3 * (4 * 8 + 2 * 4) + 3 * 3 * 4)
    path.write_bytes(whole)
    assert read_answers(path, plan(3)).cycles.shape == (3, 3)
    with pytest.raises(TracerError, match="not the answers"):
        read_answers(path, plan(4))
    path.write_bytes(whole[:-1])
    with pytest.raises(TracerError, match="cut short"):
        read_answers(path, plan(3))


@pytest.mark.parametrize(("round_", "call", "rounds"), [(0, 2, 1), (2, 1, 2), (1, 0xFFFFFFFF, 1)])
def test_answers_of_an_allocator_that_broke(
    tmp_path: Path, round_: int, call: int, rounds: int
) -> None:
    """Rounds that were played whole are there, and the one that places objects."""
    head = np.zeros(26, "<u8")
    head[0] = 0x315F7277736E617A
    head.view("<u4")[2:4] = 3, 2
    head.view("<u4")[16:20] = 1, round_, call, 0
    said = b"lost".ljust(128, b"\0")
    path = tmp_path / "answers"
    path.write_bytes(head[:10].tobytes() + said + bytes(3 * (4 * 8 + 2 * 4) + 3 * 3 * 4))
    found = read_answers(path, plan(3))
    in_call = call if call < 3 else None
    assert found.broken == Break(round=round_, thread=0, call=in_call, said="lost")
    assert found.cycles.shape == (rounds, 3)
    assert where_broken(found.broken, plan(3)).startswith("in c" if call < 3 else "in CPU 0")


def test_arguments_are_counted_in_the_drivers_source() -> None:
    source = ONEPAGE.read_text()
    assert arguments(source, "create") == 2
    assert arguments(source, "malloc") == 5
    assert arguments(source, "shrink") == 0
    assert arguments("int x;", "malloc") == 0


@pytest.mark.parametrize("text", ["", "=", "zbud=", "Zbud", "a-b", "zbud=/nonexistent/file"])
def test_refuses_what_names_no_allocator(text: str) -> None:
    with pytest.raises(TracerError):
        parse(text)


def test_a_folder_is_taken_with_its_headers(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text("/* */")
    (tmp_path / "own.h").write_text("/* */")
    (tmp_path / "README").write_text("not this")
    found = parse(f"mine={tmp_path}")
    assert (found.main, sorted(found.files)) == ("main.c", ["main.c", "own.h"])
    (tmp_path / "other.c").write_text("/* */")
    with pytest.raises(TracerError, match="which one is mine"):
        parse(f"mine={tmp_path}")


def test_a_copied_tree_follows_the_users(tmp_path: Path) -> None:
    """What changes is copied, what goes is removed, the rest is not touched."""
    tree, copy = tmp_path / "tree", tmp_path / "copy"
    for name in ("mm/zsmalloc.c", "drivers/gpu/Kconfig", "drivers/gpu/big.c", "mm/built.o"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    first = follow(tree, copy)
    there = sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file())
    assert there == ["drivers/gpu/Kconfig", "mm/zsmalloc.c"]
    (copy / "mm" / "ztrace").mkdir()
    (copy / "mm" / "ztrace" / "play.c").write_text("the player's")
    before = (copy / "drivers/gpu/Kconfig").stat().st_ctime_ns
    assert follow(tree, copy) == first
    assert (copy / "drivers/gpu/Kconfig").stat().st_ctime_ns == before
    (tree / "mm/zsmalloc.c").write_text("changed")
    (tree / "drivers/gpu/Kconfig").unlink()
    assert follow(tree, copy) != first
    assert (copy / "mm/zsmalloc.c").read_text() == "changed"
    assert not (copy / "drivers/gpu/Kconfig").exists()
    assert (copy / "mm/ztrace/play.c").exists()


# -- a change of the kernel's own file ----------------------------------------------------------

BEFORE = "".join(f"line {n}\n" for n in range(1, 31))
CHANGE = """\
Subject: [PATCH] two places

--- a/mm/zbud.c
+++ b/mm/zbud.c
@@ -4,3 +4,4 @@ void some(void)
 line 4
-line 5
+line five
+and more
 line 6
@@ -20,3 +21,2 @@
 line 20
-line 21
 line 22
--
2.39
"""


def test_a_diff_changes_what_it_says() -> None:
    wanted = BEFORE.replace("line 5\n", "line five\nand more\n").replace("line 21\n", "")
    assert patched(CHANGE, "mm/zbud.c", BEFORE, "it") == wanted
    # Some lines off, as in another release.
    assert patched(CHANGE, "mm/zbud.c", f"new\nnew\n{BEFORE}", "it") == f"new\nnew\n{wanted}"
    assert patched(CHANGE, "mm/other.c", BEFORE, "it") == BEFORE
    bare = "--- a/mm/zbud.c\n+++ b/mm/zbud.c\n@@ -3,0 +4 @@\n+new\n@@ -9 +10 @@\n-line 9\n+nine\n"
    wanted = BEFORE.replace("line 3\n", "line 3\nnew\n").replace("line 9\n", "nine\n")
    assert patched(bare, "mm/zbud.c", BEFORE, "it") == wanted


def test_a_diff_that_does_not_fit_is_refused() -> None:
    with pytest.raises(TracerError, match=r"hunk 2, of line 20 of mm/zbud\.c"):
        patched(CHANGE, "mm/zbud.c", BEFORE.replace("line 22", "line"), "it")
    with pytest.raises(TracerError, match=r"it: cut short inside mm/zbud\.c"):
        patched(CHANGE[: CHANGE.index(" line 6")], "mm/zbud.c", BEFORE, "it")


def test_a_diff_names_the_kernels_file(tmp_path: Path) -> None:
    file = tmp_path / "fix.diff"
    file.write_text(CHANGE)
    made = parse(f"zbud={file}")
    (tmp_path / "mm").mkdir()
    with pytest.raises(TracerError, match=r"changes mm/zbud.c, which this kernel has not"):
        made.in_tree(tmp_path)
    (tmp_path / "mm" / "zbud.c").write_text(BEFORE)
    assert b"line five" in made.in_tree(tmp_path).files["zbud.c"]
    with pytest.raises(TracerError, match=r"adds no \.c file"):
        parse(f"z3fold={file}")
    file.write_text(CHANGE + CHANGE.replace("zbud.c", "zswap.c"))
    with pytest.raises(TracerError, match=r"changes mm/zswap.c, too; .*--kernel TREE"):
        parse(f"zbud={file}")
