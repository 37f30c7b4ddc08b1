# SPDX-License-Identifier: GPL-2.0-only
"""From recordings to one document of plain JSON types, which every renderer shows.

The passes over a recording: tallies (recorded.py), validation, a replay through each model, and
the fills of ageing. None keeps rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ztrace.allocator import BackendError, create
from ztrace.allocator.registry import is_known, our_traits, recorded_traits
from ztrace.allocator.specification import family
from ztrace.replay.advise import Timed, advice_of, settings
from ztrace.replay.errors import ReplayError
from ztrace.replay.figures.qualified import of_results
from ztrace.replay.figures.result import Result
from ztrace.replay.order.found import InOrder
from ztrace.replay.play.backends import fitting
from ztrace.replay.play.fastest import replay_each, replay_fastest
from ztrace.replay.play.header import header_bytes, zswap_release
from ztrace.replay.play.native import reason_missing
from ztrace.replay.read.source import Source
from ztrace.replay.report import ageing
from ztrace.replay.report.memory import EVERY, LOOKS, Memory, model_dict, use_dict
from ztrace.replay.report.native_times import native_times
from ztrace.replay.report.recorded import Recorded, page_bytes, tally
from ztrace.replay.report.statistics import as_dict
from ztrace.replay.validate import FoundOrder, validate_trace
from ztrace.traces.metadata import Metadata
from ztrace.traces.reader import TraceReader

VERSION = 1
CLAIMED = tuple(one.name for one in sorted(our_traits(), key=lambda one: one.colour) if one.colour)
"""Allocators that the claims are about; their models are replayed unless others are asked for."""

Json = dict[str, Any]


@dataclass
class Recording:
    """One recording: its part of the document, and what claims and comparisons draw from."""

    label: str
    allocator: str
    document: Json
    recorded: Recorded
    metadata: Metadata
    memory: dict[str, Memory] = field(default_factory=dict)  # by backend

    @property
    def emulated(self) -> bool:
        """Whether durations are those of software emulation and say nothing."""
        return is_emulated(self.metadata)

    @property
    def own(self) -> str | None:
        """The backend that models the recorded allocator, if it was replayed."""
        found: str | None = self.document["own_model"]
        return found

    def model(self, allocator: str) -> str | None:
        """The backend replayed here that stands for an allocator."""
        if self.own is not None and family(self.own) == allocator:
            return self.own
        return next((name for name in self.memory if family(name) == allocator), None)


def is_emulated(metadata: Metadata) -> bool:
    """Whether the recorded machine was QEMU without hardware virtualisation."""
    return "TCG" in metadata.machine.cpu_model


def passes(backends: int) -> int:
    """How often :func:`gather_one` goes over the rows, for a progress bar."""
    return 5 + 2 * backends


def gather_one(
    reader: TraceReader,
    label: str,
    backends: Sequence[str],
    advance: Callable[[int], object] = lambda rows: None,
    *,
    timing: bool = False,
    advises: bool = False,
    times: Mapping[str, Timed] | None = None,
) -> Recording:
    """Read everything that a report says about one recording.

    ``backends``: models to replay, as :func:`default_backends` gives. ``advance`` gets rows, in
    all the recording's times :func:`passes`. ``timing`` measures the models' own calls where the
    native core plays them; the rest is the same each time. ``advises``: whether what else its
    kernel has is replayed, too, and ranked, with ``times`` by allocator. Raises ReplayError for a
    recording that cannot be replayed by any of the backends, TraceError for a damaged one.
    """
    metadata = reader.metadata
    recorded = tally(reader, advance)
    validation, source = _validate(reader, advance)
    used = next((pool.allocator for pool in metadata.pools), "unknown")
    own = next((name for name in backends if family(name) == used), None)
    others = [name for name in settings(metadata) if name not in backends] if advises else []
    share = _scaled(advance, backends, others)
    played, failed = _replay(source, [*backends, *others], timing, share)
    results = {name: result for name, result in played.items() if name in backends}
    memory = {
        backend: Memory(result.series, result.first_ns, page_bytes(metadata))
        for backend, result in results.items()
    }
    first = next(iter(memory.values()))
    fills = {backend: used if backend == own else "" for backend in results}
    aged = ageing.follow(reader, fills, first.t_ns.tolist(), advance)
    document: Json = {
        "label": label,
        **_facts(reader, recorded, used),
        "own_model": own if own in results else None,
        "advice": _advice(reader, played, times, advance) if advises else None,
        "latency": _latency(recorded, metadata, label),
        "native": native_times({b: r.timing for b, r in results.items() if r.timing}),
        "slowest": recorded.slowest_list(),
        "sizes": recorded.sizes_dict(),
        "heat": recorded.heat_dict(),
        "class_limits": {name: _limits(name, metadata) for name in results},
        "memory": _memory(results, memory, label, own),
        "use": use_dict(results[own] if own in results else next(iter(results.values()))),
        "stores": recorded.stores_dict(),
        "lifetimes": recorded.lifetimes.to_dict(),
        "cgroups": recorded.lifetimes.by_cgroup(),
        "not_replayed": failed,
        "qualified": of_results(results),
        "validation": validation,
        "ageing": {name: aged.trend(name, memory[name].held, label, name) for name in results},
        "kernel_ageing": None,
        "size_error": None,
    }
    if own in memory and memory[own].has_kernel:
        kernel = memory[own].kernel
        document["kernel_ageing"] = aged.trend(own, kernel, label, "kernel")
        document["size_error"] = memory[own].size_error()
    return Recording(label, used, document, recorded, metadata, memory)


def _scaled(
    advance: Callable[[int], object], backends: Sequence[str], others: Sequence[str]
) -> Callable[[int], object]:
    """Rows of a replay of all, as those of the ``backends`` alone."""
    return lambda rows: advance(rows * len(backends) // (len(backends) + len(others)))


def _advice(
    reader: TraceReader,
    results: Mapping[str, Result],
    times: Mapping[str, Timed] | None,
    advance: Callable[[int], object],
) -> Json:
    """What could be changed; where nothing can be said, ``choices`` is empty and ``answer`` why."""
    try:
        return advice_of(reader, results, times=times, advance=advance).to_dict()
    except ReplayError as error:
        why = str(error).removeprefix(f"{reader.path}: ")
        return {"answer": f"Nothing is advised: {why}.", "choices": [], "limits": [], "untold": []}


def _replay(
    source: Source, backends: Sequence[str], timing: bool, advance: Callable[[int], object]
) -> tuple[dict[str, Result], dict[str, str]]:
    """By backend its replay, or why there is none. ReplayError if there is none of any."""
    timing = timing and not reason_missing()
    try:
        found = replay_each(
            source,
            backends,
            every=EVERY,
            timing=timing,
            looks=LOOKS,
            advance=lambda rows: advance(rows * len(backends)),
        )
        return dict(zip(backends, found, strict=True)), {}
    except (ReplayError, BackendError):
        pass  # of one of them; the others are wanted all the same
    results: dict[str, Result] = {}
    failed: dict[str, str] = {}
    for backend in backends:
        try:
            results[backend] = replay_fastest(source, backend, every=EVERY, timing=timing)
        except (ReplayError, BackendError) as error:
            failed[backend] = str(error)
    if not results:
        raise ReplayError(next(iter(failed.values())))
    return results, failed


def default_backends(metadata: Metadata, *, claims: bool = True) -> list[str]:
    """The models of the claims, as the recorded kernel has them, that fit its pages.

    Those of other allocators that the trace was recorded on come after them. Without ``claims``,
    what no kernel has is left out if it was not recorded.
    """
    used = dict.fromkeys(pool.allocator for pool in metadata.pools)
    asked = [
        name for name in CLAIMED if claims or name in used or not recorded_traits(name).out_of_tree
    ]
    also = [name for name in used if name not in CLAIMED and is_known(name)]
    found = (fitting(name, metadata) for name in (*asked, *also))
    return [spec for spec in found if spec is not None]


def labels(paths: Sequence[Path]) -> list[str]:
    """Short names for recordings: their file names; numbered where two are the same."""
    names = [path.name.removesuffix(".parquet") for path in paths]
    return [
        f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]


def _facts(reader: TraceReader, recorded: Recorded, allocator: str) -> Json:
    metadata = reader.metadata
    lost = metadata.lost_events()
    return {
        "trace": str(reader.path),
        "user": metadata.source,
        "allocator": allocator,
        "compressor": next((pool.compressor for pool in metadata.pools), "unknown"),
        "kernel": metadata.kernel.release,
        "machine": metadata.machine.cpu_model,
        "cpus": metadata.machine.cpus,
        "emulated": is_emulated(metadata),
        "page_bytes": page_bytes(metadata),
        "command": metadata.command,
        "started_utc": metadata.started_utc,
        "starts_empty": metadata.starts_empty(),
        "all_objects": metadata.has_all_objects(),
        "sample_period": metadata.sample_period(),
        "left_out": metadata.left_out,
        "rows": reader.num_rows,
        "span_s": (recorded.last_ns - recorded.first_ns) / 1e9,
        "lost_events": lost,
        "lost_share": None if lost is None else lost / max(1, lost + reader.num_rows),
        "lost": metadata.lost,
        "lost_by_cause": {cause: sum(by.values()) for cause, by in metadata.lost.items()},
        "lost_by_cpu": _lost_by_cpu(metadata),
        "probe_cost_ns": metadata.probe_cost_ns,
        "probe_costs": _probe_costs(recorded, metadata),
        "probes": {op: probe.kind for op, probe in metadata.probes.items()},
        "zero_handles": recorded.zero_handles,
        "written_back": recorded.written_back,
        "shrinks": recorded.durations["shrink"].calls if "shrink" in recorded.durations else 0,
        "notes": metadata.notes,
    }


def _probe_costs(recorded: Recorded, metadata: Metadata) -> list[Json]:
    """A row for each op whose probe's cost is known, beside its median."""
    costs = metadata.probe_cost_ns or {}
    known = [(op, cost_ns) for op, cost_ns in costs.items() if op in recorded.durations]
    return [
        {
            "position": i,
            "op": op,
            "cost_ns": cost_ns,
            "p50_ns": recorded.durations[op].quantile("p50"),
        }
        for i, (op, cost_ns) in enumerate(known)
    ]


