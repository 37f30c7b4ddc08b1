# SPDX-License-Identifier: GPL-2.0-only
"""A backend's specification, ``NAME[:ITEM[,ITEM...]]``, in pieces and put together again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ztrace.allocator.protocol import BackendError


@dataclass(frozen=True)
class Specification:
    """``variant`` is the bare item, empty if there is none; ``items`` are ``key=value``."""

    name: str
    variant: str = ""
    items: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Specification:
        """BackendError for what is no specification; whether the name exists is not looked at."""
        name, colon, rest = text.partition(":")
        items: dict[str, str] = {}
        variant = ""
        for item in rest.split(",") if colon else ():
            key, equals, value = item.partition("=")
            if not key or (equals and not value):
                raise BackendError(f"{text}: {item!r} is not an item; write NAME:ITEM,ITEM")
            if key in items or (not equals and variant):
                raise BackendError(f"{text}: {item!r} is one too many")
            if equals:
                items[key] = value
            else:
                variant = item
        return cls(name, variant, items)

    def completed(self, variant: str = "", items: Mapping[str, str] | None = None) -> Specification:
        """With what it does not say itself."""
        return Specification(
            self.name, self.variant or variant, {**self.items, **_missing(items or {}, self.items)}
        )

    def __str__(self) -> str:
        parts = [self.variant] if self.variant else []
        parts += [f"{key}={value}" for key, value in self.items.items()]
        return f"{self.name}:{','.join(parts)}" if parts else self.name


def _missing(items: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in items.items() if key not in given}


def family(backend: str) -> str:
    """The allocator that a specification is of: ``zsmalloc`` of zsmalloc:6.1."""
    return backend.partition(":")[0]
