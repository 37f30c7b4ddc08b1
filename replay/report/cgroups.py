# SPDX-License-Identifier: GPL-2.0-only
"""What each cgroup stores, loads and holds, where a recording has several.

A row's cgroup is that of the task that called; an object is its malloc's until it is freed, by
whomever. Memory does not grow with the trace but with its cgroups.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ztrace.replay.report.statistics import rounded
from ztrace.traces.columns import values
from ztrace.traces.schema import OP_CODE

Ints = npt.NDArray[np.int64]

PARTS = 96
"""Of the time, at whose ends it is told what is held."""

SHOWN = 20
"""Cgroups that have figures of their own, those that hold most; the others are one together."""

_SIZE_BITS = 24


@dataclass
class Cgroups:
    """``ids``: those of a recording, ascending. ``calls``: stores and loads done and objects
    given of each, shape (3, cgroups). Bytes are objects' sizes; see :meth:`code`."""

    ids: npt.NDArray[np.uint64]
    first_ns: int
    last_ns: int
    calls: Ints = field(init=False)
    _change: npt.NDArray[np.float64] = field(init=False)  # bytes by cgroup and part of the time
    _byte_ns: npt.NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.ids)
        self.calls = np.zeros((3, count), np.int64)
        self._change = np.zeros((count, PARTS))
        self._byte_ns = np.zeros(count)

    def add(self, batch: pa.RecordBatch, op: npt.NDArray[np.int8]) -> Ints:
        """Count a batch's calls; returns each row's cgroup as its place in ``ids``."""
        place = np.searchsorted(self.ids, values(batch.column("cgroup"))).astype(np.int64)
        ret = batch.column("ret").to_numpy()
        is_load = (op == OP_CODE["load"]) & (ret == 0)
        done = (
            (op == OP_CODE["store"]) & (ret == 0),
            is_load,
            (op == OP_CODE["malloc"]) & (ret >= 0),
        )
        for kind, chosen in enumerate(done):
            self.calls[kind] += np.bincount(place[chosen], minlength=len(self.ids))
        return place

    @staticmethod
    def code(place: Ints, size: Ints) -> Ints:
        """Whose an object is and its size, in one number."""
        return place << _SIZE_BITS | np.minimum(size, (1 << _SIZE_BITS) - 1)

    def lived(self, code: Ints, begin_ns: Ints, end_ns: Ints | None) -> None:
        """Count objects that lived from begin to end, or, without that, beyond the last call."""
        place, size = code >> _SIZE_BITS, (code & ((1 << _SIZE_BITS) - 1)).astype(np.float64)
        until = self.last_ns if end_ns is None else np.minimum(end_ns, self.last_ns)
        self._byte_ns += np.bincount(
            place, size * np.maximum(until - begin_ns, 0), minlength=len(self.ids)
        )
        for when, sign in ((begin_ns, 1), (end_ns, -1)):
            if when is not None:
                span = max(1, self.last_ns - self.first_ns)
                part = ((when - self.first_ns) * (PARTS / span)).astype(np.int64)
                cell = place * PARTS + np.clip(part, 0, PARTS - 1)
                more = np.bincount(cell, size, minlength=self._change.size)
                self._change += sign * more.reshape(self._change.shape)

    def to_dict(self) -> dict[str, Any] | None:
        """Those that hold most first, then ``others`` together if there are more than SHOWN.

        One that stores and loads nothing, as that of the kernel's threads, is left out; None where
        fewer than two are left.
        """
        span = max(1, self.last_ns - self.first_ns)
        held = np.cumsum(self._change, axis=1)
        order = np.lexsort((self.ids, -self._byte_ns))
        order = order[self.calls.sum(axis=0)[order] > 0]
        if len(order) < 2:
            return None
        names = [str(self.ids[k]) for k in order[:SHOWN]]
        members = [order[k : k + 1] for k in range(len(names))]
        if len(order) > SHOWN:
            names.append(f"{len(order) - SHOWN} others")
            members.append(order[SHOWN:])
        found = []
        for name, mine in zip(names, members, strict=True):
            at_ends = held[mine].sum(axis=0)
            stored, loaded, objects = self.calls[:, mine].sum(axis=1).tolist()
            found.append(
                {
                    "cgroup": name,
                    "stored": stored,
                    "loaded": loaded,
                    "objects": objects,
                    "mean_bytes": float(self._byte_ns[mine].sum() / span),
                    "peak_bytes": float(at_ends.max()),
                    "held_bytes": rounded(at_ends),
                }
            )
        ends = [round(span / 1e9 * (i + 1) / PARTS, 6) for i in range(PARTS)]
        return {"t_s": ends, "groups": found}
