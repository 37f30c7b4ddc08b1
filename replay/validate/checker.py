# SPDX-License-Identifier: GPL-2.0-only
"""Explains recorded calls by a model, group by group; what is common to all allocators.

A group of overlapping calls is searched (search.py) for every hidden state that it can leave. How
these are carried on as hypotheses, until later calls decide, is up to each allocator's checker:
ztree_checker.py, zbud_checker.py.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ztrace.allocator.causes import Cause
from ztrace.replay.validate.search import C, Exit, H, Log, Model, S, Search


@dataclass(frozen=True)
class Failure(Generic[C]):
    """A call that no order explains, and the calls that it overlapped, itself among them.

    ``tried``: the longest order of their steps that gives the recorded answers.
    """

    call: C
    answer: str
    cause: str
    around: tuple[C, ...]
    tried: tuple[tuple[C, object], ...]


@dataclass
class Tally:
    """Counts of one tree or pool. ``cut_short``: groups with too many orders to try them all."""

    calls: int = 0
    explained: int = 0
    groups: int = 0
    overlapping: int = 0
    largest_group: int = 0
    dead_ends: int = 0
    cut_short: int = 0


T = TypeVar("T", bound=Tally)
Steps = list[tuple[C, S]]


class Checker(Generic[C, S, H, T]):
    """Checks calls that :meth:`group` takes in order of time.

    ``on_failure`` gets what cannot be explained; after it the model is made to agree with the
    trace and checking goes on. A subclass says what a group is searched from, and what becomes
    of its exits.
    """

    def __init__(
        self, model: Model[C, S, H], tally: T, on_failure: Callable[[Failure[C]], None]
    ) -> None:
        self._model = model
        self.tally = tally
        self._on_failure = on_failure
        self.hypotheses: list[Exit[C, S, H]] = []

    def group(self, calls: Sequence[C]) -> None:
        """Explain calls that overlap (or one alone that needs thought), sorted by (ts, row)."""
        tally = self.tally
        if len(calls) > 1:
            tally.groups += 1
            tally.overlapping += len(calls)
            tally.largest_group = max(tally.largest_group, len(calls))
        tally.calls += len(calls)
        remaining = list(calls)
        while remaining:
            remaining = self._explain(remaining)

    def _explain(self, calls: Sequence[C]) -> list[C]:
        """Explain a group; returns what is left to do after a call that cannot be explained."""
        model, tally = self._model, self.tally
        not_all = self._prepare(calls)
        search = Search(model, calls)
        search.run(self.hypotheses)
        cut_short = search.cut_short or not_all
        tally.dead_ends += search.dead_ends
        tally.cut_short += cut_short
        exits = list(search.exits.values())
        steps = self._redo(exits[0] if exits else search.deepest)
        finished = {call for call, step in steps if step.ends}
        tally.explained += sum(step.ends for _, step in steps)
        self._carry_on(exits or [search.deepest], steps)
        if exits:
            self._conclude(steps, None)
            return []
        stuck = search.stuck
        cause = Cause.CUT_SHORT if cut_short else model.cause(stuck)
        self._on_failure(
            Failure(stuck, model.answer(stuck), cause.text, tuple(calls), tuple(steps))
        )
        model.force(stuck)
        self._conclude(steps, stuck)
        return [call for call in calls if call not in finished and call is not stuck]

    def _redo(self, target: Exit[C, S, H]) -> Steps[C, S]:
        """Bring the model to ``target``, from the hypothesis it started from; returns the steps."""
        known = {id(hypothesis.log) for hypothesis in self.hypotheses if hypothesis.log}
        self._model.install(target.origin)
        steps = steps_to(target.log, known)
        for call, step in steps:
            self._model.act(call, step)
        return steps

    # -- what differs -----------------------------------------------------------------------

    def _prepare(self, calls: Sequence[C]) -> bool:
        """Set the hypotheses that a group is searched from; whether there are more than those."""
        raise NotImplementedError

    def _carry_on(self, exits: Sequence[Exit[C, S, H]], steps: Steps[C, S]) -> None:
        """A group left the model at the first of ``exits``, by ``steps``.

        Without an order for all its calls there is one exit, which the longest partial order
        leaves.
        """
        raise NotImplementedError

    def _conclude(self, steps: Steps[C, S], forced: C | None) -> None:
        """What was done with a group: steps, then perhaps a call that nothing explains."""


def steps_to(log: Log[C, S] | None, known: Container[int] = ()) -> Steps[C, S]:
    """The steps that led to a state, oldest first, from the state of a log whose id is known."""
    steps = []
    while log is not None and id(log) not in known:
        steps.append((log.call, log.step))
        log = log.before
    steps.reverse()
    return steps
