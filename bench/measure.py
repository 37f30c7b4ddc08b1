# SPDX-License-Identifier: GPL-2.0-only
"""One measurement in a process of its own: ``python -m bench.measure WHAT FILE`` prints JSON.

WHAT is ``decode`` (the columns of a replay, by pyarrow alone), ``core:BACKEND`` (the core's part
of a replay, decoding not counted), ``native:BACKEND`` and ``python:BACKEND`` (a replay from file
to result), or ``LRU`` and ``FIFO`` (libCacheSim over an oracleGeneral file). JSON: ``wall_s``,
``peak_mib`` of the whole process, ``base_mib`` before the work.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

CACHE_BYTES = 2_000_000_000
"""Enough for every live object of the largest benchmark but one."""


def _decode(path: Path) -> float:
    import pyarrow.parquet as pq

    from replay.native import COLUMNS

    start = perf_counter()
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for _ in file.iter_batches(65536, columns=list(COLUMNS)):
            pass
    return perf_counter() - start


def _core(path: Path, backend: str) -> float:
    from replay.native import core_seconds
    from traces import TraceReader

    with TraceReader(path) as reader:
        return core_seconds(reader, backend)


def _native(path: Path, backend: str) -> float:
    from replay.native import replay_native
    from traces import TraceReader

    start = perf_counter()
    with TraceReader(path) as reader:
        replay_native(reader, backend.split("+"))
    return perf_counter() - start


def _python(path: Path, backend: str) -> float:
    from replay import replay_trace

    start = perf_counter()
    replay_trace(path, backend)
    return perf_counter() - start


def _cache(path: Path, name: str) -> float:
    import libcachesim

    start = perf_counter()
    reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
    getattr(libcachesim, name)(cache_size=CACHE_BYTES).process_trace(reader)
    return perf_counter() - start


def _peak_mib() -> float:
    """Peak of this program's memory; ru_maxrss would begin with that of the one it came from."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    what, path = sys.argv[1], Path(sys.argv[2])
    kind, _, backend = what.partition(":")
    ways: dict[str, Callable[[], float]] = {
        "decode": lambda: _decode(path),
        "core": lambda: _core(path, backend),
        "native": lambda: _native(path, backend),
        "python": lambda: _python(path, backend),
    }
    if kind in ways:  # imports are not what is measured
        import traces  # noqa: F401
    base = _peak_mib()
    wall_s = ways[kind]() if kind in ways else _cache(path, kind)
    print(json.dumps({"wall_s": wall_s, "peak_mib": _peak_mib(), "base_mib": base}))


if __name__ == "__main__":
    main()
