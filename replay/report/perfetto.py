# SPDX-License-Identifier: GPL-2.0-only
"""A document as a trace that ui.perfetto.dev and chrome://tracing open: counters and slow calls.

The form is Chrome's JSON: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
Times are in us from each recording's first call. Its size does not depend on the recording's: one
value a bin and counter, and the slowest calls of each op.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ztrace.replay.errors import ReplayError
from ztrace.replay.report.tables import Table, loss_text
from ztrace.traces.errors import printable

Json = dict[str, Any]


def as_perfetto(document: Json, tables: Sequence[Table], title: str) -> str:
    """Chrome's JSON object form; what is lost stands in its metadata.

    ReplayError for a sweep, which has no times.
    """
    if "recordings" not in document:
        raise ReplayError("a sweep has no calls over time; --format perfetto is for recordings")
    trace = {
        "displayTimeUnit": "ns",
        "metadata": {"title": printable(title), "losses": printable(loss_text(document))},
        "traceEvents": [
            event
            for number, one in enumerate(document["recordings"], 1)
            for event in _events(number, one)
        ],
    }
    return json.dumps(trace, allow_nan=False, separators=(",", ":")) + "\n"


def _events(process: int, one: Json) -> Iterator[Json]:
    """One recording is a process, its threads are those that made the slow calls."""
    name = printable(f"{one['label']} ({one['allocator']}, {one['user']}, kernel {one['kernel']})")
    yield _named("process_name", process, 0, name)
    memory = one["memory"]
    for counter, unit, values in _counters(memory):
        for at_s, value in zip(memory["t_s"], values, strict=True):
            if value is not None:
                at_us = round(at_s * 1e6, 3)
                yield _event("C", counter, process, 0, ts=at_us, args={unit: value})
    for tid in sorted({call["tid"] for call in one["slowest"]}):
        yield _named("thread_name", process, tid, f"thread {tid}, slow calls")
    # A call within another on its thread must come after it.
    for call in sorted(one["slowest"], key=lambda call: (call["at_ns"], -call["dur_ns"])):
        shown = {key: call[key] for key in ("size", "ret", "cpu") if call[key] is not None}
        times = {"ts": call["at_ns"] / 1e3, "dur": call["dur_ns"] / 1e3}
        yield _event("X", call["op"], process, call["tid"], **times, args=shown)


def _counters(memory: Json) -> Iterator[tuple[str, str, list[float | None]]]:
    if memory["kernel"] is not None:
        yield "pool size, kernel", "bytes", memory["kernel"]["band"]["end"]
    for backend, model in memory["models"].items():
        yield printable(f"pool size, model {backend}"), "bytes", model["band"]["end"]
    yield "stored, compressed", "bytes", memory["stored_bytes"]
    yield "objects", "objects", memory["objects"]


def _named(what: str, process: int, thread: int, name: str) -> Json:
    return _event("M", what, process, thread, args={"name": name})


def _event(phase: str, name: str, process: int, thread: int, **rest: Any) -> Json:
    return {"ph": phase, "name": name, "pid": process, "tid": thread, **rest}
