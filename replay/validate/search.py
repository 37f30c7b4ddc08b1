# SPDX-License-Identifier: GPL-2.0-only
"""All orders of a group of overlapping calls that give what was recorded, depth first.

Wing and Gong's linearizability check (JPDC 1993) with Lowe's memory of visited states (2017): a
step may come next unless a call that has not finished its steps returned before the step's call
began. A call takes effect in one step or, where the kernel lets go of the lock within it, in
several, between which other calls may act.

An allocator plugs in by a :class:`Model`: what a recorded call may do next, doing and undoing it,
and what of the state the recorded answers do not tell (*hidden*). Each hidden state that a group
can leave is an exit. Later calls decide between exits, which meanwhile are hypotheses.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from ztrace.allocator.causes import Cause

DONE = 255  # of the number of steps that a call has made

NODES_PER_CALL = 50
"""Nodes that a search may visit for each call, beside :attr:`Model.nodes`."""


class RecordedCall(Protocol):
    """An interval in ns, and the number of the row that was written when the call returned."""

    @property
    def ts(self) -> int: ...

    @property
    def end(self) -> int: ...

    @property
    def row(self) -> int: ...


class Step(Protocol):
    """One critical section of a call; the enums of allocator/*/steps.py."""

    @property
    def ends(self) -> bool:
        """Whether it is its call's last one."""
        ...


class Hidden(Protocol):
    """What of a model's state depends on the order of calls unseen."""

    @property
    def key(self) -> Hashable:
        """Equal for equal ones."""
        ...


C = TypeVar("C", bound=RecordedCall)
S = TypeVar("S", bound=Step)
H = TypeVar("H", bound=Hidden)
_C = TypeVar("_C", bound=RecordedCall, contravariant=True)


class Model(Protocol[_C, S, H]):
    """An allocator's state, and the steps that recorded calls may make in it.

    ``nodes``: after so many a search is content with what it has found, since the orders of k
    calls that all overlap are exponentially many in k. ``splits``: how many calls may be split
    (others acting between their steps) in the first search, in the next one, and so on, None for
    any number: the next is made where one more split call would have been possible.
    """

    nodes: int
    splits: Sequence[int | None]

    def begin(self, calls: Sequence[_C]) -> None:
        """The calls of a group, all of which are still to be done."""

    def steps(self, call: _C, made: int) -> Sequence[tuple[S, ...]]:
        """What a call that has ``made`` so many steps may do now, as it was recorded.

        Each choice is a run of steps that are taken at once; what is likelier comes first.
        """

    def act(self, call: _C, step: S) -> tuple[Any | None, bool]:
        """Make a step: what undoes it, if anything has to, and whether the answer is the record's.

        A step whose answer is not is undone, too.
        """

    def undo(self, saved: Any) -> None:
        """Take back the last step that is not taken back."""

    def hidden(self) -> H:
        """The hidden state as it is."""

    def install(self, hidden: H) -> None:
        """Make the hidden state what it was, all else being as it is."""

    def answer(self, call: _C) -> str:
        """What the model would do instead of a call that is impossible, in words."""

    def cause(self, call: _C) -> Cause:
        """Which fault would look like this."""

    def force(self, call: _C) -> None:
        """Agree with a call that nothing explains."""


class Log(NamedTuple, Generic[C, S]):
    """The steps that led to a state, newest first."""

    before: Log[C, S] | None
    call: C
    step: S


class Exit(NamedTuple, Generic[C, S, H]):
    """A hidden state that a group can leave, and the first order found that leaves it.

    ``origin`` is the hidden state that the order starts from. Of a partial order, both are.
    """

    hidden: H
    origin: H
    log: Log[C, S] | None

    @classmethod
    def at(cls, hidden: H) -> Self:
        """Where nothing is undecided."""
        return cls(hidden, hidden, None)


@dataclass
class _Frame(Generic[C, S]):
    """One node of the search: what may come next, and how to take back what was tried."""

    first: int  # calls before this one are done
    done: int
    log: Log[C, S] | None
    options: list[tuple[int, tuple[S, ...]]]
    tried: int = 0
    split: bool = False  # whether what was tried splits a call
    applied: list[tuple[int, int, Any]] | None = None


class Search(Generic[C, S, H]):
    """The search over one group; calls sorted by (ts, row).

    After :meth:`run`: ``exits`` by the keys of the hidden states; ``deepest``, the longest
    partial order, how many calls it has, and ``stuck``, the call that had to come next and could
    not; ``dead_ends``, nodes that led nowhere; ``cut_short``, whether orders were left untried
    because there are too many.
    """

    def __init__(self, model: Model[C, S, H], calls: Sequence[C]) -> None:
        self._model = model
        self._calls = calls
        self._made = bytearray(len(calls))  # steps made of each call, or DONE
        self._visited: set[tuple[object, ...]] = set()
        self._splits_left: int | None = 0
        self._nodes_left = 0
        self._withheld = False  # a call could have been split, which was not allowed yet
        self._deepest = -1
        self.exits: dict[Hashable, Exit[C, S, H]] = {}
        self.deepest: Exit[C, S, H]
        self.stuck = calls[0]
        self.dead_ends = 0
        self.cut_short = False

    def run(self, hypotheses: Sequence[Exit[C, S, H]]) -> None:
        """Explore every order from each hypothesis; the model is restored.

        Orders that split fewer calls come first: of the orders that leave the same hidden state,
        one with few races is the one reported.
        """
        self.deepest = hypotheses[0]
        model = self._model
        model.begin(self._calls)
        for allowed in model.splits if len(self._calls) > 1 else (0,):
            self._visited.clear()
            self._splits_left = allowed
            self._nodes_left = model.nodes + NODES_PER_CALL * len(self._calls)
            self._withheld = False
            for hypothesis in hypotheses:
                before = model.hidden()
                model.install(hypothesis.hidden)
                self._explore(hypothesis.hidden, hypothesis.log)
                model.install(before)
            if not self._withheld:
                break

    def _explore(self, origin: H, log: Log[C, S] | None) -> None:
        stack = [self._frame(0, 0, origin, log)]
        while stack:
            frame = stack[-1]
            if frame.applied is not None:
                self._take_back(frame.applied)
                if frame.split and self._splits_left is not None:
                    self._splits_left += 1
                frame.applied = None
            if frame.tried == len(frame.options) or self._nodes_left < 0:
                self.cut_short |= frame.tried < len(frame.options)
                stack.pop()
                continue
            number, steps = frame.options[frame.tried]
            frame.tried += 1
            frame.applied = []
            frame.split = self._splits(number, steps)
            if frame.split and self._splits_left is not None:
                self._splits_left -= 1
            after = frame.log
            for step in steps:
                if not self._apply(number, step, frame.applied):
                    break
                after = Log(after, self._calls[number], step)
            else:
                done = frame.done + (self._made[number] == DONE)
                stack.append(self._frame(frame.first, done, origin, after))

    def _splits(self, number: int, steps: tuple[S, ...]) -> bool:
        """Whether these steps begin a call and leave it to others to act before it ends."""
        return not self._made[number] and not steps[-1].ends

    def _frame(self, first: int, done: int, origin: H, log: Log[C, S] | None) -> _Frame[C, S]:
        calls, made = self._calls, self._made
        while first < len(calls) and made[first] == DONE:
            first += 1
        hidden = self._model.hidden()
        if first == len(calls):
            self.exits.setdefault(hidden.key, Exit(hidden, origin, log))
            return _Frame(first, done, log, [])
        candidates = self._candidates(first)
        begun = bytes(made[first : candidates[-1] + 1])
        node = (first, begun, hidden.key, self._splits_left)
        if node in self._visited:
            return _Frame(first, done, log, [])
        self._visited.add(node)
        self._nodes_left -= 1
        # In the order in which the calls returned, which is nearly always the true one.
        candidates.sort(key=lambda number: calls[number].row)
        options = [(number, steps) for number in candidates for steps in self._options(number)]
        self.dead_ends += not options
        if done > self._deepest:
            self._deepest = done
            self.stuck = calls[min(candidates, key=lambda number: calls[number].end)]
            self.deepest = Exit(origin, origin, log)
        return _Frame(first, done, log, options)

    def _candidates(self, first: int) -> list[int]:
        """Unfinished calls that began before any unfinished call returned."""
        found: list[int] = []
        limit = self._calls[first].end
        for number in range(first, len(self._calls)):
            if self._calls[number].ts > limit:
                break
            if self._made[number] != DONE:
                found.append(number)
                limit = min(limit, self._calls[number].end)
        return found

    def _options(self, number: int) -> list[tuple[S, ...]]:
        """What the call may do next, but for a split that is not allowed yet."""
        options = []
        for steps in self._model.steps(self._calls[number], self._made[number]):
            if self._splits_left != 0 or not self._splits(number, steps):
                options.append(steps)
            else:
                self._withheld = True
        return options

    def _apply(self, number: int, step: S, applied: list[tuple[int, int, Any]]) -> bool:
        """Have the model make a step; whether it answers as recorded."""
        saved, agreed = self._model.act(self._calls[number], step)
        applied.append((number, self._made[number], saved))
        self._made[number] = DONE if step.ends else self._made[number] + 1
        return agreed

    def _take_back(self, applied: list[tuple[int, int, Any]]) -> None:
        for number, made, saved in reversed(applied):
            self._made[number] = made
            if saved is not None:
                self._model.undo(saved)
