# SPDX-License-Identifier: GPL-2.0-only
"""One measurement in a process of its own: ``python -m bench.measure WHAT FILE`` prints JSON.

WHAT is ``decode`` (the columns of a replay, by pyarrow alone), ``core:BACKEND`` (the core's part
of a replay, decoding not counted), ``native:BACKEND`` and ``python:BACKEND`` (a replay from file
to result), or ``LRU`` and ``FIFO`` (libCacheSim over an oracleGeneral file). JSON: ``wall_s``;
``cpu_s``, of all threads together, which says more than the wall clock on a busy machine;
``peak_mib`` of the whole process, ``base_mib`` before the work.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import TypeAlias

CACHE_BYTES = 2_000_000_000
"""Enough for every live object of the largest benchmark but one."""


Spent: TypeAlias = tuple[float, float]
"""Seconds by the clock on the wall, and of the processor."""


def _now() -> Spent:
    return perf_counter(), process_time()


def _since(start: Spent) -> Spent:
    return perf_counter() - start[0], process_time() - start[1]


def _decode(path: Path) -> Spent:
    import pyarrow.parquet as pq

    from ztrace.replay.play.native import COLUMNS

    start = _now()
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for _ in file.iter_batches(65536, columns=list(COLUMNS)):
            pass
    return _since(start)


def _core(path: Path, backend: str) -> Spent:
    from ztrace.replay.play.native import core_seconds
    from ztrace.traces import TraceReader

    with TraceReader(path) as reader:
        spent = core_seconds(reader, backend)
    return spent, spent


def _native(path: Path, backend: str) -> Spent:
    from ztrace.replay.play.native import replay_native
    from ztrace.traces import TraceReader

    start = _now()
    with TraceReader(path) as reader:
        replay_native(reader, backend.split("+"))
    return _since(start)


def _python(path: Path, backend: str) -> Spent:
    from ztrace.replay import replay_trace

    start = _now()
    replay_trace(path, backend)
    return _since(start)


def _cache(path: Path, name: str) -> Spent:
    import libcachesim

    start = _now()
    reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
    getattr(libcachesim, name)(cache_size=CACHE_BYTES).process_trace(reader)
    return _since(start)


def _peak_mib() -> float:
    """Peak of this program's memory; ru_maxrss would begin with that of the one it came from."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    what, path = sys.argv[1], Path(sys.argv[2])
    kind, _, backend = what.partition(":")
    ways: dict[str, Callable[[], Spent]] = {
        "decode": lambda: _decode(path),
        "core": lambda: _core(path, backend),
        "native": lambda: _native(path, backend),
        "python": lambda: _python(path, backend),
    }
    if kind in ways:  # imports are not what is measured
        import ztrace.traces  # noqa: F401
    base = _peak_mib()
    wall_s, cpu_s = ways[kind]() if kind in ways else _cache(path, kind)
    memory = {"peak_mib": _peak_mib(), "base_mib": base}
    print(json.dumps({"wall_s": wall_s, "cpu_s": cpu_s, **memory}))


if __name__ == "__main__":
    main()
