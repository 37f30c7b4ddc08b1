# SPDX-License-Identifier: GPL-2.0-only
"""One block tree against its recorded calls, as a stream.

Calls that overlap none other are played on the model directly. A group of overlapping ones is
searched (search.py) for every ``current`` that it can leave. Those are the hypotheses under
which later calls are judged; one dies when a call contradicts it. Nothing else of a tree
depends on the order unseen, so this is all that has to be kept: memory is bounded by a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from allocator.ztree import FREE, Block, BlockTree
from replay.validate.search import Exit, Search, act
from replay.validate.steps import UNKNOWN, UNSEEN, Call, Kind, State, Step

Steps = list[tuple[Call, Step]]


@dataclass(frozen=True)
class Failure:
    """A call that no order explains."""

    call: Call
    answer: str
    cause: str
    around: tuple[Call, ...]


@dataclass
class Tally:
    """Counts of one tree. ``in_part``: explained, but with ``current`` or the slot unknown."""

    calls: int = 0
    explained: int = 0
    in_part: int = 0
    groups: int = 0
    overlapping: int = 0
    largest_group: int = 0
    dead_ends: int = 0
    most_hypotheses: int = 1
    out_of_order: int = 0
    split: int = 0  # mallocs whose steps lay apart, with another call between


@dataclass
class Checker:
    """Checks calls of one tree; :meth:`play` and :meth:`group` take them in order of time.

    ``on_steps`` gets each stretch of found order as soon as it is certain; calls that overlap
    nothing are not reported, they take effect in one piece. ``on_failure`` gets what cannot be
    explained; after it the tree is made to agree with the trace and checking goes on.
    """

    tree: BlockTree
    starts_empty: bool
    on_steps: Callable[[Steps], None]
    on_failure: Callable[[Failure], None]
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.state = State(self.tree)
        self.hypotheses: list[Exit] = [Exit(None, None, None)]
        # A tree that begins before the trace: no block is known, not even how many there are.
        self.adrift = not self.starts_empty
        self.first_known = 0
        self._fresh: dict[int, int] = {}
        if self.adrift:
            self._settle_on(UNKNOWN)

    def _settle_on(self, current: object) -> None:
        assert current is UNKNOWN
        self.tree.current = UNKNOWN
        self.hypotheses = [Exit(UNKNOWN, UNKNOWN, None)]

    # -- calls that overlap nothing ----------------------------------------------------------

    def play(
        self,
        kinds: Sequence[int],
        blocks: Sequence[int],
        slots: Sequence[int],
        call_at: Callable[[int], Call],
    ) -> None:
        """Play calls one after the other; ``call_at(i)`` gives the i-th in full."""
        count, at = len(kinds), 0
        while at < count:
            if not self._is_plain():
                self.group([call_at(at)])
                at += 1
                continue
            played = self._play_plain(kinds[at:], blocks[at:], slots[at:])
            self.tally.calls += played
            self.tally.explained += played
            at += played
            if at < count:
                self.group([call_at(at)])
                at += 1

    def _is_plain(self) -> bool:
        return (
            len(self.hypotheses) == 1
            and self.tree.current is not UNKNOWN
            and not self.state.unseen
            and not self.adrift
        )

    def _play_plain(self, kinds: Sequence[int], blocks: Sequence[int], slots: Sequence[int]) -> int:
        """The hot loop: everything is known. Returns how many calls the model answered right."""
        tree = self.tree
        look, take, insert, release = tree.look, tree.take, tree.insert, tree.release
        in_tree = tree.blocks
        last_slot = tree.kind.slots
        done = 0
        for kind, index, slot in zip(kinds, blocks, slots, strict=True):
            if kind == Kind.MALLOC:
                block = look()
                if block is None:
                    if tree.counter != index or slot != 0:
                        break
                    take(insert(), adopt=True)
                elif block.index != index or block.slots.find(FREE, 0, last_slot) != slot:
                    break
                else:
                    take(block)
            elif kind == Kind.FREE:
                block = in_tree.get(index)
                if block is None or not block.slots[slot] or slot >= last_slot:
                    break
                release(index, slot)
            else:
                break
            done += 1
        self.hypotheses = [Exit(tree.current, tree.current, None)]
        return done

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
            if self.adrift:
                self._drift(remaining.pop(0))
                continue
            remaining = self._search(remaining)

    def _search(self, calls: Sequence[Call]) -> list[Call]:
        """Explain a group; returns what is left to do after a call that cannot be explained."""
        for call in calls:
            self._meet(call)
        search = Search(self.state, calls)
        search.run(self.hypotheses)
        tally = self.tally
        tally.dead_ends += search.dead_ends
        unknown = self.tree.current is UNKNOWN or bool(self.state.unseen)
        if search.exits:
            tally.explained += len(calls)
            tally.in_part += len(calls) if unknown else 0
            exits = list(search.exits.values())
            self._redo(exits[0])
            # The search made blocks of its own and took them back: name the tree's instead.
            self.hypotheses = [one._replace(current=self._in_tree(one.current)) for one in exits]
            self.tree.current = self.hypotheses[0].current
            tally.most_hypotheses = max(tally.most_hypotheses, len(exits))
            if len(exits) == 1:
                self._commit()
            return []
        done, origin, log, stuck = search.deepest
        partial = Exit(None, origin, log)
        steps = self._redo(partial)
        finished = {call.row for call, step in steps if step in (Step.WHOLE, Step.TAKE)}
        tally.explained += done
        self.hypotheses = [partial]
        self._commit()
        self.on_failure(
            Failure(stuck, self.state.answer(stuck), self.state.cause(stuck), tuple(calls))
        )
        self.state.force(stuck)
        self._settle_on(UNKNOWN)
        return [call for call in calls if call.row not in finished and call is not stuck]

    def _redo(self, target: Exit) -> Steps:
        """Bring the tree to ``target``, from the hypothesis it started from; returns the steps."""
        known = {id(hypothesis.log) for hypothesis in self.hypotheses if hypothesis.log}
        log, steps = target.log, []
        while log is not None and id(log) not in known:
            steps.append((log.call, log.step))
            log = log.before
        steps.reverse()
        tree = self.tree
        tree.current = target.origin
        inserted = {}
        for call, step in steps:
            if step == Step.WHOLE:
                act(self.state, call)
            elif step == Step.INSERT:
                inserted[call.row] = tree.insert()
            elif step == Step.TAKE:
                self.state.take(inserted[call.row], call.slot, adopt=True)
        return steps

    def _in_tree(self, block: Block | None) -> Block | None:
        """The tree's block of the same index; a released one (H3) stays what it is."""
        return block if block is None else self.tree.blocks.get(block.index, block)

    def _commit(self) -> None:
        """Only one hypothesis is left: its order is the one found."""
        [only] = self.hypotheses
        steps: Steps = []
        log = only.log
        while log is not None:
            steps.append((log.call, log.step))
            log = log.before
        self.hypotheses = [Exit(only.current, only.current, None)]
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
        self.hypotheses = self.hypotheses[:1]
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
        is_old = call.block < self.first_known and call.block not in self.tree.blocks
        if is_old and call.kind in (Kind.MALLOC, Kind.FREE):
            self.state.adopt_unseen(call.block)

    def _drift(self, call: Call) -> None:
        """Take over what a call tells while it is not known which blocks there are."""
        state, tree, tally = self.state, self.tree, self.tally
        if call.kind not in (Kind.MALLOC, Kind.FREE):
            tally.explained += 1
            tally.in_part += 1
            return
        index, slot = call.block, call.slot
        block = tree.blocks.get(index)
        if block is None:
            block = state.adopt_unseen(index)
            self._fresh[index] = 0
        if call.kind == Kind.FREE:
            self._fresh[index] = -1
            possible = state.can_free(call)
        else:
            fresh = self._fresh.get(index, -1)
            self._fresh[index] = slot + 1 if fresh == slot else -1
            possible = state.fits(block, slot)
        if possible:
            tally.explained += 1
            tally.in_part += 1
            if call.kind == Kind.FREE:
                state.release(call)
            else:
                state.take(block, slot)
        else:
            self.on_failure(Failure(call, state.answer(call), state.cause(call), (call,)))
            state.force(call)
        tree.current = UNKNOWN
        if UNSEEN not in block.slots[: state.slots]:
            state.unseen.discard(index)
        # A block all of whose slots were given out in turn was empty, hence new: it is the last
        # one, and every block from here on is made under our eyes.
        if self._fresh.get(index) == state.slots and index == max(tree.blocks, default=-1):
            self.adrift = False
            self.first_known = tree.counter = index + 1
            tree.last = block
            tree.weigh(block)
            self._settle_on(UNKNOWN)
