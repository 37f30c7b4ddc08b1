# SPDX-License-Identifier: GPL-2.0-only
"""zbud on several CPUs: an order of all calls in which the model gives every recorded handle.

Calls that overlap none other are played on the model. A group of overlapping ones is searched
(zbud_search.py) for every order of pages within lists that it can leave. Such an outcome that is
not decided is kept as a :class:`_Open` set of alternatives, of the order of the pages that the
group put on lists: these are neighbours there, below all that comes later. It is narrowed as soon
as a malloc takes one of those pages, and forgotten with the last two of them. Sets are independent
of each other, so their number does not multiply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod

from ztrace.allocator.zbud.model import Zbud
from ztrace.replay.validate.answers import Cause
from ztrace.replay.validate.zbud_search import Log, Order, Search
from ztrace.replay.validate.zbud_steps import Call, Kind, State, Step

MOST_BEGINNINGS = 4096  # arrangements from which a group is searched

OTHER = "a rule that differs from the model's, or a call recorded wrongly or lost"


@dataclass(frozen=True)
class Failure:
    """A call that no order explains."""

    call: Call
    answer: str
    cause: str


@dataclass
class Tally:
    """Counts of one pool. ``undecided``: most outcomes of groups open at once."""

    calls: int = 0
    explained: int = 0
    groups: int = 0
    overlapping: int = 0
    largest_group: int = 0
    dead_ends: int = 0
    cut_short: int = 0
    undecided: int = 0


@dataclass(eq=False)
class _Open:
    """Alternatives that cannot be told apart yet; the model lies as the first of them.

    All have segments of the same pages at the same positions.
    """

    alternatives: list[Order]
    pages: set[int] = field(init=False)

    def __post_init__(self) -> None:
        self.pages = {one for _, numbers in self.alternatives[0] for one in numbers}


@dataclass
class Checker:
    """Checks the calls of one pool, which began empty. ``on_failure`` gets what is unexplained."""

    model: Zbud
    on_failure: Callable[[Failure], None]
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.state = State(self.model)
        self._open: dict[int, _Open] = {}  # by page

    def play(self, call: Call) -> None:
        """A call that overlaps no other one."""
        state = self.state
        if call.kind != Kind.MALLOC or call.number not in self._open:
            steps = state.steps(call, looked=False)
            if steps and steps[0] != Step.LOOK:
                # Only a malloc may have to be undone: its page is its list's newest or new.
                saved = state.save(call.number) if call.kind == Kind.MALLOC else None
                if state.act(call, steps[0]):
                    self.tally.calls += 1
                    self.tally.explained += 1
                    if call.number in self._open:
                        self._leave([call.number])
                    return
                assert saved is not None
                state.undo(saved)
        self.group([call])

    def group(self, calls: Sequence[Call]) -> None:
        """Calls that overlap, sorted by (ts, row)."""
        tally = self.tally
        tally.calls += len(calls)
        if len(calls) > 1:
            tally.groups += 1
            tally.overlapping += len(calls)
            tally.largest_group = max(tally.largest_group, len(calls))
        remaining = list(calls)
        while remaining:
            remaining = self._search(remaining)

    def _search(self, calls: Sequence[Call]) -> list[Call]:
        """Explain a group; returns what is left to do after a call that cannot be explained."""
        state, tally = self.state, self.tally
        touched = {call.number for call in calls}
        taken = {call.number for call in calls if call.kind == Kind.MALLOC}
        asked = list({id(one): one for n in taken if (one := self._open.get(n))}.values())
        number = prod(len(one.alternatives) for one in asked)
        beginnings: list[Order] = [()]
        if number <= MOST_BEGINNINGS:
            choices = product(*(one.alternatives for one in asked))
            beginnings = [sum(choice, ()) for choice in choices]
        search = Search(state, calls)
        search.run(beginnings)
        cut_short = search.cut_short or number > MOST_BEGINNINGS
        tally.cut_short += cut_short
        tally.dead_ends += search.dead_ends
        stuck = None
        if search.exits:
            exits = list(search.exits.values())
            origin, log = exits[0].origin, exits[0].log
            left = [_without(beginnings[one.origin], touched) + one.order for one in exits]
        else:
            _, origin, log, stuck = search.deepest
            left = []
        state.arrange(beginnings[origin])
        finished = self._redo(log)
        tally.explained += len(finished)
        for one in asked:
            self._forget(one)
        self._leave(touched)
        if stuck is None:
            self._keep(left)
            return []
        cause = Cause.CUT_SHORT.text if cut_short else OTHER
        self.on_failure(Failure(stuck, state.answer(stuck), cause))
        state.force(stuck)
        return [call for call in calls if call not in finished and call is not stuck]

    def _redo(self, log: Log | None) -> list[Call]:
        """Make the steps of an order found; returns the calls that they complete."""
        steps = []
        while log is not None:
            steps.append((log.call, log.step))
            log = log.before
        for call, step in reversed(steps):
            self.state.act(call, step)
        return [call for call, step in steps if step != Step.LOOK]

    # -- what is not decided ------------------------------------------------------------------

    def _keep(self, alternatives: Iterable[Order]) -> None:
        """Keep alternatives, of which the model lies as the first, apart where they can be."""
        orders = list(dict.fromkeys(_telling(one) for one in alternatives))
        positions = [list(dict.fromkeys(one)) for one in zip(*orders, strict=True)]
        if prod(len(one) for one in positions) == len(orders):
            parts: list[list[Order]] = [[(segment,) for segment in one] for one in positions]
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
        for one in list({id(self._open[n]): self._open[n] for n in gone}.values()):
            self._forget(one)
            self._keep(_without(order, gone) for order in one.alternatives)

    def _forget(self, one: _Open) -> None:
        for number in one.pages:
            del self._open[number]


def _without(order: Order, gone: set[int]) -> Order:
    return tuple((at, tuple(n for n in numbers if n not in gone)) for at, numbers in order)


def _telling(order: Order) -> Order:
    """The segments that can differ: those of several pages."""
    return tuple(segment for segment in order if len(segment[1]) > 1)
