# SPDX-License-Identifier: GPL-2.0-only
"""What allocators could be for traces: block tables, classes and chains, chosen and tried."""

from ztrace.replay.research.block_table import Limits, best_table, static_bytes
from ztrace.replay.tune.search import Limited, Table, has_table, table_limits
from ztrace.replay.tune.trial import Gain, Held, Trial, Tuned, Tuning, tunable, tune, work

__all__ = [
    "Gain",
    "Held",
    "Limited",
    "Limits",
    "Table",
    "Trial",
    "Tuned",
    "Tuning",
    "best_table",
    "has_table",
    "static_bytes",
    "table_limits",
    "tunable",
    "tune",
    "work",
]
