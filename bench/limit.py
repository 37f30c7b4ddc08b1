# SPDX-License-Identifier: GPL-2.0-only
"""What a pool limit costs a replay: whole commands with and without one, start-up included.

    python -m bench.limit [--rounds N] [--times N] [--limit SIZE] [TRACE]

The recording is repeated end to end, the same calls again and again, until there are enough rows.
Each round runs both commands one after the other; printed are medians and their ratio.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import pyarrow as pa
import pyarrow.compute as pc

from ztrace.traces import TraceReader, TraceWriter
from ztrace.traces.schema import SCHEMA

SAMPLE = Path(__file__).parents[1] / "traces" / "samples" / "ztree-6.1-1cpu.parquet"


def repeat(source: Path, path: Path, times: int) -> int:
    """Write a recording so many times one after the other; the rows written."""
    with TraceReader(source) as reader:
        batches = list(reader.batches(SCHEMA.names, 65536))
        first = min(pc.min(batch.column("ts_ns")).as_py() for batch in batches)
        last = max(pc.max(batch.column("ts_ns")).as_py() for batch in batches)
        with TraceWriter(path, reader.metadata) as writer:
            for number in range(times):
                later = pa.scalar(number * (last - first + 10**9), pa.int64())
                for batch in batches:
                    columns = {name: batch.column(name) for name in batch.schema.names}
                    columns["op"] = columns["op"].indices
                    columns["ts_ns"] = pc.add(columns["ts_ns"], later)
                    writer.write(columns)
        rows: int = reader.num_rows
    return times * rows


def seconds(path: Path, *options: str) -> float:
    """How long a whole replay through all backends takes."""
    command = [sys.executable, "-m", "ztrace", "replay", str(path), "--backend", "all", *options]
    start = perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}")
    return perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Replays with and without a pool limit.")
    parser.add_argument("trace", nargs="?", type=Path, default=SAMPLE)
    parser.add_argument("--times", type=int, default=1, help="of the recording, end to end")
    parser.add_argument("--limit", default="8M")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "repeated.parquet"
        rows = repeat(chosen.trace, path, chosen.times)
        plain, limited = [], []
        for _ in range(chosen.rounds):
            plain.append(seconds(path))
            limited.append(seconds(path, "--limit", chosen.limit))
    without, under = median(plain), median(limited)
    print(f"{rows:,} rows, all backends, medians of {chosen.rounds} rounds")
    print(f"without a limit  {without:6.2f} s")
    print(f"--limit {chosen.limit:8} {under:6.2f} s, {under / without:.2f} x")


if __name__ == "__main__":
    main()
