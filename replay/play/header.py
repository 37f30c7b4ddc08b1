# SPDX-License-Identifier: GPL-2.0-only
"""The header that zswap puts before an object, where a kernel and an allocator make it do so."""

from __future__ import annotations

import re

from ztrace.traces.metadata import Metadata

# Drivers with a shrink callback: until 6.4 zswap keeps the swap entry with the object
# (mm/zswap.c, struct zswap_header), so that the driver can have it written back.
EVICTABLE = ("zbud", "z3fold", "ztree", "zblock:2022")
HEADER_BYTES = 8
REMOVED_IN = (6, 5)


def zswap_release(metadata: Metadata) -> str:
    """The recorded kernel, for :func:`header_bytes`; empty if zram asked, which adds nothing."""
    return "" if metadata.source == "zram" else metadata.kernel.release


def header_bytes(backend: str, kernel_release: str) -> int:
    """Bytes that zswap of a kernel adds to each object given to the allocator of a backend.

    0 for a release that cannot be read. What a pool of that very kernel really had is in a
    trace's metadata; this is for allocators that the trace was not recorded on.
    """
    match = re.match(r"(\d+)\.(\d+)", kernel_release)
    evictable = any(f"{backend},".startswith((f"{name}:", f"{name},")) for name in EVICTABLE)
    if match is None or not evictable:
        return 0
    return HEADER_BYTES if (int(match[1]), int(match[2])) < REMOVED_IN else 0
