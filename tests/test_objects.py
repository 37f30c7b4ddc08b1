# SPDX-License-Identifier: GPL-2.0-only
"""Lives of objects as arrays, against the rules of lives one call after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_replay import Recording, late, whole
from ztrace.replay import ReplayError
from ztrace.replay.read import objects
from ztrace.replay.read.lives import FREE_WAITS_ROWS, Lives
from ztrace.replay.read.objects import Calls, Follower, calls_of
from ztrace.traces import TraceReader

Row = tuple[Any, ...]
CALLS = st.lists(
    st.tuples(
        st.sampled_from(["malloc", "malloc", "free", "free", "failed", "map"]),
        st.integers(0, 4),  # handle
        st.integers(0, 1),  # pool
        st.integers(0, 5000),  # duration, several calls long
    ),
    max_size=40,
)


def record(calls: list[tuple[str, int, int, int]], path: Path) -> Path:
    """Calls a µs apart; every one returned before the next row's did."""
    recording = Recording()
    for at, (name, handle, pool, dur) in enumerate(calls):
        recording.row(
            "malloc" if name == "failed" else name,
            handle=handle,
            pool=pool,
            size=100 + at,
            ret=-12 if name == "failed" else 0,
            ts_ns=10_000 + 1000 * at - dur,
            dur_ns=dur,
        )
    return recording.write(path, late())


def one_by_one(calls: list[tuple[str, int, int, int]]) -> tuple[list[Row], list[Row]]:
    """(pool, size, row, given, ended) of each object that ended, and of those that are live."""
    ended: list[Row] = []
    now = 0
    pools = {
        pool: Lives[Row]("", whole=False, lost=lambda old: ended.append((*old, now)))
        for pool in (0, 1)
    }
    for at, (name, handle, pool, dur) in enumerate(calls):
        now = 10_000 + 1000 * at
        if name == "malloc":
            pools[pool].give(handle, (pool, 100 + at, at, now), now, at)
        elif name == "free":
            known = pools[pool].take(handle, now - dur)
            if known is not None:
                ended.append((*known, now))
    live = [(*one, 0) for pool in pools.values() for one in pool.live.values()]
    return sorted(ended), sorted(live)


def rows_of(found: np.ndarray[Any, Any]) -> list[Row]:
    names = ("pool", "size", "row", "given_ns", "ended_ns")
    return sorted(tuple(int(one[name]) for name in names) for one in found)


@pytest.fixture(scope="module")
def tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("objects")


@settings(max_examples=200, deadline=None)
@given(CALLS, st.lists(st.integers(0, 40), max_size=4))
def test_arrays_are_as_one_by_one(
    tmp: Path, calls: list[tuple[str, int, int, int]], cuts: list[int]
) -> None:
    """However the trace is cut into pieces."""
    ended = []
    with TraceReader(record(calls, tmp / "t.parquet")) as reader:
        follower = Follower(reader)
        for piece in calls_of(reader, 4096):
            rest = piece
            for cut in sorted(cuts, reverse=True):
                first, last = rest.cut(min(cut, len(rest.calls)))
                assert first.rows + last.rows == rest.rows
                assert first.end_row + last.rows == rest.end_row
            for at in sorted(cuts):
                done = len(piece.calls) - len(rest.calls)
                part, rest = rest.cut(min(max(0, at - done), len(rest.calls)))
                ended += rows_of(follower.feed(part))
            ended += rows_of(follower.feed(rest))
        live = rows_of(follower.live())
    assert (sorted(ended), live) == one_by_one(calls)
    assert follower.mallocs == sum(name == "malloc" for name, *_ in calls)


def test_live_objects_come_oldest_first(tmp_path: Path) -> None:
    calls = [("malloc", handle, handle % 2, 0) for handle in (9, 3, 7, 5)] + [("free", 3, 1, 0)]
    with TraceReader(record(calls, tmp_path / "t.parquet")) as reader:
        follower = Follower(reader)
        for piece in calls_of(reader, 4096):
            follower.feed(piece)
    assert follower.live()["handle"].tolist() == [9, 7, 5]


def test_a_free_that_never_comes_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "PIECE_ROWS", 10)
    calls = [("malloc", 1, 0, 0), ("malloc", 1, 0, 0)]
    with TraceReader(record(calls, tmp_path / "t.parquet")) as reader:
        follower = Follower(reader)
        [piece] = calls_of(reader, 4096)
        assert len(follower.feed(piece)) == 0
        late_rows = Calls(piece.calls[:0], FREE_WAITS_ROWS, 2 + FREE_WAITS_ROWS)
        [lost] = follower.feed(late_rows)
        assert (int(lost["size"]), int(lost["ended_ns"])) == (100, 11_000)
        assert len(follower.finish()) == 0
        assert rows_of(follower.live()) == [(0, 101, 1, 11_000, 0)]


def test_a_whole_trace_lacks_nothing(tmp_path: Path) -> None:
    recording = Recording()
    for handle in (1, 2, 1):
        recording.row("malloc" if handle == 1 else "free", handle=handle, size=100)
    path = recording.write(tmp_path / "t.parquet", whole())
    with TraceReader(path) as reader, pytest.raises(ReplayError, match="row 1: free of handle 0x2"):
        for piece in calls_of(reader, 4096):
            Follower(reader).feed(piece)
