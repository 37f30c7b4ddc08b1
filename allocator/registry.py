# SPDX-License-Identifier: GPL-2.0-only
"""Backends by specification: ``NAME[:ITEM[,ITEM...]]``.

An ITEM is ``key=value`` or the bare name of a variant::

    zbud                        one or two objects a page
    z3fold:cpus=2,work=deferred up to three; lists of two CPUs, compaction when it is told to
    zsmalloc:6.1                the rules of that release; also 6.12 and 7.2
    zsmalloc:6.12,chain_size=4  zspages of up to 4 pages
    zsmalloc:class_step=32      size classes 32 bytes apart; also chain_rule, chain_saving
    ztree                       as posted in 2021
    ztree:late                  the author's later tree; zblock:2022 and zblock:2025 came after it
    ztree:table=FILE            other block types: a line "order slots" each, # begins a comment

    mymodule:Class              a class of one's own, of a module here (allocator/own.py)

All take ``page_bytes=N``. Third parties add theirs under the entry point group
``ztrace.backends``: an :class:`allocator.traits.Traits`, or just what makes a pool. See
docs/add-an-allocator.md.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ztrace.allocator.own import own_traits, take_from_module
from ztrace.allocator.protocol import BackendError, Pool
from ztrace.allocator.specification import Specification
from ztrace.allocator.traits import Maker, Traits

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

ENTRY_POINT_GROUP = "ztrace.backends"

OURS = (
    "ztree",
    "zbud",
    "z3fold",
    "zsmalloc",
    "zblock",
)
"""Allocators that come with ztrace, each in the folder of its name: a new one's line is here."""


def traits(name: str) -> Traits:
    """What is special about an allocator; BackendError if there is none of that name."""
    if name in OURS:
        found: Traits = importlib.import_module(f"ztrace.allocator.{name}").TRAITS
        return found
    if (own := own_traits(name)) is not None:
        return own
    for entry in _theirs().select(name=name):
        try:
            loaded: Traits | Maker = entry.load()
        except Exception as failure:  # whatever a third party's module raises
            raise BackendError(f"backend {name} cannot be loaded: {failure!r}") from failure
        return loaded if isinstance(loaded, Traits) else Traits(name, loaded)
    raise BackendError(f"no backend {name!r}; there are: {', '.join(names())}, MODULE:CLASS")


def recorded_traits(allocator: str) -> Traits:
    """Those of an allocator that a recording names; the usual ones if no backend models it."""
    try:
        return traits(allocator)
    except BackendError:
        return Traits(allocator, _no_model)


def load(spec: str) -> None:
    """Import the class that a specification as ``mymodule:Class`` names. BackendError if it cannot.

    For what a user asked for, not for what a trace says: a name in it would be imported.
    """
    parts = Specification.parse(spec)
    if parts.variant and parts.name not in OURS and not _theirs().select(name=parts.name):
        take_from_module(spec, parts)


def is_known(name: str) -> bool:
    """Whether there is a backend of that name."""
    return name in OURS or own_traits(name) is not None or bool(_theirs().select(name=name))


def our_traits() -> list[Traits]:
    """Those of the allocators that come with ztrace."""
    return [traits(name) for name in OURS]


def all_traits() -> list[Traits]:
    """Those of all allocators by name, third parties' last."""
    return [traits(name) for name in (*sorted(OURS), *_others())]


def _others() -> list[str]:
    return sorted(_theirs().names - set(OURS))


def _theirs() -> EntryPoints:
    """What third parties have installed."""
    return _on(tuple(sys.path))


@lru_cache(maxsize=1)
def _on(path: tuple[str, ...]) -> EntryPoints:
    """What is installed on such a path; every package there has to be asked."""
    from importlib.metadata import entry_points  # not needed, as a rule, and slow to import

    return entry_points(group=ENTRY_POINT_GROUP)


def _no_model(**items: Any) -> Pool:
    raise BackendError("no backend models this allocator")


