# SPDX-License-Identifier: GPL-2.0-only
"""Does ztrace's model answer as the real allocator did, call for call?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ztrace.allocator.registry import recorded_traits
from ztrace.allocator.traits import Check, Tells
from ztrace.replay.validate import validate
from ztrace.replay.validate.placement import compare_places
from ztrace.traces.reader import TraceReader


@dataclass(frozen=True)
class Compared:
    """``model`` is the backend, None if there is none that tells places. Of ``compared`` answers
    ``equal`` were the model's, as were ``sizes_equal`` of ``sizes_compared`` sizes of the pool;
    ``first`` says which answer was the first that differed. ``determined`` is False where the
    order of calls on several CPUs is not known, so that a difference proves nothing.
    """

    model: str | None = None
    compared: int = 0
    equal: int = 0
    sizes_compared: int = 0
    sizes_equal: int = 0
    determined: bool = True
    first: str | None = None

    @property
    def agrees(self) -> bool:
        """Whether nothing differs that can be told."""
        return not self.determined or (
            self.compared == self.equal and self.sizes_compared == self.sizes_equal
        )


def compare(measured: Path, allocator: str) -> Compared:
    """Validate a measured trace with the model of its allocator. Raises what validation raises."""
    traits = recorded_traits(allocator)
    with TraceReader(measured) as reader:
        if traits.check == Check.TREES:
            verdict = validate(reader)
            wrong = verdict.unexplained[0] if verdict.unexplained else None
            return Compared(
                model=allocator,
                compared=verdict.total("calls") + verdict.errors_agree + verdict.errors_differ,
                equal=verdict.total("explained") + verdict.errors_agree,
                first=f"{wrong.failure.call}: model: {wrong.failure.answer}" if wrong else None,
            )
        if traits.tells == Tells.NOTHING:
            return Compared()
        placement = compare_places(reader)
    [pool] = placement.pools
    return Compared(
        model=pool.backend,
        compared=pool.places.compared + pool.errors.compared,
        equal=pool.places.equal + pool.errors.equal,
        sizes_compared=pool.sizes.compared,
        sizes_equal=pool.sizes.equal,
        determined=not any("held the lock" in note for note in pool.notes),
        first=pool.places.first or pool.errors.first,
    )
