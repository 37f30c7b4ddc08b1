# SPDX-License-Identifier: GPL-2.0-only
"""Reading traces: a stream of batches, whatever wrote the file, one line for whatever is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from ztrace.traces.errors import TraceError
from ztrace.traces.metadata import FOOTER_KEY, Metadata
from ztrace.traces.parquet import open_parquet
from ztrace.traces.schema import COLUMNS, REQUIRED, SCHEMA, conform, is_castable

_MAGIC = b"PAR1"

# What pyarrow raises for damaged files; ArrowInvalid is a ValueError, ArrowIOError an OSError,
# ArrowMemoryError (a page that claims to be huge) a MemoryError.
_DAMAGE = (OSError, ValueError, MemoryError, pa.ArrowException)


class TraceReader:
    """Reads one trace; use it as a context manager, or call :meth:`close`.

    Attributes: ``path``, ``metadata``, ``num_rows`` and ``bytes`` (size of the file).
    Raises TraceError for a path that is no trace, a damaged one or one that is too new.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = open_parquet_file(self.path)
        try:
            self.metadata = self._read_metadata()
            check_columns(self._file, self.path)
            self.num_rows: int = self._file.metadata.num_rows
            self.bytes: int = self.path.stat().st_size
        except BaseException:
            self.close()
            raise

    @property
    def schema(self) -> pa.Schema:
        """The schema of the batches: :data:`traces.schema.SCHEMA`, whatever the file stores."""
        return SCHEMA

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; iterators over it end with an error."""
        with suppress(*_DAMAGE):
            self._file.close(force=True)

    def batches(
        self, columns: Sequence[str] | None = None, rows: int = 65536
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows in file order, at most ``rows`` in a batch.

        ``columns`` selects columns and their order, default all. They are typed as in the
        schema; a column that the file lacks is null, or 0 where the schema has no null.
        Raises TraceError, while iterating, at damage and at a value that does not fit.
        """
        wanted = list(COLUMNS if columns is None else columns)
        unknown = [name for name in wanted if name not in COLUMNS]
        if unknown or rows < 1:
            raise ValueError(f"no such columns: {unknown}" if unknown else "rows must be positive")
        return self._batches(wanted, rows)

    def _batches(self, wanted: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        return rows_of(self._file, self.path, wanted, rows)

    def _read_metadata(self) -> Metadata:
        pairs = self._file.metadata.metadata or {}
        if FOOTER_KEY not in pairs:
            raise TraceError(
                f"{self.path}: a Parquet file, but no trace (no key ztrace in its footer); "
                "name a file that ztrace record or ztrace import made"
            )
        return Metadata.from_json(pairs[FOOTER_KEY], str(self.path))


def open_parquet_file(path: Path) -> pq.ParquetFile:
    """Open a Parquet file. TraceError, in a line, for whatever is none or is damaged."""
    _check_start(path)
    try:
        return open_parquet(path, checksums=True)
    except _DAMAGE as error:
        raise TraceError(
            f"{path}: damaged or cut short ({_first_line(error)}); "
            "copy or record it again, or try ztrace recover on the spool"
        ) from error


def check_columns(file: pq.ParquetFile, path: Path) -> None:
    """TraceError unless the columns of a Parquet file can be those of a trace."""
    try:
        schema = file.schema_arrow
    except _DAMAGE as error:
        raise TraceError(
            f"{path}: unreadable columns ({_first_line(error)}); record it again"
        ) from error
    for name in REQUIRED:
        if name not in schema.names:
            raise TraceError(f"{path}: no column {name}; a trace needs ts_ns and op")
    for name in COLUMNS:
        if schema.names.count(name) > 1:
            raise TraceError(f"{path}: column {name} occurs twice; remove one")
        if name in schema.names and not is_castable(schema.field(name).type, name):
            raise TraceError(
                f"{path}: column {name} is {schema.field(name).type}, "
                f"not {SCHEMA.field(name).type}; convert it"
            )


def rows_of(
    file: pq.ParquetFile, path: Path, wanted: Sequence[str] = COLUMNS, rows: int = 65536
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file as :meth:`TraceReader.batches` does."""
    stored = file.schema_arrow.names
    # ts_ns is in every file and carries the number of rows when nothing else does.
    present = [name for name in wanted if name in stored] or ["ts_ns"]
    seen = 0
    try:
        # In one thread: whoever takes the rows is slower, and needs the other processors.
        for batch in file.iter_batches(rows, columns=present, use_threads=False):
            given = {name: batch.column(name) for name in present if name in wanted}
            yield conform(
                given, where=str(path), columns=wanted, first_row=seen, rows=batch.num_rows
            )
            seen += batch.num_rows
    except _DAMAGE as error:
        raise TraceError(
            f"{path}: damaged after row {seen} ({_first_line(error)}); copy or record it again"
        ) from error
    if seen != file.metadata.num_rows:
        raise TraceError(
            f"{path}: holds {seen} rows, its footer says {file.metadata.num_rows}; "
            "copy or record it again"
        )


def _check_start(path: Path) -> None:
    """Tell apart what pyarrow would call by one name: missing, empty, and not Parquet at all."""
    try:
        # A FIFO or a device would block or never end; Parquet needs a seekable file anyway.
        if path.exists() and not path.is_file():
            raise TraceError(f"{path}: not a regular file; name a trace")
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file; name a trace") from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise TraceError(f"{path}: cannot read: {reason}; name a trace") from error
    if not start:
        raise TraceError(f"{path}: empty; name a trace")
    if start != _MAGIC:
        raise TraceError(f"{path}: not a trace (no Parquet file); ztrace import reads CSV")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
