# SPDX-License-Identifier: GPL-2.0-only
"""Writing traces: all or nothing, one row group in memory, the file complete or not there."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import pyarrow as pa
import pyarrow.parquet as pq

from ztrace.traces.errors import TraceError
from ztrace.traces.frames import told_to_pandas
from ztrace.traces.metadata import FOOTER_KEY, Metadata
from ztrace.traces.schema import COLUMNS, SCHEMA, Batch, conform

ROW_GROUP_ROWS = 128 * 1024
"""Rows of a row group; also the most that a writer holds in memory (about 9 MiB)."""

COMPRESSION_LEVEL = 13
"""zstd level. On the bundled recordings 6.3 and 7.0 bytes a row; 6.6 and 7.3 at level 3, which
takes a quarter of the time, 6.2 and 6.8 at level 19, which takes five times as long."""

DICTIONARY = "dictionary"

# Measured one by one at zstd level 3 on synthetic traces of zbud-like and zsmalloc-like handles
# (tests/test_traces_writer.py makes one of the kind). Bytes a row, chosen against next best:
ENCODINGS: dict[str, str] = {
    "ts_ns": "DELTA_BINARY_PACKED",  # 1.70 against 2.06: small steps around a mean
    "dur_ns": "BYTE_STREAM_SPLIT",  # 1.55 against 1.90: noise in the low byte, little above
    "op": DICTIONARY,  # 0.07
    "pool": DICTIONARY,  # constant
    "key": "PLAIN",  # 0.84 against 0.89: zstd finds the earlier store of the same slot
    "size": "PLAIN",  # 0.51 against 0.59: malloc and store of one page carry the same size
    "handle": "PLAIN",  # 1.10 against 1.32: the same eight bytes in malloc, map, unmap, free
    "ret": DICTIONARY,  # few distinct values
    "place": "BYTE_STREAM_SPLIT",  # 0.39 against 0.47: upper bytes of addresses hardly change
    "total": "DELTA_BINARY_PACKED",  # 0.12: moves by a page at a time
    "lock_ns": "BYTE_STREAM_SPLIT",  # as dur_ns
    "cpu": DICTIONARY,  # 0.02
    "tid": DICTIONARY,  # 0.02
    "cgroup": DICTIONARY,  # few distinct values
}
"""Parquet encoding of each column: ``dictionary`` or the name of a Parquet encoding."""


class AtomicFile:
    """A file that appears under ``path`` complete, or not at all.

    A context manager that gives a binary file open for writing. It is written under a
    temporary name in the same directory (mode 0600: traces hold kernel addresses), synced and
    renamed on success, removed on any exception. Without ``force`` an existing path is
    refused; a symbolic link or anything but a regular file is refused always.
    Raises TraceError for these and when opening or finishing fails; put writes under
    :meth:`guard`.
    """

    def __init__(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        self.path = Path(path)
        self.force = force
        self._temporary: Path | None = None
        self._file: BinaryIO | None = None

    def __enter__(self) -> BinaryIO:
        self._check_target()
        # Short, so that every name that fits a directory entry has a temporary that fits.
        temporary = self.path.parent / f".ztrace-{secrets.token_hex(8)}.tmp"
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._failed(error) from error
        self._temporary = temporary
        self._file = os.fdopen(fd, "wb")
        return self._file

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                with self.guard():
                    self._publish()
        finally:
            self._discard()

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Turn an OSError of the block, which writes to this file, into a TraceError."""
        try:
            yield
        except OSError as error:
            raise self._failed(error) from error

    def _check_target(self) -> None:
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise self._failed(error) from error
        if stat.S_ISLNK(mode):
            raise TraceError(f"{self.path} is a symbolic link; name the file that it points to")
        if not stat.S_ISREG(mode):
            raise TraceError(f"{self.path} is not a regular file; name another output")
        if not self.force:
            raise TraceError(f"{self.path} exists; --force replaces it")

    def _publish(self) -> None:
        """Make the finished temporary visible under its final name."""
        assert self._file is not None and self._temporary is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._check_target()
        if self.force:
            self._temporary.replace(self.path)
        else:
            # A link fails if another process made the path meanwhile; a rename would not.
            try:
                os.link(self._temporary, self.path)
            except FileExistsError:
                raise TraceError(f"{self.path} exists; --force replaces it") from None
            except OSError:  # file systems without hard links
                self._temporary.rename(self.path)
        # The name is there by now; that it survives a power cut is as good as we can do.
        with contextlib.suppress(OSError):
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def _discard(self) -> None:
        """Close the file and remove the temporary, wherever we stopped."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                self._temporary.unlink()

    def _failed(self, error: Exception) -> TraceError:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        return TraceError(f"{self.path}: cannot write: {reason}; name another output")


class TraceWriter:
    """Writes one trace; use it as a context manager.

    ``metadata`` may be changed until the block ends; it is written into the footer then.
    ``level`` is zstd's, ``encodings`` are like :data:`ENCODINGS`. On an exception nothing is
    left behind. Raises TraceError if ``path`` exists and not ``force``, is a symbolic link, or
    cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        metadata: Metadata,
        *,
        force: bool = False,
        level: int = COMPRESSION_LEVEL,
        encodings: dict[str, str] = ENCODINGS,
    ) -> None:
        self.path = Path(path)
        self.metadata = metadata
        self._level = level
        self._encodings = encodings
        self.rows = 0
        """Rows accepted so far."""
        self._target = AtomicFile(path, force=force)
        self._parquet: pq.ParquetWriter | None = None
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0

    def __enter__(self) -> Self:
        file = self._target.__enter__()
        try:
            self._parquet = open_parquet(file, level=self._level, encodings=self._encodings)
        except BaseException as error:
            self._target.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._finish()
        except BaseException as failure:
            error = failure
            raise
        finally:
            if self._parquet is not None:
                # After an error this ends a file that is removed right after.
                with contextlib.suppress(OSError, pa.ArrowException):
                    self._parquet.close()
            self._parquet = None
            self._pending = []
            self._target.__exit__(type(error) if error else None, error, trace)

    def write(self, batch: Batch) -> None:
        """Append rows, in any number.

        ``batch`` is an Arrow table or record batch, or a mapping of column name to numpy or
        Arrow array; it holds ``ts_ns``, ``op`` (names or codes) and any other columns.
        Raises TraceError naming column and row for a value that does not fit, and for a
        column that the schema does not have; nothing of the batch is written then.
        """
        if self._parquet is None:
            raise ValueError("TraceWriter is used outside of its with block")
        names = batch.schema.names if hasattr(batch, "schema") else list(batch)
        for name in names:
            if name not in COLUMNS:
                raise TraceError(
                    f"{self.path}: no trace column is called {name!r}; use {' '.join(COLUMNS)}"
                )
        rows = conform(batch, where=str(self.path), first_row=self.rows)
        self.rows += rows.num_rows
        at = 0
        while at < rows.num_rows:
            part = rows.slice(at, ROW_GROUP_ROWS - self._pending_rows)
            self._pending.append(part)
            self._pending_rows += part.num_rows
            at += part.num_rows
            if self._pending_rows == ROW_GROUP_ROWS:
                self._write_group()

    def _write_group(self) -> None:
        assert self._parquet is not None
        table = pa.Table.from_batches(self._pending, SCHEMA)
        self._pending = []
        self._pending_rows = 0
        with self._target.guard():
            self._parquet.write_table(table, row_group_size=ROW_GROUP_ROWS)

    def _finish(self) -> None:
        assert self._parquet is not None
        if self._pending_rows:
            self._write_group()
        self._parquet.add_key_value_metadata({FOOTER_KEY: self.metadata.to_json()})
        with self._target.guard():
            self._parquet.close()


def open_parquet(
    sink: BinaryIO,
    *,
    encodings: dict[str, str] = ENCODINGS,
    level: int = COMPRESSION_LEVEL,
) -> pq.ParquetWriter:
    """Open a Parquet writer for :data:`SCHEMA`; the parameters are there to be tuned."""
    return pq.ParquetWriter(
        sink,
        told_to_pandas(SCHEMA),
        compression="zstd",
        compression_level=level,
        use_dictionary=[name for name, how in encodings.items() if how == DICTIONARY],
        column_encoding={name: how for name, how in encodings.items() if how != DICTIONARY},
        write_page_checksum=True,
    )
