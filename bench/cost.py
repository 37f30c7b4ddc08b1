# SPDX-License-Identifier: GPL-2.0-only
"""What recording costs the machine that is recorded, beside the tools one would use instead.

In one guest, in turn, several times: one workload without a recorder, under ``ztrace record``,
under a bpftrace script of the same functions (cost.bt), under trace-cmd with kprobe events on
entry and return, and under perf trace with the same events. All have 16 MiB of buffers and write
to memory. The guest has one CPU, so that what a recorder does beside its probes is in the time.
Its clock counts instructions, 1 ns each, as its emulator's speed says nothing of a real machine
and this one's load would be in it; --clock has the time that passed instead.

    python -m bench.cost [--rounds N] [--batches N] [--way NAME]... [--allocator NAME] [--clock]
        [--keep FOLDER] [--json]

    python -m bench.cost --allocator z3fold --way ztrace --way ztrace-lists

has what it costs to record z3fold's lists, too.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq
from rich.console import Console

from ztrace.console import table
from ztrace.tracer.convert import convert
from ztrace.tracer.errors import TracerError
from ztrace.tracer.lab.debian import fetch_kernel
from ztrace.tracer.lab.qemu import GuestSize, run_guest
from ztrace.tracer.lab.session import BACKENDS
from ztrace.tracer.lab.workloads import WORKLOADS, compile_workload
from ztrace.traces import TraceReader
from ztrace.traces.schema import LIST_OPS

KERNEL = "6.1"
# Way -> its program and Debian's package of it.
TOOLS = {
    "bpftrace": ("bpftrace", "bpftrace"),
    "trace-cmd": ("trace-cmd", "trace-cmd"),
    "perf-trace": ("perf", "linux-perf"),
}
WAYS = ("none", "ztrace", *TOOLS)
LISTS = "ztrace-lists"
"""ztrace with --lists, which is z3fold's alone."""


@dataclass
class Output:
    """What a recorder wrote of one run; ``calls`` finished ones, ``swapped`` of them stores and
    loads that succeeded, ``own`` losses that it told."""

    calls: int
    swapped: int
    size_bytes: int
    own: int


@dataclass
class Way:
    """All runs of one way: ns of the workload, what the kernel counted, what was written."""

    wall_ns: list[int] = field(default_factory=list)
    swapped: list[int] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)


def of_ztrace(path: Path) -> Output:
    """Of the spool, which is what is written while recording."""
    spool = path.with_name(path.name + ".spool")
    trace = path.with_suffix(".parquet")
    convert(spool, trace, force=True)
    rows = pq.read_table(trace, columns=["op", "ret"]).to_pylist()
    swapped = sum(row["op"] in ("store", "load") and row["ret"] == 0 for row in rows)
    calls = sum(row["op"] not in LIST_OPS for row in rows)
    with TraceReader(trace) as reader:
        return Output(calls, swapped, spool.stat().st_size, reader.metadata.lost_total())


def of_bpftrace(path: Path) -> Output:
    """Of its lines; sizes of pools are in ztrace's rows, here they have their own."""
    calls = swapped = 0
    for line in path.open():
        words = line.split()
        if len(words) != 9 or words[2] == "total":
            continue
        calls += 1
        swapped += words[2] in ("store", "load") and words[8] == "0"
    return Output(calls, swapped, path.stat().st_size, told(path))


EVENT = re.compile(r"\b(?:cost:)?(store|load|invalidate|malloc|free|map|unmap)_out:?\b(.*)")
FAILED = re.compile(r"\bret[=:] ?-?0*[1-9]")  # perf trace leaves zeros out


def of_lines(lines: Sequence[str], path: Path) -> Output:
    """Of the events on returns, as trace-cmd report and perf trace print them."""
    calls = swapped = 0
    for line in lines:
        found = EVENT.search(line)
        if found:
            calls += 1
            swapped += found[1] in ("store", "load") and FAILED.search(found[2]) is None
    return Output(calls, swapped, path.stat().st_size, told(path))


def of_trace_cmd(path: Path) -> Output:
    """Of its binary file, read by trace-cmd itself."""
    report = subprocess.run(
        ["trace-cmd", "report", "-i", path], capture_output=True, text=True, check=True
    )
    return of_lines(report.stdout.splitlines(), path)


def of_perf_trace(path: Path) -> Output:
    """Of its text."""
    return of_lines(path.read_text(errors="replace").splitlines(), path)


def told(path: Path) -> int:
    """Losses that a recorder told of, in its output or beside it: its events, not calls."""
    said = path.with_name(path.name + ".said")
    text = path.read_text(errors="replace") + said.read_text(errors="replace")
    found = re.findall(r"[Ll]ost (\d+) events|LOST (\d+) events|overrun: (\d+)", text)
    return sum(int(number) for numbers in found for number in numbers if number)


