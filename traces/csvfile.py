# SPDX-License-Identifier: GPL-2.0-only
"""Traces from and to CSV, streaming, plain or compressed.

Import cuts the text into blocks at line ends and lets Arrow parse a block at once. Only a block
that Arrow refuses is parsed again line by line: that finds the line of the error, or reads what
Arrow cannot.
"""

from __future__ import annotations

import csv
import gzip
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import zstandard

from ztrace.text import counted
from ztrace.traces import timeorder
from ztrace.traces.columns import values
from ztrace.traces.errors import TraceError, printable
from ztrace.traces.metadata import IMPORTED, Machine, Metadata, PoolInfo
from ztrace.traces.plaintext import Advance, Counted, open_binary, plain_text
from ztrace.traces.reader import TraceReader
from ztrace.traces.returns import check_returns
from ztrace.traces.schema import COLUMNS, OP_CODE, OPS, REQUIRED, SCHEMA, integer_range
from ztrace.traces.writer import AtomicFile, TraceWriter

LONGEST_LINE = 64 << 10
"""Longest line in bytes; thirteen 64-bit numbers need less than 300."""

_BOM = b"\xef\xbb\xbf"
_INTEGER = re.compile(r"(-?[0-9]{1,40})|(0[xX][0-9a-fA-F]{1,40})", re.ASCII)
_SIGNED = ("ts_ns", "ret")


def import_metadata(
    allocator: str = "unknown", *, starts_empty: bool = False, page_bytes: int = 0
) -> Metadata:
    """Return the metadata of a trace that comes from CSV: kernel and machine are unknown.

    ``page_bytes``: PAGE_SIZE of the machine, 0 where nobody says.
    """
    return Metadata(
        machine=Machine(page_bytes=page_bytes),
        pools=[PoolInfo(allocator=allocator, empty_at_start=starts_empty)],
        clock="unknown",
        losses_counted=False,
        notes=[IMPORTED, "CSV does not tell how many events were lost"],
    )


def import_csv(
    source: str | os.PathLike[str] | BinaryIO,
    writer: TraceWriter,
    *,
    name: str | None = None,
    sort: bool = False,
    advance: Advance | None = None,
) -> int:
    """Append the rows of a CSV file to an open writer, in file order; return their number.

    The first line names the columns: ``ts_ns``, ``op`` and any others of the schema. Values
    are integers, decimal or hexadecimal (``0x…``), and op names; an empty field is null (0
    where the schema has no null). ``source`` is a path or a binary file, plain or compressed
    by gzip, zstd, bz2 or xz, which its first bytes tell, in UTF-8 or UTF-16; ``name`` stands
    for it in messages. ``advance`` is called with bytes of ``source`` read. The writer's list
    of pools grows to cover every index in column ``pool``, and its ``duration_ns`` is set to
    the span of ``ts_ns``. ``sort`` puts rows in the order of their return, for which all of them
    are in memory at once; without it rows that no recorder writes in that order are refused. A
    sort that would part frees from their mallocs, or make calls of one task overlap, is refused:
    the clock went back. Where rows have no handle, so that nothing else tells whether it did, a
    note in the writer's metadata says which row runs back.
    Raises TraceError with the line number for anything else in the file.
    """
    with ExitStack() as stack:
        if isinstance(source, str | os.PathLike):
            where = name or str(source)
            raw: BinaryIO = stack.enter_context(open_binary(Path(source), where))
        else:
            where, raw = name or "standard input", source
        importer = _Importer(where, writer, sort)
        for start, block in _blocks(plain_text(Counted(raw, advance), where), where):
            importer.feed(start, block)
        return importer.finish()


def export_csv(
    reader: TraceReader,
    target: str | os.PathLike[str] | BinaryIO,
    *,
    force: bool = False,
    advance: Advance | None = None,
) -> int:
    """Write all rows of a trace as CSV with a header line; return their number.

    ``target`` is a path (gzip if it ends in ``.gz``, zstd if in ``.zst``), replaced only with
    ``force``, or a binary file, which stays open and gets plain text. ``advance`` is called
    with rows written. Null is an empty field. Raises TraceError as TraceReader and AtomicFile.
    """
    if not isinstance(target, str | os.PathLike):
        for text in _text(reader, advance):
            target.write(text)
        return reader.num_rows
    output = AtomicFile(target, force=force)
    with output as file, output.guard(), _compressed(file, Path(target).suffix) as sink:
        for text in _text(reader, advance):
            sink.write(text)
    return reader.num_rows


