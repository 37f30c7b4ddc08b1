# SPDX-License-Identifier: GPL-2.0-only
"""Statistics: known answers, then against numpy on everything at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ztrace.traces import OP_CODE, Metadata, Summary, TraceReader, TraceWriter, summarize
from ztrace.traces.schema import LIST_OPS, NOT_BYTES
from ztrace.traces.summary import OpSummary, Spread, bucket_top, duration_bucket, errno_name
from ztrace.traces.timeorder import Misplaced


def stat(path: Path, columns: dict[str, Any]) -> Summary:
    with TraceWriter(path, Metadata(), force=True) as writer:
        writer.write(columns)
    with TraceReader(path) as reader:
        return summarize(reader)


def test_known_answer(tmp_path: Path) -> None:
    found = stat(
        tmp_path / "t",
        {
            "ts_ns": [3_000_000_000, 1_000_000_000, 2_000_000_000, 2_500_000_000],
            "op": ["malloc", "malloc", "malloc", "free"],
            "size": [100, 300, 70_000, None],
            "ret": [0, -12, 0, 0],
            "dur_ns": [10, 20, 90, 7],
            "cpu": [0, 3, 3, 3],
            "tid": [5, 5, 6, 5],
        },
    )
    assert found == Summary(
        rows=4,
        first_ns=1_000_000_000,
        last_ns=3_000_000_000,
        rows_per_second=2.0,
        threads=2,
        rows_by_cpu={0: 1, 3: 3},
        ops={
            "malloc": OpSummary(
                calls=3,
                failed={"ENOMEM": 1},
                bytes=70_100,
                size_bytes=Spread(3, 70_400, 100, 70_400 / 3, 300, None, 70_000),
                dur_ns=Spread(3, 120, 10, 40.0, 20, 90, 90),
            ),
            "free": OpSummary(
                calls=1, failed={}, bytes=0, size_bytes=None, dur_ns=Spread(1, 7, 7, 7.0, 7, 7, 7)
            ),
        },
        misplaced=Misplaced(row=1, behind=0, by_ns=1_999_999_980),
    )


def test_empty_trace(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t", Metadata()):
        pass
    with TraceReader(tmp_path / "t") as reader:
        assert summarize(reader) == Summary(0, None, None, None, 0, {}, {})


def test_extremes(tmp_path: Path) -> None:
    low, high = -(2**63), 2**63 - 1
    found = stat(
        tmp_path / "t",
        {
            "ts_ns": [low, high],
            "op": ["store", "store"],
            "dur_ns": [0, 2**32 - 1],
            "size": [0, 2**32 - 1],
            "ret": [-(2**31), -524],
            "cpu": [0, 65535],
            "tid": [0, 2**32 - 1],
        },
    )
    assert (found.first_ns, found.last_ns) == (low, high)
    assert found.rows_by_cpu == {0: 1, 65535: 1}
    assert found.ops["store"].failed == {"ENOTSUPP": 1, "2147483648": 1}
    assert found.ops["store"].size_bytes == Spread(2, 2**32 - 1, 0, 2**31 - 0.5, 0, None, 2**32 - 1)
    assert found.ops["store"].dur_ns == Spread(
        2, 2**32 - 1, 0, 2**31 - 0.5, 0, 2**32 - 1, 2**32 - 1
    )


def test_sizes_at_the_overflow_bucket(tmp_path: Path) -> None:
    for size, known in ((65536, 65536), (65537, None)):
        columns = {"ts_ns": [1], "op": ["malloc"], "size": [size]}
        spread = stat(tmp_path / "t", columns).ops["malloc"].size_bytes
        assert spread == Spread(1, size, size, size, known, known, size)


def test_to_dict_is_json(tmp_path: Path) -> None:
    found = stat(tmp_path / "t", {"ts_ns": [1, 2], "op": ["map", "map"], "cpu": [7, 7]})
    document = json.loads(json.dumps(found.to_dict()))
    assert document["rows_by_cpu"] == {"7": 2}
    assert document["ops"]["map"]["dur_ns"]["count"] == 2
    assert document["duration_resolution"] == 1 / 64


def test_progress_adds_up(tmp_path: Path) -> None:
    stat(tmp_path / "t", {"ts_ns": np.arange(100_000), "op": np.zeros(100_000, np.int8)})
    done: list[int] = []
    with TraceReader(tmp_path / "t") as reader:
        summarize(reader, done.append)
    assert sum(done) == 100_000 and len(done) > 1


def test_errno_names() -> None:
    assert errno_name(12) == "ENOMEM"
    assert errno_name(524) == "ENOTSUPP"
    assert errno_name(4000) == "4000"


@given(st.integers(0, 2**32 - 1))
def test_bucket_is_at_most_one_64th_wide(value: int) -> None:
    bucket = int(duration_bucket(np.array([value], np.uint32))[0])
    top = bucket_top(bucket)
    assert value <= top <= value + value // 64
    assert bucket == 0 or bucket_top(bucket - 1) < value


def test_buckets_are_exact_below_128_ns_and_in_order() -> None:
    values = np.arange(1 << 17, dtype=np.uint32)
    buckets = duration_bucket(values)
    assert buckets[:128].tolist() == list(range(128))
    assert set(np.diff(buckets).tolist()) == {0, 1}


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(sorted(OP_CODE)),
            st.none() | st.integers(0, 65536),
            st.integers(0, 2**32 - 1),
            st.sampled_from([0, 0, 1, -12, -28]),
        ),
        min_size=1,
        max_size=200,
    )
)
def test_against_numpy(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int | None, int, int]]
) -> None:
    op, size, dur, ret = (list(column) for column in zip(*rows, strict=True))
    columns = {"ts_ns": range(len(rows)), "op": op, "size": size, "dur_ns": dur, "ret": ret}
    found = stat(
        tmp_path_factory.getbasetemp() / "summary", {k: list(v) for k, v in columns.items()}
    )
    assert found.rows == len(rows)
    for name in OP_CODE:
        mine = [row for row in rows if row[0] == name]
        if not mine:
            assert name not in found.ops
            continue
        result = found.ops[name]
        assert result.calls == len(mine)
        assert sum(result.failed.values()) == sum(row[3] < 0 for row in mine)
        told = [row for row in mine if row[1] is not None and name not in NOT_BYTES]
        assert result.bytes == sum(row[1] or 0 for row in told if row[3] >= 0)
        sizes = [row[1] for row in told if row[1] is not None]
        if sizes:
            spread = result.size_bytes
            assert spread is not None
            assert (spread.count, spread.total) == (len(sizes), sum(sizes))
            assert (spread.minimum, spread.maximum) == (min(sizes), max(sizes))
            assert spread.p50 == np.percentile(sizes, 50, method="inverted_cdf")
            assert spread.p99 == np.percentile(sizes, 99, method="inverted_cdf")
        else:
            assert result.size_bytes is None
        if name in LIST_OPS:
            assert result.dur_ns is None
            continue
        durations = [row[2] for row in mine]
        assert result.dur_ns is not None and result.dur_ns.total == sum(durations)
        for percent, value in ((50, result.dur_ns.p50), (99, result.dur_ns.p99)):
            true = int(np.percentile(durations, percent, method="inverted_cdf"))
            assert value is not None and true <= value <= true + true // 64
