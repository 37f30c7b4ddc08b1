# SPDX-License-Identifier: GPL-2.0-only
"""An order in which a trace's calls took effect, and the allocators of which one is searched."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ztrace.allocator.registry import recorded_traits
from ztrace.allocator.traits import Check


class FoundOrder(NamedTuple):
    """A stretch of found order: arrays of equal length, in order of effect.

    ``at_ns`` is a moment of each step inside its call's interval, ``row`` the call's row in the
    trace, ``step`` a :class:`allocator.ztree.calls.BlockStep`.
    """

    at_ns: NDArray[np.int64]
    row: NDArray[np.int64]
    step: NDArray[np.int8]


def can_explain(allocator: str) -> bool:
    """Whether this check is that of a recorded allocator, or can be tried as nobody knows which."""
    return allocator == "unknown" or recorded_traits(allocator).check is Check.TREES
