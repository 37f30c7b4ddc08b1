# SPDX-License-Identifier: GPL-2.0-only
"""Backends of one's own, not installed: ``MODULE:CLASS[,KEY=VALUE...]``, or the class itself.

A module becomes a backend of its name whose variants are the classes in it. Nothing is imported
but by :func:`take_from_module`, for what a user asked for: a trace may name any allocator.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

from ztrace.allocator.protocol import BackendError, Pool
from ztrace.allocator.specification import Specification
from ztrace.allocator.traits import Maker, Traits

CALLS = ("malloc", "free", "map", "unmap", "shrink", "stats")
"""What a model must at least have; docs/add-an-allocator.md says what each answers."""

_made: dict[str, dict[str, Maker]] = {}
"""By the module's name the classes that were asked for, by theirs."""


def take_from_module(spec: str, parts: Specification) -> None:
    """Import the class that a specification names. BackendError if that fails.

    Modules are found where Python finds them, and in the current folder.
    """
    if parts.variant in _made.get(parts.name, ()):
        return
    try:
        with _current_folder():
            if importlib.util.find_spec(parts.name) is None:
                return  # a slip in a name: whoever looks for it says which names there are
            module = importlib.import_module(parts.name)
    except (ModuleNotFoundError, ValueError) as failure:
        if getattr(failure, "name", None) in (None, parts.name, parts.name.partition(".")[0]):
            return
        raise BackendError(f"backend {spec} cannot be loaded: {failure!r}") from failure
    except Exception as failure:  # whatever the module raises
        raise BackendError(f"backend {spec} cannot be loaded: {failure!r}") from failure
    made = getattr(module, parts.variant, None)
    if not callable(made):
        raise BackendError(f"backend {spec}: module {parts.name} has no class {parts.variant}")
    _made.setdefault(parts.name, {})[parts.variant] = made


def add(made: Maker) -> str:
    """Make a class, or a function that makes a pool, known; return its specification.

    BackendError for what has no name.
    """
    module, name = getattr(made, "__module__", None), getattr(made, "__qualname__", None)
    if not (isinstance(module, str) and isinstance(name, str)):
        raise BackendError(f"{made!r} is no backend: give its name, a class or a function")
    name = name.rpartition(".")[2].strip("<>")
    _made.setdefault(module, {})[name] = made
    return f"{module}:{name}"


def own_traits(name: str) -> Traits | None:
    """Those of a module that was loaded: of its TRAITS, if it has any, else the usual ones."""
    if name not in _made:
        return None
    told = getattr(sys.modules.get(name), "TRAITS", None)
    traits = told if isinstance(told, Traits) else Traits(name, _no_class)
    return replace(
        traits,
        name=name,
        model=_maker(name),
        variants=tuple(_made[name]),
        variant_of=None,
        native={},
        colour=0,
    )


def _maker(module: str) -> Maker:
    """What makes a pool of one of the module's classes."""

    def make(*, variant: str, **items: Any) -> Pool:
        spec = str(Specification(module, variant, {k: str(v) for k, v in items.items()}))
        try:
            pool = cast(Callable[..., object], _made[module][variant])(**items)
        except TypeError as failure:
            raise BackendError(f"{spec}: {failure}") from failure
        missing = [call for call in CALLS if not callable(getattr(pool, call, None))]
        if missing:
            raise BackendError(f"{spec} is no model: it has no {', '.join(missing)}")
        return cast(Pool, pool)

    return make


def _no_class(**items: Any) -> Pool:
    raise BackendError("name a class of the module")


@contextmanager
def _current_folder() -> Iterator[None]:
    """Look for modules in the current folder, too, after all others."""
    sys.path.append("")
    try:
        yield
    finally:
        sys.path.remove("")
