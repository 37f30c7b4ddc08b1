# SPDX-License-Identifier: GPL-2.0-only
"""Traces that nothing can be proven of, since some objects were left out by choice."""

from __future__ import annotations

from ztrace.replay.errors import ReplayError
from ztrace.traces.reader import TraceReader


def refuse_partial(reader: TraceReader) -> None:
    """ReplayError for a trace of some of its pools' objects: the others' places matter, too."""
    metadata = reader.metadata
    if metadata.has_all_objects():
        return
    raise ReplayError(
        f"{reader.path}: some objects ({', '.join(metadata.selection())}) cannot be validated: "
        "where they lie depends on those that were left out; record, or slice, without that"
    )
