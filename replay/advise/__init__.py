# SPDX-License-Identifier: GPL-2.0-only
"""What a workload would gain from another allocator, another setting, another pool limit."""

from ztrace.replay.advise.advice import Advice, Choice, Timed, UnderLimit, advise, measured_times

__all__ = ["Advice", "Choice", "Timed", "UnderLimit", "advise", "measured_times"]
