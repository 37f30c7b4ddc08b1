# SPDX-License-Identifier: GPL-2.0-only
"""Other kernels and allocators, recorded now: what was recorded is all there was, and every
object lies where the model puts it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from replay.validate.placement import compare_places
from tracer.lab.session import Setup, record_in_guest
from traces import TraceReader

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("kernel", "allocator"), [("6.1", "z3fold"), ("6.12", "zsmalloc"), ("7.2", "zsmalloc")]
)
def test_known_workload(kernel: str, allocator: str, lab: None, tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    record_in_guest(Setup(kernel, allocator, "known23"), path, watch=print)
    ops: list[str] = pq.read_table(path, columns=["op"])["op"].to_pylist()
    assert ops.count("store") == ops.count("malloc") == ops.count("load") == 23
    with TraceReader(path) as trace:
        assert trace.metadata.kernel.release.startswith(kernel)
        assert trace.metadata.lost_total() == 0
        [pool] = compare_places(trace).pools
    assert pool.allocator == allocator
    assert pool.places.equal == pool.places.compared >= 23
    assert pool.sizes.equal == pool.sizes.compared >= 46
    assert pool.agrees
