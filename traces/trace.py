# SPDX-License-Identifier: GPL-2.0-only
"""A trace for one's own analysis: the rows as tables of the libraries that people work with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ztrace.traces.reader import TraceReader

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import polars as pl
    import pyarrow as pa


class Trace(TraceReader):
    """A trace, one row a finished kernel call; the columns are those of docs/trace-format.md.

    ``len(trace)`` is the number of rows, ``trace.metadata`` says what was recorded. Each view
    takes the names of columns, default all, reads them from the file, and gives every number
    exactly: integers that may be missing are never floats. :meth:`batches` reads any length in
    little memory. Raises TraceError as a TraceReader, and for a column that there is not.
    """

    def __len__(self) -> int:
        return self.num_rows

    def arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows as a ``pyarrow.Table``."""
        from ztrace.traces.frames import read_table

        return read_table(self, columns)

    def pandas(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The rows as a frame of pandas: ``op`` categorical, integers that may be missing Int."""
        from ztrace.traces.frames import frame_of

        return frame_of(self.arrow(columns))

    def polars(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows as a frame of Polars, which must be installed."""
        import polars as pl

        frame = pl.from_arrow(self.arrow(columns))
        assert isinstance(frame, pl.DataFrame)  # of a table it is one
        return frame

    def duckdb(
        self,
        columns: Sequence[str] | None = None,
        *,
        connection: duckdb.DuckDBPyConnection | None = None,
    ) -> duckdb.DuckDBPyRelation:
        """The rows as a relation of DuckDB, which must be installed.

        ``connection``: of which it is; default DuckDB's own. ``trace.duckdb().aggregate("op,
        count(*)")``.
        """
        import duckdb

        return duckdb.from_arrow(
            self.arrow(columns), connection=connection or duckdb.default_connection()
        )
