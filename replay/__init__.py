# SPDX-License-Identifier: GPL-2.0-only
"""A trace through an allocator model.

>>> from traces import TraceReader
>>> from replay import replay
>>> with TraceReader("trace.parquet") as trace:  # doctest: +SKIP
...     print(replay(trace, "ztree").held_bytes.peak)
"""

from replay.engine import replay
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
]
