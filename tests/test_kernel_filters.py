# SPDX-License-Identifier: GPL-2.0-only
"""Filters, sampling, limits and histograms in a real kernel, on a workload of 23 stores."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ztrace.tracer.convert import convert
from ztrace.tracer.filters import is_sampled
from ztrace.tracer.lab.debian import fetch_kernel
from ztrace.tracer.lab.qemu import GuestSize, run_guest
from ztrace.tracer.lab.workloads import WORKLOADS, compile_workload
from ztrace.traces import Metadata, TraceReader, TraceWriter
from ztrace.traces.merging import merge

pytestmark = pytest.mark.kernel

SCRIPT = Path(__file__).parent / "guest" / "filters.sh"


@pytest.fixture(scope="module")
def job(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the guest's script has left its results in."""
    folder = tmp_path_factory.mktemp("filters")
    compile_workload(WORKLOADS["known23"], folder)
    shutil.copy(SCRIPT, folder / "script")
    (folder / "run").write_text(f'export ZTRACE="{sys.executable} -m ztrace"\n. /job/script\n')
    run_guest(fetch_kernel("6.1"), folder, GuestSize(), ["zram"], watch=print)
    for spool in sorted(folder.glob("*.spool")):
        convert(spool, spool.with_suffix(""))
    return folder


