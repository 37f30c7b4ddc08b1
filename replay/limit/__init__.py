# SPDX-License-Identifier: GPL-2.0-only
"""What zswap would have done under a pool limit: the recorded pages through its own rules."""

from ztrace.replay.limit.asked import AskedLimit
from ztrace.replay.limit.demand import Demand, NotTold
from ztrace.replay.limit.loop import Counted, Outcome, Play, play, recorded_limit, recorded_rules
from ztrace.replay.limit.zswap import AT_ONCE, Limit, Rules, Worker

__all__ = [
    "AT_ONCE",
    "AskedLimit",
    "Counted",
    "Demand",
    "Limit",
    "NotTold",
    "Outcome",
    "Play",
    "Rules",
    "Worker",
    "play",
    "recorded_limit",
    "recorded_rules",
]
