# SPDX-License-Identifier: GPL-2.0-only
"""Perfetto's protobuf, read back by Google's messages: each call once, below what it is in."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from ztrace.cli import cli
from ztrace.traces import TraceReader, TraceWriter
from ztrace.traces.csvfile import import_metadata

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"


def export(trace: Path, folder: Path) -> list[Any]:
    """The packets of a trace's export."""
    out = folder / "trace.pftrace"
    line = ["export", str(trace), "--format", "perfetto", "-o", str(out), "--force"]
    done = CliRunner().invoke(cli, line)
    assert done.exit_code == 0, done.output
    read = Trace()
    read.ParseFromString(out.read_bytes())
    assert read.ByteSize() == out.stat().st_size  # no field that the messages do not have
    return list(read.packet)


def slices(packets: list[Any]) -> list[tuple[str, int, int, str | None]]:
    """All calls, as Perfetto puts them together: op, entry, return, the call around it."""
    events = [
        (packet.timestamp, packet.track_event)
        for packet in packets
        if packet.HasField("track_event") and packet.track_event.type != TrackEvent.TYPE_COUNTER
    ]
    events.sort(key=lambda event: event[0])  # stable, as Perfetto's own sorter
    stacks: dict[int, list[tuple[str, int]]] = defaultdict(list)
    found = []
    for at, event in events:
        stack = stacks[event.track_uuid]
        if event.type == TrackEvent.TYPE_SLICE_BEGIN:
            stack.append((event.name, at))
        else:
            name, began = stack.pop()
            found.append((name, began, at, stack[-1][0] if stack else None))
    assert not any(stacks.values())
    return found


@pytest.mark.parametrize("name", ["zbud-6.1-small", "z3fold-6.1-small-2cpu"])
def test_every_call_is_a_slice(name: str, tmp_path: Path) -> None:
    trace = SAMPLES / f"{name}.parquet"
    packets = export(trace, tmp_path)
    with TraceReader(trace) as reader:
        rows = [row for batch in reader.batches() for row in batch.to_pylist()]
    calls = [row for row in rows if row["op"] != "sample"]
    found = slices(packets)
    assert Counter(one[:3] for one in found) == Counter(
        (row["op"], row["ts_ns"], row["ts_ns"] + row["dur_ns"]) for row in calls
    )
    mallocs = [around for op, _, _, around in found if op == "malloc"]
    assert mallocs and set(mallocs) == {"store"}
    counted = [
        p.track_event.counter_value
        for p in packets
        if p.track_event.type == TrackEvent.TYPE_COUNTER
    ]
    assert sorted(counted) == sorted(row["total"] for row in rows if row["total"] is not None)
    handles = {
        note.pointer_value
        for packet in packets
        for note in packet.track_event.debug_annotations
        if note.name == "handle"
    }
    assert handles == {row["handle"] for row in calls if row["handle"] is not None}


def test_tracks_hang_together(tmp_path: Path) -> None:
    packets = export(SAMPLES / "zbud-6.1-small.parquet", tmp_path)
    [snapshot] = [packet.clock_snapshot for packet in packets if packet.HasField("clock_snapshot")]
    assert snapshot.primary_trace_clock == 3  # CLOCK_MONOTONIC
    described: dict[int, int] = {}
    for packet in packets:
        assert packet.trusted_packet_sequence_id
        if packet.HasField("track_descriptor"):
            one = packet.track_descriptor
            assert one.uuid not in described
            assert not one.parent_uuid or one.parent_uuid in described
            described[one.uuid] = one.parent_uuid
        if packet.HasField("track_event"):
            assert packet.track_event.track_uuid in described
            assert packet.timestamp_clock_id == 3
    assert sum(not parent for parent in described.values()) == 1


def test_calls_that_overlap_on_a_task_get_tracks_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with TraceWriter(path, import_metadata()) as writer:
        writer.write(
            {
                "ts_ns": np.array([-5, 0, 10, 10, 30]),
                "dur_ns": np.array([20, 20, 0, 0, 4294967295]),
                "op": np.array(["malloc", "free", "map", "unmap", "malloc"]),
                "tid": np.array([0, 0, 3, 3, 3]),
            }
        )
    assert sorted(slices(export(path, tmp_path))) == [
        ("free", 5, 25, None),
        ("malloc", 0, 20, None),
        ("malloc", 35, 35 + 4294967295, None),
        ("map", 15, 15, None),
        ("unmap", 15, 15, None),
    ]


def test_what_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TraceWriter(tmp_path / "none.parquet", import_metadata()):
        pass
    line = ["export", str(tmp_path / "none.parquet"), "--format", "perfetto"]
    assert CliRunner().invoke(cli, line).exit_code == 2
    line += ["-o", str(tmp_path / "x")]
    assert "no rows" in str(CliRunner().invoke(cli, line).exception)
    monkeypatch.setitem(sys.modules, "perfetto.protos.perfetto.trace", None)
    assert "pip install 'ztrace[perfetto]'" in str(CliRunner().invoke(cli, line).exception)
    assert not (tmp_path / "x").exists()
