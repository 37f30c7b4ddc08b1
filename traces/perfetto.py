# SPDX-License-Identifier: GPL-2.0-only
"""Every call of a trace as Perfetto's protobuf: a track a thread, a counter a pool.

Google's own package encodes it (extra ``perfetto``). Timestamps are the trace's own, of
CLOCK_MONOTONIC. A call within another, as a malloc within a store, lies below it on its thread's
track; where calls of one track overlap (no thread was recorded), the later goes to another one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from ztrace.text import counted
from ztrace.traces.errors import TraceError, printable
from ztrace.traces.metadata import Metadata
from ztrace.traces.reader import TraceReader
from ztrace.traces.schema import OP_CODE, OPS
from ztrace.traces.timeorder import Ints
from ztrace.traces.writer import AtomicFile

COLUMNS = (
    *("ts_ns", "dur_ns", "op", "pool", "key", "size", "handle", "ret", "place", "total"),
    *("cpu", "tid"),
)
SHOWN = ("pool", "key", "size", "handle", "ret", "place", "cpu")
"""Columns that a call's slice carries as arguments, where they are not null."""

_TYPED = {"handle": "pointer_value", "place": "pointer_value", "key": "uint_value"}

SEQUENCE = 1
_ROOT = 1
_ROWS_AT_ONCE = 1 << 15
_MONOTONIC = 3
_BEGIN, _END, _COUNTER = 1, 2, 4
_BYTES = 3


def export_perfetto(
    reader: TraceReader,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    advance: Callable[[int], object] = lambda rows: None,
) -> int:
    """Write all calls of a trace to ``path``; return how many slices there are.

    Every row but samples is a slice; a row with a pool's size is a value of that pool's counter
    as it returns. ``advance`` gets rows done. In memory: 80 bytes a row. TraceError if the
    package perfetto is not installed, there is no row, or ``path`` exists without ``force``.
    """
    messages = _messages()
    if not reader.num_rows:
        raise TraceError(f"{reader.path}: no rows, so there is nothing to show")
    table = pa.Table.from_batches(reader.batches(COLUMNS))
    with AtomicFile(path, force=force) as file:
        return _Writer(messages, file, reader.metadata, str(reader.path)).write(table, advance)


def _messages() -> ModuleType:
    try:
        from perfetto.protos.perfetto.trace import perfetto_trace_pb2
    except ImportError:
        raise TraceError(
            "Perfetto's messages need the package perfetto: pip install 'ztrace[perfetto]'"
        ) from None
    return perfetto_trace_pb2  # type: ignore[no-any-return] # it has types for its messages only


