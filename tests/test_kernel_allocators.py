# SPDX-License-Identifier: GPL-2.0-only
"""Other kernels and allocators, recorded now: what was recorded is all there was, and every
object lies where the model puts it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from replay.validate.placement import compare_places
from tracer.lab.session import Setup, record_in_guest
from traces import TraceReader

pytestmark = pytest.mark.kernel

# Kernels with type information of what is called, and no preemption inside: the others are
# kprobes, as 6.1's zsmalloc is a module and 7.2 preempts.
FENTRY = {("6.1", "z3fold"), ("6.12", "zsmalloc")}


@pytest.mark.parametrize(
    ("kernel", "backend"),
    [
        ("6.1", "z3fold"),
        ("6.1", "zram"),
        ("6.12", "zsmalloc"),
        ("7.2", "zsmalloc"),
    ],
)
def test_known_workload(kernel: str, backend: str, lab: None, tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    record_in_guest(Setup(kernel, backend, "known23"), path, watch=print)
    rows = pq.read_table(path, columns=["op", "key"]).to_pylist()
    ops = Counter(row["op"] for row in rows)
    # zram keeps no same-filled page, of which there is one, and mkswap wrote its header.
    assert ops["malloc"] == 23
    if backend == "zram":
        keys = {row["key"] for row in rows if row["op"] == "malloc"}
        assert len(keys) == 23
        assert 0 in keys  # the header's page
    else:
        assert ops["store"] == ops["load"] == 23
    with TraceReader(path) as trace:
        metadata = trace.metadata
        assert metadata.kernel.release.startswith(kernel)
        assert metadata.lost_total() == 0
        assert all(one.agrees for one in metadata.counters.check)
        [pool] = compare_places(trace).pools
    # Where a task can be preempted inside the kernel, fentry would lose events.
    kinds = {op: probe.kind for op, probe in metadata.probes.items()}
    assert kinds["malloc"] == ("fentry" if (kernel, backend) in FENTRY else "kprobe")
    assert pool.allocator == ("zsmalloc" if backend == "zram" else backend)
    assert pool.places.equal == pool.places.compared >= 23
    assert pool.sizes.equal == pool.sizes.compared >= 45
    assert pool.agrees