READERS: dict[str, Callable[[Path], Output]] = {
    "ztrace": of_ztrace,
    LISTS: of_ztrace,
    "bpftrace": of_bpftrace,
    "trace-cmd": of_trace_cmd,
    "perf-trace": of_perf_trace,
}


def measure(
    ways: Sequence[str],
    rounds: int,
    batches: int,
    folder: Path,
    counted: bool,
    allocator: str,
) -> dict[str, Way]:
    """Boot one guest and do everything in it; what was written is left in ``folder``."""
    tools = [TOOLS[way] for way in ways if way in TOOLS]
    missing = [(program, package) for program, package in tools if not shutil.which(program)]
    for program, _ in missing:
        packages = " ".join(package for _, package in missing)
        raise TracerError(f"{program} not found; as root: tools/kernel-packages {packages}")
    compile_workload(WORKLOADS["bursts"], folder)
    for name in ("cost.sh", "cost.bt"):
        shutil.copy(Path(__file__).with_name(name), folder)
    (folder / "run").write_text(
        f'ZTRACE="{sys.executable} -m ztrace" WAYS="{" ".join(ways)}" ROUNDS={rounds}\n'
        f'PROGRAM="/job/bursts {batches} 120 1" ZPOOL={allocator}\n. /job/cost.sh\n'
    )
    size = GuestSize(memory_mib=1400, counted=counted)
    module = BACKENDS[KERNEL][allocator]
    modules = [module] if module else []
    run_guest(fetch_kernel(KERNEL), folder, size, modules, timeout_s=7200, watch=watch)
    found = {way: Way() for way in ways}
    for line in (folder / "times").read_text().splitlines():
        way, number, wall_ns, stores, loads = line.split()
        if number == "0":
            continue
        found[way].wall_ns.append(int(wall_ns))
        found[way].swapped.append(int(stores) + int(loads))
        if way in READERS:
            found[way].outputs.append(READERS[way](folder / f"{number}.{way}"))
    for way, one in found.items():
        if len(one.wall_ns) != rounds:
            raise TracerError(f"{way}: {len(one.wall_ns)} of {rounds} runs; see --keep's log")
    return found


def watch(line: str) -> None:
    """Show what the guest says."""
    print(line, file=sys.stderr)


def show(found: dict[str, Way]) -> dict[str, dict[str, float]]:
    """The figures of each way: medians of wall time, sums of losses, means of sizes.

    ``ratio``: median over the rounds of the wall time to the same round's without recorder.
    """
    made = {}
    for way, one in found.items():
        ratios = [
            a / b for a, b in zip(one.wall_ns, found["none"].wall_ns, strict=True)
        ]  # of one round
        figures: dict[str, float] = {
            "wall_s": median(one.wall_ns) / 1e9,
            "ratio": median(ratios),
            "ratio_least": min(ratios),
            "ratio_most": max(ratios),
            "swapped": sum(one.swapped),
        }
        if one.outputs:
            calls = sum(output.calls for output in one.outputs)
            figures |= {
                "recorded": sum(output.swapped for output in one.outputs),
                "calls": calls,
                "told_lost": sum(output.own for output in one.outputs),
                "bytes_per_call": sum(output.size_bytes for output in one.outputs) / max(calls, 1),
            }
        made[way] = figures
    return made


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description="Wall time, losses and bytes of recorders of the same calls, in one guest."
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=800, help="of the workload (800)")
    parser.add_argument(
        "--way", action="append", choices=(*WAYS[1:], LISTS), help="only this; repeatable"
    )
    parser.add_argument(
        "--allocator", choices=("zbud", "z3fold", "zsmalloc"), default="zbud", help="zswap's"
    )
    parser.add_argument(
        "--clock", action="store_true", help="times by this machine's clock, not by instructions"
    )
    parser.add_argument("--keep", type=Path, help="leave everything in this new folder")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ways = ["none", *(options.way or WAYS[1:])]
    try:
        with ExitStack() as stack:
            if options.keep:
                options.keep.mkdir(parents=True)
            folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            figures = show(
                measure(
                    *(ways, options.rounds, options.batches, folder),
                    counted=not options.clock,
                    allocator=options.allocator,
                )
            )
    except (TracerError, OSError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    rows = [
        [
            way,
            f"{one['wall_s']:.2f}",
            f"{one['ratio']:.2f}",
            f"{one['ratio_least']:.2f}-{one['ratio_most']:.2f}",
            *(
                [
                    f"{one['swapped'] - one['recorded']:,.0f} of {one['swapped']:,.0f}",
                    f"{one['calls']:,.0f}",
                    f"{one['bytes_per_call']:.1f}",
                ]
                if "calls" in one
                else ["-", "-", "-"]
            ),
        ]
        for way, one in figures.items()
    ]
    headers = ["way", "wall s", "ratio", "range", "lost swaps", "calls", "bytes/call"]
    Console(width=80).print(table(headers, rows))


if __name__ == "__main__":
    main()
