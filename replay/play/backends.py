# SPDX-License-Identifier: GPL-2.0-only
"""Which backend stands for a recorded allocator, and which ones a trace is compared with."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ztrace.allocator import BackendError, create, names
from ztrace.replay.validate.placement import model_of
from ztrace.traces.metadata import Metadata

ALL = "all"


def family(backend: str) -> str:
    """The kernel's name of the allocator that a backend models: ``zsmalloc`` of zsmalloc:6.1."""
    match = re.match(r"[A-Za-z0-9]+", backend)
    return match[0] if match else backend


def compacts(backend: str, allocators: Iterable[str]) -> bool:
    """Whether a backend is one that compacts, and the model of one of the recorded allocators."""
    name = family(backend)
    return name in ("z3fold", "zsmalloc") and name in allocators


def models(backend: str, allocator: str) -> bool:
    """Whether a backend answers as the recorded allocator, whose answers must then be equal.

    A ztree with other rules or block types than the posted ones does not; of an unknown
    allocator it is taken to be so.
    """
    if allocator == "unknown":
        return True
    if family(backend) != allocator:
        return False
    items = backend.partition(":")[2].split(",")
    return allocator != "ztree" or all(not item or item.startswith("page_bytes=") for item in items)


def as_recorded(backend: str, allocator: str, cpus: int, *, compactions: bool) -> str:
    """The specification for a pool of ``allocator``, with what the recording adds.

    z3fold on a recording of z3fold has the lists of all its CPUs and, where the compactions are
    recorded, waits for them. Elsewhere it compacts at once. What the caller says stands.
    """
    if family(backend) != "z3fold" or allocator != "z3fold":
        return backend
    name, _, rest = backend.partition(":")
    items = rest.split(",") if rest else []
    given = {item.partition("=")[0] for item in items}
    if "cpus" not in given:
        items.append(f"cpus={max(1, cpus)}")
    if "work" not in given and compactions:
        items.append("work=deferred")
    return f"{name}:{','.join(items)}"


def every(metadata: Metadata) -> list[str]:
    """What ``--backend all`` means for a trace: all that model the recorded machine's pages.

    Of zsmalloc, the rules of the recorded kernel and the newest ones.
    """
    newest = [name for name in names() if name.startswith("zsmalloc:")][-1]
    zsmalloc = {model_of("zsmalloc", metadata.kernel.release, 1), newest}
    chosen = []
    for name in names():
        if name.startswith("zsmalloc:") and name not in zsmalloc:
            continue
        spec = _with_pages(name, metadata.machine.page_bytes)
        if spec is not None:
            chosen.append(spec)
    return chosen


def chosen(backends: Iterable[str], metadata: Metadata) -> list[str]:
    """Each backend given once, ``all`` replaced by what it means for a trace, which comes first."""
    named = list(backends)
    more = every(metadata) if ALL in named else []
    return list(dict.fromkeys([*more, *(name for name in named if name != ALL)]))


def _with_pages(name: str, page_bytes: int) -> str | None:
    """A backend for pages of that size (0: not known, any); None if it has none."""
    if not page_bytes or create(name).page_bytes == page_bytes:
        return name
    spec = f"{name}{',' if ':' in name else ':'}page_bytes={page_bytes}"
    try:
        return spec if create(spec).page_bytes == page_bytes else None
    except (BackendError, TypeError):  # TypeError: a third party's that has no such item
        return None
