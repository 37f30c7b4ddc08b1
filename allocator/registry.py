# SPDX-License-Identifier: GPL-2.0-only
"""Backends by name. Third parties add theirs under the entry point group ``ztrace.backends``."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from allocator.protocol import BackendError, Pool
from allocator.ztree import Ztree

ENTRY_POINT_GROUP = "ztrace.backends"

_BUILTIN: dict[str, Callable[[], Pool]] = {"ztree": Ztree}


def names() -> list[str]:
    """Names that :func:`create` takes."""
    return sorted({*_BUILTIN, *(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP))})


def create(name: str) -> Pool:
    """Make an empty pool of the backend ``name``; BackendError names the ones there are.

    A backend of a third party is a callable without arguments that returns a Pool.
    """
    if name in _BUILTIN:
        return _BUILTIN[name]()
    for entry in entry_points(group=ENTRY_POINT_GROUP, name=name):
        pool: Pool = entry.load()()
        return pool
    raise BackendError(f"no backend {name!r}; there are: {', '.join(names())}")
