# SPDX-License-Identifier: GPL-2.0-only
"""All orders of a group of overlapping calls that give the recorded handles, depth first.

Wing and Gong's linearizability check (JPDC 1993) with Lowe's memory of visited states (2017):
a step may come next unless a call that has not finished its steps returned before the step's
call began. A malloc that finds no slot takes three steps (look, insert, take), between which
the kernel holds no lock and other calls may act.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ztrace.allocator.ztree.model import Block
from ztrace.replay.validate.steps import Call, Hidden, Kind, Saved, State, Step

NOT_BEGUN, LOOKED, INSERTED, DONE = range(4)
AFTER = {Step.WHOLE: DONE, Step.LOOK: LOOKED, Step.INSERT: INSERTED, Step.TAKE: DONE}

ANY = 1 << 30  # as many split mallocs as may be

# Nodes after which a search is content with what it has found. The orders of k calls that all
# overlap are exponentially many in k; two CPUs' calls need some ten nodes each.
NODES, NODES_PER_CALL = 4000, 50

# Tried first: a call in one piece. Most traces need nothing else.
MISS = (Step.LOOK, Step.INSERT, Step.TAKE)


class Log(NamedTuple):
    """The steps that led to a state, newest first."""

    before: Log | None
    call: Call
    step: Step


class Exit(NamedTuple):
    """A hidden state that the group can leave, and the first order found that leaves it.

    ``origin`` is the hidden state that the order starts from.
    """

    hidden: Hidden
    origin: Hidden
    log: Log | None

    @classmethod
    def at(cls, hidden: Hidden) -> Exit:
        """Where nothing is undecided."""
        return cls(hidden, hidden, None)


@dataclass
class _Frame:
    """One node of the search: what may come next, and how to take back what was tried."""

    first: int  # calls before this one are done
    done: int
    log: Log | None
    options: list[tuple[int, tuple[Step, ...]]]
    tried: int = 0
    applied: list[tuple[int, int, Saved | None]] | None = None


class Search:
    """The search over one group; calls sorted by (ts, row).

    After :meth:`run`: ``exits`` by the keys of the hidden states; ``deepest``, the longest
    partial order: its calls done, where it starts from, its log, and the call that had to come
    next and could not; ``dead_ends``, nodes that led nowhere; ``cut_short``, whether orders were
    left untried because there are too many.
    """

    def __init__(self, state: State, calls: Sequence[Call]) -> None:
        self._state = state
        self._calls = calls
        self._progress = bytearray([NOT_BEGUN]) * len(calls)
        self._inserted: dict[int, Block] = {}
        self._visited: set[tuple[object, ...]] = set()
        self._splits_left = 0
        self._origin = Hidden(None, None)
        self.exits: dict[object, Exit] = {}
        self.deepest: tuple[int, Hidden, Log | None, Call] = (-1, self._origin, None, calls[0])
        self.dead_ends = 0
        self.cut_short = False
        self._nodes_left = 0
        self._withheld = False  # a malloc could have been split, which was not allowed yet

    def run(self, hypotheses: Sequence[Exit]) -> None:
        """Explore every order from each hypothesis; the tree is restored.

        Orders in which no malloc is split come first, then those with one, then all: of the
        orders that leave the same ``current``, one with few races is the one reported.
        """
        for allowed in (0, 1, ANY) if len(self._calls) > 1 else (0,):
            self._visited.clear()
            self._splits_left = allowed
            self._nodes_left = NODES + NODES_PER_CALL * len(self._calls)
            self._withheld = False
            for hypothesis in hypotheses:
                self._explore(hypothesis)
            if not self._withheld:
                break

    def _explore(self, hypothesis: Exit) -> None:
        state = self._state
        before = state.hidden()
        state.install(hypothesis.hidden)
        self._origin = hypothesis.hidden
        stack = [self._frame(0, 0, hypothesis.log)]
        while stack:
            frame = stack[-1]
            if frame.applied is not None:
                self._take_back(frame.applied)
                if frame.options[frame.tried - 1][1] == (Step.LOOK,) and self._splits_left < ANY:
                    self._splits_left += 1
                frame.applied = None
            if frame.tried == len(frame.options) or self._nodes_left < 0:
                self.cut_short |= frame.tried < len(frame.options)
                stack.pop()
                continue
            number, steps = frame.options[frame.tried]
            frame.tried += 1
            frame.applied = []
            if steps == (Step.LOOK,) and self._splits_left < ANY:
                self._splits_left -= 1
            after: Log | None = frame.log
            for step in steps:
                if not self._apply(number, step, frame.applied):
                    break
                after = Log(after, self._calls[number], step)
            else:
                done = frame.done + (self._progress[number] == DONE)
                stack.append(self._frame(frame.first, done, after))
        state.install(before)

    # -- nodes ------------------------------------------------------------------------------

    def _frame(self, first: int, done: int, log: Log | None) -> _Frame:
        calls, progress = self._calls, self._progress
        while first < len(calls) and progress[first] == DONE:
            first += 1
        hidden = self._state.hidden()
        if first == len(calls):
            self.exits.setdefault(hidden.key, Exit(hidden, self._origin, log))
            return _Frame(first, done, log, [])
        candidates = self._candidates(first)
        begun = bytes(progress[first : candidates[-1] + 1])
        state = (first, begun, hidden.key, self._splits_left)
        if state in self._visited:
            return _Frame(first, done, log, [])
        self._visited.add(state)
        self._nodes_left -= 1
        # In the order in which the calls returned, which is nearly always the true one.
        candidates.sort(key=lambda number: calls[number].row)
        options = [(number, steps) for number in candidates for steps in self._steps(number)]
        if not options:
            self.dead_ends += 1
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

    def _steps(self, number: int) -> list[tuple[Step, ...]]:
        """What the call may do next in agreement with its recorded result."""
        call, state, progress = self._calls[number], self._state, self._progress[number]
        if call.kind == Kind.MALLOC:
            return self._malloc_steps(number, call, progress)
        if call.kind == Kind.FREE:
            possible = state.can_free(call)
        elif call.kind == Kind.FAILED_MALLOC:
            possible = state.can_miss()
        elif call.kind == Kind.PASS:
            possible = state.passes()
        elif call.kind == Kind.CHOOSE:
            possible = state.chooses(call.block)
        elif call.kind == Kind.RECOVER:
            possible = state.recovers(call)
        else:
            possible = call.kind == Kind.SETTLE and state.reclaims(call)
        return [(Step.WHOLE,)] if possible else []

    def _malloc_steps(self, number: int, call: Call, progress: int) -> list[tuple[Step, ...]]:
        state, tree = self._state, self._state.tree
        if progress == INSERTED:
            return [(Step.TAKE,)] if state.fits(self._inserted[number], call.slot) else []
        if progress == LOOKED:
            # The handle names the block that this call is going to insert.
            if tree.counter != call.block:
                return []
            whole = [(Step.INSERT, Step.TAKE)] if call.slot == 0 else []
            return [*whole, (Step.INSERT,)]
        found: list[tuple[Step, ...]] = []
        if state.found(call) is not None:
            found.append((Step.WHOLE,))
        if call.block >= tree.counter and state.can_miss():
            if call.block == tree.counter and call.slot == 0:
                found.append(MISS)
            if self._splits_left:
                found.append((Step.LOOK,))
            self._withheld |= not self._splits_left
        return found

    # -- steps ------------------------------------------------------------------------------

    def _apply(self, number: int, step: Step, applied: list[tuple[int, int, Saved | None]]) -> bool:
        """Have the model make a step; whether it answers as recorded."""
        call, state = self._calls[number], self._state
        saved: Saved | None = None
        agreed = True
        if step == Step.INSERT:
            made = state.insert()
            if made is None:
                return False
            self._inserted[number], saved = made
            agreed = made[0].index == call.block
        elif step == Step.TAKE:
            block = self._inserted[number]
            saved = state.save(block)
            agreed = state.take(block, call.slot, adopt=True) == call.slot
        elif step == Step.WHOLE:
            saved, agreed = act(state, call)
        applied.append((number, self._progress[number], saved))
        self._progress[number] = AFTER[step]
        return agreed

    def _take_back(self, applied: list[tuple[int, int, Saved | None]]) -> None:
        for number, progress, saved in reversed(applied):
            self._progress[number] = progress
            if saved is not None:
                self._state.undo(saved)


def act(state: State, call: Call) -> tuple[Saved | None, bool]:
    """Do a call's effect in one piece, which must be possible.

    Returns its undo, if it needs one, and whether the model answers as recorded. Not for a
    malloc that inserts a block: that is several steps.
    """
    tree = state.tree
    if call.kind == Kind.MALLOC:
        block = state.found(call)
        assert block is not None
        saved = state.save(block)
        return saved, state.take(block, call.slot) == call.slot
    if call.kind in (Kind.FAILED_MALLOC, Kind.PASS):
        return None, True
    block = tree.blocks[call.block]
    saved = state.save(block)
    if call.kind == Kind.FREE:
        state.release(call)
    elif call.kind == Kind.CHOOSE:
        block.under_reclaim = True
    elif call.kind == Kind.RECOVER:
        tree.recover(block, call.slot)
    else:
        tree.settle(block)
    return saved, True
