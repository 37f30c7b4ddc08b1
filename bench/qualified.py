# SPDX-License-Identifier: GPL-2.0-only
"""What does each command say of a trace that its figures cannot be made of, or not all of them?

``python -m bench.qualified`` prints a table of all commands that print a figure from a trace, or
make one of it, and three traces: rows CPU by CPU; a clock that goes back an hour; a recording begun
late, with objects in the pools. A cell is the exit status and what was said: the row that is
misplaced, that the pools were not known to be empty, calls on unknown objects, totals that differ.
``silent`` is a figure with nothing beside it.

``--ztrace 'FOLDER/.venv/bin/python -m ztrace' --folder FOLDER`` asks another version.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from ztrace.traces import OP_CODE, SCHEMA, Metadata, PoolInfo, TraceReader, TraceWriter
from ztrace.traces.metadata import Kernel, Machine
from ztrace.traces.slicing import Moment, Selection, slice_trace

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "traces" / "samples" / "zbud-6.1-small.parquet"

COMMANDS = (
    "stat IN",
    "stat IN --json",
    "replay IN --backend zbud",
    "replay IN --backend zbud --json",
    "replay IN --backend zbud --engine python",
    "replay IN --backend zbud --every 25%",
    "replay IN --backend zbud --time",
    "replay IN --backend zbud --backend z3fold",
    "replay IN --backend zbud --backend z3fold --json",
    "replay IN --backend zbud --anomalies",
    "replay IN --backend zbud --anomalies --json",
    "replay IN --backend zbud --limit 100K",
    "replay IN --backend all --limit 100K",
    "replay IN --backend zbud --limit 100K --json",
    "validate IN",
    "validate IN --json",
    "report IN --no-time",
    "report IN --no-time --format json",
    "tune IN",
    "tune IN --json",
    "compare IN IN",
    "compare IN --replay zbud z3fold",
    "compare IN --replay zbud z3fold --json",
    "sweep IN --backend zbud -o OUT",
    "report SWEEP",
    "synth --events 1e3 --sizes fit:IN -o OUT",
    "synth --events 1e3 --churn fit:IN -o OUT",
    "slice IN --from 0s --to 200us -o OUT",
    "merge IN -o OUT",
    "anonymise IN -o OUT",
    "resize IN --scale 0.9 -o OUT",
    "export IN -o OUT",
)
SAID = {
    "row": r"row \d+ returned|\"row\": \d+",
    "late": r"not known to be empty|\"starts_empty\": false|older objects",
    "unknown": r"unknown handles|unknown slots|calls on objects from before|\"unknown\": \{\s*\"",
    "totals": r"2,?766 of 2,?972|2766,?\s|1,?472 of",
}
BY_CPU, BACK, LATE = CHANGES = ("rows by CPU", "clock goes back", "begun late")
HOUR_NS = 3600 * 10**9


def history(change: str) -> list[dict[str, Any]]:
    """Objects of two CPUs, each freed by the other one, every call after the one before."""
    rows: list[dict[str, Any]] = []
    for number in range(200):
        cpu = number % 2
        here = {"ts_ns": 2000 * number, "dur_ns": 100, "cpu": cpu, "tid": 7 + cpu, "ret": 0}
        size = 1000 + 10 * number
        rows.append({**here, "op": "malloc", "key": number, "size": size, "handle": 64 + number})
        rows.append({**here, "op": "store", "key": number, "size": size, "handle": None})
        if number >= 8:
            free = {"op": "free", "key": number - 8, "size": None, "handle": 64 + number - 8}
            rows.append({**here, "ts_ns": 2000 * number + 1000, **free})
    if change == BY_CPU:
        return sorted(rows, key=lambda row: int(row["cpu"]))
    return [{**row, "ts_ns": row["ts_ns"] - (at >= 300) * HOUR_NS} for at, row in enumerate(rows)]


def write(change: str, path: Path) -> None:
    """A trace that no recorder writes."""
    rows = history(change)
    columns = {}
    for name in rows[0]:
        values = [OP_CODE[row[name]] if name == "op" else row[name] for row in rows]
        columns[name] = pa.array(values, pa.int8() if name == "op" else SCHEMA.field(name).type)
    metadata = Metadata(
        kernel=Kernel("6.1.0"),
        machine=Machine(cpus=2, memory_bytes=1 << 30),
        pools=[PoolInfo("zbud", "lzo", True, True)],
    )
    with TraceWriter(path, metadata) as writer:
        writer.write(columns)


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask all commands; see the module.")
    parser.add_argument("--ztrace", default=f"{sys.executable} -m ztrace")
    parser.add_argument("--folder", type=Path, default=ROOT)
    parser.add_argument("--show", help="Print what the commands that begin so say.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ztrace-qualified-") as name:
        folder = Path(name)
        traces = {one: folder / f"{one.replace(' ', '-')}.parquet" for one in CHANGES}
        for change, path in traces.items():
            if change != LATE:
                write(change, path)
        with (
            TraceReader(SAMPLE) as reader,
            TraceWriter(traces[LATE], reader.metadata) as writer,
        ):
            slice_trace(reader, writer, Selection(begin=Moment(500_000_000)))
        width = max(map(len, COMMANDS))
        print(f"{'':{width}}  " + "".join(f"{change:30}" for change in traces).rstrip())
        for line in COMMANDS:
            cells = [cell(line, path, folder, arguments) for path in traces.values()]
            print(f"{line:{width}}  " + "".join(f"{one:30}" for one in cells).rstrip(), flush=True)


def cell(line: str, path: Path, folder: Path, arguments: argparse.Namespace) -> str:
    """Exit status of a command and what it says of the trace."""
    out, sweep = folder / "out", path.with_suffix(".sweep")
    out.unlink(missing_ok=True)
    names = {"IN": path, "OUT": sweep if line.startswith("sweep") else out, "SWEEP": sweep}
    if line.startswith("sweep"):
        sweep.unlink(missing_ok=True)
    words = [str(names.get(word, word)) for word in line.split()]
    words = [word.replace("fit:IN", f"fit:{path}") for word in words]
    done = subprocess.run(
        [*shlex.split(arguments.ztrace), *words],
        cwd=arguments.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    said = " ".join(f"{done.stdout} {done.stderr}".split())
    if arguments.show and line.startswith(arguments.show):
        print(done.stdout, done.stderr)
    found = [name for name, pattern in SAID.items() if re.search(pattern, said)]
    if "Traceback" in said:
        found.append("traceback")
    return f"{done.returncode} {', '.join(found) or ('-' if done.returncode else 'silent')}"


if __name__ == "__main__":
    main()
