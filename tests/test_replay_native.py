# SPDX-License-Identifier: GPL-2.0-only
"""Replay by the core: recordings and random traces, possible or not, as by the Python engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines import assert_same, replay_both
from ztrace.allocator import native
from ztrace.replay import Every, ReplayError, replay
from ztrace.replay.order.found import find_order
from ztrace.replay.play.native import replay_native
from ztrace.traces import (
    OP_CODE,
    OPS,
    SCHEMA,
    Metadata,
    PoolInfo,
    TraceError,
    TraceReader,
    TraceWriter,
)

if native.reason_missing():
    pytest.skip("no native core to compare", allow_module_level=True)

ROOT = Path(__file__).parents[1]
SAMPLES = sorted((ROOT / "traces" / "samples").glob("*.parquet"))
BACKENDS = [
    *("ztree", "zbud", "z3fold", "zsmalloc:6.1", "zsmalloc:6.12", "zsmalloc:7.2"),
    *("ztree:late", "zblock:2022", "zblock:2025"),
]
VARIANTS = [
    *BACKENDS,
    *("z3fold:work=deferred", "z3fold:work=immediate", "z3fold:cpus=2", "z3fold:page_bytes=16384"),
    *("ztree:page_bytes=16384", "ztree:page_bytes=65536", "zbud:page_bytes=65536"),
    *("zsmalloc:6.1,chain_size=16", "zsmalloc:6.12,chain_size=4"),
    "zsmalloc:7.2,chain_size=5,page_bytes=65536",
    *("zsmalloc:7.2,chain_rule=used,chain_size=16", "zsmalloc:6.12,chain_saving=1,class_step=40"),
    *("ztree:late,page_bytes=65536", "zblock:2025,page_bytes=16384"),
]
"""Of the backends with other pages than the recordings' there are random traces only."""
VECTORS = {
    "ztree": "ztree_*",
    "zbud": "zbud_*",
    "z3fold": "z3fold_*",
    "zsmalloc:6.1": "zsmalloc_6.1",
    "zsmalloc:6.12": "zsmalloc_6.12*",
    "zsmalloc:7.2": "zsmalloc_6.12*",
    "ztree:late": "late_ztree",
    "zblock:2022": "zblock_2022",
    "zblock:2025": "zblock_2025",
    "zblock:2025,page_bytes=16384": "zblock_2025_16k",
}


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_recordings_through_all_backends_at_once(path: Path) -> None:
    with TraceReader(path) as reader:
        few = BACKENDS
        if reader.num_rows < 50_000:  # for more the Python engine needs minutes
            few = [backend for backend in VARIANTS if "page_bytes" not in backend]
        for answered in replay_native(reader, few):
            assert answered.rows == reader.num_rows
            assert_same(answered, replay(reader, answered.backend))


def test_a_recording_in_found_order() -> None:
    with TraceReader(ROOT / "traces/samples/ztree-6.1-2cpu.parquet") as reader:
        order = find_order(reader)
        assert order is not None
        [answered] = replay_native(order, ["ztree"], every=Every(percent=7))
        assert_same(answered, replay(order, "ztree", every=Every(percent=7)))
        assert answered.handles_equal == answered.handles_compared > 0