def _text(reader: TraceReader, advance: Advance | None) -> Iterator[bytes]:
    """Yield the CSV text of a trace, header first."""
    options = pacsv.WriteOptions(include_header=False, quoting_style="none")
    plain = pa.schema([SCHEMA.field(n).with_type(_csv_type(n)) for n in COLUMNS])
    yield (",".join(COLUMNS) + "\n").encode()
    for batch in reader.batches():
        buffer = pa.BufferOutputStream()
        pacsv.write_csv(pa.Table.from_batches([batch]).cast(plain), buffer, options)
        yield buffer.getvalue().to_pybytes()
        if advance is not None:
            advance(batch.num_rows)


def _csv_type(name: str) -> pa.DataType:
    return pa.string() if name == "op" else SCHEMA.field(name).type


def _compressed(file: BinaryIO, suffix: str) -> Any:
    """Return a context manager around ``file`` that compresses as its name says."""
    if suffix == ".gz":
        # Neither a time nor a name inside, so that equal traces give equal files.
        return gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0)
    if suffix == ".zst":
        return zstandard.ZstdCompressor().stream_writer(file, closefd=False)
    return nullcontext(file)


def _blocks(pieces: Iterator[bytes], where: str) -> Iterator[tuple[int, bytes]]:
    """Cut text at line ends: yield (number of the first line, whole lines)."""
    rest = b""
    line = 1
    first = True
    for piece in pieces:
        text = rest + piece
        if first:
            if len(text) < len(_BOM) and _BOM.startswith(text):
                rest = text
                continue
            text = text.removeprefix(_BOM)
            first = False
        end = text.rfind(b"\n") + 1
        rest = text[end:]
        if len(rest) > LONGEST_LINE:
            _fail(where, line + text.count(b"\n"), f"longer than {LONGEST_LINE} bytes")
        if end:
            yield line, text[:end]
            line += text.count(b"\n", 0, end)
    if rest:
        yield line, rest


def _fail(where: str, line: int, what: str) -> NoReturn:
    raise TraceError(f"{where}: line {line}: {what}; correct it")


