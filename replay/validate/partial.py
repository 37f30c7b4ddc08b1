# SPDX-License-Identifier: GPL-2.0-only
"""Traces that nothing can be proven of, since some objects were left out by choice."""

from __future__ import annotations

from replay.errors import ReplayError
from traces.metadata import PARTIAL
from traces.reader import TraceReader


def refuse_partial(reader: TraceReader) -> None:
    """ReplayError for a trace of some of its pools' objects: the others' places matter, too."""
    metadata = reader.metadata
    if metadata.has_all_objects():
        return
    period = metadata.sample_period()
    by = [f"1 of {period:g} objects was recorded"] if period != 1 else []
    by += [f"filtered by {name}" for name in PARTIAL if name in metadata.filters]
    raise ReplayError(
        f"{reader.path}: cannot be validated ({', '.join(by)}): where an object lies depends on "
        "those that were left out; record, or slice, without that"
    )
