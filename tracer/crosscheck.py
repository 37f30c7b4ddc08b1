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

from tracer.ring import OP_LOAD, OP_NAMES, OP_STORE, OP_WRITEBACK

# Calls of an op that succeeded -> what counts them.
COUNTERS = {
    OP_STORE: "vmstat.zswpout",
    OP_LOAD: "vmstat.zswpin",
    OP_WRITEBACK: "zswap.written_back_pages",
}

Counters = dict[str, int]


def check_counters(
    readings: tuple[Counters, Counters, Counters, Counters],
    recorded: NDArray[np.int64],
    left_out: NDArray[np.int64],
    lost: tuple[NDArray[np.int64], NDArray[np.int64]],
    skipped: int,
    ops: Collection[str] = OP_NAMES,
) -> list[dict[str, Any]]:
    """Each counter that this kernel has; plain values of traces.metadata.CounterCheck.

    ``readings``: before opening, after opening, before closing, after closing. ``recorded``:
    successful calls by op code, ``left_out`` likewise. ``lost``: by op code, known to have
    succeeded, and unknown.
    ``skipped``: lost calls of any op. ``ops``: those that were recorded at all.
    """
    before, opened, closing, closed = readings
    found = []
    for op, counter in COUNTERS.items():
        if OP_NAMES[op] not in ops or not all(counter in reading for reading in readings):
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
