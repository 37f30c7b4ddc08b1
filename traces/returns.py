# SPDX-License-Identifier: GPL-2.0-only
"""What column ``ret`` says of a call: 0, it succeeded; negative, it failed with that -errno.

A shrink's is what the driver returned, a count of some; that of a compaction and of a sample say
nothing. Of the other calls into the allocator a positive one says nothing that can be known: who
wrote it may mean an errno, or a count. It is neither success nor failure but a fault of the trace.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ztrace.traces.errors import TraceError
from ztrace.traces.schema import OP_CODE, OPS

_JUDGED = tuple(OP_CODE[name] for name in ("malloc", "free", "map", "unmap"))


def check_returns(
    op: npt.NDArray[np.int8], ret: npt.NDArray[np.int32], first_row: int, where: str
) -> None:
    """TraceError, with the row, for a call that returned what none does."""
    if not len(ret) or ret.max() <= 0:
        return
    bad = (ret > 0) & np.isin(op, _JUDGED)
    if bad.any():
        at = int(bad.argmax())
        raise TraceError(
            f"{where}: row {first_row + at}: {OPS[op[at]]} returned {ret[at]}; ret is 0, or a "
            "negative errno for a call that failed (-12 is ENOMEM); correct it"
        )
