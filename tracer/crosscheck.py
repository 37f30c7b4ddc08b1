# SPDX-License-Identifier: GPL-2.0-only
"""Recorded plus lost is what the kernel counted: the check that goes into each trace.

What a filter or a limit left out is counted apart and belongs to the sum.

The kernel's counters are read just before the gate is opened and just after, and so around its
closing. What passed the gate is at least the difference of the inner readings and at most that
of the outer ones.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztrace.tracer.ring import OP_INVALIDATE, OP_LOAD, OP_NAMES, OP_STORE, OP_WRITEBACK

Counters = dict[str, int]

# Source -> successful calls of an op -> what counts them.
COUNTERS = {
    "zswap": {
        OP_STORE: "vmstat.zswpout",
        OP_LOAD: "vmstat.zswpin",
        OP_WRITEBACK: "zswap.written_back_pages",
    },
    "zram": {OP_LOAD: "zram.pages_read", OP_INVALIDATE: "zram.slots_freed"},
}

# What zram's devices count together. A slot is freed before it is written, and when the swap
# code or a discard says so, unless it was busy just then (zram_slot_free_notify()).
ZRAM_SUMS = {
    "zram.pages_read": {"pages_read": 1},
    "zram.slots_freed": {"pages_written": 1, "notify_free": 1, "miss_free": -1},
}


def check_counters(
    readings: tuple[Counters, Counters, Counters, Counters],
    recorded: NDArray[np.int64],
    left_out: NDArray[np.int64],
    lost: tuple[NDArray[np.int64], NDArray[np.int64]],
    skipped: int,
    source: str = "zswap",
    ops: Collection[str] = OP_NAMES,
) -> list[dict[str, Any]]:
    """Each counter that this kernel has; plain values of traces.metadata.CounterCheck.

    ``readings``: before opening, after opening, before closing, after closing. ``recorded``:
    successful calls by op code, ``left_out`` likewise. ``lost``: by op code, known to have
    succeeded, and unknown. ``skipped``: lost calls of any op. ``ops``: names of those that are
    probed and recorded at all; the rest is not checked.
    """
    before, opened, closing, closed = summed = [
        reading | _zram_sums(reading) for reading in readings
    ]
    found = []
    for op, counter in COUNTERS[source].items():
        if OP_NAMES[op] not in ops or not all(counter in reading for reading in summed):
            continue
        found.append(
            {
                "counter": counter,
                "recorded": int(recorded[op]),
                "left_out": int(left_out[op]),
                "lost": int(lost[0][op]),
                "perhaps_lost": int(lost[1][op]) + skipped,
                "kernel_least": closing[counter] - opened[counter],
                "kernel_most": closed[counter] - before[counter],
            }
        )
    return found


def _zram_sums(reading: Counters) -> Counters:
    """The counters of ZRAM_SUMS that all parts are there for, over all devices."""
    devices = {name.partition(".")[0] for name in reading if name.startswith("zram")}
    return {
        total: sum(
            sign * reading[f"{device}.{name}"] for device in devices for name, sign in parts.items()
        )
        for total, parts in ZRAM_SUMS.items()
        if devices and all(f"{device}.{name}" in reading for device in devices for name in parts)
    }
