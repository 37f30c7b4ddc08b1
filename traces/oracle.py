# SPDX-License-Identifier: GPL-2.0-only
"""zswap's stores and loads as libCacheSim's oracleGeneral: which page is asked for again, and when.

A request is 24 bytes, little-endian, without a header: ``timestamp`` in s from the first
(uint32), ``obj_id`` (uint64), ``obj_size`` in bytes (uint32), ``next_access_vtime`` (int64): the
number of the next request for the object, -1 if there is none. An object is a swap slot, its size
the compressed one of its last store; a load of what was stored before the trace has the size 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztrace.traces.errors import TraceError
from ztrace.traces.reader import TraceReader
from ztrace.traces.schema import OP_CODE
from ztrace.traces.writer import AtomicFile

REQUEST = np.dtype([("time", "<u4"), ("object", "<u8"), ("size", "<u4"), ("next", "<i8")])


def export_oracle(reader: TraceReader, path: Path, *, force: bool = False) -> int:
    """Write the requests; return how many. TraceError if there is none, or ``path`` exists."""
    made = requests(reader)
    if not len(made):
        raise TraceError(f"{reader.path}: no store or load in it; oracleGeneral is of zswap's own")
    with AtomicFile(path, force=force) as file:
        file.write(made.tobytes())
    return len(made)


def requests(reader: TraceReader) -> NDArray[Any]:
    """The requests in order of the calls' returns, shape (requests,) of :data:`REQUEST`."""
    parts: list[tuple[NDArray[Any], ...]] = []
    for batch in reader.batches(("ts_ns", "op", "key", "size", "ret")):
        ts_ns = batch.column("ts_ns").to_numpy()
        op = batch.column("op").indices.to_numpy()
        key = batch.column("key")
        keep = np.isin(op, (OP_CODE["store"], OP_CODE["load"]))
        keep &= (batch.column("ret").to_numpy() >= 0) & key.is_valid().to_numpy(False)
        size = batch.column("size").fill_null(0).to_numpy()
        parts.append((ts_ns[keep], key.fill_null(0).to_numpy()[keep], size[keep]))
    if not parts:
        return np.zeros(0, REQUEST)
    ts_ns, key, size = (np.concatenate(column) for column in zip(*parts, strict=True))
    made = np.zeros(len(key), REQUEST)
    made["time"] = (ts_ns - ts_ns.min(initial=np.iinfo(np.int64).max)) // 1_000_000_000
    made["object"] = key
    order = np.argsort(key, kind="stable")
    same = key[order][1:] == key[order][:-1]
    following = np.full(len(key), -1, np.int64)
    following[order[:-1][same]] = order[1:][same]
    made["next"] = following
    known: dict[int, int] = {}
    for i, (one, stored) in enumerate(zip(key.tolist(), size.tolist(), strict=True)):
        made["size"][i] = known[one] = stored or known.get(one, 1)
    return made
