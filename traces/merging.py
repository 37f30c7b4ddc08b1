# SPDX-License-Identifier: GPL-2.0-only
"""Merging: pieces of one recording put together, recordings of one machine put side by side.

Pieces of one recording (the files of one that rotated, or cut by ``ztrace slice``) follow each
other; their rows are taken piece after piece, as they are. Traces that are pieces of one say so by
equal kernel, machine, clock, start, command and probes; files of one that rotated are numbered,
too. Different recordings are merged by time, rows
in the order of return; nothing tells whether their pools are the same, so pools are numbered anew.
"""

from __future__ import annotations

import operator
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from ztrace.traces.errors import TraceError
from ztrace.traces.extent import Clock, returns
from ztrace.traces.metadata import Counters, Metadata, Pieces, PoolInfo
from ztrace.traces.reader import TraceReader
from ztrace.traces.slicing import FROM, TO
from ztrace.traces.writer import TraceWriter

LATE_NS = 10**9
"""How late a row may reach the recorder's ring after its call returned: its task was preempted
in between. Pieces of one recording may overlap by as much."""

MOST_POOLS = 256
SAME_BOOT_S = 60
"""How far two recordings' estimates of when the machine booted may lie apart."""

_SEEN = "seen_ns"
_FOREVER = 2**63 - 1


@dataclass
class Piece:
    """One input: its rows' extent in time and who ran.

    ``seen_ns`` is the return of the first row, ``tasks`` maps a tid to the least and greatest
    return of its calls, ``pools`` are those that rows name.
    """

    reader: TraceReader
    rows: int = 0
    first_ns: int = 0
    seen_ns: int = 0
    last_ns: int = 0
    tasks: dict[int, tuple[int, int]] = field(default_factory=dict)
    pools: set[int] = field(default_factory=set)

    @property
    def metadata(self) -> Metadata:
        """What the trace says of itself."""
        return self.reader.metadata

    @property
    def name(self) -> str:
        """The trace's path, for messages."""
        return str(self.reader.path)


@dataclass
class Stream:
    """The pieces of one recording in order, and the number that its pool 0 gets."""

    pieces: list[Piece]
    first_pool: int = 0

    @property
    def pools(self) -> list[PoolInfo]:
        """All pools that any piece knows or rows name, each as the first piece has it."""
        found: list[PoolInfo] = []
        for piece in self.pieces:
            found += piece.metadata.pools[len(found) :]
        named = max((max(piece.pools, default=-1) for piece in self.pieces), default=-1)
        return found + [PoolInfo() for _ in range(named + 1 - len(found))]

    @property
    def first_ns(self) -> int:
        """The earliest entry of a call."""
        return min((piece.first_ns for piece in self.pieces if piece.rows), default=0)

    @property
    def last_ns(self) -> int:
        """The latest return of a call."""
        return max((piece.last_ns for piece in self.pieces if piece.rows), default=0)


def merge(
    readers: Sequence[TraceReader],
    writer: TraceWriter,
    *,
    advance: Callable[[int], object] = lambda rows: None,
) -> None:
    """Write the rows of all ``readers`` to ``writer``, and their metadata combined.

    ``advance`` gets numbers of rows, in all twice those of all traces. Memory: a few batches,
    each recording's distinct tasks, and different recordings' rows where they overlap by less
    than a batch. TraceError for traces that cannot be merged, naming two of them and the reason,
    and for a damaged one.
    """
    pieces = [_survey(reader, advance) for reader in readers]
    for one, other in combinations(pieces, 2):
        _refuse_others(one, other)
    streams = _streams(pieces)
    for a, b in combinations(streams, 2):
        _refuse_overlap(a, b)
    count = 0
    for stream in streams:
        stream.first_pool = count
        count += len(stream.pools)
    if count > MOST_POOLS:
        raise TraceError(
            f"{pieces[0].name}: merged there would be {count} pools, a trace has at most "
            f"{MOST_POOLS}; merge fewer recordings"
        )
    for batch in _by_time([_batches(stream, advance) for stream in streams]):
        writer.write(batch)
    writer.metadata = _combined(streams)


def _survey(reader: TraceReader, advance: Callable[[int], object]) -> Piece:
    piece = Piece(reader)
    for batch in reader.batches(["ts_ns", "dur_ns", "pool", "tid"]):
        if batch.num_rows:
            ends = returns(batch)
            first, last = int(batch.column("ts_ns").to_numpy().min()), int(ends.max())
            if not piece.rows:
                piece.first_ns, piece.seen_ns, piece.last_ns = first, int(ends[0]), last
            piece.first_ns, piece.last_ns = min(first, piece.first_ns), max(last, piece.last_ns)
            piece.pools.update(np.unique(batch.column("pool").to_numpy()).tolist())
            piece.rows += batch.num_rows
            _note_tasks(piece.tasks, batch.column("tid").to_numpy(), ends)
        advance(batch.num_rows)
    return piece


