# SPDX-License-Identifier: GPL-2.0-only
"""What a workload would gain from another allocator, another setting, another pool limit."""

from ztrace.replay.advise.advice import (
    SHOWN,
    Advice,
    Choice,
    Timed,
    UnderLimit,
    advice_of,
    advise,
    measured_times,
    settings,
)

__all__ = [
    "SHOWN",
    "Advice",
    "Choice",
    "Timed",
    "UnderLimit",
    "advice_of",
    "advise",
    "measured_times",
    "settings",
]
