# SPDX-License-Identifier: GPL-2.0-only
"""zsmalloc in the core: its configuration, its compaction, its statistics from figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ztrace.allocator.native.library import CHAIN_USED, CHAIN_WASTE, Config
from ztrace.allocator.native.pool import PlacingPool, rows
from ztrace.allocator.zsmalloc.model import VARIANTS

_CLASS = (
    *("class", "slot_bytes", "slots", "pages", "blocks", "blocks_ever", "used_slots"),
    *("moved", "relinks", "revived", "searched", "spanning", "spanned"),
)
_RULES = {"used": CHAIN_USED, "waste": CHAIN_WASTE}


def configure(config: Config, arguments: Mapping[str, Any]) -> None:
    """What the core's model is made from."""
    variant = arguments.get("variant", "6.12")
    config.variant = int(variant.replace(".", ""))
    rules = VARIANTS[variant]
    config.chain_size = arguments.get("chain_size") or rules.chain_size
    config.chain_rule = _RULES[arguments.get("chain_rule") or rules.chain_rule]
    config.chain_saving = arguments.get("chain_saving", 0)
    config.class_step = arguments.get("class_step", 0)


class Pool(PlacingPool):
    """zsmalloc, which can be compacted."""

    def compact(self) -> int:
        """zs_compact(); returns the pages it says it freed."""
        return int(self._library.zc_compact(self._pool))


def stats(figures: Sequence[int], page_bytes: int) -> dict[str, Any]:
    """As the model's."""
    next_page, objects, stored, compactions, copies, copied_bytes, *rest = figures
    classes = rows(_CLASS, rest)
    for row in classes:
        row["free_slots"] = row["blocks"] * row["slots"] - row["used_slots"]
        row["freed"] = row["blocks_ever"] - row["blocks"]
    held = sum(row["blocks"] * row["pages"] for row in classes) * page_bytes
    held_slot_bytes = sum(row["used_slots"] * row["slot_bytes"] for row in classes)

    def total(name: str) -> int:
        return sum(row[name] for row in classes)

    return {
        "pages_allocated": next_page,
        "pages_freed": sum(row["freed"] * row["pages"] for row in classes),
        "zspages": total("blocks"),
        "objects": objects,
        "huge_objects": sum(
            row["used_slots"] for row in classes if row["pages"] == row["slots"] == 1
        ),
        "stored_bytes": stored,
        "wasted_bytes": held - stored,
        "free_slot_bytes": sum(row["free_slots"] * row["slot_bytes"] for row in classes),
        "tail_bytes": sum(
            row["blocks"] * (row["pages"] * page_bytes - row["slots"] * row["slot_bytes"])
            for row in classes
        ),
        "padding_bytes": held_slot_bytes - stored,
        "compactable_pages": sum(
            row["free_slots"] // row["slots"] * row["pages"] for row in classes
        ),
        "compactions": compactions,
        "spanning_objects": total("spanning"),
        "spanning_mallocs": total("spanned"),
        "spanning_maps": copies,
        "copied_bytes": copied_bytes,
        "searched": total("searched"),
        "objects_moved": total("moved"),
        "zspages_made": total("blocks_ever"),
        "zspages_freed": total("freed"),
        "zspages_deferred": 0,
        "zspages_revived": total("revived"),
        "relinks": total("relinks"),
        "classes": [{name: row[name] for name in (*_CLASS[:7], "free_slots")} for row in classes],
    }
