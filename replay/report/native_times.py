# SPDX-License-Identifier: GPL-2.0-only
"""How long the models' own mallocs and frees take in the C core, beside the kernel's.

They are times of this machine and of user space: no lock is waited for, no page is allocated by a
kernel. What they show is the work of the algorithm and its spread.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ztrace.replay.figures.timing import Histogram, Timing
from ztrace.replay.report.recorded import quantiles, tail


def native_times(timings: Mapping[str, Timing]) -> dict[str, Any] | None:
    """By backend: what the clock cost, which is taken off, and figures in ns of each call.

    None if nothing was timed.
    """
    if not timings:
        return None
    return {
        "machine": _machine(),
        "models": {
            backend: {
                "name": backend,
                "clock_ns": timing.clock_ns,
                **{call: _figures(one) for call, one in timing.whole.items() if one.calls},
            }
            for backend, timing in timings.items()
        },
    }


def _figures(one: Histogram) -> dict[str, Any]:
    counts, values = np.array(one.calls, np.int64), np.array(one.ns, np.float64)
    return {
        "calls": int(counts.sum()),
        **quantiles(counts, values, one.most_ns),
        "max_ns": one.most_ns,
        "tail": tail(counts, values, one.most_ns),
    }


def _machine() -> str:
    """The processor that the core ran on."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n"):
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine() or "unknown"
