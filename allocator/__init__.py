# SPDX-License-Identifier: GPL-2.0-only
"""Models of the kernel's allocators for compressed pages, behind one protocol.

>>> from ztrace.allocator import create
>>> pool = create("ztree")
>>> hex(pool.malloc(4000))
'0xf000000000000000'
"""

from ztrace.allocator.protocol import (
    BackendError,
    CompactsPages,
    CompactsPool,
    Evict,
    HasCpus,
    HasPlace,
    HasSteps,
    HazardError,
    Hazards,
    Place,
    Pool,
    Shrunk,
)
from ztrace.allocator.registry import create, names

__all__ = [
    "BackendError",
    "CompactsPages",
    "CompactsPool",
    "Evict",
    "HasCpus",
    "HasPlace",
    "HasSteps",
    "HazardError",
    "Hazards",
    "Place",
    "Pool",
    "Shrunk",
    "create",
    "names",
]
