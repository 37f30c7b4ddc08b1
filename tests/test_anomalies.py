# SPDX-License-Identifier: GPL-2.0-only
"""Watched replays: the first call of each hazard, stranded bytes over time, by hand and on a real
recording."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.test_cross_replay import Command, ztrace
from tests.test_replay import Kernel, whole
from ztrace.replay.play.anomalies import PARTS, Anomalies, find_anomalies
from ztrace.traces import TraceReader

__all__ = ["ztrace"]  # a fixture

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"


def watched(kernel: Kernel, path: Path, backend: str = "ztree") -> Anomalies:
    with TraceReader(kernel.recording.write(path, whole())) as reader:
        return find_anomalies(reader, backend)


def test_a_hole_that_malloc_does_not_find(tmp_path: Path) -> None:
    """Three full blocks of 8; a slot of block 0 is free but block 1 is current. The 27th call adds
    a fourth block."""
    kernel = Kernel()
    handles = [kernel.malloc(4096) for _ in range(24)]  # rows 0 to 23
    kernel.free(handles[0])
    kernel.malloc(4096)  # takes it
    kernel.free(handles[8])  # block 1 is current
    kernel.free(handles[1])  # block 0 has a hole and block 1 stays current: coeff is 0 < 7
    kernel.malloc(4096)
    kernel.malloc(4096)  # row 29
    found = watched(kernel, tmp_path / "t")
    [hole] = [one for one in found.met if one.name == "H11"]
    assert (hole.row, hole.count, hole.pool) == (29, 1, 0)
    assert hole.t_ns == (29 * 1000 + 100)  # the return of row 29, from the entry of row 0
    assert hole.what == "a new block of type 15 while 1 slots in other blocks of it were free"
    assert found.parts[-1].stranded_slots > 0
    assert found.peak is not None and found.peak.stranded_bytes == 4096
    assert (found.totals.equal, found.totals.compared) == (30, 30)


def test_reclaim_that_is_stuck_on_one_block(tmp_path: Path) -> None:
    """H14: objects that were never mapped cannot be evicted, and no other block is tried."""
    kernel = Kernel()
    for _ in range(24):
        kernel.malloc(4096)
    assert [kernel.shrink() for _ in range(3)] == [-11, -11, -11]  # rows 24 to 26
    found = watched(kernel, tmp_path / "t")
    [stuck] = [one for one in found.met if one.name == "H14"]
    assert stuck.count == 2 and stuck.row == 25


def test_a_backend_without_slots_out_of_sight(tmp_path: Path) -> None:
    kernel = Kernel()
    kernel.malloc(100)
    kernel.malloc(100)
    found = watched(kernel, tmp_path / "t", "zbud")
    assert found.parts == [] and found.peak is None and found.met == []


def test_parts_cover_the_time_evenly(tmp_path: Path) -> None:
    """Nothing happens between the two calls: what was so before stays."""
    kernel = Kernel()
    kernel.malloc(4096)
    kernel.recording.now_ns = 1_000_000
    kernel.malloc(4096)
    found = watched(kernel, tmp_path / "t")
    assert len(found.parts) == PARTS
    assert [part.held_bytes for part in found.parts[1:]] == [8 * 4096] * (PARTS - 1)
    assert found.parts[5].from_ns == pytest.approx(500_000, rel=0.01)


def test_a_real_recording(ztrace: Command) -> None:
    """The model's pool is the kernel's, so what is stranded in it was in the kernel."""
    trace = SAMPLES / "ztree-6.1-bursts.parquet"
    status, out, _ = ztrace("replay", trace, "--backend", "ztree", "--anomalies", "--json")
    assert status == 0
    [found] = json.loads(out)["replays"]
    assert found["totals"]["equal"] == found["totals"]["compared"] == 11138
    assert {one["name"] for one in found["hazards"]} == {"H10", "H11", "H27"}
    status, out, _ = ztrace("replay", trace, "--backend", "ztree", "--json")
    [plain] = json.loads(out)["replays"]
    for one in found["hazards"]:
        assert plain["hazards"][one["name"]] == {"count": one["count"], "first": one["what"]}
    assert found["stranded_peak"]["stranded_bytes"] >= plain["stranded_bytes"] >= 0
    status, out, _ = ztrace("replay", trace, "--backend", "ztree", "--anomalies")
    assert "H10: 82 x, first in row 426 at 42.7 ms: block 1 of type 15 became empty" in out
    assert "totals equal to the kernel's: 11,138 of 11,138" in out


@pytest.mark.parametrize("more", [["--every", "5%"], ["--time"], ["--backend", "zbud"]])
def test_what_it_does_not_go_with(ztrace: Command, more: list[str]) -> None:
    trace = SAMPLES / "ztree-6.1-bursts.parquet"
    status, out, err = ztrace("replay", trace, "--backend", "ztree", "--anomalies", *more)
    assert (status, out) == (2, "") and "--anomalies goes with one --backend" in err
