# SPDX-License-Identifier: GPL-2.0-only
"""One block tree against its recorded calls, as a stream.

Calls that overlap none other are played on the model directly. What of a tree depends on the order
of overlapping ones unseen is ``current`` and little else (allocator/ztree/steps.py). The few states
that a group can leave are the hypotheses under which later calls are judged; one dies when a call
contradicts it. So this is all that has to be kept: memory is bounded by a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ztrace.allocator.ztree.calls import BlockCall, BlockKind, BlockStep
from ztrace.allocator.ztree.model import FREE, BlockTree
from ztrace.allocator.ztree.steps import (
    MISS,
    NO_COUNTER,
    UNKNOWN,
    UNSEEN,
    TreeHidden,
    TreeState,
)
from ztrace.replay.validate import checker
from ztrace.replay.validate.checker import Checker, Failure, Tally, steps_to
from ztrace.replay.validate.search import Exit

BlockSteps = checker.Steps[BlockCall, BlockStep]
TreeExit = Exit[BlockCall, BlockStep, TreeHidden]
BlockFailure = Failure[BlockCall]

CHUNK = 4096  # calls that the hot loop takes at once


@dataclass
class TreeTally(Tally):
    """Counts of one tree. ``in_part``: explained, but what the answer depends on is not known."""

    in_part: int = 0
    most_hypotheses: int = 1
    out_of_order: int = 0
    split: int = 0  # mallocs whose steps lay apart, with another call between


class TreeChecker(Checker[BlockCall, BlockStep, TreeHidden, TreeTally]):
    """Checks calls of one tree; :meth:`play` and :meth:`group` take them in order of time.

    ``on_steps`` gets each stretch of found order as soon as it is certain, but for the calls
    that :meth:`play` returns.
    """

    def __init__(
        self,
        tree: BlockTree,
        starts_empty: bool,
        on_steps: Callable[[BlockSteps], None],
        on_failure: Callable[[BlockFailure], None],
    ) -> None:
        self.state = TreeState(tree, late=not starts_empty)
        super().__init__(self.state, TreeTally(), on_failure)
        self.tree = tree
        self._on_steps = on_steps
        self._decide()
        # Of a tree that begins before the trace: blocks below this number may be old ones.
        self.first_known = 0 if starts_empty else NO_COUNTER
        self._old: set[int] = set()
        self._hazy: set[BlockCall] = set()  # of the group
        self._fresh: dict[int, int] = {}  # while adrift: slots given out in turn, of each block

    # -- calls that overlap nothing ----------------------------------------------------------

    def play(
        self,
        kinds: Sequence[int],
        blocks: Sequence[int],
        slots: Sequence[int],
        call_at: Callable[[int], BlockCall],
    ) -> list[tuple[int, int]]:
        """Play calls one after the other; ``call_at(i)`` gives the i-th in full.

        Returns which took effect in one piece and nothing else to say of them: (first, end).
        """
        count, at = len(kinds), 0
        plain: list[tuple[int, int]] = []
        while at < count:
            end = min(at + CHUNK, count) if self._is_plain() else at
            played = self._play_plain(kinds[at:end], blocks[at:end], slots[at:end])
            if played:
                self.tally.calls += played
                self.tally.explained += played
                plain.append((at, at + played))
                at += played
            if at < end or not played:
                self.group([call_at(at)])
                at += 1
        return plain

    def _is_plain(self) -> bool:
        return (
            len(self.hypotheses) == 1
            and self.tree.current is not UNKNOWN
            and not self.state.watched
            and not self.state.adrift
        )

    def _play_plain(self, kinds: Sequence[int], blocks: Sequence[int], slots: Sequence[int]) -> int:
        """The hot loop: everything is known. Returns how many calls the model answered right."""
        tree, state = self.tree, self.state
        look, take, release = tree.look, tree.take, tree.release
        in_tree, unseen = tree.blocks, state.unseen
        last_slot = tree.kind.slots
        done = 0
        for kind, index, slot in zip(kinds, blocks, slots, strict=True):
            if kind == BlockKind.MALLOC:
                block = look()
                if block is None:
                    if tree.counter != index or slot != 0 or not self._grow(index):
                        break
                elif block.index != index or block.slots.find(FREE, 0, last_slot) != slot:
                    break
                else:
                    taken = take(block)
                    if taken != slot:
                        tree.credit(block, block.free_slots)
                        tree.clear(block, taken)
                        break
            elif kind == BlockKind.FREE:
                block = in_tree.get(index)
                if block is None or not block.slots[slot] or slot >= last_slot:
                    break
                if block.under_reclaim or index in unseen:
                    break
                release(index, slot)
            else:
                break
            done += 1
        if done:
            self._decide()
        return done

    def _grow(self, index: int) -> bool:
        """A malloc that finds no free slot and answers slot 0 of block ``index``; False if not."""
        state = self.state
        made = state.insert()
        if made is None:
            return False
        block, inserted = made
        before = state.save(block)
        if block.index == index and state.take(block, 0, adopt=True) == 0:
            return True
        state.undo(before)
        state.undo(inserted)
        return False

    # -- groups ------------------------------------------------------------------------------

    def _prepare(self, calls: Sequence[BlockCall]) -> bool:
        for call in calls:
            self._meet(call)
        self._hazy = {call for call in calls if self._is_hazy(call)}
        return False

    def _carry_on(self, exits: Sequence[TreeExit], steps: BlockSteps) -> None:
        tally = self.tally
        tally.in_part += len(self._hazy & {call for call, step in steps if step.ends})
        tally.most_hypotheses = max(tally.most_hypotheses, len(exits))
        # The search made blocks of its own and took them back: name the tree's instead.
        self.hypotheses = [one._replace(hidden=self.state.named(one.hidden)) for one in exits]
        if len(exits) == 1:
            self._commit()

    def _conclude(self, steps: BlockSteps, forced: BlockCall | None) -> None:
        if forced is not None:
            self._fresh[forced.block] = -1
        if self._learn(steps) or forced is not None:
            self._decide()

    def _is_hazy(self, call: BlockCall) -> bool:
        """Whether something that the call's answer depends on is unknown."""
        state = self.state
        if call.kind in (BlockKind.FREE, BlockKind.RECOVER, BlockKind.SETTLE):
            return call.block in state.unseen
        if call.kind in (BlockKind.PASS, BlockKind.CHOOSE) and state.late:
            return True
        return self.tree.current is UNKNOWN or call.block in state.unseen

    def _decide(self) -> None:
        """Nothing is undecided: the tree is as it is."""
        self.hypotheses = [Exit.at(self.state.hidden())]

    def _commit(self) -> None:
        """Only one hypothesis is left: its order is the one found."""
        [only] = self.hypotheses
        steps = steps_to(only.log)
        self.state.watched.clear()
        self._decide()
        if steps:
            self._count_order(steps)
            self._on_steps(steps)

    def _count_order(self, steps: BlockSteps) -> None:
        latest = -1
        for position, (call, step) in enumerate(steps):
            if step == BlockStep.LOOK and steps[position : position + 3] != whole(call):
                self.tally.split += 1
            if step.ends:
                if call.row < latest:
                    self.tally.out_of_order += 1
                latest = max(latest, call.row)

    def finish(self) -> None:
        """No more calls: of orders that no call can tell apart, the first is taken."""
        del self.hypotheses[1:]
        self._commit()

    @property
    def undecided_since(self) -> int | None:
        """Begin of the earliest call whose place in the order is not certain yet, ns."""
        if len(self.hypotheses) < 2:
            return None
        earliest: int | None = None
        for hypothesis in self.hypotheses:
            log = hypothesis.log
            while log is not None:
                earliest = log.call.ts if earliest is None else min(earliest, log.call.ts)
                log = log.before
        return earliest

    # -- trees that begin before the trace ----------------------------------------------------

    def _meet(self, call: BlockCall) -> None:
        """Note a block that was there before the trace when it is first named."""
        index = call.block
        if index >= self.first_known or index in self._old or index in self.tree.blocks:
            return
        if call.kind in (BlockKind.MALLOC, BlockKind.FREE, BlockKind.CHOOSE):
            self._old.add(index)
            self.state.adopt_unseen(index)
            if self.state.adrift:
                self._fresh[index] = 0

    def _learn(self, steps: BlockSteps) -> bool:
        """Draw conclusions about blocks that were, or may have been, there before the trace.

        Returns whether the tree is no longer adrift.
        """
        state, tree = self.state, self.tree
        for index in {call.block for call, _ in steps} & state.unseen:
            block = tree.blocks.get(index)
            if block is None or UNSEEN not in block.slots[: state.slots]:
                state.unseen.discard(index)
        if not state.adrift:
            return False
        for call, step in steps:
            if step == BlockStep.WHOLE and call.kind == BlockKind.MALLOC:
                in_turn = self._fresh.get(call.block, -1) == call.slot
                self._fresh[call.block] = call.slot + 1 if in_turn else -1
            elif call.kind not in (BlockKind.PASS, BlockKind.FAILED_MALLOC):
                self._fresh[call.block] = -1
        # A block all of whose slots were given out in turn was empty, hence new: it is the last
        # one, and every block from here on is made under our eyes.
        newest = next(reversed(state.oldest_first()), -1)
        if self._fresh.get(newest) != state.slots:
            return False
        state.adrift = False
        self._fresh.clear()
        self.first_known = tree.counter = newest + 1
        tree.last = tree.blocks[newest]
        return True


def whole(call: BlockCall) -> BlockSteps:
    """The steps of a malloc that adds a block, at one moment."""
    return [(call, step) for step in MISS]
