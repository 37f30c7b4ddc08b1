# SPDX-License-Identifier: GPL-2.0-only
"""Rows that no recorder writes: every command that plays them refuses them, and says which."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.test_cross_replay import Command, ztrace
from tests.test_replay import Recording, whole
from ztrace.replay import replay_trace
from ztrace.traces import TraceReader
from ztrace.traces.metadata import Kernel

__all__ = ["ztrace"]  # a fixture

COMMANDS = (
    ("replay", "{}", "--backend", "zbud"),
    ("replay", "{}", "--backend", "zbud", "--engine", "python"),
    ("replay", "{}", "--backend", "zbud", "--backend", "z3fold"),
    ("replay", "{}", "--backend", "all", "--limit", "1M", "--rules", "6.1"),
    ("replay", "{}", "--backend", "zbud", "--anomalies"),
    ("validate", "{}"),
    ("compare", "{}", "--replay", "zbud", "z3fold"),
    ("synth", "--events", "1e3", "--churn", "fit:{}", "-o", "{}.synth"),
    ("tune", "{}"),
    ("report", "{}", "-o", "{}.html"),
)


def history() -> Recording:
    """Objects of two CPUs, each freed by the other one."""
    recording = Recording()
    for number in range(200):
        cpu = number % 2
        here = {"cpu": cpu, "tid": 7 + cpu, "handle": 64 * (number + 1)}
        recording.row("malloc", size=1000 + 10 * number, **here)
        if number >= 8:
            recording.row("free", cpu=cpu, tid=7 + cpu, handle=64 * (number - 6))
    return recording


@pytest.fixture(params=["rows by CPU", "clock goes back", "positive errno"])
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A trace, and what is said of it."""
    recording = history()
    if request.param == "rows by CPU":
        recording.rows.sort(key=lambda row: row["cpu"])
        text = "row 197 returned"  # the first of the second CPU, row 196, may be late
    elif request.param == "clock goes back":
        for row in recording.rows[200:]:
            row["ts_ns"] -= 3600 * 10**9
        text = "row 200 returned 3600 s before"
    else:
        recording.rows[100]["ret"] = 7
        text = "row 100: "
    metadata = replace(whole("zbud"), kernel=Kernel("6.1.0"))
    return recording.write(tmp_path / "t.parquet", metadata), text


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_refused_by_row(
    command: tuple[str, ...], broken: tuple[Path, str], ztrace: Command
) -> None:
    path, text = broken
    status, out, err = ztrace(*(word.format(path) for word in command))
    assert (status, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert text in err
    assert "begun late" not in err


def test_a_sweep_says_why_its_run_failed(broken: tuple[Path, str], ztrace: Command) -> None:
    path, text = broken
    status, _, err = ztrace("sweep", path, "--backend", "zbud", "-o", f"{path}.sweep")
    assert status == 1
    assert text in err
    [row] = pq.read_table(f"{path}.sweep").to_pylist()
    assert text in row["error"]
    assert "held_bytes_mean" not in row


def test_what_looks_at_such_rows_says_so(broken: tuple[Path, str], ztrace: Command) -> None:
    path, text = broken
    if "returned" not in text:
        return  # ret is no matter of time
    status, out, _ = ztrace("stat", path)
    assert status == 0
    assert text in out
    found = json.loads(ztrace("stat", path, "--json")[1])["misplaced"]
    assert f"row {found['row']} returned" in text
    whole = f"{path}.whole"
    status, _, err = ztrace("slice", path, "--pool", "0", "-o", whole)
    assert (status, err) == (0, "")  # no matter of time
    status, _, err = ztrace("slice", path, "--from", "0s", "--to", "1ms", "-o", f"{path}.slice")
    assert text in err
    if "3600 s" in text:
        assert status == 2  # no row is left
        return
    assert status == 0
    assert "calls within these times may be missing in the slice" in err
    with TraceReader(f"{path}.slice") as reader:
        assert "cut by time though rows were out of time order" in reader.metadata.notes


def test_spans_agree_at_the_ends_of_int64(tmp_path: Path, ztrace: Command) -> None:
    recording = Recording()
    for ts_ns in (-(2**63), 0, 2**63 - 1):
        recording.row("malloc", size=100, handle=64 * len(recording.rows), ts_ns=ts_ns, dur_ns=5)
    path = recording.write(tmp_path / "t.parquet", whole("zbud"))
    for command in (("stat", path), ("replay", path, "--backend", "zbud")):
        assert "span 9,223,372,036.9 s" in " ".join(ztrace(*command)[1].split())


def test_the_same_calls_in_order(tmp_path: Path) -> None:
    recording = history()
    path = recording.write(tmp_path / "t.parquet", whole("zbud"))
    peak = replay_trace(path, "zbud").held_bytes.peak
    recording.rows.sort(key=lambda row: row["cpu"])
    recording.rows.sort(key=lambda row: row["ts_ns"] + row["dur_ns"])
    again = recording.write(tmp_path / "again.parquet", whole("zbud"))
    assert replay_trace(again, "zbud").held_bytes.peak == peak
