# SPDX-License-Identifier: GPL-2.0-only
"""One pool of a trace and its model."""

from __future__ import annotations

from typing import Any

from ztrace.allocator import HasSteps, Pool
from ztrace.allocator.specification import family
from ztrace.replay.figures.result import PoolResult
from ztrace.replay.play.backends import handles_tell
from ztrace.replay.play.compaction import Compaction, compaction
from ztrace.replay.read.lives import Lives, errno_name
from ztrace.replay.read.rows import NO_TOTAL

Object = tuple[int, int]
"""The model's handle of an object, and its size in bytes."""


class PoolRun:
    """One pool of the trace and its model.

    ``lives`` knows of each object the model's handle and the size in bytes; ``live`` is its
    dictionary.
    """

    __slots__ = (
        "begun",
        "compaction",
        "free",
        "handles_tell",
        "held",
        "live",
        "lives",
        "malloc",
        "map",
        "model",
        "model_total",
        "more_bytes",
        "recorded_total",
        "result",
        "take",
        "unmap",
    )

    def __init__(
        self,
        number: int,
        allocator: str,
        backend: str,
        model: Pool,
        lives: Lives[Object],
        *,
        compared: bool,
    ) -> None:
        self.model = model
        self.malloc, self.free, self.map, self.unmap = (
            *(model.malloc, model.free),
            *(model.map, model.unmap),
        )
        self.lives = lives
        self.live, self.take = lives.live, lives.take
        self.begun: dict[int, Any] = {}
        self.held = 0
        self.model_total = 0
        self.recorded_total = NO_TOTAL
        self.result = PoolResult(
            *(number, allocator, compared), unknown=lives.unknown, failed=lives.failed
        )
        # Of these allocators the handle tells where the object is; of others it is an address.
        self.handles_tell = handles_tell(backend)
        self.compaction: Compaction | None = None
        if family(backend) == allocator:
            self.compaction = compaction(model)
        self.more_bytes = 0  # what this backend's zswap header takes beyond the recorded one's

    def begin(self, handle: int, size: int) -> None:
        """First part of the malloc that is going to give ``handle``, where handles are compared."""
        if self.result.compared and self.handles_tell and isinstance(self.model, HasSteps):
            self.begun[handle] = self.model.begin_malloc(size)

    def end(self, handle: int) -> int:
        """Second part; returns the model's handle."""
        assert isinstance(self.model, HasSteps)
        return self.model.end_malloc(self.begun.pop(handle))

    def fail(self, size: int, ret: int, number: int) -> None:
        """Play a malloc that failed; the page allocator's failures are not the model's."""
        result = self.result
        if not self.lives.fail(ret) or not result.compared:
            return
        try:
            given = self.malloc(size)
        except OSError as refusal:
            answer = errno_name(-(refusal.errno or 0))
        else:
            self.free(given)
            answer = f"{given:#x}"
        name = errno_name(ret)
        what = f"row {number}: malloc({size}) failed with {name}, model: {answer}"
        result.errors.note(answer == name, what)
