# SPDX-License-Identifier: GPL-2.0-only
"""zbud in the core: its statistics from figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ztrace.allocator.native.library import Config
from ztrace.allocator.native.pool import PlacingPool
from ztrace.allocator.zbud.model import CHUNKS, PAGE_CHUNKS

Pool = PlacingPool

_FIGURES = (
    *("pages_allocated", "pages_freed", "pages_reclaimed", "evictions", "searched"),
    "used_chunks",
)


def configure(config: Config, arguments: Mapping[str, Any]) -> None:
    """It needs no more than the size of a page."""


def stats(figures: Sequence[int], page_bytes: int) -> dict[str, Any]:
    """As the model's."""
    named = dict(zip(_FIGURES, figures, strict=False))
    lists = figures[len(_FIGURES) :]
    free = sum(lists) * CHUNKS - named["used_chunks"]
    return {
        **{name: named[name] for name in _FIGURES[:-1]},
        "objects_moved": 0,
        "used_chunks": named["used_chunks"],
        "free_chunks": free,
        "lost_chunks": free - sum(number * pages for number, pages in enumerate(lists)),
        "classes": [
            {
                "class": number,
                "gap_bytes": number * (page_bytes // PAGE_CHUNKS),
                "blocks": pages,
                "used_slots": pages if number else 2 * pages,
                "free_slots": pages if number else 0,
            }
            for number, pages in enumerate(lists)
        ],
    }