def names() -> list[str]:
    """Specifications that :func:`create` takes, without items except for variants."""
    ours = [
        f"{one.name}:{variant}" if variant else one.name
        for one in map(traits, sorted(OURS))
        for variant in one.variants
    ]
    return [*ours, *_others()]


class Builtin(NamedTuple):
    """One of our models and the arguments that a specification gives its constructor."""

    name: str
    arguments: dict[str, Any]


def builtin(spec: str) -> Builtin | None:
    """Take a specification of a model that is in the core, too, apart; None for any other.

    BackendError as for :func:`create`.
    """
    parts = Specification.parse(spec)
    if parts.name not in OURS or not (kind := traits(parts.name)).native:
        return None
    arguments = _arguments(spec, parts, kind)
    _make(kind, arguments)  # knows what is impossible
    return Builtin(parts.name, arguments)


def create(spec: str) -> Pool:
    """Make an empty pool from a specification; BackendError says in a line what is wrong with it.

    A third party's callable, unless its traits say how to read them, gets the items as keyword
    arguments of type str.
    """
    parts = Specification.parse(spec)
    kind = traits(parts.name)
    pool = _make(kind, _arguments(spec, parts, kind))
    if parts.name in OURS:
        pool.name = spec  # type: ignore[misc]  # of our models it can be set
    return pool


def resolve(spec: str, release: str, page_bytes: int) -> str:
    """What a specification means for a recording of that kernel and page size (0: not known).

    A variant and ``page_bytes`` that it does not say are the recorded machine's, where the model
    has those; what it says stands. BackendError for an unknown name or what is no specification.
    """
    with_rules = str(_with_rules(spec, release))
    return with_pages(with_rules, page_bytes) or with_rules


def recorded(
    spec: str, release: str, page_bytes: int, cpus: int, *, compactions: bool = True
) -> str:
    """As :func:`resolve`, for the model of a pool that was recorded on this very allocator.

    ``cpus``: of the recorded machine, 0: not known. ``compactions``: whether the trace would have
    them as rows, which are then played.
    """
    parts = Specification.parse(resolve(spec, release, page_bytes))
    return str(traits(parts.name).as_recorded(parts, cpus, compactions=compactions))


def _with_rules(spec: str, release: str) -> Specification:
    parts = Specification.parse(spec)
    return traits(parts.name).with_rules(parts, release)


def with_pages(spec: str, page_bytes: int) -> str | None:
    """A backend for pages of that size (0: not known, any); None if it has none."""
    parts = Specification.parse(spec)
    for tried in (parts, parts.completed(items={"page_bytes": f"{page_bytes}"})):
        try:
            if not page_bytes or create(str(tried)).page_bytes == page_bytes:
                return str(tried)
        except (BackendError, TypeError):  # TypeError: a third party's that has no such item
            continue
    return None


def _make(kind: Traits, arguments: Mapping[str, Any]) -> Pool:
    """A pool; imports the model, which is not done before it is needed."""
    make = kind.model
    if isinstance(make, str):
        module, _, attribute = make.partition(":")
        make = getattr(importlib.import_module(module), attribute)
    pool: Pool = make(**arguments)
    return pool


def _arguments(text: str, spec: Specification, kind: Traits) -> dict[str, Any]:
    """Turn a specification's items into the constructor's arguments."""
    arguments: dict[str, Any] = {}
    if spec.variant:
        if spec.variant not in kind.variants:
            if kind.items is None:
                raise BackendError(f"{text}: {spec.variant!r} is not key=value")
            known = ", ".join([*filter(None, kind.variants), *(f"{key}=..." for key in kind.items)])
            raise BackendError(f"{text}: no item {spec.variant!r}; {spec.name} takes {known}")
        arguments["variant"] = spec.variant
    if kind.items is None:
        return {**arguments, **spec.items}
    for key, value in spec.items.items():
        if key not in kind.items:
            known = ", ".join(f"{key}=..." for key in kind.items)
            raise BackendError(f"{text}: no item {key!r}; {spec.name} takes {known}")
        try:
            arguments[key] = kind.items[key](value)
        except BackendError as failure:
            raise BackendError(f"{text}: {key}={value}: {failure}") from failure
    return arguments
