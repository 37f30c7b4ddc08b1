# SPDX-License-Identifier: GPL-2.0-only
"""A way back: rows of a trace that another program filtered and wrote, made a trace again.

DuckDB, Polars and pandas write columns, but not the document in the footer, without which nobody
knows which kernel, which pools and which losses the rows are of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ztrace.traces.errors import TraceError
from ztrace.traces.metadata import Metadata
from ztrace.traces.reader import TraceReader, check_columns, open_parquet_file, rows_of
from ztrace.traces.writer import TraceWriter

CHOSEN = "rows"
"""Name of the filter in the metadata where another program left rows out."""


def import_rewritten(
    source: Path,
    original: TraceReader,
    output: Path,
    *,
    force: bool = False,
    advance: Callable[[int], object] = lambda rows: None,
) -> Metadata:
    """Write the rows of a Parquet file as a trace with the document of ``original``.

    Where there are fewer rows than there were, the trace says so: objects may be missing, so
    that nothing which depends on where objects lie is compared. TraceError for a file that is
    no Parquet file or has other columns, and for one with more rows than the original.
    """
    with open_parquet_file(source) as file:
        check_columns(file, source)
        rows, whole = file.metadata.num_rows, original.num_rows
        if rows > whole:
            raise TraceError(
                f"{source}: {rows} rows, {original.path} has {whole}; name the trace they are from"
            )
        metadata = replace(original.metadata, filters=dict(original.metadata.filters))
        metadata.notes = [*metadata.notes, f"rows written by another program: {source.name}"]
        if rows < whole:
            metadata.filters[CHOSEN] = f"{rows} of {whole}, chosen by another program"
        with TraceWriter(output, metadata, force=force) as writer:
            for batch in rows_of(file, source):
                writer.write(batch)
                advance(batch.num_rows)
    return metadata
