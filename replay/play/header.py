# SPDX-License-Identifier: GPL-2.0-only
"""The header that zswap puts before an object, where a kernel and an allocator make it do so."""

from __future__ import annotations

from ztrace.allocator.registry import recorded_traits
from ztrace.allocator.specification import Specification
from ztrace.allocator.traits import release_number
from ztrace.traces.metadata import Metadata

# Until 6.4 zswap keeps the swap entry with the object (mm/zswap.c, struct zswap_header) if the
# driver has a shrink callback, so that the driver can have it written back.
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
    number = release_number(kernel_release)
    if number is None or number >= REMOVED_IN:
        return 0
    spec = Specification.parse(backend)
    return HEADER_BYTES if recorded_traits(spec.name).keeps_header(spec.variant) else 0
