# SPDX-License-Identifier: GPL-2.0-only
"""One run of a sweep. Imported by workers, on this machine or another."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

from ztrace.allocator.specification import family
from ztrace.replay.errors import ReplayError
from ztrace.replay.figures.qualified import differences, of_result
from ztrace.replay.figures.result import Level, Result
from ztrace.replay.limit import AT_ONCE, AskedLimit, Play, Rules, play, recorded_rules
from ztrace.replay.order.found import in_order
from ztrace.replay.play.backends import resolve
from ztrace.replay.play.fastest import fastest_engine, replay_fastest
from ztrace.replay.read.scaled import Scaled
from ztrace.replay.read.source import Source
from ztrace.replay.sweep.plan import Run
from ztrace.traces.reader import TraceReader

Row = dict[str, Any]

MEASURED = ("wall_s", "engine")
"""Columns that say how a row was made; all others are the same on every machine."""


def run_one(run: Run) -> Row:
    """The row of a run. What went wrong is in its ``error``, None if nothing did; nothing raises.

    Sizes are in bytes, times in ns, densities pages stored / pages held; over all pools of the
    trace. Figures of a replay that a fault of the model ended early say so in ``stopped``.
    """
    try:
        return {**_identity(run), **_figures(run), "error": None}
    except Exception as error:  # a third party's backend or file system may raise anything
        return {**_identity(run), "error": f"{type(error).__name__}: {error}"}


def failed(run: Run, error: str) -> Row:
    """The row of a run whose worker could not give one."""
    return {**_identity(run), "error": error}


def _identity(run: Run) -> Row:
    parameters = {f"param.{name}": value for name, value in run.parameters}
    return {"trace": run.trace, "backend": run.backend, "model": run.specification, **parameters}


def _figures(run: Run) -> Row:
    reader = _open(run.trace, fingerprint(run.trace))
    backend = resolve(run.specification, reader.metadata)
    scale = float(run.parameter("scale") or 1)
    metadata = reader.metadata
    about = {
        "model": backend,
        "kernel": metadata.kernel.release,
        "recorded_allocators": ",".join(sorted({pool.allocator for pool in metadata.pools})),
        "lost": metadata.lost_events(),
        "engine": fastest_engine(backend),
    }
    limit = run.parameter("limit")
    if limit is not None:
        sized = reader if scale == 1 else Scaled(reader, scale)
        return {**about, **_limited(sized, backend, AskedLimit.parse(limit), run)}
    source = _ordered(reader, family(backend))
    result = replay_fastest(source if scale == 1 else Scaled(source, scale), backend)
    return {**about, **_metrics(result), "wall_s": result.wall_s}


def _limited(source: Source, backend: str, asked: AskedLimit, run: Run) -> Row:
    """Figures under a pool limit, whose worker has always done its work before the next call."""
    accept, named = run.parameter("accept"), run.parameter("rules")
    metadata, started = source.metadata, perf_counter()
    limit = asked.on(metadata, None if accept is None else int(accept))
    rules = recorded_rules(metadata) if named is None else Rules(named)
    [outcome] = play(source, [Play(backend, AT_ONCE, limit, rules)])
    held = outcome.mean_held_bytes
    return {
        "rows": source.num_rows,
        "rules": outcome.rules.value,
        "limit_bytes": outcome.limit_pages * outcome.page_bytes,
        "accept_bytes": outcome.accept_pages * outcome.page_bytes,
        "limit_reached": outcome.reached,
        "held_bytes_mean": held,
        "held_bytes_peak": outcome.peak_held_bytes,
        "density_mean": outcome.mean_entries * outcome.page_bytes / held if held else None,
        **{f"limit_{name}": count for name, count in asdict(outcome.counts).items()},
        "limit_disk_bytes": outcome.disk_bytes,
        "refused": outcome.counts.refused,
        "stranded_bytes_near_peak": None,
        "starts_empty": outcome.starts_empty,
        "qualified": "; ".join(outcome.qualified) or None,
        "stopped": outcome.stopped,
        "wall_s": perf_counter() - started,
    }


def _metrics(result: Result) -> Row:
    row: Row = {
        "rows": result.rows,
        "calls": result.driven,
        "span_ns": result.last_ns - result.first_ns,
        "starts_empty": result.starts_empty,
    }
    levels: dict[str, Level] = {
        "objects": result.objects,
        "stored_bytes": result.stored_bytes,
        "held_bytes": result.held_bytes,
    }
    for name, level in levels.items():
        row |= {f"{name}_peak": level.peak, f"{name}_end": level.end, f"{name}_mean": level.mean}
    work, spanning = result.work(), result.spanning()
    stopped = [pool.stopped for pool in result.pools if pool.stopped]
    qualified = (*differences(result), *of_result(result))
    return row | {
        "density_mean": result.mean_density,
        "density_peak": result.at_peak.density,
        "density_end": result.at_end.density,
        "model_total_end": result.at_end.model_total,
        "kernel_total_end": result.at_end.kernel_total,
        "stranded_bytes_end": result.stat("stranded_bytes"),
        "stranded_bytes_near_peak": result.stat("stranded_bytes", "stats_near_peak"),
        "mallocs": work.mallocs,
        "pages_allocated": work.pages,
        "searched": work.searched,
        "objects_moved": work.moved,
        "spanning_share": spanning and spanning.share,
        "spanning_maps": spanning and spanning.maps,
        "copied_bytes": spanning and spanning.copied_bytes,
        "refused": result.count("refused"),
        "qualified": "; ".join(line.strip() for line in qualified) or None,
        "failed": sum(result.merged("failed").values()),
        "handles_equal": result.handles_equal,
        "handles_compared": result.handles_compared,
        "totals_equal": result.totals_equal,
        "totals_compared": result.totals_compared,
        "hazards": json.dumps({name: count for name, (count, _) in result.hazards().items()}),
        "stopped": "; ".join(stopped) or None,
    }


def is_url(trace: str) -> bool:
    """Whether a trace is named by an fsspec URL rather than a path."""
    return "://" in trace


def fingerprint(trace: str) -> str:
    """What tells that a trace is no longer the one it was: size and time of change.

    OSError where it cannot be looked at, ReplayError for a URL where fsspec is not installed.
    """
    if not is_url(trace):
        found = Path(trace).stat()
        return f"{found.st_size}-{found.st_mtime_ns}"
    filesystem, path = _fsspec().core.url_to_fs(trace)
    info = filesystem.info(path)
    changed = [str(info[key]) for key in ("mtime", "ETag", "etag", "LastModified") if key in info]
    return "-".join([str(info.get("size")), *changed])


# The runs of one trace follow each other: it is opened, and its order sought, once a worker.
@lru_cache(maxsize=1)
def _open(trace: str, state: str) -> TraceReader:
    path = trace
    if is_url(trace):
        path = _fsspec().open_local(f"simplecache::{trace}", mode="rb")
    return TraceReader(path)


@lru_cache(maxsize=2)
def _ordered(reader: TraceReader, allocator: str) -> Source:
    return in_order(reader, allocator)


def _fsspec() -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise ReplayError(
            "a trace at a URL needs fsspec: pip install fsspec, into ztrace's environment"
        ) from error
    return fsspec
