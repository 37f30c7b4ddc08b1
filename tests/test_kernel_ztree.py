# SPDX-License-Identifier: GPL-2.0-only
"""Recordings of a real kernel, made now, against the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.guests import Watch
from ztrace.allocator.table import c_initialiser
from ztrace.replay import replay_trace
from ztrace.replay.tune import tune
from ztrace.replay.validate.ztree_run import explain_trees
from ztrace.tracer.lab.session import Setup, record_in_guest
from ztrace.tracer.lab.together import record_together
from ztrace.traces import TraceReader

pytestmark = pytest.mark.kernel

WORKLOADS = ("known23", "churn")


def boot(folder: Path, patch: Path | None, watch: Watch) -> None:
    """ztree on 6.1, on one CPU, the workloads one after another."""
    if patch is None:
        return
    setups = {folder / f"{name}.parquet": Setup("6.1", "ztree", name, patch) for name in WORKLOADS}
    for error in record_together(setups, watch=watch).values():
        raise error


GUESTS = {"ztree": boot}

Record = Callable[[str], Path]


@pytest.fixture(scope="module")
def recorded(patch: Path, guest: Callable[[str], Path]) -> Record:
    """``recorded(workload)``: its trace."""
    return lambda workload: guest("ztree") / f"{workload}.parquet"


def test_known_workload_makes_exactly_its_events(recorded: Record) -> None:
    """23 pages swapped out, read back and given up: 23 of each, and the kernel counted 23."""
    path = recorded("known23")
    with TraceReader(path) as trace:
        metadata = trace.metadata
    rows = pq.read_table(path).to_pylist()
    calls = [row["op"] for row in rows]
    for op, count in {"store": 23, "malloc": 23, "load": 23, "free": 23, "map": 46}.items():
        assert calls.count(op) == count, op
    assert {row["ret"] for row in rows} == {0}
    stores = [row for row in rows if row["op"] == "store"]
    mallocs = [row for row in rows if row["op"] == "malloc"]
    # zswap's header is in the malloc's size, not in the store's; both are for the same slot.
    assert [row["size"] + 8 for row in stores] == [row["size"] for row in mallocs]
    assert [row["key"] for row in stores] == [row["key"] for row in mallocs]
    assert len({row["key"] for row in stores}) == 23
    freed = {row["handle"] for row in rows if row["op"] == "free"}
    assert freed == {row["handle"] for row in mallocs}
    assert metadata.lost_total() == 0
    counted = metadata.counters.end["vmstat.zswpout"] - metadata.counters.start["vmstat.zswpout"]
    assert counted == 23
    [pool] = metadata.pools
    assert (pool.allocator, pool.created_in_recording, pool.header_bytes) == ("ztree", True, 8)


def test_one_cpu_every_handle_and_total_is_the_kernels(recorded: Record) -> None:
    """Replayed in recorded order: N handles of N, N totals of N, nothing lost."""
    path = recorded("churn")
    with TraceReader(path) as trace:
        counters = trace.metadata.counters
        assert trace.metadata.lost_total() == 0
    result = replay_trace(path, "ztree")
    print(f"handles {result.handles_equal} of {result.handles_compared}")
    print(f"totals {result.totals_equal} of {result.totals_compared}")
    assert result.handles_compared >= 100_000
    assert result.handles_equal == result.handles_compared
    assert result.totals_compared >= 200_000
    assert result.totals_equal == result.totals_compared
    # Nothing the kernel did is missing: it counted as many stored pages as the trace has.
    stored = counters.end["vmstat.zswpout"] - counters.start["vmstat.zswpout"]
    assert stored == result.handles_compared


def test_a_module_built_with_a_tuned_table_is_the_model_with_that_table(
    lab: None, patch: Path, tmp_path: Path
) -> None:
    """Fitted to a bundled recording, compiled into the posted module, recorded, validated."""
    sample = Path(__file__).parents[1] / "traces" / "samples" / "ztree-6.1-bursts.parquet"
    with TraceReader(sample) as trace:
        table = tune([trace], ["ztree"]).tunings[0].trials[0].table
    assert table is not None
    path = tmp_path / "trace.parquet"
    setup = Setup("6.1", "ztree", "bursts", patch, table=c_initialiser(table))
    record_in_guest(setup, path, watch=print)
    with TraceReader(path) as trace:
        assert trace.metadata.lost_total() == 0
        verdict = explain_trees(trace, table=table)
    assert verdict.explained
    assert sum(tree.tally.calls for tree in verdict.trees) > 1000
    with TraceReader(path) as trace:
        assert not explain_trees(trace).explained
