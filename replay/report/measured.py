# SPDX-License-Identifier: GPL-2.0-only
"""Times of the real allocators, from what ``ztrace measure`` kept, and their intervals.

A guest's layout in memory colours all its times, so guests are what is repeated: a figure is the
geometric mean of the guests', and its interval is by them, Student's t of the logarithms. What one
guest says is a *summary*, plain JSON types; a file of summaries may take the place of the traces
that they are of.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ztrace.allocator.registry import recorded_traits
from ztrace.replay.advise import Timed
from ztrace.replay.errors import ReplayError
from ztrace.replay.measured.difference import student
from ztrace.replay.measured.figures import percentiles
from ztrace.replay.read.rows import FREE, MALLOC, op_codes
from ztrace.replay.report.statistics import Interval, as_dict, interval, ratio_draws, rounded
from ztrace.traces.columns import valid, values
from ztrace.traces.reader import TraceReader
from ztrace.traces.schema import OP_CODE

Json = dict[str, Any]
Ints = npt.NDArray[np.int64]

OPS = ("malloc", "free", "map")
FIGURES = {"p50": "p50", "p99": "p99", "p999": "p99.9", "p9999": "p99.99", "max": "worst"}
"""Keys of a summary's times -> what they are called; the greatest of calls' least is the worst."""

ALIKE = ("trace", "kernel", "cpus", "machine", "where")
"""What allocators have in common whose times are compared: keys of a summary, and of a group."""

SIZES = 8
"""Ranges of size for which medians are told."""

_LEAST_GUESTS = 3
_POINTS = 48  # of a page's curve
_MOMENTS = 2400  # at which density is looked at
_PAGE_BYTES = 4096
_COLUMNS = ("op", "dur_ns", "ret", "handle", "size", "total")


def read_summaries(paths: Sequence[Path]) -> list[Json]:
    """Of each file the summary of a guest, or those that a JSON file holds.

    ReplayError for a trace that was not measured, or JSON that is something else.
    """
    found: list[Json] = []
    for path in paths:
        if path.suffix != ".json":
            found.append(summarise(path))
            continue
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            found += [one for one in held if one["times"] and one["allocator"]]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ReplayError(f"{path}: not a file of summaries of what was measured") from error
    return found


def summarise(path: Path) -> Json:
    """What one guest says: who, where, density, and of each op in ns its figures and curve.

    ReplayError for a trace that was not measured: a recorder's durations hold its own work.
    """
    with TraceReader(path) as reader:
        metadata = reader.metadata
        about = metadata.extra.get("measure") or {}
        if metadata.source != "measure" or not metadata.pools:
            raise ReplayError(f"{path}: not measured; ztrace measure writes such files")
        op, dur, done, handle, size, total = _columns(reader)
    times, curves, by_size = {}, {}, []
    own_size = _sizes(op, done, handle, size)
    for name in OPS:
        chosen = dur[(op == OP_CODE[name]) & done]
        if len(chosen):
            times[name] = {"calls": len(chosen), **percentiles(chosen)}
            curves[name] = _curve(chosen)
    edges = [_PAGE_BYTES * i // SIZES for i in range(SIZES + 1)]
    for low, high in pairwise(edges):
        within = (own_size > low) & (own_size <= high) & done
        row: Json = {"bytes": high}
        for name in ("malloc", "free"):
            chosen = dur[within & (op == OP_CODE[name])]
            row[f"{name}_ns"] = float(np.median(chosen)) if len(chosen) else None
        by_size.append(row)
    return {
        "trace": about.get("trace", path.name),
        "allocator": metadata.pools[0].allocator,
        "kernel": about.get("kernel", metadata.kernel.release),
        "release": metadata.kernel.release,
        "where": about.get("where", "unknown"),
        "machine": metadata.machine.cpu_model,
        "cpus": metadata.machine.cpus,
        "rounds": about.get("rounds", 1),
        "density": _density(op, done, total),
        "times": times,
        "curves": curves,
        "by_size": by_size,
    }


def _columns(reader: TraceReader) -> tuple[Any, ...]:
    parts: list[list[Any]] = [[] for _ in _COLUMNS]
    for batch in reader.batches(columns=_COLUMNS):
        total = batch.column("total")
        found = (
            op_codes(batch),
            batch.column("dur_ns").to_numpy().astype(np.int64),
            batch.column("ret").to_numpy() >= 0,
            values(batch.column("handle")),
            values(batch.column("size")).astype(np.int64),
            np.where(valid(total), values(total).astype(np.int64), -1),
        )
        for part, column in zip(parts, found, strict=True):
            part.append(column)
    return tuple(np.concatenate(part) if part else np.zeros(0, np.int64) for part in parts)


def _sizes(op: Any, done: Any, handle: Any, size: Ints) -> Ints:
    """The size of the object of each malloc and free; 0 for other rows."""
    at = np.flatnonzero(((op == MALLOC) & done) | (op == FREE))
    at = at[np.argsort(handle[at], kind="stable")]  # by handle, in order of the rows
    found = np.where(op == MALLOC, size, 0)
    if len(at) > 1:
        freed = np.flatnonzero((op[at[1:]] == FREE) & (handle[at[1:]] == handle[at[:-1]])) + 1
        found[at[freed]] = size[at[freed - 1]]
    return np.asarray(found, np.int64)


def _curve(dur: Ints) -> Json:
    """Share of calls that take longer than so many ns, to p99.99 or what the calls resolve."""
    least = max(1e-4, 1 / len(dur))
    shares = np.logspace(0, math.log10(least), _POINTS)
    at = np.ceil((1 - shares) * len(dur)).astype(np.int64).clip(1, len(dur)) - 1
    ns = np.sort(dur)[at]
    return {"duration_ns": rounded(ns.astype(np.float64)), "share_longer": rounded(shares)}


def _density(op: Any, done: Any, total: Ints) -> Json | None:
    """Pages stored over pages held, over calls, by the pool's own figure; None if not told."""
    live = np.cumsum(np.where(op == MALLOC, done, 0) - (op == FREE)) * _PAGE_BYTES
    told = np.flatnonzero(total >= 0)
    at = told[:: max(1, len(told) // _MOMENTS)]
    above, below = live[at].astype(np.float64), total[at].astype(np.float64)
    if not below.any():
        return None
    value = float(above.sum() / below.sum())
    return as_dict(interval(value, ratio_draws(above, below, 0)) or Interval(value, value, value))


def groups(summaries: Sequence[Json]) -> list[Json]:
    """One for each allocator, trace, kernel and number of CPUs: figures over its guests.

    ``ops``: of each op ``calls`` and by figure value, low and high (None from fewer than three
    guests). ``cost_ns``: medians of malloc and free together. ``guests``: the summaries' times.
    """
    by_key: dict[tuple[Any, ...], list[Json]] = {}
    for one in summaries:
        key = tuple(one[name] for name in (*ALIKE, "allocator"))
        by_key.setdefault(key, []).append(one)
    return [_group(guests) for guests in by_key.values()]


def _group(guests: Sequence[Json]) -> Json:
    first = guests[0]
    ops = {
        op: {
            "calls": first["times"][op]["calls"],
            **{
                key: over_guests([one["times"][op][key] for one in guests if op in one["times"]])
                for key in FIGURES
            },
        }
        for op in first["times"]
    }
    both = [
        one["times"]["malloc"]["p50"] + one["times"]["free"]["p50"]
        for one in guests
        if {"malloc", "free"} <= set(one["times"])
    ]
    about = ("trace", "allocator", "kernel", "release", "where", "machine", "cpus", "rounds")
    return {
        "label": first["trace"].removesuffix(".parquet"),
        **{name: first[name] for name in about},
        "count": len(guests),
        "ops": ops,
        "cost_ns": over_guests(both),
        "density": first["density"],
        "curves": first["curves"],
        "by_size": first["by_size"],
        "guests": [one["times"] for one in guests],
    }


def over_guests(found: Sequence[float]) -> Json:
    """Geometric mean of guests' figures with its interval: value, low, high; ns stay ns."""
    if not found:
        return {"value": None, "low": None, "high": None}
    # Nothing is quicker than the clock tells.
    return _of_logs([math.log(max(1.0, value)) for value in found])


def _of_logs(logs: Sequence[float]) -> Json:
    count, mean = len(logs), sum(logs) / len(logs)
    value = math.exp(mean)
    if count < _LEAST_GUESTS:
        return {"value": value, "low": None, "high": None}
    wide = student(count) * float(np.std(logs, ddof=1)) / math.sqrt(count)
    return {"value": value, "low": math.exp(mean - wide), "high": math.exp(mean + wide)}


def ratio(ours: Json, theirs: Json, ops: Sequence[str], figure: str) -> Interval | None:
    """A figure of ours over theirs, of ``ops`` together, by pairs of guests in order.

    None from fewer than three pairs, or where an op was not measured.
    """
    logs = []
    for a, b in zip(ours["guests"], theirs["guests"], strict=False):
        if not all(op in one for op in ops for one in (a, b)):
            return None
        above, below = (max(1.0, sum(one[op][figure] for op in ops)) for one in (a, b))
        logs.append(math.log(above / below))
    found = _of_logs(logs) if logs else {"low": None}
    return None if found["low"] is None else Interval(**found)


def times_of(found: Sequence[Json], trace: str) -> dict[str, Timed]:
    """Medians by allocator, of what was measured with a trace of that file name on one CPU."""
    return {
        recorded_traits(one["allocator"]).name: Timed(
            one["ops"]["malloc"]["p50"]["value"], one["ops"]["free"]["p50"]["value"]
        )
        for one in found
        if one["trace"] == trace and one["cpus"] == 1 and {"malloc", "free"} <= set(one["ops"])
    }
