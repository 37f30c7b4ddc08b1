# SPDX-License-Identifier: GPL-2.0-only
"""A trace through an allocator model.

>>> from ztrace.replay import replay_trace
>>> result = replay_trace("trace.parquet", "ztree")  # doctest: +SKIP
>>> result.held_bytes.peak, result.handles_equal  # doctest: +SKIP
"""

from ztrace.replay.errors import ReplayError
from ztrace.replay.figures.result import Agreement, Every, Level, Moment, PoolResult, Result
from ztrace.replay.play.engine import replay, replay_trace

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
