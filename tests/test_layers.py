# SPDX-License-Identifier: GPL-2.0-only
"""Ground modules load nothing that stands above them."""

from __future__ import annotations

import subprocess
import sys

import pytest

ABOVE = ("validate", "order", "play", "figures", "report", "limit", "sweep", "tune")


@pytest.mark.parametrize("module", ["rows", "lives", "evictions", "source", "scaled"])
def test_reading_rows_needs_nothing_above(module: str) -> None:
    code = f"import sys, ztrace.replay.read.{module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = done.stdout.split()
    assert f"ztrace.replay.read.{module}" in loaded
    above = [f"ztrace.replay.{name}" for name in ABOVE] + ["ztrace.allocator"]
    assert [name for name in loaded if name.startswith(tuple(above))] == []
