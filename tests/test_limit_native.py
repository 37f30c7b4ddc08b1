# SPDX-License-Identifier: GPL-2.0-only
"""The closed loop in the core answers as the one in Python: random traces, bundled recordings."""

from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import Any

import pytest

from tests.test_cross_replay import metadata
from tests.test_limit import trace
from ztrace.replay.limit import AT_ONCE, Limit, Outcome, Play, Rules, Worker, play
from ztrace.replay.limit.native import reason_missing
from ztrace.replay.play.backends import every
from ztrace.traces import TraceReader

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"
LATE = Worker(delay_ns=2500, page_ns=1700)
BACKENDS = (
    *("ztree", "zbud", "z3fold", "z3fold:work=deferred", "zsmalloc:6.1", "zsmalloc:7.2"),
    *("zblock:2022", "zblock:2025"),
)

pytestmark = pytest.mark.skipif(reason_missing() is not None, reason="no native core")

OPS = ("malloc",) * 3 + ("store",) * 3 + ("load",) * 2 + ("free", "invalidate")
RETURNS = (0,) * 6 + (-errno.ENOMEM, -errno.ENOSPC, -errno.EPERM)


def rows_of(draw: random.Random, count: int) -> list[dict[str, Any]]:
    """Calls of three tasks, half of the mallocs within a store; now and then all is given up."""
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        op = draw.choice(OPS)
        one: dict[str, Any] = {"op": op, "key": draw.randrange(30), "handle": draw.randrange(4)}
        one |= {"tid": draw.randrange(3), "pool": draw.randrange(2), "ret": draw.choice(RETURNS)}
        one["size"] = draw.choice((None, 0, *[draw.randrange(1, 4104)] * 6))
        if draw.random() < (0.02 if op == "invalidate" else 0.2):
            one["key"] = None
        if rows and rows[-1].get("inside"):
            one["tid"] = rows[-1]["tid"]
        one["inside"] = op in ("malloc", "free") and draw.random() < 0.5
        if op == "load" and draw.random() < 0.2:  # one that began before the call that ends before
            one |= {"ts_ns": 1000 * len(rows) - 1500, "dur_ns": 2400}
        rows.append(one)
    return [*rows, {"op": "store", "key": 0, "size": 100}]


def both(path: Path, backends: list[str], limit: Limit, rules: Rules) -> list[Outcome]:
    """The outcomes of both engines, which are the same."""
    plays = [
        Play(backend, worker, limit, rules) for backend in backends for worker in (AT_ONCE, LATE)
    ]
    with TraceReader(path) as reader:
        core = play(reader, plays, engine="native")
        python = play(reader, plays, engine="python")
    assert core == python
    return core


@pytest.mark.parametrize("release", ["6.1.0-1", "6.12.1"])
@pytest.mark.parametrize("rules", list(Rules))
@pytest.mark.parametrize("seed", range(6))
def test_random_traces(tmp_path: Path, seed: int, rules: Rules, release: str) -> None:
    draw = random.Random(seed)
    meta = metadata("zbud", release=release, header=8)
    path = trace(tmp_path / "t.parquet", rows_of(draw, 600), meta)
    both(path, list(BACKENDS), Limit(draw.randrange(2, 30), 50, draw.choice((40, 90))), rules)


@pytest.mark.parametrize("rules", list(Rules))
@pytest.mark.parametrize("name", ["zbud-6.1-small", "ztree-6.1-bursts", "zsmalloc-6.1-small"])
def test_recordings(name: str, rules: Rules) -> None:
    path = SAMPLES / f"{name}.parquet"
    with TraceReader(path) as reader:
        backends = every(reader.metadata)
    outcomes = both(path, list(backends), Limit(150), rules)
    assert any(outcome.reached for outcome in outcomes)
    assert any(outcome.counts.written_back for outcome in outcomes)


def test_a_fault_ends_both_at_the_same_row(tmp_path: Path) -> None:
    """H12 of ztree: the only block is in use when the limit wants it evicted."""
    rows: list[dict[str, Any]] = [{"op": "store", "key": key, "size": 3000} for key in range(9)]
    path = trace(tmp_path / "t.parquet", rows, metadata("ztree", header=8))
    at_once, late = both(path, ["ztree"], Limit(7), Rules.DRIVER)
    assert at_once.stopped is not None and "H12" in at_once.stopped
    assert late.stopped is not None and late.stopped.split(":")[0] != at_once.stopped.split(":")[0]
    assert at_once.hazards["H12"].row > 0
