# SPDX-License-Identifier: GPL-2.0-only
"""z3fold in the core: its configuration, its pool's further calls, its statistics from figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ztrace.allocator.native.library import Config
from ztrace.allocator.native.pool import PlacingPool
from ztrace.allocator.z3fold.model import class_row

_FIGURES = (
    *("pages_allocated", "pages_freed", "pages_reclaimed", "evictions", "searched"),
    *("compactions", "compactions_queued", "compactions_pending", "objects_moved"),
    *("middles_moved", "objects_foreign", "slots_made", "slots_held", "used_chunks"),
)
_MORE = (
    *("pages", "objects", "headless_pages", "headless_objects", "waiting", "waiting_used"),
    *("chunks", "chunk_bytes"),
)


def configure(config: Config, arguments: Mapping[str, Any]) -> None:
    """What the core's model is made from."""
    config.cpus = min(arguments.get("cpus", 1), 2**32 - 1)
    config.deferred = arguments.get("work", "immediate") == "deferred"


class Pool(PlacingPool):
    """z3fold, whose calls are of a CPU and whose compaction can be deferred."""

    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        super().__init__(name, arguments)
        self.cpus = arguments.get("cpus", 1)
        self._cpu = 0

    @property
    def cpu(self) -> int:
        """The CPU of the calls that follow, and of the worker."""
        return self._cpu

    @cpu.setter
    def cpu(self, cpu: int) -> None:
        if not 0 <= cpu < self.cpus or self._library.zc_set_cpu(self._pool, cpu):
            raise ValueError(f"CPU {cpu}: this z3fold has {self.cpus} (z3fold:cpus=N)")
        self._cpu = cpu

    @property
    def deferred(self) -> int:
        """Pages queued for compaction."""
        pending: int = self.stats()["compactions_pending"]
        return pending

    def run_deferred(self, limit: int = -1) -> int:
        """Let the worker compact up to ``limit`` pages (-1: all)."""
        return int(self._library.zc_run_deferred(self._pool, limit))

    def compact_page(self, page_number: int) -> bool:
        """Let the worker compact one page; False if not queued."""
        return bool(self._library.zc_compact_page(self._pool, page_number) == 1)


def stats(figures: Sequence[int], page_bytes: int) -> dict[str, Any]:
    """As the model's."""
    named = dict(zip(_FIGURES + _MORE, figures, strict=False))
    lists = figures[len(_FIGURES) + len(_MORE) :]
    blocks, used = lists[::2], lists[1::2]
    headless = named["headless_pages"]
    full = named["pages"] - sum(blocks) - named["waiting"] - headless
    full_used = named["objects"] - sum(used) - named["waiting_used"] - named["headless_objects"]
    return {
        **{name: named[name] for name in _FIGURES},
        "free_chunks": (named["pages"] - headless) * named["chunks"] - named["used_chunks"],
        "classes": [
            *(
                class_row(number, number * named["chunk_bytes"], pages, used[number])
                for number, pages in enumerate(blocks)
                if number < named["chunks"] or pages
            ),
            class_row("waiting", 0, named["waiting"], named["waiting_used"]),
            class_row("headless", 0, headless, named["headless_objects"], places=1),
            class_row("full", 0, full, full_used),
        ],
    }
