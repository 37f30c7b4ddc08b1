# SPDX-License-Identifier: GPL-2.0-only
"""Which backend stands for a recorded allocator, and which ones a trace is compared with."""

from __future__ import annotations

from collections.abc import Iterable

from ztrace.allocator import registry
from ztrace.allocator.protocol import BackendError
from ztrace.allocator.registry import all_traits, is_known, recorded_traits, with_pages
from ztrace.allocator.specification import Specification, family
from ztrace.allocator.traits import Compacts, Handle
from ztrace.traces.metadata import Metadata

ALL = "all"


def resolve(backend: str, metadata: Metadata) -> str:
    """What a backend means for a trace: the recorded kernel's rules and pages if it says none.

    Every command that plays traces asks this, so that a bare name never stands for the rules of
    another release than the trace's. A class that it names is imported. BackendError for an
    unknown backend.
    """
    registry.load(backend)
    return registry.resolve(backend, metadata.kernel.release, metadata.machine.page_bytes)


def compacts(backend: str, allocators: Iterable[str]) -> bool:
    """Whether a backend is one that compacts, and the model of one of the recorded allocators."""
    name = family(backend)
    return name in allocators and recorded_traits(name).compacts is not Compacts.NEVER


def compacts_pages(backend: str) -> bool:
    """Whether it compacts page by page, so that recorded pages have to be followed."""
    return recorded_traits(family(backend)).compacts is Compacts.PAGES


def handles_tell(backend: str) -> bool:
    """Whether the model's handles are the kernel's numbers, to be compared one by one."""
    return recorded_traits(family(backend)).handle is Handle.PLACE


def models(backend: str, allocator: str) -> bool:
    """Whether a backend answers as the recorded allocator, whose answers must then be equal.

    A ztree with other rules or block types than the posted ones does not; of an unknown
    allocator it is taken to be so.
    """
    if allocator == "unknown":
        return True
    if family(backend) != allocator:
        return False
    return recorded_traits(allocator).is_recorded(Specification.parse(backend))


def as_recorded(backend: str, allocator: str, cpus: int, *, compactions: bool) -> str:
    """The specification for a pool of ``allocator``, with what the recording adds.

    z3fold on a recording of z3fold has the lists of all its CPUs and, where the compactions are
    recorded, waits for them. Elsewhere it compacts at once. What the caller says stands.
    """
    if family(backend) != allocator:
        return backend
    spec = Specification.parse(backend)
    return str(recorded_traits(allocator).as_recorded(spec, cpus, compactions=compactions))


def own_model(metadata: Metadata) -> str | None:
    """The backend that models what a trace's newest pool was recorded on; None: none does."""
    for pool in reversed(metadata.pools):
        if is_known(pool.allocator):
            return resolve(pool.allocator, metadata)
    return None


def every(metadata: Metadata) -> list[str]:
    """What ``--backend all`` means for a trace: all that model the recorded machine's pages.

    Of an allocator whose rules changed with the kernel, those of the recorded one and the newest.
    """
    found = (
        fitting(str(Specification(one.name, variant)), metadata)
        for one in all_traits()
        for variant in one.compared_variants(metadata.kernel.release)
    )
    return [spec for spec in found if spec is not None]


def fitting(backend: str, metadata: Metadata) -> str | None:
    """As :func:`resolve`, but None if it cannot model the recorded machine's pages."""
    return with_pages(resolve(backend, metadata), metadata.machine.page_bytes)


def chosen(backends: Iterable[str], metadata: Metadata) -> list[str]:
    """What each backend means for a trace, once; first what ``all`` does, if that is there."""
    named = list(backends)
    more = every(metadata) if ALL in named else []
    return list(dict.fromkeys([*more, *(resolve(one, metadata) for one in named if one != ALL)]))


def chosen_or_own(backends: Iterable[str], metadata: Metadata) -> list[str]:
    """As :func:`chosen`; if none is named, the recorded allocator's own.

    BackendError if that has no model.
    """
    found = chosen(backends, metadata)
    own = None if found else own_model(metadata)
    if not found and own is None:
        raise BackendError(
            "no model of the recorded allocator: name one with --backend, for instance "
            + " or ".join(registry.OURS)
        )
    return found or [str(own)]
