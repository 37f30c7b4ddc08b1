# SPDX-License-Identifier: GPL-2.0-only
"""Rows in time order: what a recorder's rows can look like, and what no recorder writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from ztrace.cli import cli
from ztrace.replay import replay
from ztrace.traces import OP_CODE, TraceReader
from ztrace.traces.timeorder import COLUMNS, Misplaced, TimeOrder, check_time_order

SAMPLES = sorted((Path(__file__).parents[1] / "traces" / "samples").glob("*.parquet"))
Call = tuple[int, int, int, int]  # ts, dur, tid, cpu


def find(calls: list[Call], batch: int = 1000) -> Misplaced | None:
    """The first misplaced row, of calls in batches."""
    order = TimeOrder()
    for at in range(0, len(calls), batch):
        ts, dur, tid, cpu = np.array(calls[at : at + batch], np.int64).T
        found = order.find(ts, dur, tid, cpu, np.full(len(ts), OP_CODE["free"], np.int8))
        if found is not None:
            return found
    return None


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_recordings_are_in_order(path: Path) -> None:
    with TraceReader(path) as reader:
        check_time_order(reader, str(path))


@pytest.mark.parametrize("batch", [1, 2, 1000])
def test_a_stopped_task_may_be_late_once(batch: int) -> None:
    calls = [(0, 10, 1, 0), *((20 + 20 * k, 10, 2, 1) for k in range(5)), (5, 10, 3, 0)]
    assert find(calls, batch) is None
    # Its next row returned before row 2 began, and yet its late one stands before.
    assert find([*calls, (16, 10, 3, 0)], batch) == Misplaced(7, 5, 74)
    assert find([*calls, (95, 10, 3, 0)], batch) is None


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_rows_by_cpu_are_not_in_order(batch: int) -> None:
    calls = [(100 * k + 10 * cpu, 5, cpu + 7, cpu) for cpu in (0, 1) for k in range(4)]
    found = find(calls, batch)
    assert found is not None
    assert found.row == 5  # the first of the second CPU may have been stopped
    assert find(sorted(calls), batch) is None
    error = str(found.error("t.parquet"))
    assert error.startswith("t.parquet: row 5 returned ")
    assert "sort the rows" in error


def test_a_clock_that_goes_back() -> None:
    calls = [(1000 + 10 * k - (900 if k > 4 else 0), 5, 7, 0) for k in range(9)]
    assert find(calls) == Misplaced(5, 4, 1040 - 155)


def test_calls_that_overlap_stand_in_any_order() -> None:
    assert find([(0, 100, 1, 0), (10, 10, 1, 0), (30, 10, 1, 0), (5, 90, 1, 0)]) is None
    assert find([(0, 100, 0, 0), (10, 10, 0, 0), (21, 10, 0, 0), (5, 15, 0, 0)]) is not None


def test_tasks_without_a_number_are_known_by_their_cpu() -> None:
    calls = [(0, 5, 0, 0), (20, 5, 0, 0), (3, 5, 0, 1)]
    assert find(calls) is None
    assert find([*calls, (9, 5, 0, 1)]) == Misplaced(3, 1, 6)
    assert find([*calls, (9, 5, 0, 2)]) is None


def test_the_longest_duration_may_be_longer() -> None:
    calls = [(0, 5, 1, 0), (2**40, 5, 1, 0), (2, 2**32 - 1, 1, 0), (3, 2**32 - 2, 1, 0)]
    assert find(calls[:3]) is None
    assert find(calls) == Misplaced(3, 1, 2**40 - 3 - 2**32 + 2)


def test_the_ends_of_int64_are_times() -> None:
    low, high = -(2**63), 2**63 - 1
    assert find([(low, 5, 1, 0), (0, 5, 1, 0), (high, 5, 1, 0)]) is None
    assert find([(high, 5, 1, 0), (low, 5, 1, 0)]) == Misplaced(1, 0, 2**64 - 1 - 5)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),  # task
            st.integers(0, 3),  # how long before, after, and until it is recorded
            st.integers(0, 3),
            st.integers(0, 30),
        ),
        max_size=40,
    ),
    st.integers(1, 50),
    st.randoms(use_true_random=False),
)
def test_whatever_a_recorder_writes_is_in_order(
    calls: list[tuple[int, int, int, int]], batch: int, _: object
) -> None:
    """Tasks that make calls one after the other, each stopped for any time before it records."""
    now = dict.fromkeys(range(4), 0)
    rows = []
    for task, before, dur, stopped in calls:
        ts = now[task] + before
        now[task] = ts + dur + stopped
        rows.append((now[task], (ts, dur, task + 1, task)))
    rows.sort(key=lambda row: row[0])
    assert find([row for _, row in rows], batch) is None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9), st.integers(1, 3)), max_size=30),
    st.integers(1, 40),
)
def test_against_the_rule_as_it_is_written(drawn: list[tuple[int, int, int]], batch: int) -> None:
    """Some row j, then one of the same task, then one that was over before j began."""
    misplaced = [
        n
        for n, (ts, dur, tid) in enumerate(drawn)
        if any(
            drawn[j][0] > ts + dur and any(row[2] == tid for row in drawn[j:n]) for j in range(n)
        )
    ]
    found = find([(ts, dur, tid, 0) for ts, dur, tid in drawn], batch)
    assert (found and found.row) == (misplaced[0] if misplaced else None)
    if found is not None:
        ts, dur, _ = drawn[found.row]
        began = [row[0] for row in drawn[: found.row]]
        assert found.behind == began.index(max(began))
        assert max(began) - ts - dur == found.by_ns > 0


def test_columns_are_those_of_the_rule() -> None:
    assert COLUMNS == ("ts_ns", "dur_ns", "tid", "cpu", "op")


def test_calls_within_others_are_looked_at_apart() -> None:
    """As in a trace without durations, in which a store seems over before its malloc began."""
    ops = [OP_CODE[name] for name in ("malloc", "store", "malloc", "store", "malloc")]
    order = TimeOrder()
    ts = np.array([1, 0, 11, 10, 5])
    found = order.find(ts, 0, 7, 0, np.array(ops, np.int8))
    assert found == Misplaced(4, 2, 6)


BY_CPU = "ts_ns,dur_ns,op,size,handle,cpu,tid\n" + "".join(
    f"{1000 * (2 * k + cpu)},5,{op},{size},{4096 * (k // 2 * 2 + cpu + 1)},{cpu},{cpu + 1}\n"
    for cpu in (0, 1)
    for k in range(20)
    for op, size in (("malloc", 100) if k % 2 == 0 else ("free", ""),)
)


def test_import_refuses_or_sorts(tmp_path: Path) -> None:
    """Rows CPU by CPU: sorted, they give what the same calls in time order give."""
    lines = BY_CPU.splitlines()
    in_order = [lines[0], *sorted(lines[1:], key=lambda line: int(line.partition(",")[0]))]
    peaks = []
    for name, text in (("by-cpu", BY_CPU), ("in-order", "\n".join(in_order) + "\n")):
        (tmp_path / name).write_text(text)
        trace = tmp_path / f"{name}.parquet"
        asked = ["import", str(tmp_path / name), "-o", str(trace)]
        if name == "by-cpu":
            refused = CliRunner().invoke(cli, asked)
            assert "row 21 returned" in str(refused.exception)
            assert "--sort" in str(refused.exception) and not trace.exists()
            asked.append("--sort")
        assert CliRunner().invoke(cli, asked).exit_code == 0
        with TraceReader(trace) as reader:
            sorted_rows = "rows were sorted by their return" in reader.metadata.notes
            assert sorted_rows == (name == "by-cpu")
            peaks.append(replay(reader, "zbud").objects.peak)
    assert peaks == [2, 2]


def imported(tmp_path: Path, lines: list[str]) -> tuple[list[str], str]:
    """Import rows with --sort: the new trace's notes, and what it was refused for."""
    text, trace = tmp_path / "t.csv", tmp_path / "t.parquet"
    text.write_text("\n".join([*lines, ""]))
    done = CliRunner().invoke(cli, ["import", str(text), "--sort", "--force", "-o", str(trace)])
    if done.exception is not None:
        return [], str(done.exception)
    with TraceReader(trace) as reader:
        notes = reader.metadata.notes
    assert all(note in done.output for note in notes[2:])
    return notes[2:], ""


