# SPDX-License-Identifier: GPL-2.0-only
"""What the rest of ztrace has to know of an allocator, beside its model.

Each allocator has one :class:`Traits`, found by its name (:func:`allocator.registry.traits`):
those of ours are in their folder's ``__init__.py``, a third party's come by its entry point.
Nobody else asks for an allocator by its name. This module and the folders' ``__init__.py`` import
no model, so that whoever records or anonymises can look at them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ztrace.allocator.protocol import BackendError, Pool, check_page_bytes
from ztrace.allocator.specification import Specification

Maker = Callable[..., Pool]


class Handle(Enum):
    """What a handle is."""

    PLACE = "place"
    """A number made of where the object lies: the model gives the very numbers of the kernel."""
    ADDRESS = "address"
    """An address, which means nothing on another machine."""


class Tells(Enum):
    """What of a recording tells where an object lies; pages are told by their addresses."""

    NOTHING = "nothing"
    HANDLE = "handle"
    """The handle is the object's address."""
    MALLOC = "malloc"
    """``place`` of a malloc: the address of the (zs)page * 2^16 + the number of the slot."""
    MAP = "map"
    """``place`` of a map: the address at which the object is mapped."""


class Check(Enum):
    """How a recording on several CPUs is validated; on one, recorded order is the order."""

    RECORDED = "recorded"
    """Calls are played as they returned. Needs no more than a model that tells places."""
    TREES = "trees"
    """An order is searched that explains the handles, ztree's, tree by tree."""
    SEARCHED = "searched"
    """An order is searched that explains which objects share a page, zbud's."""
    LOCKED = "locked"
    """Calls are played as they held the lock, where that is recorded."""
    CORRECTED = "corrected"
    """Not determined: the model is put right after each difference that overlap may explain."""


class Compacts(Enum):
    """What a recorded row of op ``compact`` is to the model."""

    NEVER = "never"
    POOL = "pool"
    """The whole pool is compacted: the model's ``compact()``."""
    PAGES = "pages"
    """One page is: the model's ``compact_page(page)``, where its ``work`` is ``deferred``."""


SLOT_BITS = 16
"""Of a place that :attr:`Tells.MALLOC` tells; above them is the address of its zspage."""


def whole_number(text: str) -> int:
    """Read an item's value; BackendError for anything but digits."""
    if not (text.isascii() and text.isdigit()):
        raise BackendError("must be a whole number")
    return int(text)


def page_size(text: str) -> int:
    """Read the item ``page_bytes``."""
    number = whole_number(text)
    check_page_bytes(number)
    return number


def release_number(release: str) -> tuple[int, int] | None:
    """(6, 1) of "6.1.0-56-amd64"; None for a release that cannot be read.

    The one place where a kernel's release is read as a number: that of a trace, which cannot be
    asked for a symbol. A running kernel is never asked for its release.
    """
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True)
class Setting:
    """What can be set of an allocator: items of its model, and what a person does for them."""

    items: Mapping[str, str]
    how: str


@dataclass(frozen=True)
class Design:
    """Settings of which one is chosen, each beside what the others' groups have chosen.

    ``by_source``: only a change of the allocator's source makes them; else the kernel is built so.
    """

    settings: Sequence[Setting]
    by_source: bool


def _no_designs(release: str, page_bytes: int) -> Sequence[Design]:
    return ()


def _no_settings(release: str) -> Sequence[Setting]:
    return ()


def _nothing(cpus: int, compactions: bool) -> Mapping[str, str]:
    return {}


def _never(variant: str) -> bool:
    return False


@dataclass(frozen=True)
class Traits:
    """What is special about one allocator. All but ``name`` and ``model`` have a usual value.

    The model
        ``model`` makes a pool: a callable, or its "module:name", which is then imported when it
        is needed. ``items``: how the value of each item of a specification is read; None: all
        are given as they are. ``variants``: the bare items it takes, ``""`` if it needs none.

    The kernel's rules
        ``variant_of(release)``: the variant that has the rules of a kernel; None: they are of
        no kernel, or all have the same. ``recorded_items(cpus, compactions)``: items for the
        model of a pool that was recorded on this allocator, on so many CPUs; ``compactions``:
        whether those are recorded. ``departures``: variants and items with which it is no more
        what a recording calls by its name. ``keeps_header(variant)``: whether zswap keeps a swap
        entry before each object, as it did up to 6.4 for drivers that can shrink.
        ``object_bytes``: what the allocator adds to each object. ``compacts``: see there.

    Recordings
        ``handle``, ``tells`` and ``check``: see there. ``members``: members of the kernel's
        structures whose offsets the probes need, by their name in probes/zswap.c; the pool's own
        counter of pages is one. ``module``: the kernel module it can be.

    Elsewhere
        ``native``: the core's kind by variant. ``colour``: its number in all plots, 1 to 8; those
        that have one are what a report compares, in this order. ``kernels``: those of the lab
        that have it, and whether it is a module there. ``out_of_tree``: no kernel has it, it is
        built from a patch. ``settings(release)``: what else a kernel lets one set;
        ``designs(release, page_bytes)``: that and what its source could have instead. ``blocks``:
        the array in its source that the item ``table`` stands for, empty where there is none.
    """

    name: str
    model: str | Maker
    items: Mapping[str, Callable[[str], Any]] | None = None
    variants: tuple[str, ...] = ("",)
    variant_of: Callable[[str], str] | None = None
    recorded_items: Callable[[int, bool], Mapping[str, str]] = _nothing
    departures: frozenset[str] = frozenset()
    keeps_header: Callable[[str], bool] = _never
    object_bytes: int = 0
    compacts: Compacts = Compacts.NEVER
    handle: Handle = Handle.ADDRESS
    tells: Tells = Tells.NOTHING
    check: Check = Check.RECORDED
    members: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    module: str | None = None
    native: Mapping[str, str] = field(default_factory=dict)
    colour: int = 0
    kernels: Mapping[str, bool] = field(default_factory=dict)
    out_of_tree: bool = False
    settings: Callable[[str], Sequence[Setting]] = _no_settings
    designs: Callable[[str, int], Sequence[Design]] = _no_designs
    blocks: str = ""

    def with_rules(self, spec: Specification, release: str) -> Specification:
        """A specification of this allocator with the variant that a kernel has, if it says none.

        Of variants that are no kernel's, and none of them nameless, it is the last.
        """
        if self.variant_of is not None:
            return spec.completed(self.variant_of(release))
        return spec.completed("" if "" in self.variants else self.variants[-1])

    def compared_variants(self, release: str) -> list[str]:
        """Those worth a comparison on a kernel's trace: its own and the newest, or all."""
        if self.variant_of is None:
            return list(self.variants)
        return list(dict.fromkeys((self.variant_of(release), self.variants[-1])))

    def as_recorded(
        self, spec: Specification, cpus: int, *, compactions: bool = True
    ) -> Specification:
        """A specification with what the model of a pool recorded on this allocator has besides.

        What ``spec`` says stands. ``cpus`` 0: not known.
        """
        return spec.completed(items=self.recorded_items(max(1, cpus), compactions))

    def is_recorded(self, spec: Specification) -> bool:
        """Whether a specification answers as the allocator that recordings call by this name."""
        return self.departures.isdisjoint((spec.variant, *spec.items))
