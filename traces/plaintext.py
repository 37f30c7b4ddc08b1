# SPDX-License-Identifier: GPL-2.0-only
"""A text file's bytes as UTF-8, whatever compressed it: its first bytes tell, not its name."""

from __future__ import annotations

import codecs
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from ztrace.traces.errors import TraceError

BLOCK_BYTES = 4 << 20
"""Bytes of text read at once."""

Advance = Callable[[int], object]
"""Called now and then with the amount of work done since the last call."""

# First bytes -> name of the compression. Parallel compressors of zstd begin with a frame that is
# skipped: its magic number has sixteen values.
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    **{bytes([low]) + b"\x2a\x4d\x18": "zstd" for low in range(0x50, 0x60)},
    b"BZh": "bz2",
    b"\xfd7zXZ\0": "xz",
}
_REFUSED = {
    b"PAR1": "a Parquet file, no CSV; ztrace info reads a trace, and --like TRACE takes the rows "
    "that another program wrote",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"\x04\x22\x4d\x18": "lz4 data; decompress it (lz4 -d) or compress it with zstd",
}
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_LONGEST_MAGIC = 8


class Counted:
    """A binary file that reports how much of it was read."""

    def __init__(self, file: BinaryIO, advance: Advance | None) -> None:
        self._file = file
        self._advance = advance
        self._ahead = b""
        self.closed = False

    def peek(self, size: int) -> bytes:
        """Return up to ``size`` bytes that the next reads give again."""
        while len(self._ahead) < size:
            more = self._file.read(size - len(self._ahead))
            if not more:
                break
            self._ahead += more
        return self._ahead

    def read(self, size: int = -1) -> bytes:
        data = self._ahead
        self._ahead = b""
        if size < 0 or len(data) < size:
            data += self._file.read(size - len(data) if size >= 0 else -1) or b""
        else:
            data, self._ahead = data[:size], data[size:]
        if self._advance is not None:
            self._advance(len(data))
        return data

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


def open_binary(path: Path, where: str) -> BinaryIO:
    """Open a file to read; TraceError says in a line why it cannot be."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise TraceError(f"{where}: no such file; name a CSV file") from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise TraceError(f"{where}: cannot read: {reason}; name a CSV file") from error


def plain_text(raw: Counted, where: str) -> Iterator[bytes]:
    """Yield the plain bytes of a file in pieces of at most :data:`BLOCK_BYTES`, as UTF-8.

    TraceError for damaged or cut compressed data, and, by its name, for what is no text.
    """
    try:
        start = raw.peek(_LONGEST_MAGIC)
    except OSError as error:
        raise TraceError(
            f"{where}: cannot read: {error.strerror or error}; name a CSV file"
        ) from error
    for magic, what in _REFUSED.items():
        if start.startswith(magic):
            raise TraceError(f"{where}: {what}")
    kind = next((name for magic, name in _COMPRESSED.items() if start.startswith(magic)), "")
    pieces = _pieces(_stream(raw, kind), kind, where)
    first = next(pieces, b"")
    encoding = next((name for bom, name in _UTF16.items() if first.startswith(bom)), None)
    if encoding is None:
        if first:
            yield first
        yield from pieces
        return
    yield from _from_utf16(first[2:], pieces, encoding, where)


def _stream(raw: Counted, kind: str) -> Any:
    if not kind:
        return raw
    if kind == "xz":
        return lzma.LZMAFile(raw)  # type: ignore[arg-type] # it reads, and asks for no more
    return pa.CompressedInputStream(pa.PythonFile(raw, "r"), kind)


def _pieces(stream: Any, kind: str, where: str) -> Iterator[bytes]:
    while True:
        try:
            piece = stream.read(BLOCK_BYTES)
        except (OSError, ValueError, EOFError, lzma.LZMAError, pa.ArrowException) as error:
            what = f"damaged or cut short {kind} data" if kind else "cannot read"
            raise TraceError(f"{where}: {what} ({error}); copy the file again") from error
        if not piece:
            return
        yield piece


def _from_utf16(
    first: bytes, pieces: Iterator[bytes], encoding: str, where: str
) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        yield decoder.decode(first).encode()
        for piece in pieces:
            yield decoder.decode(piece).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        raise TraceError(f"{where}: damaged or cut short UTF-16 text; copy it again") from error
