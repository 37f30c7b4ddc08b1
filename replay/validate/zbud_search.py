# SPDX-License-Identifier: GPL-2.0-only
"""All orders of a group of overlapping zbud calls that give the recorded handles, depth first.

As search.py does for ztree: a step may come next unless a call that has not finished its steps
returned before the step's call began; states already visited are not explored again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ztrace.replay.validate.zbud_steps import Call, Saved, Segment, State, Step

NOT_BEGUN, LOOKED, DONE = range(3)

# Nodes after which a search is content with what it has found.
NODES, NODES_PER_CALL = 20_000, 50

Order = tuple[Segment, ...]


class Log(NamedTuple):
    """The steps that led to a state, newest first."""

    before: Log | None
    call: Call
    step: Step


class Exit(NamedTuple):
    """An outcome of the group: where it starts from, the order of its pages, how it came about."""

    origin: int
    order: Order
    log: Log | None


@dataclass
class _Frame:
    """One node of the search: what may come next, and how to take back what was tried."""

    first: int  # calls before this one are done
    done: int
    log: Log | None
    options: list[tuple[int, Step]]
    tried: int = 0
    undo: tuple[int, int, Saved] | None = None


class Search:
    """The search over one group; calls sorted by (ts, row).

    After :meth:`run`: ``exits``; ``deepest``, the longest partial order: how many calls it has,
    the number of its beginning, its log and the call that had to come next and could not;
    ``dead_ends``, nodes that led nowhere; ``cut_short``, whether orders were left untried.
    """

    def __init__(self, state: State, calls: Sequence[Call]) -> None:
        self._state = state
        self._calls = calls
        self._pages = sorted({call.number for call in calls})
        self._progress = bytearray(len(calls))
        self._visited: set[object] = set()
        self._origin = 0
        self._nodes_left = NODES + NODES_PER_CALL * len(calls)
        self.exits: dict[tuple[int, Order], Exit] = {}
        self.deepest: tuple[int, int, Log | None, Call] = (-1, 0, None, calls[0])
        self.dead_ends = 0
        self.cut_short = False

    def run(self, beginnings: Sequence[Order]) -> None:
        """Explore every order from each arrangement of pages; the state is restored."""
        for self._origin, order in enumerate(beginnings):
            self._state.arrange(order)
            self._explore()
        self._state.arrange(beginnings[0])

    def _explore(self) -> None:
        state = self._state
        stack = [self._frame(0, 0, None)]
        while stack:
            frame = stack[-1]
            if frame.undo is not None:
                number, progress, saved = frame.undo
                self._progress[number] = progress
                state.undo(saved)
                frame.undo = None
            if frame.tried == len(frame.options) or self._nodes_left < 0:
                self.cut_short |= frame.tried < len(frame.options)
                stack.pop()
                continue
            number, step = frame.options[frame.tried]
            frame.tried += 1
            call = self._calls[number]
            frame.undo = number, self._progress[number], state.save(call.number)
            self._progress[number] = LOOKED if step == Step.LOOK else DONE
            if state.act(call, step):
                done = frame.done + (step != Step.LOOK)
                stack.append(self._frame(frame.first, done, Log(frame.log, call, step)))

    def _frame(self, first: int, done: int, log: Log | None) -> _Frame:
        calls, progress, state = self._calls, self._progress, self._state
        while first < len(calls) and progress[first] == DONE:
            first += 1
        order = state.order(self._pages)
        if first == len(calls):
            self.exits.setdefault((self._origin, order), Exit(self._origin, order, log))
            return _Frame(first, done, log, [])
        candidates = self._candidates(first)
        node = (self._origin, first, bytes(progress[first : candidates[-1] + 1]), order)
        if node in self._visited:
            return _Frame(first, done, log, [])
        self._visited.add(node)
        self._nodes_left -= 1
        # In the order in which the calls returned, which is nearly always the true one.
        candidates.sort(key=lambda number: calls[number].row)
        options = [
            (number, step)
            for number in candidates
            for step in state.steps(calls[number], looked=progress[number] == LOOKED)
        ]
        self.dead_ends += not options
        if done > self.deepest[0]:
            stuck = min(candidates, key=lambda number: calls[number].end)
            self.deepest = (done, self._origin, log, calls[stuck])
        return _Frame(first, done, log, options)

    def _candidates(self, first: int) -> list[int]:
        """Unfinished calls that began before any unfinished call returned."""
        found: list[int] = []
        limit = self._calls[first].end
        for number in range(first, len(self._calls)):
            if self._calls[number].ts > limit:
                break
            if self._progress[number] != DONE:
                found.append(number)
                limit = min(limit, self._calls[number].end)
        return found
