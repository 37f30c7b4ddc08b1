# SPDX-License-Identifier: GPL-2.0-only
"""A sweep on one core, on all, and on a Dask cluster of as many processes: times, and that the
rows are the same.

    python -m bench.sweep
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from time import perf_counter

from ztrace.replay.sweep import Run, on_cluster, on_cores, plan_runs
from ztrace.replay.sweep.run import MEASURED, Row

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"
TRACES = ("ztree-6.1-1cpu.parquet", "ztree-6.1-bursts.parquet")
BACKENDS = ("ztree", "zbud", "z3fold", "zsmalloc:6.1", "zsmalloc:6.12", "zsmalloc:7.2")
SCALES = [f"{0.55 + 0.05 * step:.2f}" for step in range(10)]


def timed(work: Callable[[], Iterable[tuple[Run, Row]]]) -> tuple[float, dict[Run, Row]]:
    """Seconds that a sweep took, and its rows without what is measured."""
    start = perf_counter()
    rows = dict(work())
    spent = perf_counter() - start
    assert all(row["error"] is None for row in rows.values())
    return spent, {
        run: {name: value for name, value in row.items() if name not in MEASURED}
        for run, row in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure sweeps; see the module.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    from distributed import LocalCluster

    traces = [str(SAMPLES / name) for name in TRACES]
    runs = plan_runs(traces, BACKENDS, {"scale": SCALES})
    cores = len(os.sched_getaffinity(0))
    seconds: dict[str, list[float]] = {}
    with LocalCluster(
        n_workers=cores, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        ways: dict[str, Callable[[], Iterable[tuple[Run, Row]]]] = {
            "1 process": lambda: on_cores(runs, 1),
            f"{cores} processes": lambda: on_cores(runs, cores),
            f"Dask, {cores} workers": lambda: on_cluster(runs, cluster.scheduler_address),
        }
        expected = None
        for _ in range(arguments.rounds):
            for name, work in ways.items():
                spent, rows = timed(work)
                seconds.setdefault(name, []).append(spent)
                expected = expected or rows
                if rows != expected:
                    raise SystemExit(f"{name}: other rows than {next(iter(ways))}")
    found = {name: median(times) for name, times in seconds.items()}
    first = found["1 process"]
    if arguments.json:
        print(json.dumps({"runs": len(runs), "seconds": found}))
        return
    print(f"{len(runs)} runs, the same rows in all of {arguments.rounds} interleaved rounds")
    for name, spent in found.items():
        print(f"{name:20}{spent:8.1f} s{first / spent:8.2f} x")


if __name__ == "__main__":
    main()
