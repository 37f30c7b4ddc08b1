# SPDX-License-Identifier: GPL-2.0-only
"""What the search for an order of ztree's calls found, as plain data."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from ztrace.allocator.ztree.calls import BlockCall
from ztrace.replay.validate.races import Race
from ztrace.replay.validate.ztree_checker import BlockFailure, TreeTally

KEPT = 20  # failures and races kept in full; all are counted


@dataclass(frozen=True)
class Unexplained:
    """A call that no order explains. ``failure`` says what the model would have answered."""

    pool: int
    tree: int
    failure: BlockFailure
    cause: str


@dataclass
class TreeVerdict:
    """One block tree of one pool."""

    pool: int
    tree: int
    slot_bytes: int
    tally: TreeTally
    began_before: bool  # the tree had blocks before the trace
    assumed_empty: bool  # the trace does not say so, its first malloc does


@dataclass
class TreesVerdict:
    """All trees of a trace."""

    trace: str
    cpus: int = 0
    lost: int = 0
    trees: list[TreeVerdict] = field(default_factory=list)
    unexplained: list[Unexplained] = field(default_factory=list)
    unexplained_count: int = 0
    races: list[Race] = field(default_factory=list)
    race_counts: Counter[str] = field(default_factory=Counter)
    errors_agree: int = 0
    errors_differ: int = 0
    shrinks: int = 0
    shrinks_undetermined: int = 0
    notes: list[str] = field(default_factory=list)
    wall_s: float = 0.0

    def total(self, count: str) -> int:
        """Sum of one of :class:`Tally`'s counts over all trees."""
        return sum(getattr(tree.tally, count) for tree in self.trees)

    @property
    def explained(self) -> bool:
        """Whether every recorded call is explained."""
        return not self.unexplained_count and not self.errors_differ

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types; handles of calls as block and slot."""
        return {
            "trace": self.trace,
            "explained": self.explained,
            "calls": self.total("calls"),
            "calls_explained": self.total("explained"),
            "calls_explained_in_part": self.total("in_part"),
            "groups": self.total("groups"),
            "overlapping": self.total("overlapping"),
            "backtracks": self.total("dead_ends"),
            "groups_cut_short": self.total("cut_short"),
            "out_of_order": self.total("out_of_order"),
            "errors_agree": self.errors_agree,
            "errors_differ": self.errors_differ,
            "shrinks": self.shrinks,
            "shrinks_undetermined": self.shrinks_undetermined,
            "lost_events": self.lost,
            "cpus": self.cpus,
            "trees": [
                {
                    "pool": tree.pool,
                    "tree": tree.tree,
                    "slot_bytes": tree.slot_bytes,
                    "began_before": tree.began_before,
                    "assumed_empty": tree.assumed_empty,
                    **asdict(tree.tally),
                }
                for tree in self.trees
            ],
            "unexplained_count": self.unexplained_count,
            "unexplained": [
                {
                    "pool": one.pool,
                    "tree": one.tree,
                    "call": call_dict(one.failure.call),
                    "model": one.failure.answer,
                    "likely_cause": one.cause,
                    "around": [call_dict(call) for call in one.failure.around],
                }
                for one in self.unexplained
            ],
            "race_counts": dict(sorted(self.race_counts.items())),
            "races": [
                {
                    "hazard": race.hazard,
                    "what": race.what,
                    "pool": race.pool,
                    "tree": race.tree,
                    "calls": [call_dict(call) for call in race.calls],
                }
                for race in self.races
            ],
            "notes": self.notes,
            "measured_here": {"wall_s": self.wall_s},
        }


def call_dict(call: BlockCall) -> dict[str, Any]:
    """A call as plain JSON types."""
    return {**call._asdict(), "kind": call.kind.name.lower()}
