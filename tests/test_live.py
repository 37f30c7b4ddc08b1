# SPDX-License-Identifier: GPL-2.0-only
"""What is shown while recording."""

from __future__ import annotations

import io

import numpy as np
from rich.console import Console

from ztrace.commands.top import summary, view
from ztrace.present.recording import status_line
from ztrace.tracer.recorder import Progress
from ztrace.tracer.ring import OP_NAMES
from ztrace.traces import OPS
from ztrace.units import short


def progress(**changes: int) -> Progress:
    durations = np.arange(1, 101, dtype=np.uint32) * 1000
    made = Progress(events=123_456_789, seconds=3600.5, stores=9_999_999, loads=88, lost=3)
    made.recent = {OPS.index("malloc"): [durations[:50], durations[50:]], 16: [durations]}
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_ops_are_those_of_a_trace() -> None:
    assert OP_NAMES == OPS


def test_status_line_is_one_line_of_a_terminal() -> None:
    line = status_line(progress(pool_bytes=1 << 40))
    assert len(line) == 79
    for part in ("3600 s", "34.3k/s", "stores 10M", "loads 88", "p99 malloc 99.0 us", "lost 3"):
        assert part in line
    assert "pool 1.0 TiB" in line
    empty = status_line(Progress())
    assert "p99 malloc -" in empty
    assert "pool -" in empty


def test_top_shows_the_recent_durations() -> None:
    found = summary(progress(pool_bytes=4096))
    assert list(found["calls"]) == ["malloc"]
    malloc = found["calls"]["malloc"]
    assert (malloc["count"], malloc["p50_ns"], malloc["max_ns"]) == (100, 50_500.0, 100_000.0)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(view(progress(pool_bytes=4096)))
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "50.5 us" in text


def test_short_numbers_have_three_digits() -> None:
    assert [short(n) for n in (0, 999, 999.6, 1234, 99_999, 1_234_567, 5e12)] == [
        *("0", "999", "1k", "1.23k", "100k", "1.23M", "5T")
    ]
