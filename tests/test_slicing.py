# SPDX-License-Identifier: GPL-2.0-only
"""Slicing: stretches of time, whole lives of what a task or cgroup owns, pools and ops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from ztrace.commands.slice import command
from ztrace.replay import replay_trace
from ztrace.replay.validate import validate_trace
from ztrace.traces import SCHEMA, Counters, Metadata, PoolInfo, TraceError, TraceReader, TraceWriter
from ztrace.traces.metadata import CounterCheck

SAMPLE = Path(__file__).parents[1] / "traces" / "samples" / "ztree-6.1-bursts.parquet"

Row = dict[str, Any]


def row(end: int, op: str, dur: int = 5, **more: Any) -> Row:
    """A call that returned at ``end``."""
    zero = {"pool": 0, "ret": 0, "cpu": 0, "tid": 0}
    return {"ts_ns": end - dur, "dur_ns": dur, "op": op} | zero | more


def write(path: Path, rows: Sequence[Row], metadata: Metadata | None = None) -> Path:
    columns = {
        field.name: pa.array([one.get(field.name) for one in rows], field.type)
        for field in SCHEMA
        if field.name != "op"
    }
    pools = [PoolInfo("zbud", "lzo", True, True), PoolInfo("z3fold", "lzo", True, True)]
    with TraceWriter(path, metadata or Metadata(pools=pools, duration_ns=999), force=True) as out:
        out.write(columns | {"op": pa.array([one["op"] for one in rows], pa.string())})
    return path


def cut(path: Path, *options: str) -> tuple[pa.Table, Metadata]:
    output = path.parent / "slice"
    run: Result = CliRunner().invoke(command, [str(path), "-o", str(output), "--force", *options])
    if run.exception is not None and not isinstance(run.exception, SystemExit):
        assert not output.exists()
        raise run.exception
    assert run.exit_code == 0, run.output
    with TraceReader(output) as reader:
        table = pa.Table.from_batches(reader.batches(), reader.schema)
        metadata = reader.metadata
    output.unlink()
    return table, metadata


def ends(table: pa.Table) -> list[int]:
    found: list[int] = (table["ts_ns"].to_numpy() + table["dur_ns"].to_numpy()).tolist()
    return found


CALLS = [
    row(100, "malloc", handle=1, size=9, tid=1, key=11, cgroup=7),
    row(110, "store", 40, size=1, tid=1, key=11, cgroup=7),
    row(120, "malloc", handle=2, size=9, tid=2, key=12, cgroup=8),
    row(130, "malloc", handle=1, size=9, tid=2, pool=1, cgroup=8),
    row(129, "load", 60, tid=2, key=11, cgroup=8),
    row(140, "map", handle=1, tid=2, key=11, cgroup=8),
    row(150, "free", handle=1, tid=2, key=11, cgroup=8),
    row(160, "invalidate", 30, tid=2, key=11, cgroup=8),
    row(170, "malloc", handle=1, size=9, tid=2, key=11, cgroup=8),
    row(180, "shrink", tid=1, cgroup=7),
    row(190, "free", handle=1, tid=1, key=11, cgroup=7),
    row(200, "load", tid=1, key=99, cgroup=7),
    row(210, "malloc", tid=1, ret=-12, size=9, cgroup=7),
    row(220, "free", handle=99, tid=1, cgroup=7),
    row(230, "invalidate", tid=3),
]
START = 69  # entry of the load, the earliest


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write(tmp_path / "t", CALLS)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--from", "170"], [170, 180, 190, 200, 210, 220, 230]),
        (["--from", f"{170 - START}ns"], [170, 180, 190, 200, 210, 220, 230]),
        # The load returned at 129 but was seen after what returned at 130.
        (["--from", "130", "--to", "141"], [130, 129, 140]),
        (["--to", "130"], [100, 110, 120]),
        (["--to", "0.000000061s"], [100, 110, 120]),
        (["--op", "free", "--op", "map"], [140, 150, 190, 220]),
        (["--pool", "1"], [130]),
        (["--tid", "1"], [100, 110, 129, 140, 150, 160, 210, 230]),
        (["--pid", "2", "--pool", "0"], [120, 170, 190, 230]),
        (["--cgroup", "7"], [100, 110, 129, 140, 150, 160, 210, 230]),
        (["--cgroup", "7", "--from", "135", "--op", "free"], [150]),
        (["--cgroup", "7", "--cgroup", "8", "--op", "free"], [150, 190]),
        (["--tid", "2", "--cgroup", "7", "--op", "invalidate"], [230]),
    ],
)
def test_rows(trace: Path, options: list[str], expected: list[int]) -> None:
    assert ends(cut(trace, *options)[0]) == expected


def test_rows_are_not_changed(trace: Path) -> None:
    with TraceReader(trace) as reader:
        whole = pa.Table.from_batches(reader.batches(), reader.schema)
    table, _ = cut(trace, "--from", "120", "--op", "free", "--op", "malloc")
    mask = [c["op"] in ("free", "malloc") and c["ts_ns"] + c["dur_ns"] >= 120 for c in CALLS]
    assert table.equals(whole.filter(pa.array(mask)))


def test_a_late_free_means_the_older_object(tmp_path: Path) -> None:
    calls = [
        row(100, "malloc", handle=1, size=9, tid=1),
        row(200, "malloc", handle=1, size=9, tid=2),  # while the free below was on its way out
        row(210, "free", 20, handle=1, tid=3),
        row(300, "map", handle=1, tid=3),
        row(400, "free", handle=1, tid=3),
    ]
    path = write(tmp_path / "t", calls)
    assert ends(cut(path, "--tid", "1")[0]) == [100, 210]
    assert ends(cut(path, "--tid", "2")[0]) == [200, 300, 400]


def test_metadata_says_so(tmp_path: Path) -> None:
    pools = [PoolInfo("zbud", "lzo", True, True), PoolInfo("z3fold", "lzo", True, True)]
    given = Metadata(
        pools=pools,
        duration_ns=999,
        lost={"ring": {"0": 3}},
        counters=Counters({"a": 1}, {"a": 2}, [CounterCheck("a", 1)]),
        filters={"slice_op": "free"},
    )
    path = write(tmp_path / "t", CALLS, given)

    after = cut(path, "--from", "120ns")[1]
    assert after.filters == {"slice_op": "free", "slice_from_ns": str(START + 120)}
    assert [pool.empty_at_start for pool in after.pools] == [False, False]
    assert [pool.created_in_recording for pool in after.pools] == [False, False]
    assert after.counters == Counters({}, {"a": 2})
    assert after.duration_ns == 230 - START - 120
    assert after.lost == {"ring": {"0": 3}}

    before = cut(path, "--to", "130")[1]
    assert before.pools == pools
    assert before.filters["slice_to_ns"] == "130"
    assert before.counters == Counters({"a": 1}, {})
    # Of pool 1 nothing that changes it came before.
    assert [p.empty_at_start for p in cut(path, "--from", "125")[1].pools] == [False, True]
    # All calls that change a pool are there, apart from the shrink of pool 0.
    ops = cut(path, "--op", "malloc", "--op", "free")[1]
    assert [pool.empty_at_start for pool in ops.pools] == [False, True]
    assert ops.filters == {"slice_op": "free and malloc or free"}
    assert ops.duration_ns == 999 and ops.counters == Counters({"a": 1}, {"a": 2})
    mine = cut(path, "--tid", "1", "--cgroup", "7")[1]
    assert mine.filters["slice_tid"] == "1" and mine.filters["slice_cgroup"] == "7"
    assert not mine.starts_empty()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from", "1s"], "no row is left, its calls lie between 69 and 230 ns"),
        (["--to", "60"], "no row is left, its calls lie between"),
        (["--tid", "77", "--op", "free"], "no row is left; choose a filter"),
        (["--from", "200", "--to", "100"], "--from 200 ns is not before --to 100 ns"),
    ],
)
def test_nothing_left_is_one_line(trace: Path, options: list[str], message: str) -> None:
    with pytest.raises(TraceError, match=message) as caught:
        cut(trace, *options)
    assert "\n" not in str(caught.value) and "; " in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--from", "x"],
        ["--from", "9" * 19],
        ["--to", "99999999999h"],
        ["--from", "-1s"],
        ["--pool", "256"],
        ["--tid", "-1"],
        ["--cgroup", str(1 << 64)],
        ["--op", "frob"],
    ],
)
def test_bad_usage(trace: Path, options: list[str]) -> None:
    run = CliRunner().invoke(command, [str(trace), "-o", str(trace.parent / "o"), *options])
    assert run.exit_code == 2 and isinstance(run.exception, SystemExit)
    assert not (trace.parent / "o").exists()


def test_hostile_numbers_pass(tmp_path: Path) -> None:
    big = [
        row(2**63 - 1, "malloc", handle=2**64 - 1, key=2**64 - 1, cgroup=2**64 - 1, tid=2**32 - 1),
        row(2**63 - 1, "free", handle=2**64 - 1, cgroup=1),
        {"ts_ns": -(2**63), "dur_ns": 2**32 - 1, "op": "free", "handle": 2**64 - 1}
        | {"pool": 255, "ret": 0, "cpu": 0, "tid": 0},
    ]
    path = write(tmp_path / "t", big)
    assert cut(path, "--cgroup", str(2**64 - 1))[0].num_rows == 2
    assert cut(path, "--from", "0")[0].num_rows == 3


def test_an_empty_trace_has_no_rows_left(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no row is left"):
        cut(write(tmp_path / "t", []), "--pool", "0")


def test_a_late_slice_replays_as_one(tmp_path: Path) -> None:
    """Objects from before are unknown, not errors; a slice that begins at the start is whole."""
    path = tmp_path / "t"
    path.symlink_to(SAMPLE)
    for options, whole in ((["--to", "1.5s"], True), (["--from", "1.5s"], False)):
        out = tmp_path / f"out{whole}"
        run = CliRunner().invoke(command, [str(path), "-o", str(out), *options])
        assert run.exit_code == 0
        result = replay_trace(out, "ztree")
        assert result.starts_empty == whole
        [pool] = result.pools
        assert bool(pool.unknown) != whole
        with TraceReader(out) as reader:
            assert validate_trace(reader).agrees
    assert not validated_as_whole(tmp_path / "outFalse")


def validated_as_whole(path: Path) -> bool:
    with TraceReader(path) as reader:
        return validate_trace(reader, starts_empty=True).agrees


def test_whole_lives_of_a_real_recording(tmp_path: Path) -> None:
    """Each kept object's calls are all there, and all objects are kept for one of the tasks."""
    path = tmp_path / "t"
    path.symlink_to(SAMPLE)
    with TraceReader(path) as reader:
        whole = pa.Table.from_batches(reader.batches(["op", "handle", "tid"])).to_pandas()
    mallocs = whole[whole.op == "malloc"]
    tasks = mallocs.tid.unique().tolist()
    kept = [cut(path, "--tid", str(tid))[0].to_pandas() for tid in tasks]
    for frame, tid in zip(kept, tasks, strict=True):
        calls = frame.op.value_counts()
        assert calls["malloc"] == calls["free"] == (mallocs.tid == tid).sum()
        assert np.array_equal(calls["map"], calls["unmap"])
    for op in ("malloc", "free", "map", "unmap", "store"):
        assert sum((frame.op == op).sum() for frame in kept) == (whole.op == op).sum()