class _Writer:
    """Writes one trace."""

    def __init__(self, messages: ModuleType, file: BinaryIO, metadata: Metadata, name: str) -> None:
        self._messages: Any = messages
        self._file = file
        self._metadata = metadata
        self._name = name
        self._tracks = 0
        # Task -> its tracks: number, and the ends of the calls that are open, the innermost last.
        self._open: dict[int, list[tuple[int, list[int]]]] = {}

    def write(self, table: pa.Table, advance: Callable[[int], object]) -> int:
        """Write the whole table. Perfetto sorts by time; only events of one moment are told apart
        by where they stand, so each track has to be in order, not the file."""
        ts_ns = table["ts_ns"].to_numpy()
        # Perfetto's are unsigned; only an import can have negative ones.
        ts_ns = ts_ns - min(0, int(ts_ns.min()))
        end_ns = ts_ns + table["dur_ns"].to_numpy()
        op = table["op"].combine_chunks().indices.to_numpy()
        calls = np.flatnonzero(op != OP_CODE["sample"])
        # A call comes before those within it; of equal ones the inner returned first.
        order = calls[np.lexsort((-calls, -end_ns[calls], ts_ns[calls]))]
        self._head(int(ts_ns.min()))
        tid, cpu = table["tid"].to_numpy(), table["cpu"].to_numpy()
        tasks = np.where(tid == 0, -1 - cpu.astype(np.int64), tid)
        for first in range(0, len(order), _ROWS_AT_ONCE):
            rows = order[first : first + _ROWS_AT_ONCE]
            some = table.select(SHOWN).take(pa.array(rows))
            shown = zip(*(some[name].to_pylist() for name in SHOWN), strict=True)
            columns = (column[rows].tolist() for column in (tasks, ts_ns, end_ns, op))
            for task, begin, end, code, values in zip(*columns, shown, strict=True):
                track = self._lane(task, begin, end)
                self._slice(track, begin, OPS[code], values)
            advance(len(rows))
        for open_ends in self._open.values():
            for track, lane in open_ends:
                self._close(track, lane, None)
        self._sizes(table.select(["pool", "total"]), end_ns)
        return len(order)

    def _lane(self, task: int, begin: int, end: int) -> int:
        """The track of a call among those of its task that began before; it is left open there."""
        lanes = self._open.setdefault(task, [])
        for track, ends in lanes:
            self._close(track, ends, begin)
            if not ends or end <= ends[-1]:
                ends.append(end)
                return track
        name = f"thread {task}" if task > 0 else f"CPU {-1 - task}"
        track = self._new_track(f"{name}, beside" if lanes else name)
        lanes.append((track, [end]))
        return track

    def _close(self, track: int, ends: list[int], until: int | None) -> None:
        """Write the ends of a track's open calls, the innermost first, up to a moment."""
        while ends and (until is None or ends[-1] <= until):
            self._write(self._event(_END, track, ends.pop()))

    def _sizes(self, table: pa.Table, end_ns: Ints) -> None:
        """Pools' sizes as the kernel computed them, as the calls returned."""
        tracks: dict[int, int] = {}
        sized = np.flatnonzero(table["total"].is_valid().to_numpy())
        some = table.take(pa.array(sized))
        values = (end_ns[sized].tolist(), some["pool"].to_pylist(), some["total"].to_pylist())
        for at, pool, total in zip(*values, strict=True):
            if pool not in tracks:
                named = self._metadata.pools
                of = f" ({named[pool].allocator})" if pool < len(named) else ""
                tracks[pool] = self._new_track(f"pool {pool}{of}, size", unit=_BYTES)
            packet = self._event(_COUNTER, tracks[pool], at)
            packet.track_event.counter_value = total
            self._write(packet)

    def _head(self, first_ns: int) -> None:
        """What clock the timestamps are of, and the track that holds all others."""
        packet = self._packet()
        packet.clock_snapshot.primary_trace_clock = _MONOTONIC
        packet.clock_snapshot.clocks.add(clock_id=_MONOTONIC, timestamp=first_ns)
        self._write(packet)
        packet = self._packet()
        packet.track_descriptor.uuid = _ROOT
        packet.track_descriptor.name = printable(
            f"{self._metadata.source}, kernel {self._metadata.kernel.release}"
            f"{self._lost()} ({self._name})"
        )
        self._write(packet)

    def _lost(self) -> str:
        lost = self._metadata.lost_events()
        if lost is None:
            return ", lost events unknown"
        return f", {counted(lost, 'event')} lost" if lost else ""

    def _new_track(self, name: str, *, unit: int | None = None) -> int:
        """Describe another track, with a unit a counter; return its number."""
        self._tracks += 1
        packet = self._packet()
        packet.track_descriptor.uuid = _ROOT + self._tracks
        packet.track_descriptor.parent_uuid = _ROOT
        packet.track_descriptor.name = printable(name)
        if unit is not None:
            packet.track_descriptor.counter.unit = unit
        self._write(packet)
        return _ROOT + self._tracks

    def _slice(self, track: int, at_ns: int, name: str, values: Sequence[int | None]) -> None:
        packet = self._event(_BEGIN, track, at_ns)
        packet.track_event.name = name
        for key, value in zip(SHOWN, values, strict=True):
            if value is not None:
                note = packet.track_event.debug_annotations.add(name=key)
                setattr(note, _TYPED.get(key, "int_value"), value)
        self._write(packet)

    def _event(self, kind: int, track: int, at_ns: int) -> Any:
        packet = self._packet()
        packet.timestamp = at_ns
        packet.timestamp_clock_id = _MONOTONIC
        packet.track_event.type = kind
        packet.track_event.track_uuid = track
        return packet

    def _packet(self) -> Any:
        return self._messages.TracePacket(trusted_packet_sequence_id=SEQUENCE)

    def _write(self, packet: Any) -> None:
        self._file.write(self._messages.Trace(packet=[packet]).SerializeToString())