class _Importer:
    """Takes blocks of lines, the header first, and writes them as rows."""

    def __init__(self, where: str, writer: TraceWriter, sort: bool = False) -> None:
        self._where = where
        self._writer = writer
        self._names: list[str] = []
        self._rows = 0
        self._pools = 0
        self._span: tuple[int, int] | None = None
        self._order = timeorder.TimeOrder()
        self._unsorted: list[pa.Table] | None = [] if sort else None

    def feed(self, line: int, block: bytes) -> None:
        """Convert a block that starts with line number ``line`` and ends at a line end."""
        if not self._names:
            head, _, block = block.partition(b"\n")
            self._names = self._header(head, line)
            line += 1
        if not block.strip(b"\r\n"):
            return
        if not block.endswith(b"\n") and self._names[-1] != "op":
            # It may have lost digits, which nothing else would show; an op's name cannot.
            last = line + block.count(b"\n")
            _fail(self._where, last, "no line end, so its last number may be cut short")
        batch = self._parse_fast(block)
        if batch is None:
            batch = self._parse_lines(block, line)
        if not batch.num_rows:
            return
        self._check(batch)
        if self._unsorted is None:
            self._writer.write(batch)
        else:
            self._unsorted.append(batch)
        self._rows += batch.num_rows
        limits = pc.min_max(batch.column("ts_ns"))
        low, high = limits["min"].as_py(), limits["max"].as_py()
        if self._span is not None:
            low, high = min(low, self._span[0]), max(high, self._span[1])
        self._span = low, high
        if "pool" in self._names:
            self._pools = max(self._pools, (pc.max(batch.column("pool")).as_py() or 0) + 1)

    def _check(self, batch: pa.RecordBatch | pa.Table) -> None:
        """TraceError for rows that no recorder writes."""

        def numbers(name: str) -> Any:
            if name not in self._names:
                return 0
            return pc.fill_null(batch.column(name), 0).to_numpy()

        if self._unsorted is None:
            found = self._order.find(*map(numbers, timeorder.COLUMNS))
            if found is not None:
                raise TraceError(f"{found.error(self._where)}; --sort does so as it imports")
        if "ret" in self._names:
            check_returns(numbers("op"), numbers("ret"), self._rows, self._where)

    def finish(self) -> int:
        """Complete the writer's metadata; return the number of rows."""
        if not self._names:
            raise TraceError(f"{self._where}: empty; the first line must name the columns")
        if self._unsorted:
            rows = pa.concat_tables(self._unsorted)
            ordered = _by_return(rows)
            self._refuse_parted(rows, ordered)
            self._writer.write(ordered)
            self._writer.metadata.notes += ["rows were sorted by their return", *_unsure(rows)]
        metadata = self._writer.metadata
        if self._span is not None:
            metadata.duration_ns = self._span[1] - self._span[0]
        while metadata.pools and len(metadata.pools) < self._pools:
            like = metadata.pools[0]
            metadata.pools.append(
                PoolInfo(allocator=like.allocator, empty_at_start=like.empty_at_start)
            )
        return self._rows

    def _refuse_parted(self, rows: pa.Table, ordered: pa.Table) -> None:
        """TraceError for an order by time that cannot be that of the calls."""
        parted = _unknown_frees(ordered) - _unknown_frees(rows)
        overlapping = _overlapping(ordered) - _overlapping(rows)
        if parted <= 0 and overlapping <= 0:
            return
        what = (
            f"{counted(parted, 'free')} would come before their mallocs"
            if parted > 0
            else f"{counted(overlapping, 'call')} would begin before the one before of their task "
            "returned"
        )
        raise TraceError(
            f"{self._where}: sorted, {what}: the clock went back, and times do not tell the "
            "order; record again"
        )

    def _header(self, head: bytes, line: int) -> list[str]:
        names = [name.strip() for name in self._fields(head, line)]
        for i, name in enumerate(names):
            if name not in COLUMNS:
                shown = printable(name[:40])
                _fail(self._where, line, f"unknown column {shown!r}; use {','.join(COLUMNS)}")
            if name in names[:i]:
                _fail(self._where, line, f"column {name} occurs twice")
        for name in REQUIRED:
            if name not in names:
                _fail(self._where, line, f"no column {name}; a trace needs ts_ns and op")
        return names

    def _parse_fast(self, block: bytes) -> pa.RecordBatch | None:
        """Convert with Arrow; None means that :meth:`_parse_lines` has to look."""
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n")
            if b"\r" in block:
                return None
        types = {n: pa.string() if n == "op" else SCHEMA.field(n).type for n in self._names}
        try:
            table = self._arrow(block, types).combine_chunks()
            codes = pc.index_in(table.column("op"), pa.array(OPS))
            if codes.null_count or table.column("ts_ns").null_count:
                return None
            if b"0x" in block or b"0X" in block:
                # Arrow takes hexadecimal of full width as two's complement; we call it too
                # large. A negative number is either that or honest decimal.
                for name in _SIGNED:
                    if name in self._names and (pc.min(table.column(name)).as_py() or 0) < 0:
                        written = self._arrow(block, {name: pa.string()}).column(name)
                        if pc.any(pc.match_substring(written, "x", ignore_case=True)).as_py():
                            return None
        except (pa.ArrowException, ValueError):
            return None
        columns = {name: table.column(name) for name in self._names}
        columns["op"] = codes.cast(pa.int8())
        return pa.table(columns)

    def _arrow(self, block: bytes, types: dict[str, pa.DataType]) -> pa.Table:
        """Let Arrow read the columns named in ``types`` from a block."""
        # A copy that is Arrow's own: its thread may let go of the block as Python ends, and a
        # thread that releases an object of Python's then aborts the process.
        copy = pa.BufferOutputStream()
        copy.write(block)
        return pacsv.read_csv(
            pa.BufferReader(copy.getvalue()),
            read_options=pacsv.ReadOptions(column_names=self._names),
            convert_options=pacsv.ConvertOptions(
                column_types=types, include_columns=list(types), null_values=[""]
            ),
        )

    def _parse_lines(self, block: bytes, first: int) -> pa.RecordBatch:
        """Convert line by line; TraceError names the first line that is wrong."""
        parse = [(name, *integer_range(_wide(name))) for name in self._names]
        out: list[list[int | None]] = [[] for _ in parse]
        for line, text in enumerate(block.split(b"\n"), first):
            if not text.rstrip(b"\r"):
                continue
            fields = self._fields(text, line)
            if len(fields) != len(parse):
                _fail(self._where, line, f"{len(fields)} fields, the header names {len(parse)}")
            for (name, low, high), field, column in zip(parse, fields, out, strict=True):
                column.append(self._value(name, low, high, field.strip(" \t"), line))
        return pa.table(
            {name: pa.array(v, _wide(name)) for name, v in zip(self._names, out, strict=True)}
        )

    def _fields(self, text: bytes, line: int) -> list[str]:
        if len(text) > LONGEST_LINE:
            _fail(self._where, line, f"longer than {LONGEST_LINE} bytes")
        if b"\0" in text:
            _fail(self._where, line, "a NUL byte, so this is no CSV")
        try:
            rows = list(csv.reader([text.decode().removesuffix("\r")], strict=True))
        except UnicodeDecodeError:
            _fail(self._where, line, "not text, so this is no CSV")
        except csv.Error as error:
            _fail(self._where, line, str(error))
        return rows[0] if rows else []

    def _value(self, name: str, low: int, high: int, field: str, line: int) -> int | None:
        shown = printable(field[:40])
        if name == "op":
            if field not in OP_CODE:
                _fail(self._where, line, f"op {shown!r} is not one of {' '.join(OPS)}")
            return OP_CODE[field]
        if not field:
            if name in REQUIRED:
                _fail(self._where, line, f"no {name}")
            return None
        match = _INTEGER.fullmatch(field)
        if match is None:
            _fail(self._where, line, f"{name} {shown!r} is not an integer")
        value = int(field, 10 if match[1] else 16)
        if not low <= value <= high:
            _fail(self._where, line, f"{name} {shown} is not from {low} to {high}")
        return value


