# SPDX-License-Identifier: GPL-2.0-only
"""The recorder's crash-safe file: self-contained, checksummed zstd frames, append only.

    spool = MAGIC frame*
    frame = header(kind u32, raw bytes u32, stored bytes u32, crc32 of payload u32) payload

``START`` and ``STATE`` frames hold JSON (what is known at the beginning; the latest losses,
pools and counters), ``RECORDS`` frames hold struct record arrays. The last STATE of a recording
that ended by itself says so (``final``). Whatever kills the recorder,
all frames written before it can be read; a torn last frame is recognised and left out.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from ztrace.tracer.errors import TracerError
from ztrace.tracer.ring import RECORD, Records, from_bytes

MAGIC = b"ZTSPOOL1"
HEADER = struct.Struct("<4I")
LIMIT_BYTES = 256 << 20  # no frame is larger; a larger figure is damage
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Causes of loss in the order of enum cause in probes/zswap.c, and what helps.
CAUSES = (
    *("ring_full", "too_deep", "missed_return", "no_task_room", "no_pool_room"),
    "no_object_room",
)


def numbered(path: Path, number: int) -> Path:
    """The name of a file's later piece: of t.parquet and t.parquet.spool t.1.parquet, …"""
    tail = ".spool" if path.suffix == ".spool" else ""
    name = Path(path.name.removesuffix(tail))
    return path.with_name(f"{name.stem}.{number}{name.suffix}{tail}" if number else path.name)


def following(spool: Path, number: int) -> Path:
    """The name of the piece after the one of that number."""
    tail = ".spool" if spool.suffix == ".spool" else ""
    name = Path(spool.name.removesuffix(tail))
    stem = name.stem.removesuffix(f".{number}") if number else name.stem
    return numbered(spool.with_name(f"{stem}{name.suffix}{tail}"), number + 1)


class Kind(IntEnum):
    """What a frame holds."""

    START = 1
    RECORDS = 2
    STATE = 3


class SpoolWriter:
    """Appends frames; each is handed to the kernel whole before the call returns."""

    def __init__(self, path: Path) -> None:
        """Create ``path`` (mode 0600); OSError if it exists or cannot be made."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self.path = path
        self._fd = os.open(path, flags, 0o600)
        self._whole = 0  # bytes up to the end of the last frame
        self._packer = zstandard.ZstdCompressor(level=1)
        self._write(MAGIC)

    def records(self, records: Records) -> None:
        """Append records, shape (n,).

        Where there is no room for them all, as many as there is room for, before OSError: a
        recorder that came late has much to write at once, and a frame is whole or not there.
        """
        try:
            self._frame(Kind.RECORDS, records.tobytes())
        except OSError as error:
            if error.errno not in NO_ROOM or len(records) < 2:
                raise
            half = len(records) // 2
            self.records(records[:half])
            self.records(records[half:])

    @property
    def size_bytes(self) -> int:
        """The file's size so far."""
        return self._whole

    def packed(self, records: Records) -> bytes:
        """Records as a frame, to be appended some time, or not."""
        return self._packed(Kind.RECORDS, records.tobytes())

    def append(self, frame: bytes) -> None:
        """Append a frame that :meth:`packed` made."""
        self._write(frame)

    def start(self, document: dict[str, Any]) -> None:
        """Append what is known when recording begins."""
        self._frame(Kind.START, json.dumps(document).encode())

    def state(self, document: dict[str, Any]) -> None:
        """Append the latest losses, pools and counters; the last one counts."""
        self._frame(Kind.STATE, json.dumps(document).encode())

    def _frame(self, kind: Kind, raw: bytes) -> None:
        self._write(self._packed(kind, raw))

    def _packed(self, kind: Kind, raw: bytes) -> bytes:
        payload = self._packer.compress(raw)
        return HEADER.pack(kind, len(raw), len(payload), zlib.crc32(payload)) + payload

    def _write(self, data: bytes) -> None:
        """Write all of it, or nothing: on a full disk the file ends with its last whole frame."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            os.ftruncate(self._fd, self._whole)
            os.lseek(self._fd, self._whole, os.SEEK_SET)
            raise
        self._whole += len(data)

    def close(self) -> None:
        """Close the file; it stays."""
        os.close(self._fd)


class SpoolReader:
    """Reads a spool's frames in order, also one that was cut off.

    After iteration ``torn_bytes`` says how much of the end could not be used.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path``; TracerError if it is no spool."""
        self.path = path
        self.torn_bytes = 0
        try:
            with path.open("rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    raise TracerError(f"{path}: not a ztrace spool")
        except OSError as error:
            raise TracerError(f"{path}: {error.strerror}") from error

    def documents(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The START document and the last STATE document ({} where there is none)."""
        start: dict[str, Any] = {}
        state: dict[str, Any] = {}
        for kind, payload in self._frames(skip=Kind.RECORDS):
            if kind == Kind.START:
                start = json.loads(payload)
            elif kind == Kind.STATE:
                state = json.loads(payload)
        return start, state

    def records(self) -> Iterator[Records]:
        """The record frames, one array of shape (n,) each."""
        for kind, payload in self._frames():
            if kind == Kind.RECORDS and len(payload) % RECORD.itemsize == 0:
                yield from_bytes(payload)

    def _frames(self, skip: Kind | None = None) -> Iterator[tuple[int, bytes]]:
        unpacker = zstandard.ZstdDecompressor()
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            at = file.seek(len(MAGIC))
            while at < size:
                frame = _read_frame(file, unpacker, skip)
                if frame is None:
                    self.torn_bytes = size - at
                    return
                at = file.tell()
                yield frame


def _read_frame(
    file: BinaryIO, unpacker: zstandard.ZstdDecompressor, skip: Kind | None
) -> tuple[int, bytes] | None:
    """The next frame, or None if it is torn or damaged. A skipped kind's payload is not read."""
    header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    kind, raw_bytes, stored_bytes, checksum = HEADER.unpack(header)
    if raw_bytes > LIMIT_BYTES or stored_bytes > LIMIT_BYTES:
        return None
    if kind == skip:
        file.seek(stored_bytes, os.SEEK_CUR)
        return kind, b""
    payload = file.read(stored_bytes)
    if len(payload) < stored_bytes or zlib.crc32(payload) != checksum:
        return None
    try:
        raw = unpacker.decompress(payload, max_output_size=raw_bytes)
    except zstandard.ZstdError:
        return None
    return (kind, raw) if len(raw) == raw_bytes else None
