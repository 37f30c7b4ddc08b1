# SPDX-License-Identifier: GPL-2.0-only
"""What a recording asks of a backend's models before any is played, and what it adds to them."""

from __future__ import annotations

from typing import Any

from ztrace.replay.errors import ReplayError
from ztrace.replay.play.backends import as_recorded, models
from ztrace.replay.play.header import header_bytes
from ztrace.replay.read.rows import COMPACT, Survey
from ztrace.replay.read.source import Source
from ztrace.traces.metadata import Metadata
from ztrace.traces.schema import OPS


def about(reader: Source, backend: str, found: Survey) -> dict[str, Any]:
    """The fields of a Result that are the same whoever plays."""
    metadata = reader.metadata
    return {
        "trace": str(reader.path),
        "backend": backend,
        "rows": found.rows,
        "calls": found.calls,
        "driven": found.driven,
        "cpus": found.cpus,
        "order": metadata.order,
        "starts_empty": metadata.starts_empty(),
        "lost": metadata.lost,
        "lost_events": metadata.lost_events(),
        "all_objects": metadata.has_all_objects(),
        "sample_period": metadata.sample_period(),
        "first_ns": found.first_ns,
        "last_ns": found.last_ns,
    }


def check_page_bytes(reader: Source, backend: str, page_bytes: int) -> None:
    """ReplayError for a trace that was recorded with pages of another size."""
    recorded = reader.metadata.machine.page_bytes
    if recorded and recorded != page_bytes:
        raise ReplayError(
            f"{reader.path}: recorded with pages of {recorded} bytes, {backend} models "
            f"{page_bytes}; choose a backend of that page size"
        )


def check_replayable(reader: Source, found: Survey, backend: str, page_bytes: int) -> None:
    """ReplayError for a trace without allocator calls, or of another page size."""
    if not found.driven:
        raise ReplayError(
            f"{reader.path}: none of its {found.rows} rows is a malloc, free, map, unmap or "
            "shrink; nothing to replay; record with the allocator's probes"
        )
    check_page_bytes(reader, backend, page_bytes)


def as_played(backend: str, allocator: str, metadata: Metadata, found: Survey) -> str:
    """The specification for a pool of ``allocator``, with what this recording adds."""
    cpus = max(metadata.machine.cpus, *(cpu + 1 for cpu in found.cpus))
    return as_recorded(backend, allocator, cpus, compactions=bool(found.calls.get(OPS[COMPACT])))


def more_bytes(backend: str, allocator: str, release: str, recorded_header: int) -> int:
    """What zswap would add to each size for ``backend``, beyond the recorded header's bytes."""
    if models(backend, allocator):
        return 0
    return header_bytes(backend, release) - recorded_header