SORTED = "rows were sorted by their return"


def test_a_sort_without_handles_says_what_it_cannot_tell(tmp_path: Path) -> None:
    """An hour back, with nothing between: as it may be of two files in the wrong order."""
    rows = [f"{10**13 + 1000 * k - (k > 9) * 3600 * 10**9},5,malloc,100,0" for k in range(20)]
    notes, refused = imported(tmp_path, ["ts_ns,dur_ns,op,size,cpu", *rows])
    assert not refused
    assert notes[0] == SORTED
    assert notes[1].startswith("row 10 ran back by 3600 s on CPU 0: ")
    by_cpu = [line.rpartition(",")[0] for line in BY_CPU.splitlines()]
    without = [",".join(line.split(",")[:4] + line.split(",")[5:]) for line in by_cpu]
    assert without[0] == "ts_ns,dur_ns,op,size,cpu"
    assert imported(tmp_path, without) == ([SORTED], "")
    assert imported(tmp_path, by_cpu) == ([SORTED], "")


def test_a_sort_that_makes_a_task_run_beside_itself_is_refused(tmp_path: Path) -> None:
    """A clock that went back by less than the trace's span: its two stretches lie over each other.

    The same rows of two tasks are those of two CPUs.
    """
    rows = [(1000 * k - (k > 19) * 20_300, 7 + (k > 19)) for k in range(40)]
    lines = [f"{ts},900,malloc,100,{{}},{tid}" for ts, tid in rows]
    one = ["ts_ns,dur_ns,op,size,cpu,tid", *(line[:-1].format(0) + "7" for line in lines)]
    notes, refused = imported(tmp_path, one)
    assert not notes
    assert "calls would begin before the one before of their task returned" in refused
    two = [one[0], *(line.format(line[-1]) for line in lines)]
    assert imported(tmp_path, two) == ([SORTED], "")


def test_a_sort_that_parts_frees_from_their_mallocs_is_refused(tmp_path: Path) -> None:
    """As where the clock went back: sorted, objects would be freed before they are allocated."""
    rows = [f"{1000 * k},5,malloc,100,{64 * (k + 1)}" for k in range(8)]
    rows += [f"{1000 * k - 10**9},5,free,,{64 * (k + 1)}" for k in range(8)]
    text, trace = tmp_path / "t.csv", tmp_path / "t.parquet"
    text.write_text("\n".join(["ts_ns,dur_ns,op,size,handle", *rows, ""]))
    refused = CliRunner().invoke(cli, ["import", str(text), "--sort", "-o", str(trace)])
    assert "8 frees would come before their mallocs" in str(refused.exception)
    assert not trace.exists()
