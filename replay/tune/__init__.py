# SPDX-License-Identifier: GPL-2.0-only
"""Block tables of ztree fitted to traces, exactly, and what they are worth."""

from ztrace.replay.research.block_table import Limits, best_table, static_bytes
from ztrace.replay.tune.trial import Gain, Held, Tuning, successors, tune, work

__all__ = [
    "Gain",
    "Held",
    "Limits",
    "Tuning",
    "best_table",
    "static_bytes",
    "successors",
    "tune",
    "work",
]
