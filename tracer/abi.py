# SPDX-License-Identifier: GPL-2.0-only
"""Which kernel functions are probed for which call, chosen by what this kernel has.

Never by its version: symbols are tried in order, and a comment says which release changed them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tracer.errors import TracerError

TRACEABLE = Path("/sys/kernel/tracing/available_filter_functions")
TRACEABLE_OLD = Path("/sys/kernel/debug/tracing/available_filter_functions")


@dataclass(frozen=True)
class Probe:
    """One kernel function, the call it stands for in a trace, and the probes put on it.

    ``enter`` and ``exit`` are functions of probes/zswap.c; ``op`` is None for helpers that
    make no row of their own.
    """

    symbol: str
    op: str | None
    enter: str | None
    exit: str | None


# zswap behind frontswap, until 6.5 (mm/zswap.c; frontswap was removed in 6.6).
FRONTSWAP = (
    Probe("zswap_frontswap_store", "store", "enter_store", "exit_store"),
    Probe("zswap_frontswap_load", "load", "enter_load", "exit_load"),
    Probe("zswap_frontswap_invalidate_page", "invalidate", "enter_invalidate", "exit_invalidate"),
    Probe("zswap_frontswap_invalidate_area", None, "enter_invalidate_area", "exit_invalidate"),
    Probe("zswap_writeback_entry", "writeback", "enter_writeback", "exit_writeback"),
)

# mm/zpool.c, until 6.17 (zpool was removed in 6.18).
ZPOOL = (
    Probe("zpool_malloc", "malloc", "enter_malloc", "exit_malloc"),
    Probe("zpool_free", "free", "enter_free", "exit_free"),
    Probe("zpool_map_handle", "map", "enter_map", "exit_map"),
    Probe("zpool_unmap_handle", "unmap", "enter_unmap", "exit_unmap"),
    Probe("zpool_shrink", "shrink", "enter_shrink", "exit_shrink"),
    Probe("zpool_get_total_size", None, "enter_total", "exit_total"),
    Probe("zpool_create_pool", None, None, "exit_create"),
)

WANTED = FRONTSWAP + ZPOOL

# Byte offsets in kernel structures, 64 bit. struct zpool { driver, pool, ops, evictable, … } and
# struct zpool_driver { type, … } are so in mm/zpool.c and include/linux/zpool.h from 5.12 to 6.4;
# swp_entry_t keeps the swap type above bit 58 (include/linux/swapops.h).
DEFINES = {
    "ZPOOL_DRIVER": 0,
    "ZPOOL_DRIVER_TYPE": 0,
    "ZPOOL_EVICTABLE": 24,
    "HEADER_HOLDS_SLOT": 1,
    "SWP_TYPE_SHIFT": 58,
}

# sizeof(struct zswap_header), which zswap put before each object of an evictable pool until 6.4.
ZSWAP_HEADER_BYTES = 8


def traceable_functions() -> frozenset[str]:
    """Names of functions that a kprobe can be put on. TracerError where they cannot be read."""
    for path in (TRACEABLE, TRACEABLE_OLD):
        try:
            text = path.read_text()
        except OSError:
            continue
        return frozenset(line.partition(" ")[0] for line in text.splitlines())
    raise TracerError(
        f"{TRACEABLE}: cannot be read; as root: mount -t tracefs tracefs /sys/kernel/tracing"
    )


def choose_probes(functions: frozenset[str]) -> tuple[list[Probe], list[Probe]]:
    """Split WANTED into (attachable, missing) for a kernel with these traceable functions."""
    return (
        [probe for probe in WANTED if probe.symbol in functions],
        [probe for probe in WANTED if probe.symbol not in functions],
    )
