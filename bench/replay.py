# SPDX-License-Identifier: GPL-2.0-only
"""How fast is a replay? ``python -m bench.replay`` prints ratios from one interleaved run.

    python -m bench.replay                          1e7 events, 1e6 live objects, all backends
    python -m bench.replay --growth --to 1e8        time and memory against length and live objects

Every figure is the median of several rounds; a round measures everything once, so that what else
the machine does meets all alike. The Python models are measured on a shorter trace with fewer
objects, which favours them. libCacheSim (pip install libcachesim) gets the same events, a request
for each malloc and each free, as an oracleGeneral file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow.parquet as pq

from ztrace.traces.synth import Plan, exponential_lifetimes, gauss_sizes, synthesize

BACKENDS = ("ztree", "zbud", "z3fold", "zsmalloc:6.1", "zsmalloc:6.12")
PYTHON_EVENTS, PYTHON_LIVE = 1_000_000, 100_000
REQUEST = np.dtype([("time", "<u4"), ("id", "<u8"), ("bytes", "<u4"), ("next", "<i8")])


def trace(folder: Path, events: int, live: int) -> Path:
    """A synthetic trace, made once."""
    path = folder / f"e{events}-l{live}.parquet"
    if not path.exists():
        sizes = gauss_sizes(1500, 600)
        synthesize(Plan(events, live, sizes, exponential_lifetimes(), seed=1), path)
    return path


def requests(path: Path) -> Path:
    """The same events for libCacheSim: a free asks for its object again, with its size."""
    out = path.with_suffix(".oracleGeneral.bin")
    if out.exists():
        return out
    sizes = np.zeros(0, np.uint32)
    done = 0
    with pq.ParquetFile(path) as file, out.open("wb") as sink:
        for batch in file.iter_batches(columns=["handle", "size"]):
            names = batch.column("handle").to_numpy() // 64
            given = batch.column("size").fill_null(0).to_numpy()
            most = int(names.max()) + 1
            if most > len(sizes):
                sizes = np.concatenate([sizes, np.zeros(most, np.uint32)])
            sizes[names[given > 0]] = given[given > 0]
            rows = np.zeros(len(names), REQUEST)
            rows["time"] = (np.arange(len(names)) + done) // 1_000_000
            rows["id"], rows["bytes"], rows["next"] = names, sizes[names], -2
            sink.write(rows.tobytes())
            done += len(names)
    return out


def measure(what: str, path: Path) -> dict[str, float]:
    """One measurement of bench/measure.py."""
    command = [sys.executable, "-m", "bench.measure", what, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench: {what}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def speed(arguments: argparse.Namespace) -> None:
    """The table of ratios."""
    folder, events = arguments.folder, int(arguments.events)
    large = trace(folder, events, int(arguments.live))
    small = trace(folder, min(PYTHON_EVENTS, events), min(PYTHON_LIVE, int(arguments.live)))
    caches = requests(large)
    backends = arguments.backend or BACKENDS
    jobs = [("decode", large), ("LRU", caches), ("FIFO", caches)]
    for backend in backends:
        jobs += [(f"{kind}:{backend}", large) for kind in ("native", "core")]
        if arguments.python:
            jobs.append((f"python:{backend}", small))
    times: dict[str, list[float]] = defaultdict(list)
    spent: dict[str, list[float]] = defaultdict(list)
    for done in range(arguments.rounds):
        for what, path in jobs:
            found = measure(what, path)
            times[what].append(found["wall_s"])
            spent[what].append(found["cpu_s"])
        print(f"round {done + 1} of {arguments.rounds} done", file=sys.stderr)
    wall = {what: median(values) for what, values in times.items()}
    cpu = {what: median(values) for what, values in spent.items()}
    small_rows = min(PYTHON_EVENTS, events)
    print(f"{events:,} events, {int(arguments.live):,} live; median of {arguments.rounds}")
    for what in ("decode", "LRU", "FIFO"):
        print(
            f"{what:<8}{wall[what]:8.2f} s {events / wall[what] / 1e6:8.2f} M events/s"
            f" {cpu[what]:8.2f} s of the processor"
        )
    print()
    print("                 wall      cpu     core  x LRU  x FIFO     cpu  wall/(decode  x Python")
    print("                                                        x LRU        +core)")
    for backend in backends:
        native, core = wall[f"native:{backend}"], wall[f"core:{backend}"]
        python = small_rows / wall[f"python:{backend}"] if arguments.python else 0
        print(
            f"{backend:<14}{native:5.2f} s  {cpu[f'native:{backend}']:5.2f} s  {core:5.2f} s"
            f"{wall['LRU'] / native:7.1f}{wall['FIFO'] / native:8.1f}"
            f"{cpu['LRU'] / cpu[f'native:{backend}']:8.1f}"
            f"{native / (wall['decode'] + core):14.2f}"
            + (f"{events / native / python:10.0f}" if python else "         -")
        )


def growth(arguments: argparse.Namespace) -> None:
    """Time and memory against the number of events, and of live objects."""
    folder, most = arguments.folder, int(arguments.to)
    backends = arguments.backend or ("ztree",)
    live = int(arguments.live)
    lengths = [10**n for n in range(5, 10) if 10**n <= most]
    lives = [10**n for n in range(4, 8) if 10**n <= max(live, most // 4)]
    print("      events       live  backend           wall  ns/event  peak MiB")
    for events, objects in [(n, min(live, n // 4)) for n in lengths] + [
        (max(10**7, 3 * n), n) for n in lives if max(10**7, 3 * n) <= max(most, 3 * 10**7)
    ]:
        path = trace(folder, events, objects)
        for backend in backends:
            runs = [measure(f"native:{backend}", path) for _ in range(arguments.rounds)]
            wall = median(run["wall_s"] for run in runs)
            peak = median(run["peak_mib"] for run in runs)
            print(
                f"{events:12,} {objects:10,}  {backend:<14}{wall:6.2f} s"
                f"{wall / events * 1e9:10.0f}{peak:10.0f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure replays; see the module.")
    parser.add_argument("--events", type=float, default=1e7)
    parser.add_argument("--live", type=float, default=1e6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backend", action="append", help="default: all five")
    parser.add_argument("--no-python", dest="python", action="store_false", help="saves much time")
    parser.add_argument("--growth", action="store_true", help="length and live objects instead")
    parser.add_argument("--to", type=float, default=1e7, help="longest trace of --growth")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="for the traces")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    (growth if arguments.growth else speed)(arguments)


if __name__ == "__main__":
    main()
