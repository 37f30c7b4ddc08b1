# SPDX-License-Identifier: GPL-2.0-only
"""zblock and late ztree in the core, which count as ztree does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ztrace.allocator.native.library import Config
from ztrace.allocator.native.pool import set_table
from ztrace.allocator.zblock.model import LATE_TABLE, TABLE_2022, TABLE_2025_4K, TABLE_2025_16K
from ztrace.allocator.ztree.native import stats

__all__ = ["configure", "stats"]


def configure(config: Config, arguments: Mapping[str, Any]) -> None:
    """What the core's model is made from."""
    variant = arguments.get("variant", "2025")
    config.variant = 1 if variant == "late" else int(variant)
    set_table(config, arguments.get("table") or _table(variant, config.page_bytes))


def _table(variant: str, page_bytes: int) -> Sequence[tuple[int, int]]:
    """What a variant has if nothing else is asked for."""
    if variant == "2025":
        return TABLE_2025_4K if page_bytes == 4096 else TABLE_2025_16K
    return LATE_TABLE if variant == "late" else TABLE_2022