def _by_return(rows: pa.Table) -> pa.Table:
    """The rows in the order in which the calls returned; those of one moment as they stand."""
    duration = rows.column("dur_ns").fill_null(0).to_numpy() if "dur_ns" in rows.schema.names else 0
    end = timeorder.returns(rows.column("ts_ns").to_numpy(), duration)
    return rows.take(pa.array(np.argsort(end, kind="stable")))


def _numbers(rows: pa.Table, name: str) -> Any:
    """A column; zeros for null, and for a column that is not there."""
    if name not in rows.schema.names:
        return np.zeros(len(rows), np.int64)
    return values(rows.column(name))


def _unsure(rows: pa.Table) -> list[str]:
    """A note, where rows without handles run back on one CPU: the clock may have gone back."""
    if "handle" in rows.schema.names and rows.column("handle").null_count < len(rows):
        return []
    op, cpu = _numbers(rows, "op"), _numbers(rows, "cpu")
    found = []
    for one in np.unique(cpu):
        at = np.flatnonzero(cpu == one)
        ts_ns, dur_ns, tid = (_numbers(rows, name)[at] for name in ("ts_ns", "dur_ns", "tid"))
        misplaced = timeorder.TimeOrder().find(ts_ns, dur_ns, tid, one, op[at])
        if misplaced is not None:
            found.append((int(at[misplaced.row]), int(one), misplaced.by_ns))
    if not found:
        return []
    row, one, by_ns = min(found)
    return [
        f"row {row} ran back by {by_ns / 1e9:g} s on CPU {one}: in a file that was in another "
        "order that means nothing, else the clock went back; without handles nothing tells which"
    ]


def _overlapping(rows: pa.Table) -> int:
    """How many calls began before the one before them of their task and level had returned."""
    ts_ns, tid, op = (_numbers(rows, name) for name in ("ts_ns", "tid", "op"))
    end = timeorder.returns(ts_ns, _numbers(rows, "dur_ns"))
    found = 0
    for level in timeorder.LEVELS:
        at = np.flatnonzero(np.isin(op, level) & (tid != 0))
        at = at[np.argsort(tid[at], kind="stable")]
        mine = tid[at][1:] == tid[at][:-1]
        found += int((mine & (ts_ns[at][1:] < end[at][:-1])).sum())
    return found


def _unknown_frees(rows: pa.Table) -> int:
    """How many frees are not of a handle that the last call on it allocated."""
    if "handle" not in rows.schema.names:
        return 0
    malloc, free = OP_CODE["malloc"], OP_CODE["free"]
    at = np.flatnonzero(
        np.isin(_numbers(rows, "op"), (malloc, free)) & (_numbers(rows, "ret") == 0)
    )
    op, pool, handle = (_numbers(rows, name)[at] for name in ("op", "pool", "handle"))
    order = np.lexsort((handle, pool))  # stable: calls on one handle stay in their order
    op, pool, handle = op[order], pool[order], handle[order]
    known = (pool[1:] == pool[:-1]) & (handle[1:] == handle[:-1]) & (op[:-1] == malloc)
    return int((op == free).sum() - (known & (op[1:] == free)).sum())


def _wide(name: str) -> pa.DataType:
    """Type of a column as the importer builds it: op as code, the others as in the schema."""
    return pa.int8() if name == "op" else SCHEMA.field(name).type
