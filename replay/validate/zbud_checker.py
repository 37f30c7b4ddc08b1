# SPDX-License-Identifier: GPL-2.0-only
"""zbud on several CPUs: an order of all calls in which the model gives every recorded handle.

Calls that overlap none other are played on the model. A group of overlapping ones leaves open how
pages lie on their lists (allocator/zbud/steps.py). An outcome that is not decided is kept as an
:class:`_Open` set of alternatives, of the order of the pages that the group put on lists: these
are neighbours there, below all that comes later. It is narrowed as soon as a malloc takes one of
those pages, and forgotten with the last two of them. Sets are independent of each other, so their
number does not multiply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod

from ztrace.allocator.zbud.model import Zbud
from ztrace.allocator.zbud.steps import (
    PageCall,
    PageKind,
    PageOrder,
    PageStep,
    PoolHidden,
    PoolState,
)
from ztrace.replay.validate.checker import Checker, Failure, Steps, Tally
from ztrace.replay.validate.search import Exit

MOST_BEGINNINGS = 4096  # arrangements from which a group is searched


@dataclass
class PoolTally(Tally):
    """Counts of one pool. ``undecided``: most outcomes of groups open at once."""

    undecided: int = 0


@dataclass(eq=False)
class _Open:
    """Alternatives that cannot be told apart yet; the model lies as the first of them.

    All have segments of the same pages at the same positions.
    """

    alternatives: list[PageOrder]
    pages: set[int] = field(init=False)

    def __post_init__(self) -> None:
        self.pages = {one for _, numbers in self.alternatives[0] for one in numbers}


class PoolChecker(Checker[PageCall, PageStep, PoolHidden, PoolTally]):
    """Checks the calls of one pool, which began empty."""

    def __init__(
        self, model: Zbud, on_failure: Callable[[Failure[PageCall]], None], locked: bool = False
    ) -> None:
        self.state = PoolState(model, locked)
        super().__init__(self.state, PoolTally(), on_failure)
        self.model = model
        self._open: dict[int, _Open] = {}  # by page
        self._asked: list[_Open] = []  # those that the group's mallocs depend on
        self._touched: set[int] = set()  # pages of the group's calls

    def play(self, call: PageCall) -> None:
        """A call that overlaps no other one."""
        state = self.state
        if call.kind != PageKind.MALLOC or call.number not in self._open:
            steps = state.steps(call, 0)
            if steps and steps[0][0].ends:
                # Only a malloc may have to be undone: its page is its list's newest or new.
                saved = state.save(call.number) if call.kind == PageKind.MALLOC else None
                if state.do(call, steps[0][0]):
                    self.tally.calls += 1
                    self.tally.explained += 1
                    if call.number in self._open:
                        self._leave([call.number])
                    return
                assert saved is not None
                state.undo(saved)
        self.group([call])

    def _prepare(self, calls: Sequence[PageCall]) -> bool:
        self._touched = {call.number for call in calls}
        taken = sorted({call.number for call in calls if call.kind == PageKind.MALLOC})
        self._asked = list({id(one): one for n in taken if (one := self._open.get(n))}.values())
        number = prod(len(one.alternatives) for one in self._asked)
        beginnings: list[PageOrder] = [()]
        if number <= MOST_BEGINNINGS:
            choices = product(*(one.alternatives for one in self._asked))
            beginnings = [sum(choice, ()) for choice in choices]
        self.state.beginnings = beginnings
        self.hypotheses = [Exit.at(PoolHidden(number)) for number in range(len(beginnings))]
        return number > MOST_BEGINNINGS

    def _carry_on(
        self,
        exits: Sequence[Exit[PageCall, PageStep, PoolHidden]],
        steps: Steps[PageCall, PageStep],
    ) -> None:
        left = []
        for one in exits:
            before = self.state.beginnings[one.hidden.beginning]
            left.append(_without(before, self._touched) + one.hidden.order)
        for asked in self._asked:
            self._forget(asked)
        self._leave(self._touched)
        self._keep(left)

    # -- what is not decided ------------------------------------------------------------------

    def _keep(self, alternatives: Iterable[PageOrder]) -> None:
        """Keep alternatives, of which the model lies as the first, apart where they can be."""
        orders = list(dict.fromkeys(_telling(one) for one in alternatives))
        positions = [list(dict.fromkeys(one)) for one in zip(*orders, strict=True)]
        if prod(len(one) for one in positions) == len(orders):
            parts: list[list[PageOrder]] = [[(segment,) for segment in one] for one in positions]
        else:
            varying = [n for n, one in enumerate(positions) if len(one) > 1]
            parts = [[tuple(order[n] for n in varying) for order in orders]]
        for part in parts:
            if len(part) > 1:
                kept = _Open(part)
                self._open.update(dict.fromkeys(kept.pages, kept))
        if self._open:
            self.tally.undecided = max(self.tally.undecided, len(set(map(id, self._open.values()))))

    def _leave(self, numbers: Iterable[int]) -> None:
        """Pages have left the places that were not decided."""
        gone = {number for number in numbers if number in self._open}
        for one in list({id(self._open[n]): self._open[n] for n in sorted(gone)}.values()):
            self._forget(one)
            self._keep(_without(order, gone) for order in one.alternatives)

    def _forget(self, one: _Open) -> None:
        for number in one.pages:
            del self._open[number]


def _without(order: PageOrder, gone: set[int]) -> PageOrder:
    return tuple((at, tuple(n for n in numbers if n not in gone)) for at, numbers in order)


def _telling(order: PageOrder) -> PageOrder:
    """The segments that can differ: those of several pages."""
    return tuple(segment for segment in order if len(segment[1]) > 1)
