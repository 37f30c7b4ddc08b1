# SPDX-License-Identifier: GPL-2.0-only
"""ztree in the core: its configuration from the model's arguments, its statistics from figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ztrace.allocator.native.library import Config
from ztrace.allocator.native.pool import rows, set_table
from ztrace.allocator.ztree.model import POSTED_TABLE

_TYPE = (
    *("class", "slot_bytes", "slots", "order"),
    *("blocks", "blocks_ever", "free_slots", "stranded_slots"),
)


def configure(config: Config, arguments: Mapping[str, Any]) -> None:
    """What the core's model is made from."""
    config.long_bytes = arguments.get("long_bytes", 8)
    config.max_index = arguments.get("max_index", 0)
    set_table(config, arguments.get("table", POSTED_TABLE))


def stats(figures: Sequence[int], page_bytes: int) -> dict[str, Any]:
    """As the model's."""
    inserted, deleted, searched, *rest = figures
    types = rows(_TYPE, rest)
    return {
        "pages_allocated": sum(row["blocks_ever"] << row["order"] for row in types),
        "searched": searched,
        "objects_moved": 0,
        "blocks_inserted": inserted,
        "blocks_deleted": deleted,
        "stranded_slots": sum(row["stranded_slots"] for row in types),
        "stranded_bytes": sum(row["stranded_slots"] * row["slot_bytes"] for row in types),
        "classes": [
            {
                **{name: row[name] for name in _TYPE[:6]},
                "used_slots": row["blocks"] * row["slots"] - row["free_slots"],
                "free_slots": row["free_slots"],
                "stranded_slots": row["stranded_slots"],
            }
            for row in types
        ],
    }
