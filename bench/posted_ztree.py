# SPDX-License-Identifier: GPL-2.0-only
"""The posted ztree on several CPUs of a real kernel: after how many calls does it break, and how?

``python -m bench.posted_ztree MAIL`` plays calls into the mail's code, each run in a fresh guest,
until it breaks or the calls are through, and prints a table: CPUs of the guest and cores of the
host that they share, objects alive, runs, how many broke, after how many calls, and which hazard
(docs/hazards.md) the calls until then prove. Threads own their objects; each malloc is followed
by map and unmap, as in zswap; sizes are even from 40 to 4,000 bytes.

That is 2 CPUs on two cores and on one, 4 CPUs on two; 10^4, 10^5 and 10^6 objects; 30 runs of 5
million calls each: about an hour. ``--results FILE`` keeps runs, and the next command goes on from
there. ``--keep FOLDER`` keeps, of the first run of each hazard, the mallocs and frees of the block
type that broke as a trace. ``--unchecked``: nobody looks whether two objects have one handle, as in
a kernel. In ten seconds: ``--cpus 4/2 --live 1e6 --runs 1 --keep FOLDER``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from ztrace.allocator.ztree.model import TYPE_SHIFT
from ztrace.errors import ZtraceError
from ztrace.measuring import as_plan
from ztrace.replay.measured.calls import FREE, MALLOC, Calls, read_calls
from ztrace.replay.measured.figures import NOT_PLAYED
from ztrace.replay.measured.recording import PROGRAM, Where, metadata, rows
from ztrace.replay.research import broken
from ztrace.tracer.machine import machine
from ztrace.tracer.program.allocators import parse
from ztrace.tracer.program.build import Program, build_program
from ztrace.tracer.program.files import Answers
from ztrace.tracer.program.guest import BrokenError, play
from ztrace.traces import TraceReader, TraceWriter
from ztrace.traces.synth import Plan, exponential_lifetimes, synthesize, uniform_sizes

CPUS = "2/2,2/1,4/2"
LIVE = "1e4,1e5,1e6"
KERNEL = "7.2"
ZTREE = "ztree"


@dataclass(frozen=True)
class Setting:
    """``cpus`` of the guest on ``cores`` of the host, ``live`` objects; whether handles are
    ``checked``."""

    cpus: int
    cores: int
    live: int
    checked: bool


@dataclass(frozen=True)
class Run:
    """One guest: ``calls`` that returned, all of them if it did not break. If it did, what was
    ``said``. The ``hazard`` that the calls prove, and for how long the malloc was under way that
    met it. ``shared``: mallocs that returned a handle in use."""

    setting: Setting
    calls: int
    said: str | None = None
    hazard: str | None = None
    window_ns: int | None = None
    shared: int = 0

    @classmethod
    def read(cls, line: str) -> Run:
        """From JSON."""
        plain = json.loads(line)
        return cls(**{**plain, "setting": Setting(**plain["setting"])})


def history(path: Path, live: int, calls: int, cpus: int) -> tuple[TraceReader, Calls]:
    """About so many calls, maps and unmaps included, dealt to ``cpus`` threads."""
    # A malloc is three calls, and there are ``live`` more of them than frees.
    events = max(live, (calls - live) // 2)
    synthesize(
        Plan(events, live, uniform_sizes(40, 4000), exponential_lifetimes()), path, force=True
    )
    reader = TraceReader(path)
    return reader, read_calls(reader, ZTREE, threads=cpus)


def returned(calls: Calls, answers: Answers) -> broken.Calls:
    """Mallocs and frees that returned."""
    made = np.flatnonzero((answers.ret == 0) & np.isin(calls.op, (MALLOC, FREE)))
    begin = answers.begin_cycles[made].astype(np.int64)
    return broken.Calls.of(
        calls.op[made],
        np.searchsorted(calls.first, made, side="right") - 1,
        begin,
        begin + answers.cycles[0][made],
        answers.handle[made],
    )


def run(program: Program, setting: Setting, calls: Calls) -> tuple[Run, Answers | None]:
    """One guest, and what it answered; None if it said nothing more."""
    plan = replace(as_plan(calls), noted=True, unchecked=not setting.checked)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[: setting.cores])
    said = None
    try:
        answers = play(program, ZTREE, plan, 0, silent_s=60)
    except BrokenError as error:
        answers = error.answers
        assert answers.broken is not None
        said = re.sub(r"0x[0-9a-f]+|\d+", "N", answers.broken.said)
    except ZtraceError as error:
        return Run(setting, 0, said=str(error)), None
    finally:
        os.sched_setaffinity(0, cores)
    told = returned(calls, answers)
    proof = broken.prove(told)
    found = Run(
        setting,
        calls=int((answers.ret < NOT_PLAYED).sum()),
        said=said,
        hazard="H1" if proof else None,
        shared=broken.shared(told),
    )
    if proof:
        window = int(told.end[proof.call] - told.begin[proof.call]) * answers.ns_per_cycle
        found = replace(found, window_ns=round(window))
    return found, answers


def keep(path: Path, reader: TraceReader, calls: Calls, answers: Answers, program: Program) -> None:
    """Write the mallocs and frees of the block type that broke: trees share nothing."""
    proof = broken.prove(returned(calls, answers))
    at = answers.broken.call if answers.broken else None
    kind = proof.type if proof else int(answers.handle[at or 0] >> np.uint64(TYPE_SHIFT))
    where = Where(PROGRAM, program.kernel, program.release, machine()["cpu_model"])
    about = metadata(reader.metadata, reader.path, ZTREE, calls, answers, where)
    with TraceWriter(path, about, force=True) as writer:
        for batch in rows(calls, answers, ZTREE):
            op, handle = (batch[name].to_numpy(zero_copy_only=False) for name in ("op", "handle"))
            chosen = np.isin(op, (MALLOC, FREE))
            chosen[chosen] = handle[chosen].astype(np.uint64) >> np.uint64(TYPE_SHIFT) == kind
            writer.write({name: column.filter(chosen) for name, column in batch.items()})
    print(f"{path}: {writer.rows:,} mallocs and frees of block type {kind}", file=sys.stderr)


def missing(chosen: argparse.Namespace, runs: Sequence[Run]) -> Iterator[tuple[Setting, int]]:
    """Settings and how many runs of each are still to be made."""
    left = chosen.most
    for cpus, cores in (map(int, one.split("/")) for one in chosen.cpus.split(",")):
        for live in (int(float(one)) for one in chosen.live.split(",")):
            setting = Setting(cpus, cores, live, not chosen.unchecked)
            count = min(left, chosen.runs - sum(one.setting == setting for one in runs))
            if count > 0:
                left -= count
                yield setting, count


def show(runs: Sequence[Run]) -> None:
    """The table, a line for each setting."""
    print(
        "| CPUs | cores | live objects | runs | broke | calls until then: least, median, most "
        "| proved | handles shared, median |"
    )
    print("|--:|--:|--:|--:|--:|--:|---|--:|")
    for setting in sorted(
        dict.fromkeys(one.setting for one in runs),
        key=lambda one: (not one.checked, one.cpus, -one.cores, one.live),
    ):
        mine = [one for one in runs if one.setting == setting]
        broke = sorted(one.calls for one in mine if one.said)
        until = f"{broke[0]:,}; {median(broke):,.0f}; {broke[-1]:,}" if broke else "-"
        proved = Counter(one.hazard for one in mine if one.hazard)
        named = ", ".join(f"{name} {count} x" for name, count in sorted(proved.items())) or "-"
        shared = median(one.shared for one in mine)
        print(
            f"| {setting.cpus} | {setting.cores} | {setting.live:,} | {len(mine)} | {len(broke)} "
            f"| {until} | {named} | {shared:,.0f} |"
        )
    for text, count in Counter(one.said for one in runs if one.said).most_common():
        print(f"\n{count} x: {text}")


def main() -> None:
    """Make the runs that are missing, and print the table of all."""
    parser = argparse.ArgumentParser(description="After how many calls the posted ztree breaks.")
    parser.add_argument("mail", type=Path, help="the mail of 16 September 2021")
    parser.add_argument("--cpus", default=CPUS, help="of the guest / cores of the host, ...")
    parser.add_argument("--live", default=LIVE, help="objects alive, ...")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--calls", type=float, default=5e6, help="of a run")
    parser.add_argument("--most", type=int, default=10**9, help="runs that this command makes")
    parser.add_argument("--unchecked", action="store_true", help="handles are not looked at")
    parser.add_argument("--results", type=Path, help="a file to which runs are added")
    parser.add_argument("--keep", type=Path, help="a folder for traces")
    chosen = parser.parse_args()
    runs: list[Run] = []
    if chosen.results and chosen.results.exists():
        runs = [Run.read(line) for line in chosen.results.read_text().splitlines()]
    program = build_program(KERNEL, [parse(f"{ZTREE}={chosen.mail}")], smp=True)
    with tempfile.TemporaryDirectory() as name:
        for setting, count in list(missing(chosen, runs)):
            reader, calls = history(
                Path(name) / "played.parquet", setting.live, int(chosen.calls), setting.cpus
            )
            for _ in range(count):
                done, answers = run(program, setting, calls)
                runs.append(done)
                print(done, file=sys.stderr)
                if chosen.results:
                    with chosen.results.open("a") as file:
                        file.write(json.dumps(asdict(done)) + "\n")
                if answers is None or not chosen.keep or not (done.said or done.hazard):
                    continue
                chosen.keep.mkdir(parents=True, exist_ok=True)
                path = chosen.keep / f"{done.hazard or 'unproved'}-{setting.cpus}cpus.parquet"
                if not path.exists():
                    keep(path, reader, calls, answers, program)
    show(runs)


if __name__ == "__main__":
    main()
