# SPDX-License-Identifier: GPL-2.0-only
"""What there is to choose of an allocator, and the choice that holds least in the first half.

An allocator with a table of block types gets tables fitted to the first half's objects, of more and
of fewer types and of smaller and of larger blocks; one with size classes its designs
(:class:`allocator.traits.Design`), group by group beside the best of the others, until none is
better. Nothing here has seen the second half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

from ztrace.allocator import create
from ztrace.allocator.protocol import BackendError
from ztrace.allocator.registry import recorded_traits
from ztrace.allocator.specification import Specification
from ztrace.allocator.table import table_text
from ztrace.allocator.traits import Design, Setting
from ztrace.replay.errors import ReplayError
from ztrace.replay.research.block_table import Limits, best_table

Table = list[tuple[int, int]]

_TYPES = (2, 3, 4, 6, 8, 11, 16, 23, 32)
"""Numbers of block types that are tried, beside the most that are allowed."""

_ROUNDS = 2  # through all groups of designs


@dataclass(frozen=True)
class Limited:
    """Limits of a table that a user gives in place of those of the backend's own table."""

    types: int | None = None
    least_slots: int | None = None
    most_slots: int | None = None
    most_order: int | None = None


@dataclass(frozen=True)
class Candidate:
    """A choice: its specification, what a person does for it, and its table, if it has one."""

    backend: str
    how: tuple[str, ...] = ()
    by_source: bool = False
    table: Table | None = None
    items: Mapping[str, str] = field(default_factory=dict)


Rank = Callable[[Sequence[Candidate]], Sequence[Candidate]]
"""Candidates by what they hold in the first half, least first, without those that cannot be."""


def has_choices(backend: str) -> bool:
    """Whether there is anything to choose of an allocator."""
    traits = recorded_traits(Specification.parse(backend).name)
    return bool(traits.blocks or traits.designs("", 4096))


def has_table(backend: str) -> bool:
    """Whether it is a table of block types that is chosen."""
    return bool(recorded_traits(Specification.parse(backend).name).blocks)


def table_limits(backend: str, given: Limited) -> Limits:
    """What a table of this backend may be: as its own table is, but for what is given.

    ReplayError for what is impossible.
    """
    pool: Any = create(backend)  # has what a ztree has
    own = [(kind.order, kind.slots) for kind in pool.types]
    slots = [count for _, count in own]
    largest = pool.size_limits[-1]
    return Limits(
        types=len(own) if given.types is None else given.types,
        least_slots=min(slots) if given.least_slots is None else given.least_slots,
        most_slots=max(slots) if given.most_slots is None else given.most_slots,
        most_order=max(order for order, _ in own) if given.most_order is None else given.most_order,
        page_bytes=pool.page_bytes,
        header_bytes=pool.header_bytes,
        spare=pool.types[-1].slot_bytes - largest,
        reach=min(pool.page_bytes, largest),
        handle_types=pool.most_types,
        handle_slots=1 << pool.slot_bits,
    )


def tables(
    backend: str, objects: Mapping[int, int | Fraction], limits: Limits, folder: Path
) -> list[Candidate]:
    """Tables fitted to objects, each in a file in ``folder``. ReplayError if there can be none."""
    found: dict[tuple[tuple[int, int], ...], None] = {}
    numbers = sorted({min(count, limits.types) for count in (*_TYPES, limits.types)})
    failure: ReplayError | None = None
    for types, order in product(numbers, range(limits.most_order, -1, -1)):
        try:
            fitted = best_table(objects, replace(limits, types=types, most_order=order))
        except ReplayError as error:
            failure = failure or error
            continue
        found[tuple(fitted)] = None
    if not found and failure is not None:
        raise failure
    candidates = []
    for number, table in enumerate(found):
        path = folder / f"{number}.table"
        path.write_text(table_text(table))
        spec = with_items(backend, {"table": str(path)})
        try:
            create(spec)
        except BackendError:
            continue  # whose slots do not ascend, once cut to whole longs
        candidates.append(Candidate(spec, by_source=True, table=list(table)))
    return candidates


def with_items(backend: str, items: Mapping[str, str]) -> str:
    """A specification with these items in place of its own."""
    spec = Specification.parse(backend)
    return str(replace(spec, items={**spec.items, **items}))


def best_designs(backend: str, designs: Sequence[Design], rank: Rank) -> Iterator[Candidate]:
    """The best choice that needs no change of source, where there is such a choice, then of all."""
    best = Candidate(backend)
    for by_source in (False, True):
        groups = [group for group in designs if by_source or not group.by_source]
        if not groups or (by_source and not any(group.by_source for group in designs)):
            continue
        best = _descend(backend, groups, best, rank)
        yield best


def _descend(backend: str, groups: Sequence[Design], best: Candidate, rank: Rank) -> Candidate:
    for _ in range(_ROUNDS):
        before = best
        for group in groups:
            beside = [best, *(_beside(backend, best, one, group) for one in group.settings)]
            best = next(iter(rank(beside)), best)
        if best == before:
            break
    return best


def _beside(backend: str, best: Candidate, setting: Setting, group: Design) -> Candidate:
    """A candidate with a setting in place of the same items'."""
    own = {str(one.items): one for one in group.settings}
    others = tuple(how for how in best.how if how not in {one.how for one in own.values()})
    items = {**best.items, **setting.items}
    return Candidate(
        with_items(backend, items),
        (*others, setting.how),
        best.by_source or group.by_source,
        items=items,
    )
