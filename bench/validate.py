# SPDX-License-Identifier: GPL-2.0-only
"""How long does a validation take? ``python -m bench.validate [TRACE ...]`` prints both engines.

Without a trace: the bundled recording of two CPUs. Times are those of one process after the
other, interleaved; medians of several rounds. ``check`` is validation from the open file to the
verdict, ``decode`` the part of it that pyarrow takes to read the columns, ``command`` all of
``ztrace validate``, the start of Python included. The CPU time of the same is beside each, which
other work on the machine changes less; ``peak`` is the memory of the process that checks.

``--engine native`` leaves Python out, which takes minutes for ten million calls.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

import numpy as np

SAMPLE = Path(__file__).parents[1] / "traces/samples/ztree-6.1-2cpu.parquet"
ENGINES = ("native", "python")

Times = tuple[float, float]  # wall and CPU, s


def inside(what: str, trace: Path) -> None:
    """Measure in this process; prints JSON."""
    from ztrace.replay.validate import validate_trace
    from ztrace.replay.validate.calls import BATCH_ROWS, COLUMNS, FREE, MALLOC
    from ztrace.traces import TraceReader

    calls, explained, compared = 0, 0, 0
    with TraceReader(trace) as reader:
        wall, cpu = time.perf_counter(), time.process_time()
        if what == "decode":
            for batch in reader.batches(columns=COLUMNS, rows=BATCH_ROWS):
                op = batch.column("op").indices.to_numpy()
                calls += int(np.isin(op, (MALLOC, FREE)).sum())
        else:
            verdict = validate_trace(reader, engine=what if what == "python" else None)
            explained, compared = verdict.explained, verdict.calls
        spent = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"calls": calls, "said": [explained, compared], "times": spent, "mib": peak}))


def run(*arguments: str) -> tuple[str, Times]:
    """Output, wall and CPU seconds of a process."""
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    spent, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]
        sys.exit(f"bench: {arguments[-1]}: {last}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, (spent, cpu)


def measure(trace: Path, rounds: int, engines: tuple[str, ...]) -> None:
    """Print the lines of one trace."""
    times: dict[str, list[Times]] = defaultdict(list)
    peaks: dict[str, int] = {}
    said: dict[str, tuple[int, int]] = {}
    calls = 0
    for _ in range(rounds):
        for what in (*engines, "decode"):
            printed, _ = run("-m", "bench.validate", "--inside", what, str(trace))
            found = json.loads(printed)
            times[what].append(found["times"])
            calls = max(calls, found["calls"])
            said[what] = tuple(found["said"])
            peaks[what] = max(peaks.get(what, 0), found["mib"])
        for engine in engines:
            chosen = ("--engine", engine) if engine == "python" else ()
            _, spent = run("-m", "ztrace", "validate", *chosen, "--json", str(trace))
            times[f"command {engine}"].append(spent)
    middle = {
        what: (median(one[0] for one in all_), median(one[1] for one in all_))
        for what, all_ in times.items()
    }
    print(f"{trace.name}: {calls:,} mallocs and frees; median of {rounds}; wall (CPU) in s")
    print(f"  decode   {_text(middle['decode'])}")
    for engine in engines:
        explained, compared = said[engine]
        check, command = middle[engine], middle[f"command {engine}"]
        print(
            f"  {engine:8} check {_text(check)}, command {_text(command)}, peak "
            f"{peaks[engine]:,} MiB; {check[0] / calls * 1e7:.1f} s for 10^7 calls; explained "
            f"{explained:,} of {compared:,}"
        )


def _text(times: Times) -> str:
    return f"{times[0]:.2f} ({times[1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure validations; see the module.")
    parser.add_argument("trace", type=Path, nargs="*", default=[SAMPLE])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", choices=ENGINES, action="append", help="default: both")
    parser.add_argument("--inside", choices=(*ENGINES, "decode"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for trace in arguments.trace:
        if arguments.inside:
            inside(arguments.inside, trace)
        else:
            measure(trace, arguments.rounds, tuple(arguments.engine or ENGINES))


if __name__ == "__main__":
    main()
