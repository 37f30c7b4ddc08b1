# SPDX-License-Identifier: GPL-2.0-only
"""Requests for libCacheSim: each store and load once, and the next one of its page."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from click.testing import CliRunner

from ztrace.cli import cli
from ztrace.traces import TraceReader

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"


@pytest.mark.parametrize("name", ["zbud-6.1-small", "case-study/redis-zbud"])
def test_requests_are_the_recorded_calls(name: str, tmp_path: Path) -> None:
    trace, out = SAMPLES / f"{name}.parquet", tmp_path / "trace.oracleGeneral"
    line = ["export", str(trace), "--format", "oracleGeneral", "-o", str(out)]
    assert CliRunner().invoke(cli, line).exit_code == 0
    found = list(struct.iter_unpack("<IQIq", out.read_bytes()))
    with TraceReader(trace) as reader:
        rows = [row for batch in reader.batches() for row in batch.to_pylist()]
    wanted = [
        row for row in rows if row["op"] in ("store", "load") and row["ret"] >= 0 and row["key"]
    ]
    assert [one[1] for one in found] == [row["key"] for row in wanted]
    first_ns = min(row["ts_ns"] for row in wanted)
    assert [one[0] for one in found] == [(row["ts_ns"] - first_ns) // 10**9 for row in wanted]
    expected: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for (_, key, size, _next), row in zip(found, wanted, strict=True):
        sizes[key] = row["size"] or sizes.get(key, 1)
        assert size == sizes[key]
    for number, (_, key, _, following) in reversed(list(enumerate(found))):
        assert following == expected.get(key, -1)
        expected[key] = number
    assert any(following >= 0 for *_, following in found) or "redis" in name


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    none = SAMPLES / "case-study" / "redis-ztree.parquet"
    line = ["export", str(none), "--format", "oracleGeneral"]
    assert CliRunner().invoke(cli, line).exit_code == 2
    done = CliRunner().invoke(cli, [*line, "-o", str(tmp_path / "x")])
    assert done.exit_code != 0 and not (tmp_path / "x").exists()
