# SPDX-License-Identifier: GPL-2.0-only
"""Comparing places: what a model recorded of itself agrees, and each kind of lie is seen."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from tests.engines import validate_places
from ztrace.allocator import HasPlace, Pool, create
from ztrace.allocator.registry import recorded
from ztrace.commands.validate import command
from ztrace.replay import ReplayError
from ztrace.replay.validate import Verdict
from ztrace.traces import OP_CODE, Metadata, TraceReader, TraceWriter
from ztrace.traces.metadata import Kernel, Machine, PoolInfo

SPECS = {"zbud": "zbud", "zsmalloc": "zsmalloc:6.12"}
OPS = {name: OP_CODE[name] for name in ("malloc", "free", "map", "unmap")}

Row = dict[str, Any]


def history(allocator: str, calls: int = 600, seed: int = 1) -> list[Row]:
    """A recording of the model itself, with the kernel's page addresses made up."""
    rng = random.Random(seed)
    pool: Pool = create(SPECS[allocator])
    assert isinstance(pool, HasPlace)
    addresses: dict[int, int] = {}
    live: list[tuple[int, int]] = []
    rows: list[Row] = []
    for number in range(calls):
        row: Row = {"ts_ns": 1000 * number, "dur_ns": 100, "size": None, "place": None}
        if live and rng.random() < 0.45:
            ours, handle = live.pop(rng.randrange(len(live)))
            pool.free(ours)
            row |= {"op": OPS["free"], "handle": handle}
        else:
            size = rng.randint(1, 3900)
            ours = pool.malloc(size)
            page, position = pool.place(ours)
            address = addresses.setdefault(page, 0x888000000 + rng.randrange(1 << 20) * 7 + page)
            if allocator == "zbud":
                handle = address << 12 | position
            else:
                handle = 0xFFFF888000000000 + 8 * number
                row["place"] = address << 16 | position
            live.append((ours, handle))
            row |= {"op": OPS["malloc"], "handle": handle, "size": size}
        rows.append({**row, "total": pool.total_bytes})
    return rows


def compare(path: Path, rows: list[Row], allocator: str, **options: Any) -> Verdict:
    metadata = Metadata(
        kernel=Kernel(release="6.12.1"),
        machine=Machine(cpus=1),
        pools=[PoolInfo(allocator, "lzo", True, True)],
    )
    with TraceWriter(path, metadata, force=True) as writer:
        wide = {"handle": pa.uint64(), "place": pa.uint64()}
        writer.write(
            {
                name: pa.array([row[name] for row in rows], wide.get(name, pa.int64()))
                for name in rows[0]
                if name != "op"
            }
            | {"op": pa.array([row["op"] for row in rows], pa.int8())}
        )
    with TraceReader(path) as reader:
        return validate_places(reader, **options)


@pytest.mark.parametrize("allocator", SPECS)
def test_a_models_own_history_agrees(allocator: str, tmp_path: Path) -> None:
    rows = history(allocator)
    [pool] = compare(tmp_path / "t", rows, allocator).pools
    mallocs = sum(row["op"] == OPS["malloc"] for row in rows)
    assert pool.places.equal == pool.places.compared == mallocs
    assert pool.sizes.equal == pool.sizes.compared == len(rows)
    assert pool.agrees


def _beside_another(rows: list[Row], allocator: str) -> Row:
    """A malloc into a page where an earlier object still lives: its page is known."""
    live: dict[int, int] = {}
    for row in rows[200:]:
        if row["op"] == OPS["free"]:
            live.pop(row["handle"], None)
            continue
        page = row["handle"] >> 12 if allocator == "zbud" else row["place"] >> 16
        if page in live.values():
            return row
        live[row["handle"]] = page
    raise AssertionError("no page has two objects")


def _move(rows: list[Row], allocator: str) -> None:
    """Say that an object lies in another page than the model has it."""
    row = _beside_another(rows, allocator)
    if allocator == "zbud":
        old, row["handle"] = row["handle"], row["handle"] ^ 1 << 40
        for later in rows:
            if later["handle"] == old and later["op"] == OPS["free"]:
                later["handle"] = row["handle"]
    else:
        row["place"] ^= 1 << 40


