# SPDX-License-Identifier: GPL-2.0-only
"""Why a model may not answer as a recording does, as far as one call tells."""

from __future__ import annotations

from enum import IntEnum


class Cause(IntEnum):
    """Which kind of fault would look like this. The numbers are those of check.h."""

    CUT_SHORT = 0
    MALLOC_LOST = 1
    FREE_LOST = 2
    BLOCKS_LOST = 3
    OTHER_RULE = 4

    @property
    def text(self) -> str:
        """The cause in words."""
        return _CAUSES[self]


_CAUSES = {
    Cause.CUT_SHORT: (
        "too many calls overlapped: the search was given up before all orders were tried"
    ),
    Cause.MALLOC_LOST: "a malloc of this handle is missing before it (lost event)",
    Cause.FREE_LOST: "a free of this handle is missing before it (lost event)",
    Cause.BLOCKS_LOST: ("mallocs that made the blocks before this one are missing (lost events)"),
    Cause.OTHER_RULE: "a rule that differs from the model's, or a call recorded wrongly",
}
