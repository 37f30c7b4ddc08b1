# SPDX-License-Identifier: GPL-2.0-only
"""What writing back what has lain untouched for some time would free, and what it would cost.

No allocator and no limit is asked for: a page is written back once it has been in zswap for so
long, and read again if the workload loads it after that. It lies there until the next call on its
slot. From a load on it is not looked at any more: the kernel frees what it loads, or, until 6.5,
keeps it beside the page in the swap cache, where it is not written back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ztrace.replay.errors import ReplayError
from ztrace.replay.limit.demand import Demand, NotTold, Reading, Want, batches
from ztrace.replay.limit.native import DEMAND, NativeReading, reason_missing
from ztrace.replay.read.source import Source
from ztrace.traces.columns import values

Ints = npt.NDArray[np.int64]

_STEPS = (1, 3)
_MOST_AGES = 12


@dataclass(frozen=True)
class Age:
    """What it comes to if pages are written back at ``age_ns``.

    ``written_back`` pages, of which ``refaults`` were loaded later. ``freed``: the share of the
    compressed bytes, mean over time, that would not have been in memory.
    """

    age_ns: int
    written_back: int
    refaults: int
    freed: float


@dataclass(frozen=True)
class Ages:
    """The curve of one cgroup's pages, or of all (``cgroup`` None), ages ascending.

    ``stored``: pages that were stored, without same-filled ones; ``mean_bytes`` of them in memory,
    compressed, over the trace's time.
    """

    cgroup: int | None
    stored: int
    mean_bytes: float
    curve: list[Age]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Lain:
    """Pages in zswap: for how long, how large, whether a load ended it, whose call stored it."""

    idle_ns: Ints
    size: Ints
    loaded: npt.NDArray[np.bool_]
    cgroup: npt.NDArray[np.uint64]
    span_ns: int


def ages(
    source: Source,
    at_ns: Sequence[int] = (),
    *,
    engine: str | None = None,
    advance: Callable[[int], object] = lambda rows: None,
) -> tuple[list[Ages], NotTold]:
    """The curves of a trace, all pages' first, then each cgroup's by what it has in memory.

    ``at_ns``: the ages; without, some up to the longest that a page lay. ``advance`` gets the rows.
    ReplayError for a trace without stores or time.
    """
    told = NotTold()
    lain = _lain(source, told, engine, advance)
    if not lain.span_ns or not len(lain.size):
        raise ReplayError(f"{source.path}: no page lies in zswap for any time; nothing has an age")
    chosen = sorted(set(at_ns)) or _some_ages(int(lain.idle_ns.max()))
    curves = [_curve(lain, np.ones(len(lain.size), bool), chosen, None)]
    groups = np.unique(lain.cgroup)
    if len(groups) > 1:
        parts = [_curve(lain, lain.cgroup == group, chosen, int(group)) for group in groups]
        curves += sorted(parts, key=lambda part: -part.mean_bytes)
    return curves, told


def _lain(
    source: Source, told: NotTold, engine: str | None, advance: Callable[[int], object]
) -> Lain:
    native = engine == "native" or (engine is None and not reason_missing())
    reading = (NativeReading if native else Reading)(source.metadata, told)
    parts, groups = [], []
    for first, batch in batches(source, advance, ("cgroup",)):
        found = _found(reading, batch, first)
        parts.append(found)
        groups.append(values(batch.column("cgroup"))[found["row"] - np.uint64(first)])
    all_, cgroup = np.concatenate(parts), np.concatenate(groups)
    at, want = all_["at_ns"], all_["want"]
    # What is stored after a swapoff has nothing to do with what was before.
    ended = want == Want.DROP_ALL
    epoch = np.cumsum(ended)
    order = np.lexsort((np.arange(len(all_)), all_["key"], epoch))
    ends = np.append(at[ended], at.max() if len(at) else 0)[epoch]
    key, when, of = all_["key"][order], at[order], epoch[order]
    same = np.append((key[1:] == key[:-1]) & (of[1:] == of[:-1]), False)
    loads = np.isin(want[order], (Want.LOAD, Want.LOAD_KEPT))
    until = np.where(same, np.append(when[1:], 0), ends[order])
    loaded = same & np.append(loads[1:], False)
    mine = (want[order] == Want.STORE) & (all_["size"][order] > 0)
    return Lain(
        np.maximum(0, until - when)[mine],
        all_["size"][order][mine],
        loaded[mine],
        cgroup[order][mine],
        int(at.max() - at.min()) if len(at) else 0,
    )


def _found(reading: Reading | NativeReading, batch: pa.RecordBatch, first: int) -> npt.NDArray[Any]:
    """The demands of a batch as an array of its own."""
    if isinstance(reading, NativeReading):
        return reading.read(batch, first).array()
    wanted: list[Demand] = list(reading.read(batch, first))
    rows = [(one.at_ns, one.size, one.key, one.row, int(one.want)) for one in wanted]
    return np.array(rows, DEMAND)


def _some_ages(longest_ns: int) -> list[int]:
    steps = (step * 10**power for power in range(6, 15) for step in _STEPS)
    return [step for step in steps if step < longest_ns][-_MOST_AGES:]


def _curve(
    lain: Lain, mine: npt.NDArray[np.bool_], chosen: Sequence[int], cgroup: int | None
) -> Ages:
    idle, size, loaded = lain.idle_ns[mine], lain.size[mine], lain.loaded[mine]
    areas = size.astype(np.float64)
    whole = float(areas @ idle)
    curve = []
    for age in chosen:
        out = idle > age
        freed = float(areas[out] @ (idle[out] - age))
        refaults = int((out & loaded).sum())
        curve.append(Age(age, int(out.sum()), refaults, freed / whole if whole else 0.0))
    return Ages(cgroup, len(size), whole / lain.span_ns, curve)