def rows_of(job: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(job / f"{name}.parquet").to_pylist()
    return rows


def calls(job: Path, name: str) -> Counter[str]:
    return Counter(row["op"] for row in rows_of(job, name))


def metadata_of(job: Path, name: str) -> Metadata:
    """Of a trace of which nothing was lost, and whose calls are those that the kernel counted."""
    assert (job / f"{name}.status").read_text().strip() == "0"
    with TraceReader(job / f"{name}.parquet") as trace:
        metadata = trace.metadata
    assert metadata.lost_total() == 0
    assert all(check.agrees for check in metadata.counters.check)
    return metadata


def assert_whole_lives(rows: list[dict[str, Any]]) -> int:
    """Every malloc is followed by the free of its object, every other call lies between.

    The number of objects.
    """
    live: set[int] = set()
    objects = 0
    for row in rows:
        if row["op"] == "malloc":
            assert row["ret"] == 0
            assert row["handle"] not in live
            live.add(row["handle"])
            objects += 1
        elif row["op"] in ("map", "unmap"):
            assert row["handle"] in live
        elif row["op"] == "free":
            live.remove(row["handle"])
    assert not live
    return objects


def stores(metadata: Metadata) -> int:
    """Stores that the filters left out."""
    return metadata.left_out["filters"]["store"]


def test_only_the_allocators_calls(job: Path) -> None:
    found = calls(job, "allocator")
    assert (found["malloc"], found["free"], found["store"], found["load"]) == (23, 23, 0, 0)
    assert assert_whole_lives(rows_of(job, "allocator")) == 23
    metadata = metadata_of(job, "allocator")
    assert metadata.filters == {"level": "allocator"}
    assert not metadata.counters.check  # the kernel counts zswap's calls, which have no probe
    assert not {"store", "load", "invalidate", "writeback"} & set(metadata.probes)


def test_only_zswaps_calls(job: Path) -> None:
    found = calls(job, "zswap")
    assert set(found) == {"store", "load", "invalidate"}
    assert (found["store"], found["load"]) == (23, 23)
    # The size of a store is its malloc's, which has a probe and no row.
    sizes = {row["size"] for row in rows_of(job, "zswap") if row["op"] == "store"}
    assert len(sizes) == 23
    assert None not in sizes
    assert metadata_of(job, "zswap").counters.check


def test_a_sample_is_of_whole_lives_of_some_slots(job: Path) -> None:
    metadata = metadata_of(job, "sample")
    rows, found = rows_of(job, "sample"), calls(job, "sample")
    assert metadata.sampling == {"objects": 4.0}
    assert {probe.kind for probe in metadata.probes.values()} == {"kprobe"}
    assert found["store"] + stores(metadata) == 46
    assert 0 < found["store"] < 46
    assert assert_whole_lives(rows) == found["malloc"] == found["store"] == found["load"]
    assert all(is_sampled(row["key"], 4) for row in rows if row["key"] is not None)
    assert not metadata.starts_empty()
    assert {check.counter: check.left_out for check in metadata.counters.check}[
        "vmstat.zswpout"
    ] == stores(metadata)


def test_a_cgroups_objects_are_followed_to_their_end_whoever_ends_them(job: Path) -> None:
    metadata = metadata_of(job, "cgroup")
    rows, found = rows_of(job, "cgroup"), calls(job, "cgroup")
    assert (found["store"], stores(metadata)) == (23, 23)
    assert assert_whole_lives(rows) == 23
    groups = {op: {row["cgroup"] for row in rows if row["op"] == op} for op in found}
    assert len(groups["malloc"]) == 1
    # The slots were given up by swapoff, outside.
    assert groups["free"] - groups["malloc"]
    assert metadata.filters["cgroup"].endswith("some")


def test_a_processs_large_objects(job: Path) -> None:
    metadata = metadata_of(job, "pid")
    rows, found = rows_of(job, "pid"), calls(job, "pid")
    sizes = sorted(row["size"] for row in rows_of(job, "allocator") if row["op"] == "malloc")
    large = [size for size in sizes if size >= 1500]
    assert 0 < len(large) < 23
    assert sorted(row["size"] for row in rows if row["op"] == "malloc") == large
    assert assert_whole_lives(rows) == found["store"] == len(large)
    assert len({row["tid"] for row in rows if row["op"] == "malloc"}) == 1
    assert stores(metadata) == 46 - len(large)


def test_so_many_events(job: Path) -> None:
    metadata = metadata_of(job, "events")
    found = calls(job, "events")
    assert sum(found.values()) == 50
    # What came until the probes were shut is counted; the check is of both.
    assert metadata.left_out["max_events"]
    assert metadata.counters.check


def test_files_of_a_rotated_recording(job: Path) -> None:
    paths = sorted(job.glob("pieces*.parquet"))
    assert len(paths) >= 3
    readers = [TraceReader(path) for path in paths]
    assert [reader.metadata.starts_empty() for reader in readers].count(True) == 1
    with TraceWriter(job / "merged.parquet", readers[0].metadata, force=True) as writer:
        merge(readers, writer)
    (job / "merged.status").write_text("0")
    metadata = metadata_of(job, "merged")
    assert metadata.pieces.is_all
    assert metadata.counters.check
    assert calls(job, "merged")["store"] == 69
    assert assert_whole_lives(rows_of(job, "merged")) == 69
    # Also where a file ends between a call and the size that zswap asked for after it.
    rows = rows_of(job, "merged")
    assert all(row["total"] is not None for row in rows if row["op"] in ("malloc", "free"))


def test_a_flight_keeps_the_last_seconds(job: Path) -> None:
    metadata = metadata_of(job, "flight")
    assert calls(job, "flight")["store"] == 23
    assert metadata.left_out["flight"]["store"] == 23
    assert any("before SIGUSR1" in note for note in metadata.notes)
    assert not metadata.starts_empty()


def test_histograms_count_each_call_and_write_nothing(job: Path) -> None:
    assert (job / "before").read_text() == (job / "after").read_text()
    found = json.loads((job / "histogram.out").read_text())
    ops = found["histograms"]["ops"]
    counts = {op: one["calls"] for op, one in ops.items()}
    assert (counts["store"], counts["load"], counts["malloc"], counts["free"]) == (23,) * 4
    for one in ops.values():
        assert sum(count for _, _, count in one["buckets_ns"]) == one["calls"]
    assert sum(count for _, _, count in found["histograms"]["malloc_bytes"]) == 23
    assert not found["lost"]
    for check in found["counters"]["check"]:
        assert check["kernel_least"] <= check["recorded"] <= check["kernel_most"]


def test_a_cgroups_objects_of_zram(job: Path) -> None:
    metadata = metadata_of(job, "zram")
    rows, found = rows_of(job, "zram"), calls(job, "zram")
    assert metadata.source == "zram"
    assert (found["malloc"], metadata.left_out["filters"]["malloc"]) == (23, 23)
    assert assert_whole_lives(rows) == 23
    assert len({row["cgroup"] for row in rows if row["op"] == "malloc"}) == 1
    # Each malloc got its slot from the call after it, and each slot is given up in the end.
    keys = [row["key"] for row in rows if row["op"] == "malloc"]
    assert None not in keys
    assert {row["key"] for row in rows if row["op"] == "free"} == set(keys)
