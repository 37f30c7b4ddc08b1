# SPDX-License-Identifier: GPL-2.0-only
"""One block tree's calls as arrays, batch by batch: cut into groups, checked, put in order.

This is how the Python checker is driven; :mod:`replay.validate.native` is the same in the core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ztrace.allocator.ztree.calls import BlockCall, BlockKind, BlockStep
from ztrace.allocator.ztree.model import BlockTree
from ztrace.replay.validate.calls import Seen, groups
from ztrace.replay.validate.found_order import FoundOrder
from ztrace.replay.validate.ztree_checker import BlockFailure, BlockSteps, TreeChecker, TreeTally


@dataclass(frozen=True)
class Sinks:
    """Who gets what is found. ``on_steps``: stretches of found order that a race may be in.

    ``on_order`` gets the order of all calls, if anybody wants it.
    """

    on_steps: Callable[[BlockSteps], None]
    on_failure: Callable[[BlockFailure], None]
    on_order: Callable[[FoundOrder], None] | None


class Stream(Protocol):
    """Checks one tree."""

    tally: TreeTally

    def check(self, calls: Seen, limit: int) -> int:
        """Check calls sorted by (ts, row) that no call from ``limit`` on can overlap.

        Returns how many of them that were.
        """

    def finish(self) -> None:
        """No more calls."""

    @property
    def undecided_since(self) -> int | None:
        """Begin of the earliest call whose place in the order is not certain yet, ns."""


class PythonStream:
    """Drives :class:`replay.validate.ztree_checker.TreeChecker`, which is the specification."""

    def __init__(self, tree: BlockTree, starts_empty: bool, sinks: Sinks) -> None:
        self._sinks = sinks
        self._checker = TreeChecker(tree, starts_empty, self._on_steps, sinks.on_failure)
        self.tally = self._checker.tally

    def check(self, calls: Seen, limit: int) -> int:
        """See :class:`Stream`."""
        cuts = list(groups(calls, limit))
        kinds, blocks, slots = (calls[name].tolist() for name in ("kind", "block", "slot"))

        def play(first: int, last: int) -> None:
            runs = self._checker.play(
                *(kinds[first:last], blocks[first:last], slots[first:last]),
                lambda position: call_of(calls[first + position]),
            )
            for begin, end in runs:
                self._order_plain(calls[first + begin : first + end])

        # Runs of calls that overlap nothing, between groups that do.
        played = 0
        for first, last in cuts:
            if last - first > 1:
                play(played, first)
                self._checker.group([call_of(one) for one in calls[first:last]])
                played = last
        done = cuts[-1][1] if cuts else 0
        play(played, done)
        return done

    def finish(self) -> None:
        """See :class:`Stream`."""
        self._checker.finish()

    @property
    def undecided_since(self) -> int | None:
        """See :class:`Stream`."""
        return self._checker.undecided_since

    # -- the order found ---------------------------------------------------------------------

    def _order_plain(self, calls: Seen) -> None:
        if self._sinks.on_order is not None:
            self._sinks.on_order(
                FoundOrder(calls["ts"], calls["row"], np.zeros(len(calls), np.int8))
            )

    def _on_steps(self, steps: BlockSteps) -> None:
        """Place steps at moments that keep their order and lie inside their calls."""
        self._sinks.on_steps(steps)
        if self._sinks.on_order is None:
            return
        placed: list[tuple[int, int, int]] = []
        moment = -(1 << 62)
        for call, step in _shown(steps):
            moment = max(moment, call.ts)
            placed.append((moment, call.row, step))
        if placed:
            at_ns, row, step_ = zip(*placed, strict=True)
            self._sinks.on_order(
                FoundOrder(np.array(at_ns), np.array(row), np.array(step_, np.int8))
            )


def call_of(seen: Any) -> BlockCall:
    """A row of dtype SEEN as a BlockCall."""
    values = seen.item()
    return BlockCall(values[0], values[1], BlockKind(values[2]), *values[3:-1])


def _shown(steps: BlockSteps) -> Iterator[tuple[BlockCall, BlockStep]]:
    """BlockSteps as an order is written: a malloc whose steps follow each other is one whole step.

    A malloc without its last step is one of those around a call that nothing explains.
    """
    ended = {call.row for call, step in steps if step == BlockStep.TAKE}
    at = 0
    while at < len(steps):
        call, step = steps[at]
        if step == BlockStep.LOOK and steps[at + 1 : at + 3] == [
            (call, BlockStep.INSERT),
            (call, BlockStep.TAKE),
        ]:
            yield call, BlockStep.WHOLE
            at += 3
            continue
        if call.kind <= BlockKind.FAILED_MALLOC and (step == BlockStep.WHOLE or call.row in ended):
            yield call, step
        at += 1
