# SPDX-License-Identifier: GPL-2.0-only
"""Anonymising: what a trace is for stays, figure for figure; what tells whose it is goes."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from ztrace.allocator import HasPlace, Pool, create
from ztrace.commands.anonymise import command
from ztrace.replay import replay_trace
from ztrace.replay.validate import validate_trace
from ztrace.traces import (
    SCHEMA,
    Counters,
    Kernel,
    Machine,
    Metadata,
    PoolInfo,
    TraceReader,
    TraceWriter,
)
from ztrace.traces.anonymise import Names
from ztrace.traces.metadata import RELATIVE
from ztrace.traces.slicing import Moment, Selection, slice_trace

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"
MODELS = {
    "zbud": "zbud",
    "z3fold": "z3fold:cpus=1,work=deferred",
    "zsmalloc": "zsmalloc:6.12",
}
KERNEL = 0xFFFF888000000000

Row = dict[str, Any]


def write(path: Path, rows: Sequence[Row], metadata: Metadata) -> Path:
    columns = {
        field.name: pa.array([row.get(field.name) for row in rows], field.type)
        for field in SCHEMA
        if field.name != "op"
    }
    with TraceWriter(path, metadata, force=True) as writer:
        writer.write(columns | {"op": [row["op"] for row in rows]})
    return path


def read(path: Path) -> pa.Table:
    with TraceReader(path) as reader:
        return pa.Table.from_batches(reader.batches(), reader.schema)


def anonymised(path: Path, *options: str) -> Path:
    output = path.parent / f"anonymous-{path.name}"
    run = CliRunner().invoke(command, [str(path), "-o", str(output), "--force", *options])
    assert run.exit_code == 0, run.output
    return output


def history(allocator: str, calls: int = 1500) -> list[Row]:
    """A recording of the model itself, its pages at addresses that are used again and again."""
    rng = random.Random(3)
    pool: Pool = create(MODELS[allocator])
    assert isinstance(pool, HasPlace)
    frames = [(KERNEL >> 12) + number for number in rng.sample(range(1 << 20), 400)]
    rng.shuffle(frames)
    address: dict[int, int] = {}
    live: dict[int, int] = {}  # recorded handle -> the model's
    rows: list[Row] = []
    for number in range(calls):
        row: Row = {"ts_ns": 10**12 + 1000 * number, "dur_ns": 100, "key": number, "ret": 0}
        row |= {"pool": 0, "cpu": 0, "tid": 4000 + number % 3, "cgroup": 777}
        used = {pool.place(given).page for given in live.values()}
        for page in [page for page in address if page not in used]:
            frames.append(address.pop(page))
        choice = rng.random()
        if live and choice < 0.4:
            handle = rng.choice(list(live))
            pool.free(live.pop(handle))
            row |= {"op": "free", "handle": handle}
        elif live and choice < 0.6 and allocator == "z3fold":
            handle = rng.choice(list(live))
            page, position = pool.place(live[handle])
            pool.map(live[handle])
            pool.unmap(live[handle])
            frame = address.setdefault(page, frames.pop(0) if page not in address else 0)
            row |= {"op": "map", "handle": handle, "place": frame << 12 | position}
            rows.append({**row, "total": pool.total_bytes})
            row |= {"op": "unmap", "place": None}
        else:
            size = rng.randint(1, 3900)
            given = pool.malloc(size)
            page, position = pool.place(given)
            frame = address.setdefault(page, frames.pop(0) if page not in address else 0)
            handle = frame << 12 | position if allocator == "zbud" else KERNEL + 8 * number
            if allocator == "zsmalloc":
                row["place"] = (frame & (1 << 48) - 1) << 16 | position
            live[handle] = given
            row |= {"op": "malloc", "handle": handle, "size": size}
        rows.append({**row, "total": pool.total_bytes})
    return rows


def recording(path: Path, allocator: str, rows: Sequence[Row]) -> Path:
    metadata = Metadata(
        kernel=Kernel("6.12.1-corp7"),
        machine=Machine(cpus=1),
        pools=[PoolInfo(allocator, "lzo", True, True)],
    )
    return write(path, rows, metadata)


VARYING = {"trace", "wall_s", "rows_per_s", "calls_per_s", "measured_here", "first"}


def figures(value: Any, since_ns: int = 0) -> Any:
    """A result without names, speeds, and what it quotes of a call; times from ``since_ns``."""
    if isinstance(value, dict):
        return {
            key: item - since_ns
            if key.endswith("_ns") and isinstance(item, int) and item >= since_ns
            else figures(item, since_ns)
            for key, item in value.items()
            if key not in VARYING
        }
    if isinstance(value, list):
        return [figures(item, since_ns) for item in value]
    return value


def first_ns(path: Path) -> int:
    return int(read(path)["ts_ns"].to_numpy().min())


@pytest.mark.parametrize("name", ["2cpu", "bursts"])
def test_replay_and_validate_answer_as_before_of_real_recordings(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    sample = SAMPLES / f"ztree-6.1-{name}.parquet"
    with TraceReader(sample) as reader, TraceWriter(path, reader.metadata) as writer:
        slice_trace(reader, writer, Selection(end=Moment(3 * 10**9)))  # some seconds suffice
    verdicts, results = [], []
    for trace in (path, anonymised(path)):
        results.append(figures(replay_trace(trace, "ztree").to_dict(), first_ns(trace)))
        with TraceReader(trace) as reader:
            verdict = validate_trace(reader).to_dict()
        verdict.pop("races")  # quotes calls with their times and tasks
        verdicts.append(figures(verdict))
    assert verdicts[0] == verdicts[1]
    assert results[0] == results[1]
    assert verdicts[0]["calls_explained"] > 10_000


def _lie(rows: list[Row], allocator: str) -> None:
    """Let some objects lie in other pages: the comparison finds some equal and some not."""
    column = "handle" if allocator == "zbud" else "place"
    moved = [row for row in rows[300::40] if row.get(column) and row["op"] in ("malloc", "map")]
    assert moved
    for row in moved:
        before = row[column]
        row[column] ^= 1 << 40
        if allocator == "zbud":
            later = rows[rows.index(row) :]
            end = next((r for r in later if r["op"] == "free" and r["handle"] == before), None)
            if end is not None:
                end["handle"] = row["handle"]


@pytest.mark.parametrize("lies", [False, True])
@pytest.mark.parametrize("allocator", MODELS)
def test_places_are_shared_as_before(allocator: str, lies: bool, tmp_path: Path) -> None:
    rows = history(allocator)
    if lies:
        _lie(rows, allocator)
    path = recording(tmp_path / "t", allocator, rows)
    found = []
    for trace in (path, anonymised(path)):
        with TraceReader(trace) as reader:
            placement = validate_trace(reader)
        assert placement.agrees != lies
        found.append(figures(placement.to_dict()))
    assert found[0] == found[1]
    [pool] = found[0]["pools"]
    assert pool["places"]["compared"] > 100
    both = [replay_trace(trace, "zbud") for trace in (path, anonymised(path))]
    was, now = (figures(r.to_dict(), since) for r, since in zip(both, (10**12, 0), strict=True))
    assert was == now


SECRETS = ["corp7", "zeus", "Xeon", "2026", "payroll", "beef", "/dev/sdz", "99887766"]


def test_no_identity_is_left(tmp_path: Path) -> None:
    metadata = Metadata(
        kernel=Kernel("6.12.1-corp7", "#1 SMP zeus 2026", "beef" * 16, {"host": "zeus"}),
        machine=Machine("Xeon", 4, 99887766, 4096, "x86_64", {"hostname": "zeus"}),
        pools=[PoolInfo("zbud", "lzo", True, True, 8, {"path": "/dev/sdz"})],
        parameters={"enabled": "Y", "backing_dev": "/dev/sdz"},
        filters={"cgroup": "/payroll"},
        command=["payroll"],
        started_utc="2026-01-01",
        counters=Counters(
            {"vmstat.zswpin": 99887766, "vmstat.pswpin": 5},
            {"vmstat.zswpin": 99887768},
            extra={"x": "zeus"},
        ),
        notes=["zeus"],
        extra={"hostname": "zeus"},
    )
    row = {"ts_ns": 998877665544, "op": "malloc", "handle": KERNEL + 0x123040, "size": 9}
    row |= {"dur_ns": 5, "pool": 0, "ret": 0, "cpu": 3, "tid": 31337, "cgroup": 424242, "key": 5151}
    path = write(tmp_path / "t", [row], metadata)
    out = anonymised(path)
    with TraceReader(out) as reader:
        after = reader.metadata
    text = json.dumps(after.to_dict())
    assert [word for word in SECRETS if word in text] == []
    assert after.clock == RELATIVE and after.kernel.release == "6.12.1"
    assert (after.machine.cpus, after.machine.page_bytes) == (4, 4096)
    assert after.pools == [PoolInfo("zbud", "lzo", True, True, 8)]
    assert after.counters == Counters({"vmstat.zswpin": 0}, {"vmstat.zswpin": 2})
    assert after.extra == {} and after.parameters == {"enabled": "Y"}
    assert read(out).to_pylist() == [
        dict.fromkeys(SCHEMA.names)
        | {"ts_ns": 0, "op": "malloc", "handle": 0xFFFF000000001040, "size": 9, "dur_ns": 5}
        | {"pool": 0, "ret": 0, "cpu": 3, "tid": 1, "cgroup": 1, "key": 1}
    ]
    with TraceReader(anonymised(path, "--keep-machine")) as reader:
        kept = reader.metadata
    assert kept.machine == Machine("Xeon", 4, 99887766, 4096, "x86_64")
    assert kept.kernel == Kernel("6.12.1-corp7", "#1 SMP zeus 2026", "beef" * 16)


def test_handles_are_kept_where_they_are_numbers(tmp_path: Path) -> None:
    number, address = 5 << 60 | 1234 << 4 | 3, KERNEL | 0x5678
    rows = [
        {"ts_ns": n, "op": "malloc", "pool": pool, "handle": handle, "size": 9, "dur_ns": 0}
        | {"ret": 0, "cpu": 0, "tid": 0, "cgroup": 0}
        for n, (pool, handle) in enumerate(
            [(0, number), (0, address), (1, number), (1, address), (2, number), (2, address)]
        )
    ]
    pools = [PoolInfo("ztree"), PoolInfo("zbud")]  # pool 2 is not in the metadata
    path = write(tmp_path / "t", rows, Metadata(pools=pools))
    first = 0xFFFF000000001678
    second = 0xFFFF000000002000 | number & 0xFFF
    table = read(anonymised(path))
    assert table["handle"].to_pylist() == [number, first, second, first, second, first]
    assert table["tid"].to_pylist() == table["cgroup"].to_pylist() == [0] * 6  # no task, none
    kept = read(anonymised(path, "--keep-handles"))["handle"].to_pylist()
    assert kept == [number, first, second, first, number, address]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5))))
def test_names_are_numbers_by_first_appearance(batches: list[list[int]]) -> None:
    names = Names()
    expected: dict[int, int] = {}
    for batch in batches:
        given = names(np.array(batch, np.uint64)).tolist()
        assert given == [expected.setdefault(value, len(expected) + 1) for value in batch]
    assert len(names) == len(expected)


def test_twice_is_once(tmp_path: Path) -> None:
    path = recording(tmp_path / "t", "zsmalloc", history("zsmalloc", 300))
    once = anonymised(path)
    assert read(anonymised(once)).equals(read(once))


def test_times_too_far_apart_are_one_line(tmp_path: Path) -> None:
    rows = [
        {"ts_ns": ts, "op": "free", "dur_ns": 0, "pool": 0, "ret": 0, "cpu": 0, "tid": 0}
        for ts in (-(2**62), 2**62)
    ]
    path = write(tmp_path / "t", rows, Metadata())
    out = tmp_path / "o"
    run = CliRunner().invoke(command, [str(path), "-o", str(out)])
    assert "too far apart" in str(run.exception) and "\n" not in str(run.exception)
    assert not out.exists()