def _shift(rows: list[Row], allocator: str) -> None:
    """Say that an object lies elsewhere in its page."""
    row = [row for row in rows if row["op"] == OPS["malloc"]][100]
    if allocator == "zbud":
        old, row["handle"] = row["handle"], row["handle"] ^ 64
        for later in rows:
            if later["handle"] == old and later["op"] == OPS["free"]:
                later["handle"] = row["handle"]
    else:
        row["place"] ^= 1


def _grow(rows: list[Row], allocator: str) -> None:
    """Say that the pool is a page larger."""
    rows[200]["total"] += 4096


def _forget(rows: list[Row], allocator: str) -> None:
    """Leave a free out."""
    frees = [i for i, row in enumerate(rows) if row["op"] == OPS["free"]]
    del rows[frees[50]]


@pytest.mark.parametrize("lie", [_move, _shift, _grow, _forget])
@pytest.mark.parametrize("allocator", SPECS)
def test_each_lie_is_seen(
    allocator: str, lie: Callable[[list[Row], str], None], tmp_path: Path
) -> None:
    rows = history(allocator)
    lie(rows, allocator)
    try:
        assert not compare(tmp_path / "t", rows, allocator).agrees
    except ReplayError as error:  # a place given twice cannot even be played
        assert "which was still allocated" in str(error)


def test_another_rule_is_seen(tmp_path: Path) -> None:
    rows = history("zsmalloc", 3000)
    placement = compare(tmp_path / "t", rows, "zsmalloc", backend="zsmalloc:6.1")
    assert not placement.agrees
    assert compare(tmp_path / "t", rows, "zsmalloc", backend="zsmalloc:6.12").agrees


def test_rules_are_chosen_by_the_recorded_kernel() -> None:
    assert recorded("zsmalloc", "6.1.0-56-amd64", 4096, 1) == "zsmalloc:6.1"
    assert recorded("zsmalloc", "6.12.117+deb12-amd64", 4096, 1) == "zsmalloc:6.12"
    assert recorded("zsmalloc", "7.2.13+deb14-amd64", 4096, 1) == "zsmalloc:7.2"
    assert recorded("zsmalloc", "unknown", 4096, 1) == "zsmalloc:6.12"
    assert recorded("z3fold", "6.1.0", 4096, 2) == "z3fold:cpus=2,work=deferred"
    assert recorded("z3fold", "6.1.0", 16384, 0) == "z3fold:page_bytes=16384,cpus=1,work=deferred"
    assert recorded("zbud", "6.1.0", 4096, 2) == "zbud"


def test_the_command_says_so(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    rows = history("zbud")
    compare(path, rows, "zbud")
    good = CliRunner().invoke(command, [str(path)], standalone_mode=False)
    assert good.return_value == 0
    assert "the model agrees with the kernel" in good.output
    _grow(rows, "zbud")
    compare(path, rows, "zbud")
    bad = CliRunner().invoke(command, [str(path)], standalone_mode=False)
    assert bad.return_value == 1
    assert "599 of 600" in bad.output
    assert "first size that differs: row 200" in bad.output


def test_calls_on_unknown_objects_are_counted_in_json(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    rows = history("zbud")
    mallocs = [i for i, row in enumerate(rows) if row["op"] == OPS["malloc"]]
    del rows[mallocs[3]]
    compare(path, rows, "zbud")
    found = CliRunner().invoke(command, [str(path), "--json"], standalone_mode=False)
    assert found.return_value == 1
    assert json.loads(found.stdout)["pools"][0]["unknown"] == {"free": 1}


def test_a_free_may_return_after_its_handle_was_given_again(tmp_path: Path) -> None:
    [given] = history("zbud", 1)
    free = {**given, "op": OPS["free"], "size": None, "total": None}
    again = {**given, "ts_ns": 1000, "total": None}
    first = {**free, "ts_ns": 900, "dur_ns": 400}
    second = {**free, "ts_ns": 2000}
    [pool] = compare(tmp_path / "t", [given, again, first, second], "zbud").pools
    assert not pool.unknown and pool.calls == 4
    # One that began later is the newer object's: the older one's is missing.
    with pytest.raises(ReplayError, match="which was still allocated"):
        compare(tmp_path / "t", [given, again, {**first, "ts_ns": 1200}, second], "zbud")
    with pytest.raises(ReplayError, match="which was still allocated"):
        compare(tmp_path / "t", [given, again], "zbud")
