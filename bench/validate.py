# SPDX-License-Identifier: GPL-2.0-only
"""How long does a validation take? ``python -m bench.validate [TRACE ...]`` prints both engines.

Without a trace: the bundled recording of two CPUs. Times are those of one process after the
other, interleaved; medians of several rounds. ``check`` is validation from the open file to the
verdict, ``decode`` the part of it that pyarrow takes to read the columns, ``command`` all of
``ztrace validate``, the start of Python included. The CPU time of the same is beside each, which
other work on the machine changes less.
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

SAMPLE = Path(__file__).parents[1] / "traces/samples/ztree-6.1-2cpu.parquet"
ENGINES = ("native", "python")

Times = tuple[float, float]  # wall and CPU, s


def inside(what: str, trace: Path) -> None:
    """Measure in this process; prints JSON."""
    from ztrace.replay.validate.calls import BATCH_ROWS, COLUMNS
    from ztrace.replay.validate.ztree_run import explain_trees
    from ztrace.traces import TraceReader

    calls = 0
    with TraceReader(trace) as reader:
        wall, cpu = time.perf_counter(), time.process_time()
        if what == "decode":
            for _ in reader.batches(columns=COLUMNS, rows=BATCH_ROWS):
                pass
        else:
            verdict = explain_trees(reader, engine=what)
            calls = verdict.total("calls")
        spent = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"calls": calls, "times": spent}))


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


def measure(trace: Path, rounds: int) -> None:
    """Print the lines of one trace."""
    times: dict[str, list[Times]] = defaultdict(list)
    calls = 0
    for _ in range(rounds):
        for what in (*ENGINES, "decode"):
            printed, _ = run("-m", "bench.validate", "--inside", what, str(trace))
            found = json.loads(printed)
            times[what].append(found["times"])
            calls = max(calls, found["calls"])
        for engine in ENGINES:
            _, spent = run("-m", "ztrace", "validate", "--engine", engine, "--json", str(trace))
            times[f"command {engine}"].append(spent)
    middle = {
        what: (median(one[0] for one in all_), median(one[1] for one in all_))
        for what, all_ in times.items()
    }
    print(f"{trace.name}: {calls:,} calls; median of {rounds}; wall (CPU) in s")
    print(f"  decode  {_text(middle['decode'])}")
    for name, prefix in (("check", ""), ("command", "command ")):
        native, python = (middle[f"{prefix}{engine}"] for engine in ENGINES)
        print(
            f"  {name:8}native {_text(native)}  python {_text(python)}  "
            f"x {python[1] / native[1]:.1f}; native per 300,000 calls "
            f"{_text((native[0] / calls * 3e5, native[1] / calls * 3e5))}"
        )


def _text(times: Times) -> str:
    return f"{times[0]:.2f} ({times[1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure validations; see the module.")
    parser.add_argument("trace", type=Path, nargs="*", default=[SAMPLE])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inside", choices=(*ENGINES, "decode"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for trace in arguments.trace:
        if arguments.inside:
            inside(arguments.inside, trace)
        else:
            measure(trace, arguments.rounds)


if __name__ == "__main__":
    main()