@pytest.mark.parametrize(("backend", "pattern"), VECTORS.items())
def test_vectors(backend: str, pattern: str) -> None:
    files = sorted(map(str, (ROOT / "tests" / "vectors").glob(f"{pattern}.txt")))
    command = [sys.executable, str(ROOT / "tests" / "conformance.py"), backend, *files]
    done = subprocess.run([*command, "--engine", "native"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].endswith(" passed, 0 failed")


# -- random traces -----------------------------------------------------------------------------

HANDLES = st.sampled_from([None, *range(8), 0xF << 60, (0xF << 60) + 1, 2**64 - 2, 2**64 - 1])
ROWS = st.fixed_dictionaries(
    {
        "op": st.sampled_from(
            [
                *["malloc"] * 6,
                *["free"] * 4,
                *["map", "unmap", "shrink", "writeback", "compact"],
                *OPS,
            ]
        ),
        "step": st.integers(-50, 200),
        "dur_ns": st.sampled_from([0, 10, 100, 1000, 2**32 - 1]),
        "pool": st.sampled_from([0, 0, 0, 0, 1, 2, 255]),
        "size": st.one_of(st.integers(1, 4096), st.sampled_from([4000, 4000, 0, None, 4097])),
        "handle": HANDLES,
        "ret": st.sampled_from([0, 0, 0, 0, 0, 1, -12, -22, -28, -17, -(2**31)]),
        "total": st.one_of(st.none(), st.integers(0, 20000), st.just(2**64 - 1)),
        "tid": st.sampled_from([7, 7, 99]),
        "cpu": st.sampled_from([0, 1, 2, 300]),
        "place": st.sampled_from([None, 0, 5, 4096, 3 * 4096 + 7, 2**64 - 1]),
    }
)
POOLS = st.lists(
    st.builds(
        PoolInfo,
        allocator=st.sampled_from(["ztree", "zbud", "z3fold", "zsmalloc", "unknown", "synthetic"]),
        empty_at_start=st.booleans(),
        header_bytes=st.sampled_from([0, 0, 8, 100]),
    ),
    max_size=3,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all examples, which overwrite each other's trace."""
    return tmp_path_factory.mktemp("native")


def write(path: Path, rows: list[dict[str, Any]], metadata: Metadata) -> Path:
    """Write rows whose ``step`` is the time since the one before."""
    now = 10_000
    columns: dict[str, list[Any]] = {name: [] for name in (*ROW_COLUMNS, "ts_ns")}
    for row in rows:
        now += row["step"]
        columns["ts_ns"].append(now)
        for name in ROW_COLUMNS:
            columns[name].append(OP_CODE[row[name]] if name == "op" else row[name])
    types = {name: pa.int8() if name == "op" else SCHEMA.field(name).type for name in columns}
    with TraceWriter(path, metadata, force=True) as writer:
        writer.write({name: pa.array(values, types[name]) for name, values in columns.items()})
    return path


ROW_COLUMNS = ("op", "dur_ns", "pool", "size", "handle", "ret", "total", "tid", "cpu", "place")


@settings(max_examples=400, deadline=None)
@given(
    rows=st.lists(ROWS, max_size=50),
    pools=POOLS,
    lost=st.booleans(),
    release=st.sampled_from(["6.1.0", "6.12.0"]),
    backend=st.sampled_from(VARIANTS),
    every=st.sampled_from([None, Every(percent=9), Every(ns=333)]),
)
def test_random_traces(
    folder: Path,
    rows: list[dict[str, Any]],
    pools: list[PoolInfo],
    lost: bool,
    release: str,
    backend: str,
    every: Every | None,
) -> None:
    metadata = Metadata(pools=pools, lost={"ring": {"0": 1}} if lost else {})
    metadata.kernel.release = release
    path = write(folder / "trace.parquet", rows, metadata)
    with TraceReader(path) as reader:
        try:
            replay_both(reader, backend, every=every)
        except ReplayError:
            return


@settings(max_examples=150, deadline=None)
@given(
    picks=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 40), ROWS), max_size=80),
    backend=st.sampled_from(VARIANTS),
)
def test_random_traces_that_are_possible(
    folder: Path, picks: list[tuple[int, int, dict[str, Any]]], backend: str
) -> None:
    """Mallocs and frees that fit together, so that the models get far; shrinks with evictions,
    compactions of pages that a map has named."""
    live: list[int] = []
    rows: list[dict[str, Any]] = []
    for number, (choice, which, row) in enumerate(picks):
        row |= {"pool": 0, "ret": 0, "size": row["size"] or 100}
        row["size"] = min(row["size"], 4096)
        if choice < 5 or not live:
            handle = number if choice else (0xF << 60) + number
            row |= {"op": "malloc", "handle": handle}
            live.append(handle)
        elif choice < 8:
            row |= {"op": "free", "handle": live.pop(which % len(live))}
        elif choice == 8:
            row |= {"op": ("map", "unmap")[which % 2], "handle": live[which % len(live)]}
            row["place"] = 4096 * (which % 5)
        elif choice > 9:
            row |= {"op": "compact", "size": int(which % 7 == 1), "place": 4096 * (which % 5)}
        else:
            row |= {"op": ("shrink", "writeback")[which % 2], "handle": live[which % len(live)]}
            row["dur_ns"] = 1000
        rows.append(row)
    family = backend.partition(":")[0]
    pool = PoolInfo(family, "lz4", True, which_empty := len(picks) % 2 == 0)
    path = write(folder / "possible.parquet", rows, Metadata(pools=[pool]))
    assert pool.empty_at_start is which_empty
    with TraceReader(path) as reader:
        try:
            replay_both(reader, backend, every=Every(percent=20))
        except ReplayError:
            return


LONG = 6_000
"""Rows, more than are worked on at a time within a batch."""


