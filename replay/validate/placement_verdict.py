# SPDX-License-Identifier: GPL-2.0-only
"""What a comparison of places found, as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ztrace.replay.read.rows import FREE
from ztrace.replay.validate.page_counts import Sizes

if TYPE_CHECKING:  # only a search has any use for them
    from ztrace.allocator.zbud.steps import PageCall
    from ztrace.replay.validate.checker import Failure


@dataclass
class Agreement:
    """How many answers were compared, how many are equal, and the first that is not."""

    compared: int = 0
    equal: int = 0
    first: str | None = None

    def note(self, equal: bool, what: Callable[[], str]) -> None:
        """Count one comparison; ``what`` describes it if it is the first difference."""
        self.compared += 1
        self.equal += equal
        if not equal and self.first is None:
            self.first = what()


class Way(StrEnum):
    """In which order a pool's calls were played on its model."""

    RECORDED = "recorded"  # as the calls returned
    FOUND = "found"  # one that explains them, inside the recorded intervals
    LOCK = "lock"  # in which they held the allocator's lock
    LISTED = "listed"  # in which they held the locks of pages and lists
    CORRECTED = "corrected"  # recorded; after a difference the model is made to agree


@dataclass
class PoolPlacement:
    """One pool's comparison with its model.

    ``places``: calls whose object's place was compared. ``undetermined``: of those that differ,
    the ones that calls of other CPUs may have changed, so that they prove nothing. ``shrinks``:
    those in which the model evicted what the kernel did. ``lists``: of pages put on a list of the
    allocator's or taken off one, those that the model's rules explain. ``counts``: of the search,
    or of what had to be corrected. ``refused``: the first call that a search does not explain,
    which is not part of :meth:`to_dict`.
    """

    pool: int
    allocator: str
    backend: str
    starts_empty: bool
    order: Way = Way.RECORDED
    calls: int = 0
    overlapping: int = 0
    places: Agreement = field(default_factory=Agreement)
    undetermined: int = 0
    sizes: Sizes = field(default_factory=Sizes)
    errors: Agreement = field(default_factory=Agreement)
    shrinks: Agreement = field(default_factory=Agreement)
    lists: Agreement = field(default_factory=Agreement)
    compactions: int = 0
    compactions_unmatched: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    counts: dict[str, int] = field(default_factory=dict)
    cpus: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    refused: Failure[PageCall] | None = field(default=None, repr=False, compare=False)

    def note_unknown(self, op: int) -> None:
        """Count a call on an object that no malloc in the trace gave."""
        self.unknown["free" if op == FREE else "use"] += 1

    @property
    def agrees(self) -> bool:
        """Whether everything that was compared, and that the trace determines, is equal."""
        if self.places.equal + self.undetermined < self.places.compared:
            return False
        if any(one.equal < one.compared for one in (self.errors, self.shrinks, self.lists)):
            return False
        if self.order == Way.CORRECTED:
            return True  # the rest follows from what is undetermined
        return self.sizes.equal == self.sizes.compared and not self.compactions_unmatched

    @property
    def first(self) -> tuple[int, str] | None:
        """The row of the first difference of all, and what it is; None if nothing differs."""
        told = (self.places, self.errors, self.shrinks, self.lists, self.sizes)
        parts = [one.first.partition(": ") for one in told if one.first is not None]
        found = ((int(row.removeprefix("row ")), what) for row, _, what in parts)
        return min(found, key=lambda one: one[0], default=None)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        # asdict() would make a Counter anew from its items, counting these.
        return (
            {
                name: value
                for name, value in asdict(replace(self, unknown=Counter(), refused=None)).items()
                if name != "refused"
            }
            | {"unknown": dict(self.unknown), "cpus": sorted(self.cpus)}
            | {"explained": self.agrees}
        )
