# SPDX-License-Identifier: GPL-2.0-only
"""One pool of the core behind :class:`allocator.protocol.Pool`, call by call.

This is how the core is compared with the models, and how vector files are run on it; a replay
gives it whole batches instead (replay/play/native.py). Handles are 0 to 2^64 - 1.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping, Sequence
from ctypes import byref, c_int, c_int64, c_uint64
from importlib import import_module
from typing import Any

from ztrace.allocator.native.library import (
    ABORTED,
    EVICT,
    FATAL,
    NO_MEMORY,
    Config,
    Figures,
    HazardStruct,
    PlaceStruct,
    library,
)
from ztrace.allocator.protocol import (
    BackendError,
    Evict,
    HazardError,
    Hazards,
    Place,
    Shrunk,
    error,
)
from ztrace.allocator.registry import builtin, traits

_LARGEST = 2**62  # what a size or a number of pages is cut to; no allocator takes as much


def kind_of(name: str, arguments: Mapping[str, Any]) -> str:
    """The core's name for a model, which is the folder that the C is in."""
    kinds = traits(name).native
    return kinds.get(arguments.get("variant", ""), kinds[""])


def binding(kind: str) -> Any:
    """Module ``native`` of a folder: ``configure()``, ``stats()`` and, if any, its own ``Pool``."""
    return import_module(f"ztrace.allocator.{kind}.native")


def config_of(name: str, arguments: Mapping[str, Any]) -> Config:
    """The core's configuration for a model's constructor arguments."""
    config = Config(page_bytes=arguments.get("page_bytes", 4096))
    binding(kind_of(name, arguments)).configure(config, arguments)
    return config


def set_table(config: Config, table: Sequence[tuple[int, int]]) -> None:
    """Set a configuration's block types."""
    config.table_len = len(table)
    for entry, (order, slots) in zip(config.table, table, strict=False):
        entry.order, entry.slots = order, slots


def rows(names: Sequence[str], figures: Sequence[int]) -> list[dict[str, int]]:
    """Cut figures into rows of named ones."""
    width = len(names)
    return [
        dict(zip(names, figures[at : at + width], strict=True))
        for at in range(0, len(figures), width)
    ]


def met_hazards(core: ctypes.CDLL, model: object) -> list[HazardStruct]:
    """The faults that one of the core's models has met, in the order in which it first did."""
    figures = Figures()
    core.zc_figures(model, byref(figures))
    return [core.zc_hazard_at(model, at).contents for at in range(figures.hazards)]


def fatal_hazard(core: ctypes.CDLL, model: object) -> HazardError:
    """The fault that ended one of the core's models."""
    last = core.zc_hazard_at(model, 2**32 - 1).contents
    return HazardError(last.name.decode(), last.first.decode())


def create(spec: str) -> NativePool:
    """As :func:`allocator.create`, in the core. BackendError also for a backend of others."""
    found = builtin(spec)
    if found is None:
        raise BackendError(f"{spec}: not one of the core's backends; use --engine python")
    pool = make(found.name, **found.arguments)
    pool.name = spec
    return pool


def make(name: str, **arguments: Any) -> NativePool:
    """A pool from a model's name and its constructor's arguments, which have been checked."""
    kind = getattr(binding(kind_of(name, arguments)), "Pool", NativePool)
    pool: NativePool = kind(name, arguments)
    return pool


class NativePool:
    """See :class:`allocator.protocol.Pool`. MemoryError if the core has no memory left."""

    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        self._library = library()
        self.name = name
        self._kind = kind_of(name, arguments)
        config = config_of(name, arguments)
        self.page_bytes: int = config.page_bytes
        failure = c_int()
        pool = self._library.zc_create(self._kind.encode(), byref(config), byref(failure))
        if not pool:
            raise error(failure.value)
        self._pool = ctypes.c_void_p(pool)
        weakref.finalize(self, self._library.zc_destroy, self._pool)
        self._given = c_uint64()

    def _check(self, code: int) -> None:
        """Raise what a call's return code stands for."""
        if code == 0:
            return
        if code < 0:
            raise error(-code)
        if code == FATAL:
            raise fatal_hazard(self._library, self._pool)
        if code == NO_MEMORY:
            raise MemoryError(f"{self.name}: the native core has no memory left")
        raise RuntimeError(f"{self.name}: the pool was left in an eviction")

    def _figures(self) -> Figures:
        figures = Figures()
        self._library.zc_figures(self._pool, byref(figures))
        return figures

    def _figure(self, name: str) -> int:
        figure: int = getattr(self._figures(), name)
        return figure

    @property
    def total_bytes(self) -> int:
        """The driver's own figure."""
        return self._figure("total_bytes")

    @property
    def held_bytes(self) -> int:
        """Memory really held in whole pages."""
        return self._figure("held_bytes")

    @property
    def objects(self) -> int:
        """Live objects."""
        return self._figure("objects")

    @property
    def hazards(self) -> Hazards:
        """Faults met so far; a copy."""
        found = Hazards()
        for hazard in met_hazards(self._library, self._pool):
            name = hazard.name.decode()
            found.counts[name] = hazard.count
            found.first[name] = hazard.first.decode()
        return found

    def malloc(self, size: int) -> int:
        """Allocate; the handle or OSError."""
        size = max(min(size, _LARGEST), -1)
        self._check(self._library.zc_malloc(self._pool, size, byref(self._given)))
        return self._given.value

    def free(self, handle: int) -> None:
        """Free an object."""
        self._check(self._library.zc_free(self._pool, handle))

    def map(self, handle: int) -> None:
        """Begin to use an object's memory."""
        self._check(self._library.zc_use(self._pool, handle, 1))

    def unmap(self, handle: int) -> None:
        """End the use."""
        self._check(self._library.zc_use(self._pool, handle, 0))

    def shrink(self, pages: int, evict: Evict) -> Shrunk:
        """Ask for pages; an exception of ``evict`` ends the pool's use."""
        raised: list[BaseException] = []

        def call(context: int | None, handle: int) -> int:
            try:
                return evict(handle)
            except BaseException as failure:
                raised.append(failure)
                return ABORTED

        ret, reclaimed = c_int64(), c_int64()
        code = self._library.zc_shrink(
            self._pool, min(pages, _LARGEST), EVICT(call), None, byref(ret), byref(reclaimed)
        )
        if raised:
            raise raised[0]
        self._check(code)
        return Shrunk(ret.value, reclaimed.value)

    def begin_malloc(self, size: int) -> int:
        """ztree: the first part of a malloc that found no free slot; a ticket for the second."""
        self._check(self._library.zc_begin(self._pool, size, byref(self._given)))
        return self._given.value

    def end_malloc(self, ticket: int) -> int:
        """ztree: the second part; returns the handle."""
        self._check(self._library.zc_end(self._pool, ticket, byref(self._given)))
        return self._given.value

    def stats(self) -> dict[str, Any]:
        """As the model's."""
        figures = (c_int64 * self._library.zc_stats(self._pool, None))()
        self._library.zc_stats(self._pool, figures)
        counted: dict[str, Any] = binding(self._kind).stats(list(figures), self.page_bytes)
        return counted


class PlacingPool(NativePool):
    """A pool that can tell where its objects are."""

    def place(self, handle: int) -> Place:
        """Where a live object is now; KeyError for any other handle."""
        place = PlaceStruct()
        if self._library.zc_place(self._pool, handle, byref(place)):
            raise KeyError(handle)
        return Place(place.page, place.position)
