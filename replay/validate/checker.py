# SPDX-License-Identifier: GPL-2.0-only
"""One block tree against its recorded calls, as a stream.

Calls that overlap none other are played on the model directly. A group of overlapping ones is
searched (search.py) for every ``current`` that it can leave. Those are the hypotheses under
which later calls are judged; one dies when a call contradicts it. Nothing else of a tree
depends on the order unseen (but for a few blocks, see steps.py, whose states a hypothesis then
includes), so this is all that has to be kept: memory is bounded by a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ztrace.allocator.ztree.model import FREE, Block, BlockTree
from ztrace.replay.validate.answers import Cause
from ztrace.replay.validate.search import Exit, Search, act
from ztrace.replay.validate.steps import (
    NO_COUNTER,
    UNKNOWN,
    UNSEEN,
    Call,
    Hidden,
    Kind,
    State,
    Step,
)

Steps = list[tuple[Call, Step]]

CHUNK = 4096  # calls that the hot loop takes at once


@dataclass(frozen=True)
class Failure:
    """A call that no order explains."""

    call: Call
    answer: str
    cause: str
    around: tuple[Call, ...]


@dataclass
class Tally:
    """Counts of one tree. ``in_part``: explained, but what the answer depends on is not known."""

    calls: int = 0
    explained: int = 0
    in_part: int = 0
    groups: int = 0
    overlapping: int = 0
    largest_group: int = 0
    dead_ends: int = 0
    most_hypotheses: int = 1
    out_of_order: int = 0
    cut_short: int = 0  # groups with too many orders to try them all
    split: int = 0  # mallocs whose steps lay apart, with another call between


@dataclass
class Checker:
    """Checks calls of one tree; :meth:`play` and :meth:`group` take them in order of time.

    ``on_steps`` gets each stretch of found order as soon as it is certain, but for the calls
    that :meth:`play` returns. ``on_failure`` gets what cannot be explained; after it the tree is
    made to agree with the trace and checking goes on.
    """

    tree: BlockTree
    starts_empty: bool
    on_steps: Callable[[Steps], None]
    on_failure: Callable[[Failure], None]
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.state = State(self.tree, late=not self.starts_empty)
        self.hypotheses: list[Exit] = [Exit.at(self.state.hidden())]
        # Of a tree that begins before the trace: blocks below this number may be old ones.
        self.first_known = 0 if self.starts_empty else NO_COUNTER
        self._old: set[int] = set()
        self._made: dict[int, Block] = {}  # by the last group
        self._fresh: dict[int, int] = {}  # while adrift: slots given out in turn, of each block

    # -- calls that overlap nothing ----------------------------------------------------------

    def play(
        self,
        kinds: Sequence[int],
        blocks: Sequence[int],
        slots: Sequence[int],
        call_at: Callable[[int], Call],
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
            if kind == Kind.MALLOC:
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
            elif kind == Kind.FREE:
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
            self.hypotheses = [Exit.at(state.hidden())]
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

    def group(self, calls: Sequence[Call]) -> None:
        """Explain calls that overlap (or one alone that needs thought), sorted by (ts, row)."""
        tally = self.tally
        if len(calls) > 1:
            tally.groups += 1
            tally.overlapping += len(calls)
            tally.largest_group = max(tally.largest_group, len(calls))
        tally.calls += len(calls)
        remaining = list(calls)
        while remaining:
            remaining = self._search(remaining)

    def _search(self, calls: Sequence[Call]) -> list[Call]:
        """Explain a group; returns what is left to do after a call that cannot be explained."""
        state, tally = self.state, self.tally
        for call in calls:
            self._meet(call)
            if len(calls) > 1 and (
                call.kind in (Kind.CHOOSE, Kind.SETTLE)
                or (call.kind == Kind.MALLOC and call.block >= self.tree.counter)
            ):
                state.watch(call.block)
        hazy = {call for call in calls if self._is_hazy(call)}
        search = Search(state, calls)
        search.run(self.hypotheses)
        tally.dead_ends += search.dead_ends
        tally.cut_short += search.cut_short
        if search.exits:
            tally.explained += len(calls)
            tally.in_part += len(hazy)
            exits = list(search.exits.values())
            steps = self._redo(exits[0])
            # The search made blocks of its own and took them back: name the tree's instead.
            self.hypotheses = [one._replace(hidden=self._real(one.hidden)) for one in exits]
            tally.most_hypotheses = max(tally.most_hypotheses, len(exits))
            if len(exits) == 1:
                self._commit()
            if self._learn(steps):
                self.hypotheses = [Exit.at(state.hidden())]
            return []
        done, origin, log, stuck = search.deepest
        partial = Exit(origin, origin, log)
        steps = self._redo(partial)
        finished = {call for call, step in steps if step in (Step.WHOLE, Step.TAKE)}
        tally.explained += done
        tally.in_part += len(hazy & finished)
        self.hypotheses = [partial]
        self._commit()
        cause = Cause.CUT_SHORT if search.cut_short else state.cause(stuck)
        answer = state.answer(stuck).text(stuck)
        self.on_failure(Failure(stuck, answer, cause.text, tuple(calls)))
        state.force(stuck)
        self._fresh[stuck.block] = -1
        self._learn(steps)
        self.hypotheses = [Exit.at(state.hidden())]
        return [call for call in calls if call not in finished and call is not stuck]

    def _is_hazy(self, call: Call) -> bool:
        """Whether something that the call's answer depends on is unknown."""
        state = self.state
        if call.kind in (Kind.FREE, Kind.RECOVER, Kind.SETTLE):
            return call.block in state.unseen
        if call.kind in (Kind.PASS, Kind.CHOOSE) and state.late:
            return True
        return self.tree.current is UNKNOWN or call.block in state.unseen

    def _redo(self, target: Exit) -> Steps:
        """Bring the tree to ``target``, from the hypothesis it started from; returns the steps."""
        known = {id(hypothesis.log) for hypothesis in self.hypotheses if hypothesis.log}
        log, steps = target.log, []
        while log is not None and id(log) not in known:
            steps.append((log.call, log.step))
            log = log.before
        steps.reverse()
        tree, state = self.tree, self.state
        state.install(target.origin)
        inserted = {}
        for call, step in steps:
            if step == Step.WHOLE:
                act(state, call)
            elif step == Step.INSERT:
                inserted[call.row] = tree.insert()
            elif step == Step.TAKE:
                state.take(inserted[call.row], call.slot, adopt=True)
        self._made = {block.index: block for block in inserted.values()}
        state.remember(self._made)
        return steps

    def _real(self, hidden: Hidden) -> Hidden:
        """With the blocks of the same index that :meth:`_redo` made, released since or not."""
        made = self._made
        current, last = (
            one if one is None else made.get(one.index, one)
            for one in (hidden.current, hidden.last)
        )
        return Hidden(current, last, hidden.variant)

    def _commit(self) -> None:
        """Only one hypothesis is left: its order is the one found."""
        [only] = self.hypotheses
        steps: Steps = []
        log = only.log
        while log is not None:
            steps.append((log.call, log.step))
            log = log.before
        self.state.watched.clear()
        self.hypotheses = [Exit.at(self.state.hidden())]
        if steps:
            steps.reverse()
            self._count_order(steps)
            self.on_steps(steps)

    def _count_order(self, steps: Steps) -> None:
        latest = -1
        for position, (call, step) in enumerate(steps):
            if step == Step.LOOK and steps[position + 1 : position + 3] != [
                (call, Step.INSERT),
                (call, Step.TAKE),
            ]:
                self.tally.split += 1
            if step in (Step.WHOLE, Step.TAKE):
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

    def _meet(self, call: Call) -> None:
        """Note a block that was there before the trace when it is first named."""
        index = call.block
        if index >= self.first_known or index in self._old or index in self.tree.blocks:
            return
        if call.kind in (Kind.MALLOC, Kind.FREE, Kind.CHOOSE):
            self._old.add(index)
            self.state.adopt_unseen(index)
            if self.state.adrift:
                self._fresh[index] = 0

    def _learn(self, steps: Steps) -> bool:
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
            if step == Step.WHOLE and call.kind == Kind.MALLOC:
                in_turn = self._fresh.get(call.block, -1) == call.slot
                self._fresh[call.block] = call.slot + 1 if in_turn else -1
            elif call.kind not in (Kind.PASS, Kind.FAILED_MALLOC):
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