def _note_tasks(tasks: dict[int, tuple[int, int]], tid: Any, ends: Any) -> None:
    order = np.lexsort((ends, tid))
    tid, ends = tid[order], ends[order]
    starts = np.flatnonzero(np.append(True, tid[1:] != tid[:-1]))
    stops = np.append(starts[1:], len(tid)) - 1
    for task, low, high in zip(
        tid[starts].tolist(), ends[starts].tolist(), ends[stops].tolist(), strict=True
    ):
        before = tasks.get(task, (low, high))
        tasks[task] = min(low, before[0]), max(high, before[1])


# -- what cannot be merged ---------------------------------------------------------------------


def _refuse_others(one: Piece, other: Piece) -> None:
    """TraceError for two traces that are not of one machine, kernel, clock and kind."""
    a, b = one.metadata, other.metadata
    for what, ours, theirs in (
        ("kernel", a.kernel.release, b.kernel.release),
        ("build of the kernel", a.kernel.version, b.kernel.version),
        ("configuration of the kernel", a.kernel.config_sha256, b.kernel.config_sha256),
        ("CPU", a.machine.cpu_model, b.machine.cpu_model),
        ("number of CPUs", a.machine.cpus, b.machine.cpus),
        ("size of memory", a.machine.memory_bytes, b.machine.memory_bytes),
        ("page size", a.machine.page_bytes, b.machine.page_bytes),
        ("architecture", a.machine.arch, b.machine.arch),
        ("clock", a.clock, b.clock),
        ("order of rows", a.order, b.order),
        ("filter", _filters(a) or "none", _filters(b) or "none"),
        ("sampling", a.sampling or "none", b.sampling or "none"),
    ):
        if ours != theirs:
            raise TraceError(
                f"{other.name}: cannot be merged with {one.name}: another {what} "
                f"({theirs}, not {ours}); merge recordings of one machine and boot"
            )
    if _identity(a) != _identity(b) and (early := _boot(one)) and (late := _boot(other)):
        apart = max(early[0] - late[1], late[0] - early[1])
        if apart > SAME_BOOT_S:
            raise TraceError(
                f"{other.name}: cannot be merged with {one.name}: the machine booted or slept in "
                f"between (its clock is off by {apart:.0f} s); merge recordings of one boot"
            )


def _boot(piece: Piece) -> tuple[float, float] | None:
    """When the machine booted, Unix time in s, at the earliest and at the latest.

    The first event came some time in the recording; the clock at its start is not known better,
    and of a slice that begins later not at all: None.
    """
    with suppress(ValueError, OverflowError):
        if piece.rows and FROM not in piece.metadata.filters:
            started = datetime.fromisoformat(piece.metadata.started_utc).timestamp()
            latest = started - (piece.first_ns - piece.metadata.duration_ns) / 1e9
            return started - piece.first_ns / 1e9, latest
    return None


def _refuse_overlap(one: Stream, other: Stream) -> None:
    """TraceError for two recordings of one time that may hold the same pool's calls."""
    a, b = one.pieces[0].name, other.pieces[0].name
    if one.last_ns < other.first_ns or other.last_ns < one.first_ns:
        return
    for number, pool in _used(one):
        for rival, theirs in _used(other):
            if {pool.allocator, theirs.allocator} & {"unknown"} or (
                (pool.allocator, pool.compressor) == (theirs.allocator, theirs.compressor)
            ):
                raise TraceError(
                    f"{b}: cannot be merged with {a}: they overlap in time, and its pool {rival} "
                    f"({theirs.allocator}) may be pool {number} there; merge recordings of "
                    "different times or pools"
                )
    if one.pieces[0].metadata.order != "ring":
        raise TraceError(
            f"{b}: cannot be merged with {a}: they overlap in time, and rows are in a found "
            "order; merge the recordings they were made from"
        )


def _used(stream: Stream) -> Iterator[tuple[int, PoolInfo]]:
    named = set().union(*(piece.pools for piece in stream.pieces))
    return ((number, pool) for number, pool in enumerate(stream.pools) if number in named)


def _identity(metadata: Metadata) -> str:
    """What pieces of one recording have in common."""
    return repr(
        (
            metadata.tool,
            metadata.started_utc,
            metadata.command,
            sorted(metadata.probes.items()),
            metadata.source,
        )
    )


