# SPDX-License-Identifier: GPL-2.0-only
"""What the validation of a trace found, whatever allocators its pools are of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ztrace.replay.validate.placement_verdict import PoolPlacement

if TYPE_CHECKING:
    from ztrace.replay.validate.ztree_verdict import TreesVerdict


@dataclass
class Verdict:
    """``trees``: all pools whose handles an order of the calls has to explain, None if there are
    none; ``pools``: those of which places were compared, by number."""

    trace: str
    lost: int | None
    trees: TreesVerdict | None = None
    pools: list[PoolPlacement] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether the models answer as the kernel did, wherever the trace determines it."""
        trees = self.trees is None or self.trees.explained
        return trees and all(pool.agrees for pool in self.pools)

    @property
    def calls(self) -> int:
        """Calls whose handle or place was compared."""
        return self._sum("calls", lambda pool: pool.places.compared)

    @property
    def explained(self) -> int:
        """Of :attr:`calls`, those that the model answers as the kernel did."""
        return self._sum("explained", lambda pool: pool.places.equal)

    @property
    def undetermined(self) -> int:
        """Of :attr:`calls`, those whose difference the calls of other CPUs may have made."""
        return sum(pool.undetermined for pool in self.pools)

    def _sum(self, count: str, of_pool: Callable[[PoolPlacement], int]) -> int:
        return (self.trees.total(count) if self.trees else 0) + sum(map(of_pool, self.pools))

    @property
    def sizes_compared(self) -> int:
        """Readings of pools' sizes that were compared; of ztree none are."""
        return sum(pool.sizes.compared for pool in self.pools)

    @property
    def sizes_equal(self) -> int:
        """Of :attr:`sizes_compared`, those that are equal."""
        return sum(pool.sizes.equal for pool in self.pools)

    @property
    def ways(self) -> list[str]:
        """In which orders the calls were played, in words."""
        found = {f"{pool.order} order" for pool in self.pools}
        if self.trees is not None:
            found.add("order found" if self.trees.cpus > 1 else "recorded order")
        return sorted(found)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types: figures of the trace, of its trees if it has any, and
        ``pools`` of which places were compared."""
        return {
            **({} if self.trees is None else self.trees.to_dict()),
            "trace": self.trace,
            "explained": self.agrees,
            "calls": self.calls,
            "calls_explained": self.explained,
            "calls_undetermined": self.undetermined,
            "lost_events": self.lost,
            "pools": [pool.to_dict() for pool in self.pools],
            "measured_here": {"wall_s": self.wall_s},
        }