def plain_rows(**last: Any) -> list[dict[str, Any]]:
    """Mallocs and frees in turn, each with the total; ``last`` changes the last malloc."""
    rows = []
    for number in range(LONG):
        row: dict[str, Any] = dict.fromkeys(ROW_COLUMNS, 0)
        row |= {"step": 10, "tid": 7, "place": None}
        row |= {"op": ("malloc", "free")[number % 2], "size": 100, "handle": number // 2}
        rows.append(row | {"total": 4096 * (1 - number % 2)})
    rows[-2] |= last
    return rows


def test_what_cannot_be_is_found_before_any_of_the_batch_is_played(folder: Path) -> None:
    rows = plain_rows(size=0)
    rows[11]["handle"] = 99_999  # which playing would refuse
    metadata = Metadata(pools=[PoolInfo("zbud", "lzo", True, True)])
    path = write(folder / "late.parquet", rows, metadata)
    refused = pytest.raises(ReplayError, match=f"row {LONG - 2}: malloc of 0 bytes")
    with TraceReader(path) as reader, refused:
        replay_both(reader, "zbud")


def test_tables_that_double_in_place(folder: Path) -> None:
    """So many objects that the core's table of them is doubled twice where it is."""
    rng = np.random.default_rng(5)
    handles = rng.integers(0, 2**63, 110_000, np.uint64, endpoint=True)
    freed = rng.permutation(handles)
    count = len(handles) + len(freed)
    path = folder / "many.parquet"
    pool = PoolInfo("synthetic", "none", True, True)
    with TraceWriter(path, Metadata(pools=[pool]), force=True) as writer:
        writer.write(
            {
                "ts_ns": np.arange(count),
                "op": np.repeat([OP_CODE["malloc"], OP_CODE["free"]], len(handles)).astype(np.int8),
                "handle": np.concatenate([handles, freed]),
                "size": np.tile(rng.integers(1, 4097, len(handles)).astype(np.uint32), 2),
            }
        )
    with TraceReader(path) as reader:
        result = replay_both(reader, "ztree")
    assert (result.objects.peak, result.objects.end) == (len(handles), 0)


def test_a_pool_counts_from_the_beginning_of_its_first_batch(folder: Path) -> None:
    rows = plain_rows(pool=1, total=None)
    rows[-1] |= {"pool": 1, "total": None}
    metadata = Metadata(pools=[PoolInfo("zbud", "lzo", True, True)] * 2)
    with TraceReader(write(folder / "two.parquet", rows, metadata)) as reader:
        result = replay_both(reader, "zbud", every=Every(percent=5))
    assert {moment.kernel_total for moment in result.series} == {None}


def test_a_damaged_trace_is_refused(tmp_path: Path) -> None:
    whole = SAMPLES[0].read_bytes()
    path = tmp_path / "damaged.parquet"
    path.write_bytes(whole[:20_000] + b"\0" * 500 + whole[20_500:])
    with TraceReader(path) as reader, pytest.raises(TraceError, match="damaged"):
        replay_native(reader, ["ztree", "zbud"])


# -- the command line --------------------------------------------------------------------------


def run(*arguments: str, core: str | None = None) -> subprocess.CompletedProcess[str]:
    """``ztrace replay`` of the smallest sample; ``core`` is where to look for the core."""
    environment = {**os.environ} | ({} if core is None else {"ZTRACE_NATIVE": core})
    sample = ROOT / "traces/samples/ztree-6.1-bursts.parquet"
    command = [sys.executable, "-m", "ztrace", "replay", str(sample), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def figures(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("measured here")]


def test_engines_print_the_same() -> None:
    ours = run("--backend", "ztree", "--every", "10%")
    theirs = run("--backend", "ztree", "--every", "10%", "--engine", "python")
    assert (ours.returncode, ours.stderr, theirs.stderr) == (0, "", "")
    assert figures(ours.stdout) == figures(theirs.stdout)


def test_without_the_core_one_line_and_the_same_figures(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.so")
    ours = run("--backend", "zbud", "--backend", "ztree")
    theirs = run("--backend", "zbud", "--backend", "ztree", core=missing)
    assert theirs.returncode == 0
    assert theirs.stdout == ours.stdout
    assert theirs.stderr.count("\n") == 1
    assert "native core" in theirs.stderr
    asked = run("--backend", "zbud", "--engine", "native", core=missing)
    assert (asked.returncode, asked.stdout, asked.stderr.count("\n")) == (2, "", 1)
    assert run("--backend", "zbud", "--engine", "python", core=missing).stderr == ""