def _filters(metadata: Metadata) -> dict[str, str]:
    """All filters but the cuts in time."""
    return {name: v for name, v in sorted(metadata.filters.items()) if name not in (FROM, TO)}


# -- pieces of one recording -------------------------------------------------------------------


def _streams(pieces: Sequence[Piece]) -> list[Stream]:
    """Sort the pieces by recording and time. TraceError where pieces of one do not fit."""
    groups: dict[str, list[Piece]] = {}
    for piece in pieces:
        groups.setdefault(_identity(piece.metadata), []).append(piece)
    streams = []
    for group in groups.values():
        # Empty pieces have no time; what they say of pools and losses still counts.
        group.sort(
            key=lambda piece: (
                *(piece.metadata.pieces.first, not piece.rows),
                *(piece.seen_ns, piece.last_ns),
            )
        )
        _check_pools(group)
        _check_numbers(group)
        _check_sequence([piece for piece in group if piece.rows])
        streams.append(Stream(group))
    return sorted(
        streams,
        key=lambda stream: (not any(piece.rows for piece in stream.pieces), stream.first_ns),
    )


def _check_pools(group: Sequence[Piece]) -> None:
    for one, other in combinations(group, 2):
        both = zip(one.metadata.pools, other.metadata.pools, strict=False)
        for number, (a, b) in enumerate(both):
            ours, theirs = (a.allocator, a.compressor), (b.allocator, b.compressor)
            if ours != theirs:
                raise TraceError(
                    f"{other.name}: cannot be merged with {one.name}: its pool {number} is "
                    f"{'/'.join(theirs)}, not {'/'.join(ours)}, though they look "
                    "like pieces of one recording; merge pieces that are"
                )


def _check_numbers(group: Sequence[Piece]) -> None:
    """Files of a recording that rotated: none may be missing in between, or be there twice."""
    for one, other in pairwise(group):
        a, b = one.metadata.pieces, other.metadata.pieces
        if (a.first, a.last) != (b.first, b.last) and b.first != a.last + 1:
            raise TraceError(
                f"{other.name}: cannot be merged with {one.name}: that holds up to file {a.last} "
                f"of a recording that rotated, this begins with file {b.first}; merge each of "
                "its files once, without a gap"
            )


def _check_sequence(group: Sequence[Piece]) -> None:
    """Each piece must follow the one before, in each task strictly, without a gap."""
    tasks: dict[int, int] = {}
    for one, other in pairwise(group):
        end, begin = one.metadata.filters.get(TO), other.metadata.filters.get(FROM)
        tasks |= {tid: max(high, tasks.get(tid, high)) for tid, (_, high) in one.tasks.items()}
        backwards = any(low < tasks.get(tid, low) for tid, (low, _) in other.tasks.items())
        nested = other.last_ns < one.last_ns or other.tasks == one.tasks
        # Where one slice was cut off and the next begins there, nothing can be there twice.
        is_cut = end is not None and end == begin
        is_next = other.metadata.pieces.first == one.metadata.pieces.last + 1
        late = one.last_ns - other.seen_ns > LATE_NS
        if not is_cut and not is_next and (backwards or nested or late):
            raise TraceError(
                f"{other.name}: cannot be merged with {one.name}: they overlap in time and are "
                "of one recording, so calls would be there twice; merge pieces that follow "
                "each other"
            )
        if end != begin:
            raise TraceError(
                f"{other.name}: cannot be merged with {one.name}: that ends at "
                f"{end or 'its end'} ns, this begins at {begin or 'the beginning'} ns of the "
                "same recording; add the piece in between"
            )


# -- rows --------------------------------------------------------------------------------------


def _batches(stream: Stream, advance: Callable[[int], object]) -> Iterator[pa.Table]:
    """The rows of a recording with the pools' new numbers and the moments they were seen."""
    clock = Clock()
    for piece in stream.pieces:
        for batch in piece.reader.batches():
            table = pa.Table.from_batches([batch])
            if stream.first_pool:
                at = table.schema.get_field_index("pool")
                pool = batch.column("pool").to_numpy() + np.uint8(stream.first_pool)
                table = table.set_column(at, table.schema.field(at), pa.array(pool, pa.uint8()))
            yield table.append_column(_SEEN, pa.array(clock.seen(batch)))
            advance(batch.num_rows)


