# SPDX-License-Identifier: GPL-2.0-only
"""One door to validation: pools of several allocators in one trace, each checked in its own way."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from tests.test_validate_pages import SPECS, TYPES, Guest, Row, damage
from ztrace.commands.validate import command
from ztrace.replay import ReplayError
from ztrace.replay.validate import Verdict, validate_trace
from ztrace.traces import Metadata, TraceReader, TraceWriter
from ztrace.traces.metadata import Kernel, Machine, PoolInfo

CALLS = 600


def mixed(path: Path, allocators: list[str], damaged: str = "") -> None:
    """A recording of the models themselves, one pool after the other."""
    rows: list[Row] = []
    for number, allocator in enumerate(allocators):
        guest = Guest(allocator, 16384, seed=number)
        guest.now = 10**6 * number
        made = guest.run(CALLS)
        if allocator == damaged:
            damage(made, guest)
        rows += [{**row, "pool": number} for row in made]
    metadata = Metadata(
        kernel=Kernel(release="6.12.1"),
        machine=Machine(cpus=1, page_bytes=16384),
        pools=[PoolInfo(allocator, "lzo", True, True) for allocator in allocators],
    )
    with TraceWriter(path, metadata, force=True) as writer:
        writer.write(
            {
                name: pa.array([row[name] for row in rows], TYPES.get(name, pa.int64()))
                for name in rows[0]
            }
        )


def validated(path: Path, backend: str | None = None) -> tuple[Verdict, int]:
    """The verdict, and rows that progress was told of."""
    done: list[int] = []
    with TraceReader(path) as reader:
        verdict = validate_trace(reader, backend=backend, advance=done.append)
        return verdict, sum(done) - reader.num_rows


def test_pools_of_all_allocators_in_one_trace(tmp_path: Path) -> None:
    path = tmp_path / "t"
    mixed(path, list(SPECS))
    verdict, over = validated(path)
    assert verdict.agrees
    assert verdict.explained == verdict.calls > 1500
    assert verdict.trees is not None and verdict.trees.total("calls") == CALLS
    assert [pool.allocator for pool in verdict.pools] == ["zbud", "z3fold", "zsmalloc"]
    assert all(pool.places.compared > 200 for pool in verdict.pools)
    assert abs(over) <= 1  # each pass has its share
    out = CliRunner().invoke(command, [str(path)], standalone_mode=False)
    assert out.return_value == 0
    assert f"explained: {CALLS} of {CALLS} calls" in out.output
    assert "the model agrees with the kernel" in out.output


@pytest.mark.parametrize("allocator", SPECS)
def test_one_pool_that_does_not_agree_is_enough(allocator: str, tmp_path: Path) -> None:
    path = tmp_path / "t"
    mixed(path, list(SPECS), damaged=allocator)
    verdict, _ = validated(path)
    assert not verdict.agrees and verdict.explained < verdict.calls
    assert verdict.trees is not None
    assert verdict.trees.explained == (allocator != "ztree")
    wrong = [pool.allocator for pool in verdict.pools if not pool.agrees]
    assert wrong == [allocator] * (allocator != "ztree")
    told = CliRunner().invoke(command, [str(path), "--json"], standalone_mode=False)
    assert told.return_value == 1
    document = json.loads(told.stdout)
    assert not document["explained"]
    assert document["calls_explained"] == verdict.explained
    assert [pool["explained"] for pool in document["pools"]] == [
        pool.agrees for pool in verdict.pools
    ]


def test_a_pool_of_an_unknown_allocator_is_ztrees_only_where_it_may_be_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "t"
    mixed(path, ["ztree"])
    with TraceReader(path) as reader:
        metadata, table = reader.metadata, pa.Table.from_batches(list(reader.batches()))
    metadata.pools = [PoolInfo("unknown", "lzo", True, True)]
    with TraceWriter(path, metadata, force=True) as writer:
        writer.write(table)
    assert validated(path)[0].agrees
    mixed(path, ["ztree", "zbud"])
    with TraceReader(path) as reader:
        metadata, table = reader.metadata, pa.Table.from_batches(list(reader.batches()))
    metadata.pools[0] = PoolInfo("unknown", "lzo", True, True)
    with TraceWriter(path, metadata, force=True) as writer:
        writer.write(table)
    with pytest.raises(ReplayError, match="pool 0 is unknown; no places to compare"):
        validated(path)


def test_a_backend_is_for_its_own_pools(tmp_path: Path) -> None:
    path = tmp_path / "t"
    mixed(path, ["ztree", "zsmalloc"])
    other, _ = validated(path, backend="zsmalloc:6.1")
    assert other.trees is not None and other.trees.explained
    assert [pool.backend.partition(",")[0] for pool in other.pools] == ["zsmalloc:6.1"]
    assert not other.pools[0].agrees
    same, _ = validated(path, backend="ztree")
    assert same.agrees
    with pytest.raises(ReplayError, match="write ztree:table=FILE"):
        validated(path, backend="ztree:late")
