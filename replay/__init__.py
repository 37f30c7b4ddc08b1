# SPDX-License-Identifier: GPL-2.0-only
"""A trace through an allocator model.

>>> from replay import replay_trace
>>> result = replay_trace("trace.parquet", "ztree")  # doctest: +SKIP
>>> result.held_bytes.peak, result.handles_equal  # doctest: +SKIP
"""

from replay.engine import replay, replay_trace
from replay.errors import ReplayError
from replay.metrics import Agreement, Every, Level, Moment, PoolResult, Result

__all__ = [
    "Agreement",
    "Every",
    "Level",
    "Moment",
    "PoolResult",
    "ReplayError",
    "Result",
    "replay",
    "replay_trace",
]