def _lost_by_cpu(metadata: Metadata) -> list[Json]:
    """A row for each CPU that lost events."""
    cpus = {cpu for by_cpu in metadata.lost.values() for cpu, lost in by_cpu.items() if lost}
    ordered = sorted(cpus, key=lambda cpu: (len(cpu), cpu))
    return [
        {
            "position": i,
            "cpu": cpu,
            **{f"lost by {cause}": by.get(cpu, 0) for cause, by in metadata.lost.items()},
        }
        for i, cpu in enumerate(ordered)
    ]


def _latency(recorded: Recorded, metadata: Metadata, label: str) -> Json:
    costs = metadata.probe_cost_ns or {}
    return {
        op: recorded.durations[op].to_dict(costs.get(op), f"{label}/{op}")
        for op in sorted(recorded.durations)
    }


def _memory(results: dict[str, Result], memory: dict[str, Memory], label: str, own: Any) -> Json:
    first = next(iter(memory.values()))
    kernel = None
    if own in memory and memory[own].has_kernel:
        measured = memory[own]
        density = measured.density(f"{label}/kernel", kernel=True)
        kernel = {
            "band": measured.bands(measured.kernel),
            "densities": measured.densities(measured.kernel),
            "peak_bytes": float(np.nanmax(measured.kernel)),
            "mean_bytes": float(np.nanmean(measured.kernel)),
            "density": as_dict(density) if density and not np.isnan(density.low) else None,
            "mean_density": density.value if density else None,
        }
    peak = next(iter(results.values()))
    return {
        "t_s": first.times_s(),
        "objects": first.at_ends(first.objects),
        "stored_bytes": first.at_ends(first.stored),
        "objects_peak": peak.objects.peak,
        "kernel": kernel,
        "models": {
            name: model_dict(result, memory[name], f"{label}/{name}")
            for name, result in results.items()
        },
    }


