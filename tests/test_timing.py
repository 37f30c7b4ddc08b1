# SPDX-License-Identifier: GPL-2.0-only
"""Durations of the core's calls: every call counted, percentiles in order, counters fixed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ztrace.allocator import native
from ztrace.replay.figures.timing import BUCKETS, CLASSES, bucket_ticks, histogram, latency
from ztrace.replay.play.native import replay_native
from ztrace.traces import TraceReader

SAMPLE = Path(__file__).parents[1] / "traces" / "samples" / "ztree-6.1-bursts.parquet"
COMMAND = [sys.executable, "-m", "ztrace", "replay", str(SAMPLE), "--backend", "ztree", "--time"]


def test_buckets_are_within_a_sixteenth() -> None:
    for ticks in (1, 2, 15, 16, 17, 31, 100, 12345, 2**31 + 7):
        high = ticks.bit_length() - 1
        fine = (ticks << 4 >> high) & 15
        assert bucket_ticks(high * 16 + fine) == pytest.approx(ticks, rel=1 / 16)


def test_percentiles() -> None:
    counts = [0] * BUCKETS
    counts[4 * 16] = 990  # 16 ticks
    counts[10 * 16] = 10  # 1024 and more
    found = latency("malloc", 3, 4096, counts, 1040, 0.5)
    assert found is not None
    assert (found.from_bytes, found.to_bytes, found.count) == (769, 1024, 1000)
    assert (found.p50_ns, found.p99_ns, found.most_ns) == (8, 8, 520)
    assert found.p999_ns == pytest.approx(512, rel=1 / 16)
    assert latency("free", 0, 4096, [0] * BUCKETS, 0, 1.0) is None


def test_all_sizes_together() -> None:
    counts = [[0] * BUCKETS for _ in range(CLASSES)]
    counts[0][4 * 16] = 3  # 16 ticks
    counts[5][4 * 16] = 4
    counts[5][10 * 16] = 1  # 1024 and more
    found = histogram(counts, [16, *[0] * (CLASSES - 2), 1030], 0.5)
    assert (found.ns, found.calls, found.most_ns) == ([8, 515], [7, 1], 515)


@pytest.mark.skipif(native.reason_missing() is not None, reason="no native core")
def test_every_call_is_counted_once() -> None:
    with TraceReader(SAMPLE) as reader:
        [first] = replay_native(reader, ["ztree"], timing=True)
        [again] = replay_native(reader, ["ztree"], timing=True)
        [plain] = replay_native(reader, ["ztree"])
    assert plain.timing is None
    assert first.timing is not None and again.timing is not None
    for call in ("malloc", "free"):
        classes = [one for one in first.timing.latencies if one.call == call]
        assert sum(one.count for one in classes) == first.calls[call]
        whole = first.timing.whole[call]
        assert sum(whole.calls) == first.calls[call] and whole.ns == sorted(whole.ns)
        assert whole.ns[-1] <= whole.most_ns == max(one.most_ns for one in classes)
        for one in classes:
            assert 0 <= one.p50_ns <= one.p99_ns <= one.p999_ns <= one.most_ns
    assert first.timing.work == again.timing.work
    assert first.timing.work["slots_scanned"] >= first.calls["malloc"]
    assert first.timing.work["tree_levels"] >= first.calls["free"]
    assert (first.held_bytes, first.pools) == (plain.held_bytes, plain.pools)


@pytest.mark.skipif(native.reason_missing() is not None, reason="no native core")
def test_command() -> None:
    done = subprocess.run(COMMAND, capture_output=True, text=True, check=True)
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "slots scanned" in " ".join(done.stdout.split())
    plain = subprocess.run([*COMMAND, "--json"], capture_output=True, text=True, check=True)
    timing = json.loads(plain.stdout)["replays"][0]["measured_here"]["timing"]
    assert timing["latencies"][0]["call"] == "malloc"
    refused = subprocess.run([*COMMAND, "--engine", "python"], capture_output=True, text=True)
    assert refused.returncode == 2