def _by_time(streams: Sequence[Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """Merge tables by the moment seen; at one moment, the earlier stream's rows come first."""
    if len(streams) == 1:
        yield from (table.drop_columns(_SEEN) for table in streams[0])
        return
    held: dict[int, pa.Table] = {}
    unfinished = dict(enumerate(streams))
    limit = -_FOREVER
    while unfinished:
        for number, stream in list(unfinished.items()):
            if number in held and _last(held[number]) > limit:
                continue
            more = _next(stream)
            if more is None:
                del unfinished[number]
            else:
                held[number] = pa.concat_tables([held.get(number, more.slice(0, 0)), more])
        # Up to here every stream's rows are known.
        limit = min((_last(held[number]) for number in unfinished), default=_FOREVER)
        ready = []
        for number, table in sorted(held.items()):
            count = int(np.searchsorted(table.column(_SEEN).to_numpy(), limit))
            ready.append(table.slice(0, count))
            held[number] = table.slice(count)
        if ready:
            yield _sorted(ready)


def _last(table: pa.Table) -> int:
    """The moment of the last row."""
    return int(table.column(_SEEN)[-1].as_py()) if table.num_rows else -_FOREVER


def _next(tables: Iterator[pa.Table]) -> pa.Table | None:
    return next((table for table in tables if table.num_rows), None)


def _sorted(tables: Iterable[pa.Table]) -> pa.Table:
    table = pa.concat_tables(tables)
    order = np.argsort(table.column(_SEEN).to_numpy(), kind="stable")
    return table.take(pa.array(order)).drop_columns(_SEEN)


# -- metadata ----------------------------------------------------------------------------------


def _combined(streams: Sequence[Stream]) -> Metadata:
    pieces = [piece for stream in streams for piece in stream.pieces]
    documents = [piece.metadata for piece in pieces]
    first = documents[0]
    latest = max(streams, key=lambda stream: stream.last_ns).pieces
    last = max(latest, key=lambda piece: (piece.metadata.pieces.last, piece.last_ns)).metadata
    ends = [stream.pieces[-1].metadata.filters.get(TO) for stream in streams]
    begins = [stream.pieces[0].metadata.filters.get(FROM) for stream in streams]
    rotated = len(streams) == 1 and last.pieces.last > 0
    pieces_held = Pieces()
    if rotated and not (first.pieces.first == 0 and not last.pieces.more):
        pieces_held = Pieces(first.pieces.first, last.pieces.last, last.pieces.more)
    filters = _filters(first)
    filters |= {FROM: begins[0]} if begins[0] is not None else {}
    filters |= {TO: ends[-1]} if ends[-1] is not None else {}
    extra: dict[str, Any] = {}
    probes: dict[str, Any] = {}
    parameters: dict[str, str] = {}
    for document in documents:
        extra = {**document.extra, **extra}
        probes = {**document.probes, **probes}
        parameters |= document.parameters
    notes = [note for document in documents for note in document.notes]
    notes += [
        f"also recorded: {shlex.join(document.command)}"
        for document in documents
        if document.command != first.command
    ]
    notes.append(f"merged from {len(pieces)} traces")
    return replace(
        first,
        schema=max(document.schema for document in documents),
        source=" and ".join(dict.fromkeys(document.source for document in documents)),
        pools=[pool for stream in streams for pool in stream.pools],
        parameters=parameters,
        probes=probes,
        filters=filters,
        duration_ns=max(stream.last_ns for stream in streams)
        - min(stream.first_ns for stream in streams),
        lost=_added(streams, lambda metadata: metadata.lost),
        losses_counted=all(document.losses_counted for document in documents),
        left_out=_added(streams, lambda metadata: metadata.left_out),
        pieces=pieces_held,
        counters=Counters(
            first.counters.start,
            last.counters.end,
            # That of a recording's last file is of the whole recording.
            last.counters.check if rotated and pieces_held.is_all else [],
        ),
        notes=list(dict.fromkeys(notes)),
        extra=extra,
    )


def _added(
    streams: Sequence[Stream], counts: Callable[[Metadata], dict[str, dict[str, int]]]
) -> dict[str, dict[str, int]]:
    """Losses added, cause by cause and CPU by CPU; or what was left out.

    A slice in time repeats the losses of the whole recording, since nobody knows when they were.
    """
    total: dict[str, dict[str, int]] = {}
    for stream in streams:
        whole: dict[str, dict[str, int]] = {}
        for piece in stream.pieces:
            cut = {FROM, TO} & set(piece.metadata.filters)
            _add(whole if cut else total, counts(piece.metadata), max if cut else operator.add)
        _add(total, whole, operator.add)
    return total


def _add(
    total: dict[str, dict[str, int]],
    more: dict[str, dict[str, int]],
    join: Callable[[int, int], int],
) -> None:
    for cause, by_cpu in more.items():
        sums = total.setdefault(cause, {})
        for cpu, count in by_cpu.items():
            sums[cpu] = join(sums.get(cpu, 0), count)
