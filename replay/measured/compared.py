# SPDX-License-Identifier: GPL-2.0-only
"""Does ztrace's model answer as the real allocator did, call for call?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ztrace.allocator.registry import recorded_traits
from ztrace.allocator.traits import Check, Tells
from ztrace.replay.validate import validate_trace
from ztrace.replay.validate.placement_verdict import Way
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


def compare(
    measured: Path,
    allocator: str,
    *,
    backend: str | None = None,
    engine: str | None = None,
    advance: Callable[[int], object] = lambda rows: None,
) -> Compared:
    """Validate a measured trace with the model of its allocator. Raises what validation raises.

    ``backend`` replaces the model that validation chooses, ``engine`` is as of validate_trace().
    ``advance`` gets numbers of rows done, in all the trace's.
    """
    traits = recorded_traits(allocator)
    if traits.tells is Tells.NOTHING and traits.check is not Check.TREES:
        return Compared()
    with TraceReader(measured) as reader:
        verdict = validate_trace(reader, backend=backend, engine=engine, advance=advance)
    errors = [answer for pool in verdict.pools for answer in (pool.errors, pool.shrinks)]
    model, first, determined = allocator, None, True
    compared = verdict.calls + sum(one.compared for one in errors)
    equal = verdict.explained + sum(one.equal for one in errors)
    if verdict.trees is not None:
        compared += verdict.trees.errors_agree + verdict.trees.errors_differ
        equal += verdict.trees.errors_agree
        if verdict.trees.unexplained:
            failure = verdict.trees.unexplained[0].failure
            first = f"{failure.call}: model: {failure.answer}"
    for pool in verdict.pools:
        model = pool.backend
        first = pool.first and "row {}: {}".format(*pool.first)
        determined = pool.order is not Way.RECORDED or len(pool.cpus) <= 1
    return Compared(
        model=model,
        compared=compared,
        equal=equal,
        sizes_compared=verdict.sizes_compared,
        sizes_equal=verdict.sizes_equal,
        determined=determined,
        first=first,
    )
