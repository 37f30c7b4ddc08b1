# SPDX-License-Identifier: GPL-2.0-only
"""Backends by specification: ``NAME[:ITEM[,ITEM...]]``.

An ITEM is ``key=value`` or the bare name of a variant::

    zbud                        one or two objects a page
    z3fold:cpus=2,work=deferred up to three; lists of two CPUs, compaction when it is told to
    zsmalloc:6.1                the rules of that release; also 6.12 and 7.2
    zsmalloc:6.12,chain_size=4  zspages of up to 4 pages
    ztree                       as posted in 2021
    ztree:late                  the author's later tree; zblock:2022 and zblock:2025 came after it
    ztree:table=FILE            other block types: a line "order slots" each, # begins a comment

All take ``page_bytes=N``. Third parties add theirs under the entry point group
``ztrace.backends``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, NamedTuple, Protocol

from ztrace.allocator.protocol import BackendError, Pool, check_page_bytes
from ztrace.allocator.table import read_table

ENTRY_POINT_GROUP = "ztrace.backends"


class _Builtin(Pool, Protocol):
    """A model of ours: its name can be set to the specification it was made from."""

    name: str


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise BackendError("must be a whole number")
    return int(text)


def _page_bytes(text: str) -> int:
    check_page_bytes(_number(text))
    return int(text)


@dataclass(frozen=True)
class _Kind:
    """A built-in backend: where its maker is, how its items' values are read, its variants.

    The variant ``""`` is the one without a name.
    """

    module: str
    cls: str
    items: Mapping[str, Callable[[str], Any]]
    variants: tuple[str, ...] = ()

    def make(self, arguments: Mapping[str, Any]) -> _Builtin:
        """Import the model, which is not done before it is needed, and make a pool."""
        pool: _Builtin = getattr(importlib.import_module(self.module), self.cls)(**arguments)
        return pool


@dataclass(frozen=True)
class _Spec:
    """A specification in pieces; ``variant`` is the bare item, if any."""

    text: str
    name: str
    items: dict[str, str] = field(default_factory=dict)
    variant: str | None = None


_BUILTIN: dict[str, _Kind] = {
    "z3fold": _Kind(
        "ztrace.allocator.z3fold.model",
        "Z3fold",
        {"page_bytes": _page_bytes, "cpus": _number, "work": str},
    ),
    "zblock": _Kind(
        "ztrace.allocator.zblock.model",
        "zblock",
        {"page_bytes": _page_bytes, "table": read_table},
        ("2022", "2025"),
    ),
    "zbud": _Kind("ztrace.allocator.zbud.model", "Zbud", {"page_bytes": _page_bytes}),
    "zsmalloc": _Kind(
        "ztrace.allocator.zsmalloc.model",
        "Zsmalloc",
        {"page_bytes": _page_bytes, "chain_size": _number},
        ("6.1", "6.12", "7.2"),
    ),
    "ztree": _Kind(
        "ztrace.allocator.zblock.model",
        "ztree",
        {"page_bytes": _page_bytes, "table": read_table},
        ("", "late"),
    ),
}


def names() -> list[str]:
    """Specifications that :func:`create` takes, without items except for variants."""
    ours = [
        f"{name}:{variant}" if variant else name
        for name, kind in _BUILTIN.items()
        for variant in kind.variants or ("",)
    ]
    return [*ours, *sorted(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP))]


class Builtin(NamedTuple):
    """One of our models and the arguments that a specification gives its constructor."""

    name: str
    arguments: dict[str, Any]


def builtin(spec: str) -> Builtin | None:
    """Take a specification of one of our models apart; None if it is another's.

    BackendError as for :func:`create`.
    """
    parts = _parse(spec)
    kind = _BUILTIN.get(parts.name)
    if kind is None:
        return None
    arguments = _arguments(parts, kind)
    kind.make(arguments)  # knows what is impossible
    return Builtin(parts.name, arguments)


def create(spec: str) -> Pool:
    """Make an empty pool from a specification; BackendError says in a line what is wrong with it.

    A backend of a third party is a callable that returns a Pool and takes the items, if any
    are given, as keyword arguments of type str.
    """
    parts = _parse(spec)
    kind = _BUILTIN.get(parts.name)
    if kind is not None:
        pool = kind.make(_arguments(parts, kind))
        pool.name = spec
        return pool
    for entry in entry_points(group=ENTRY_POINT_GROUP, name=parts.name):
        if parts.variant is not None:
            raise BackendError(f"{spec}: {parts.variant!r} is not key=value")
        third: Pool = entry.load()(**parts.items)
        return third
    raise BackendError(f"no backend {parts.name!r}; there are: {', '.join(names())}")


def _parse(spec: str) -> _Spec:
    name, colon, rest = spec.partition(":")
    items: dict[str, str] = {}
    variant = None
    for item in rest.split(",") if colon else ():
        key, equals, value = item.partition("=")
        if not key or (equals and not value):
            raise BackendError(f"{spec}: {item!r} is not an item; write NAME:ITEM,ITEM")
        if key in items or (not equals and variant is not None):
            raise BackendError(f"{spec}: {item!r} is one too many")
        if equals:
            items[key] = value
        else:
            variant = item
    return _Spec(spec, name, items, variant)


def _arguments(spec: _Spec, kind: _Kind) -> dict[str, Any]:
    """Turn a specification's items into the constructor's arguments."""
    arguments: dict[str, Any] = {}
    if spec.variant is not None:
        if spec.variant not in kind.variants:
            known = ", ".join([*filter(None, kind.variants), *(f"{key}=..." for key in kind.items)])
            raise BackendError(f"{spec.text}: no item {spec.variant!r}; {spec.name} takes {known}")
        arguments["variant"] = spec.variant
    for key, value in spec.items.items():
        if key not in kind.items:
            known = ", ".join(f"{key}=..." for key in kind.items)
            raise BackendError(f"{spec.text}: no item {key!r}; {spec.name} takes {known}")
        try:
            arguments[key] = kind.items[key](value)
        except BackendError as failure:
            raise BackendError(f"{spec.text}: {key}={value}: {failure}") from failure
    return arguments
