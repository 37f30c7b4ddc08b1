# SPDX-License-Identifier: GPL-2.0-only
"""A trace's rows in the order in which the calls took effect, for replay.

Mallocs and frees stand where the found order (replay/order/file.py) has them, other allocator calls
where they began, calls of zswap and shrinks where they returned. A malloc whose steps lay apart
is preceded by a row of op ``insert`` with its handle, where it added its block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ztrace.allocator.registry import recorded_traits
from ztrace.allocator.specification import family
from ztrace.allocator.traits import Check
from ztrace.allocator.ztree.calls import BlockStep
from ztrace.replay.errors import ReplayError
from ztrace.replay.read.source import AT, INSERT, Source
from ztrace.replay.validate.calls import BATCH_ROWS, FOREVER, horizons
from ztrace.replay.validate.found_order import FoundOrder
from ztrace.replay.validate.ztree_run import explain_trees
from ztrace.traces.reader import TraceReader
from ztrace.traces.schema import OP_CODE, OPS

_WITH_INSERT = pa.array([*OPS, "insert"], pa.string())
_AT_BEGIN = [OP_CODE[name] for name in ("malloc", "free", "map", "unmap")]


def find_order(
    reader: TraceReader, advance: Callable[[int], object] = lambda rows: None
) -> InOrder | None:
    """The trace in the order that validation finds; None if one CPU made it or none is found."""
    if reader.metadata.machine.cpus == 1 or reader.metadata.order == "found":
        return None
    orders: list[FoundOrder] = []
    try:
        verdict = explain_trees(reader, on_order=orders.append, advance=advance)
    except ReplayError:  # no mallocs or frees, or those of another allocator
        return None
    return InOrder(reader, orders) if verdict.explained and verdict.cpus > 1 else None


def in_order(reader: TraceReader, backend: str) -> Source:
    """The trace as it is played through a backend: one of ztree in the order found, if one is."""
    allocators = {pool.allocator for pool in reader.metadata.pools}
    named = [family(backend)] if allocators <= {"unknown"} else allocators
    if any(recorded_traits(name).check is Check.TREES for name in named):
        return find_order(reader) or reader
    return reader


class InOrder:
    """A trace in found order. Offers what replay uses of a TraceReader.

    ``orders``: the stretches of the order, by ascending ``at_ns``. They are kept, 25 bytes for
    each malloc and free.
    """

    def __init__(self, reader: TraceReader, orders: Sequence[FoundOrder]) -> None:
        self.path = reader.path
        self.metadata = replace(reader.metadata, order="found")
        self.num_rows = reader.num_rows
        self._reader = reader
        self._row = np.concatenate([order.row for order in orders] or [np.empty(0, np.int64)])
        self._at = np.concatenate([order.at_ns for order in orders] or [np.empty(0, np.int64)])
        self._step = np.concatenate([order.step for order in orders] or [np.empty(0, np.int8)])
        self._place = np.argsort(self._row, kind="stable")

    def batches(self, columns: Sequence[str], rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, with the columns asked for and :data:`AT`."""
        wanted = [*columns, *(name for name in ("ts_ns", "dur_ns", "op") if name not in columns)]
        until = horizons(self._reader, lambda done: None)
        held: pa.Table | None = None
        first = 0
        stored = self._reader.batches(wanted, rows=BATCH_ROWS)
        for batch, horizon in zip(stored, until, strict=True):
            made = self._placed(batch, first)
            first += batch.num_rows
            table = made if held is None else pa.concat_tables([held, made])
            table = table.sort_by([(AT, "ascending"), ("seq", "ascending")])
            at = table.column(AT).to_numpy()
            ready = len(at) if horizon == FOREVER else int(np.searchsorted(at, horizon))
            held = table.slice(ready)
            out = table.slice(0, ready).select([*columns, AT]).combine_chunks()
            yield from out.to_batches(max_chunksize=rows)

    def _placed(self, batch: pa.RecordBatch, first: int) -> pa.Table:
        """Rows with their moment, and the insert rows that belong to them."""
        op = batch.column("op").indices.to_numpy()
        ts = batch.column("ts_ns").to_numpy()
        end = ts + batch.column("dur_ns").to_numpy().astype(np.int64)
        at = np.where(np.isin(op, _AT_BEGIN), ts, end)
        # At one moment: the order's steps in its order, then what lies between them.
        seq = np.full(len(at), len(self._at), np.int64)
        known = self._place[
            slice(*np.searchsorted(self._row[self._place], [first, first + len(at)]))
        ]
        effect = known[np.isin(self._step[known], (BlockStep.WHOLE, BlockStep.TAKE))]
        rows = self._row[effect] - first
        at[rows], seq[rows] = self._at[effect], effect
        inserts = known[self._step[known] == BlockStep.INSERT]
        taken = np.concatenate([np.arange(len(at)), self._row[inserts] - first])
        moment = np.concatenate([at, self._at[inserts]])
        sequence = np.concatenate([seq, inserts])
        codes: NDArray[np.int8] = np.concatenate([op, np.full(len(inserts), INSERT, np.int8)])
        table = pa.Table.from_batches([batch]).take(pa.array(taken))
        ops = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), _WITH_INSERT)
        table = table.set_column(table.schema.get_field_index("op"), "op", ops)
        return table.append_column(AT, pa.array(moment)).append_column("seq", pa.array(sequence))
