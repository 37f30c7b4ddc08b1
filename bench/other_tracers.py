# SPDX-License-Identifier: GPL-2.0-only
"""One run in the lab, recorded twice at once: by ztrace, and by another tracer with our recipe.

``python -m bench.other_tracers --recipe ftrace --kernel 6.1 --backend zbud --workload known23``

Imports what the other tracer wrote and prints, of either recording, mallocs, frees and peak held
memory of the model, and whether mallocs and frees are the same: op, size, handle and result, in
the order of each task's calls. Exit status 1 if they are not. trace-cmd or perf or bpftrace must be
installed here, which is the guest's root too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter, defaultdict
from itertools import zip_longest
from pathlib import Path

import ztrace
from ztrace.streams import watch_with_seconds
from ztrace.tracer.eventlines import FORMATS, import_lines, recipe
from ztrace.tracer.lab.qemu import notes, run_guest
from ztrace.tracer.lab.session import Setup, collect, prepare
from ztrace.traces.csvfile import import_metadata
from ztrace.traces.reader import TraceReader

Call = tuple[str, int | None, int | None, int]


def record(setup: Setup, form: str, ours: Path, theirs: Path, without: str) -> None:
    """Record a workload under both tracers; ``theirs`` gets the other's text.

    ``without``: commands that the recipe is not to find, so that it takes the next way.
    """
    watch = watch_with_seconds()
    with tempfile.TemporaryDirectory(prefix="ztrace-lab-") as name:
        job = Path(name)
        kernel, modules = prepare(setup, job, watch)
        script = recipe(form)
        for command in without.split():
            script = script.replace(f"command -v {command} ", "false ")
        (job / "recipe.sh").write_text(script)
        run = (job / "run").read_text()
        both = "-- sh /job/recipe.sh /job/theirs.txt /job/workload"
        assert run.count("-- /job/workload") == 1
        (job / "run").write_text(run.replace("-- /job/workload", both))
        said: list[str] = []

        def listen(line: str) -> None:
            said.append(line)
            watch(line)

        status = run_guest(kernel, job, setup.size, modules, watch=listen, stage=watch)
        collect(job, ours, status, said, notes(job))
        theirs.write_bytes((job / "theirs.txt").read_bytes())


def calls(path: Path) -> dict[int, list[Call]]:
    """Mallocs and frees of each task, as they returned: op, size, handle, result."""
    found: dict[int, list[Call]] = defaultdict(list)
    with TraceReader(path) as reader:
        for batch in reader.batches(("op", "size", "handle", "ret", "tid")):
            for row in batch.to_pylist():
                if row["op"] in ("malloc", "free"):
                    handle = None if row["ret"] else row["handle"]
                    found[row["tid"]].append((row["op"], row["size"], handle, row["ret"]))
    return found


def main(arguments: list[str] | None = None) -> int:
    """Record, import, compare; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", choices=FORMATS, default="ftrace")
    parser.add_argument("--kernel", default="6.1")
    parser.add_argument("--backend", default="zbud")
    parser.add_argument("--workload", default="known23")
    parser.add_argument("--without", default="", help="commands the recipe is not to find")
    parser.add_argument("--keep", type=Path, help="folder for both recordings")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = asked.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        ours, text, theirs = (folder / one for one in ("ours.parquet", "t.txt", "theirs.parquet"))
        record(
            Setup(asked.kernel, asked.backend, asked.workload),
            asked.recipe,
            ours,
            text,
            asked.without,
        )
        allocator = "zsmalloc" if asked.backend == "zram" else asked.backend
        metadata = import_lines(
            text, theirs, asked.recipe, import_metadata(allocator, starts_empty=True), force=True
        )
        for note in metadata.notes:
            print(f"note: {note}")
        print(f"lost: {metadata.lost or 'none said'}")
        model = f"zsmalloc:{asked.kernel}" if allocator == "zsmalloc" else allocator
        mine, other = calls(ours), calls(theirs)
        for path, tasks in ((ours, mine), (theirs, other)):
            result = ztrace.replay(path, model)
            ops = Counter(call[0] for rows in tasks.values() for call in rows)
            print(
                f"{path.stem}: {ops['malloc']:,} mallocs, {ops['free']:,} frees; {model} holds at "
                f"most {result.held_bytes.peak:,} bytes; handles {result.handles_equal:,} of "
                f"{result.handles_compared:,}"
            )
        print(f"the same mallocs and frees in each task: {'yes' if mine == other else 'no'}")
        for tid in sorted(set(mine) | set(other)):
            tell(tid, mine[tid], other[tid])
        return 0 if mine == other else 1


def tell(tid: int, mine: list[Call], other: list[Call]) -> None:
    """Print where the calls of a task part, if they do."""
    if mine == other:
        return
    pairs = enumerate(zip_longest(mine, other))
    at, (a, b) = next((at, pair) for at, pair in pairs if pair[0] != pair[1])
    print(f"task {tid}: {len(mine):,} and {len(other):,} calls; call {at}: {a} and {b}")


if __name__ == "__main__":
    sys.exit(main())