def _validate(reader: TraceReader, advance: Callable[[int], object]) -> tuple[Json | None, Source]:
    """Calls explained, and the trace in the order found if there is one."""
    orders: list[FoundOrder] = []
    try:
        verdict = validate_trace(reader, on_order=orders.append, advance=advance)
    except ReplayError:
        advance(reader.num_rows)
        return None, reader
    found: Json = {
        "method": ", ".join(verdict.ways),
        "calls": verdict.calls,
        "explained": verdict.explained,
        "undetermined": verdict.undetermined,
        "agrees": verdict.agrees,
        "sizes_compared": verdict.sizes_compared,
        "sizes_equal": verdict.sizes_equal,
        "races": {},
    }
    trees = verdict.trees
    if trees is None:
        return found, reader
    found["races"] = dict(sorted(trees.race_counts.items()))
    alone = not verdict.pools  # the order of other pools' calls is not found
    several = alone and trees.explained and trees.cpus > 1
    return found, InOrder(reader, orders) if several else reader


def _limits(backend: str, metadata: Metadata) -> list[int]:
    """The largest object of each class, zswap's header and the allocator's taken off, bytes.

    zbud and z3fold have no classes; theirs are whole numbers of the chunks they round up to.
    """
    model = create(backend)
    chunk = getattr(model, "chunk_bytes", 0)
    if chunk:
        slots = set(range(chunk, getattr(model, "largest", model.page_bytes) + 1, chunk))
    else:
        with suppress(OSError):
            model.malloc(1)
        rows = model.stats().get("classes", [])
        slots = {int(row["slot_bytes"]) for row in rows if "slot_bytes" in row}
    own = recorded_traits(family(backend)).object_bytes
    more = own + header_bytes(backend, zswap_release(metadata))
    return sorted({max(1, slot - more) for slot in slots})
