# SPDX-License-Identifier: GPL-2.0-only
"""All interleavings of a few calls of the posted ztree, and the hazards that they reach.

>>> from ztrace.replay.research.explore import Scenario, explore, run_schedule
>>> scenario = Scenario("malloc | malloc; free #2")
>>> exploration = explore(scenario)
>>> exploration.found["H3"]
(0, 0, 1, 1, 1, 1, 0, 0)
>>> run_schedule(scenario, exploration.found["H3"]).confirms("H3")
True
"""

from ztrace.replay.research.explore.machine import GAPS
from ztrace.replay.research.explore.mail import schedule_lines
from ztrace.replay.research.explore.scenarios import BUILTIN, Builtin
from ztrace.replay.research.explore.search import (
    Exploration,
    Row,
    Run,
    Scenario,
    confirm,
    explore,
    run_schedule,
    sorted_names,
)

__all__ = [
    "BUILTIN",
    "GAPS",
    "Builtin",
    "Exploration",
    "Row",
    "Run",
    "Scenario",
    "confirm",
    "explore",
    "run_schedule",
    "schedule_lines",
    "sorted_names",
]
