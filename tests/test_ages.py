# SPDX-License-Identifier: GPL-2.0-only
"""Writeback by age: known answers, a slow count page by page, and both readings of a trace."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.test_cross_replay import Command, metadata, ztrace
from tests.test_limit import trace
from tests.test_limit_native import rows_of
from ztrace.replay.errors import ReplayError
from ztrace.replay.limit.ages import Age, ages
from ztrace.replay.limit.demand import NotTold, Reading, Want, batches
from ztrace.traces import TraceReader

__all__ = ["ztrace"]  # a fixture

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"
KEPT = metadata("zsmalloc", release="6.12.1")


def test_three_pages(tmp_path: Path) -> None:
    """In us: 1 lies from 0 to 4 and is loaded, 2 from 1 to 3 and is given up, 3 from 2 to the end
    at 5; 4 is same-filled, and takes no memory. In all 4 * 100 + 2 * 200 + 3 * 400 of 5."""
    rows: list[dict[str, Any]] = [
        {"op": "store", "key": 1, "size": 100, "cgroup": 7},
        {"op": "store", "key": 2, "size": 200, "cgroup": 7},
        {"op": "store", "key": 3, "size": 400, "cgroup": 9},
        {"op": "invalidate", "key": 2},
        {"op": "load", "key": 1},
        {"op": "store", "key": 4, "size": 0},
    ]
    with TraceReader(trace(tmp_path / "t", rows, KEPT)) as reader:
        curves, told = ages(reader, (1000, 3500, 2000))
        for engine in ("python", "native"):
            assert ages(reader, (1000, 3500, 2000), engine=engine)[0] == curves
    assert told == NotTold()
    first, *others = curves
    assert (first.stored, first.mean_bytes) == (3, 400.0)
    assert first.curve == [
        Age(1000, 3, 1, (300 + 200 + 800) / 2000),
        Age(2000, 2, 1, (200 + 400) / 2000),
        Age(3500, 1, 1, 50 / 2000),
    ]
    assert [(one.cgroup, one.stored) for one in others] == [(9, 1), (7, 2)]
    assert others[0].curve[0] == Age(1000, 1, 0, 800 / 1200)


def test_a_swapoff_ends_all(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"op": "store", "key": 1, "size": 100},
        {"op": "invalidate"},
        {"op": "load", "key": 1, "ret": -2},
        {"op": "store", "key": 9, "size": 0},
    ]
    with TraceReader(trace(tmp_path / "t", rows, KEPT)) as reader:
        [found], _ = ages(reader, (500, 1500))
    assert found.curve == [Age(500, 1, 0, 0.5), Age(1500, 0, 0, 0.0)]


@pytest.mark.parametrize("seed", range(4))
def test_page_by_page(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    path = trace(tmp_path / "t", rows_of(draw, 500), metadata("zbud", header=8))
    lain: list[tuple[int, int, bool]] = []
    there: dict[int, tuple[int, int]] = {}
    with TraceReader(path) as reader:
        reading = Reading(reader.metadata, NotTold())
        wanted = [one for first, rows in batches(reader) for one in reading.read(rows, first)]
        [found, *_], _ = ages(reader, (20_000, 100_000))
    last = max(one.at_ns for one in wanted)
    for one in wanted:
        gone = list(there) if one.want is Want.DROP_ALL else [one.key]
        for key in gone:
            if key in there:
                since, size = there.pop(key)
                loaded = one.want in (Want.LOAD, Want.LOAD_KEPT)
                lain.append((max(0, one.at_ns - since), size, loaded))
        if one.want is Want.STORE and one.size > 0:
            there[one.key] = (one.at_ns, one.size)
    lain += [(last - since, size, False) for since, size in there.values()]
    for age in found.curve:
        out = [each for each in lain if each[0] > age.age_ns]
        assert age.written_back == len(out)
        assert age.refaults == sum(loaded for _, _, loaded in out)
        freed = sum(size * (idle - age.age_ns) for idle, size, _ in out)
        assert age.freed == pytest.approx(freed / sum(idle * size for idle, size, _ in lain))


def test_the_command(ztrace: Command, tmp_path: Path) -> None:
    path = SAMPLES / "zbud-6.1-small.parquet"
    status, out, err = ztrace("replay", path, "--ages", "auto")
    assert (status, err) == (0, "") and "written back at" in out
    assert max(map(len, out.splitlines())) <= 80
    status, out, _ = ztrace("replay", path, "--ages", "1ms,10ms", "--json")
    curve = json.loads(out)["ages"][0]["curve"]
    assert [one["age_ns"] for one in curve] == [10**6, 10**7]
    assert curve[0]["written_back"] >= curve[1]["written_back"] > 0
    status, _, err = ztrace("replay", path, "--ages", "1s", "--backend", "zbud")
    assert status == 2 and "no allocator is asked" in err
    empty = trace(tmp_path / "t", [{"op": "store", "key": 1, "size": 0}], KEPT)
    with TraceReader(empty) as reader, pytest.raises(ReplayError, match="nothing has an age"):
        ages(reader)
