# SPDX-License-Identifier: GPL-2.0-only
"""Real allocators against their models, call for call: ``python -m bench.differential zbud``.

    python -m bench.differential ALLOCATOR[=FILE] [--kernel RELEASE] [--calls N] [--seed N]

Histories (bench/histories.py), each of a seed of its own, are played by the allocator in a kernel
that is built as a program, and by its model: every handle or place, every return value, and the
pool's size after every call are compared. One line a history, the sums last. What differs is cut
down to the fewest calls that still do, and printed as a line for tests/test_differential.py; exit
status 1. ``--reached`` also tells which lines of the allocator's source were never run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from bench.histories import PAGE_BYTES, History, as_calls, from_text, make
from ztrace.allocator import native
from ztrace.allocator.registry import recorded
from ztrace.errors import ZtraceError
from ztrace.measuring import as_plan
from ztrace.replay import replay
from ztrace.replay.measured.calls import MALLOC
from ztrace.replay.measured.compared import compare
from ztrace.replay.measured.recording import PROGRAM, Where, metadata, rows
from ztrace.replay.play.native import replay_native
from ztrace.tracer.errors import TracerError
from ztrace.tracer.program.allocators import parse
from ztrace.tracer.program.build import Program, build_program
from ztrace.tracer.program.guest import play
from ztrace.tracer.program.reached import lines
from ztrace.traces import TraceReader, TraceWriter
from ztrace.traces.metadata import Metadata

NO_PAGE = 0.03
"""Share of mallocs that find no page, where the program can refuse them."""

PYTHON_CALLS = 20_000
"""What of a history the model in Python is asked, too."""


@dataclass
class Tally:
    """What was called and compared."""

    histories: int = 0
    calls: int = 0
    mallocs: int = 0
    answers: int = 0
    answers_equal: int = 0
    sizes: int = 0
    sizes_equal: int = 0
    first: str | None = None

    def add(self, other: Tally) -> None:
        """Count another one's, too."""
        counts = ("histories", "calls", "mallocs", "answers", "answers_equal")
        for name in (*counts, "sizes", "sizes_equal"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.first = self.first or other.first

    @property
    def different(self) -> int:
        """Answers and sizes that were not the model's."""
        return self.answers - self.answers_equal + self.sizes - self.sizes_equal

    def text(self) -> str:
        """Of one line."""
        return (
            f"{self.calls:>11,} calls ({self.mallocs:,} mallocs), {self.answers:>11,} answers and "
            f"{self.sizes:>11,} sizes compared, {self.different} different"
        )


class Differ:
    """Plays histories into one allocator of one program and compares."""

    def __init__(self, program: Program, allocator: str, *, damaging: bool = False) -> None:
        self.program, self.allocator, self.damaging = program, allocator, damaging
        self.reached: set[int] | None = None  # addresses of blocks, if the program notes them

    def model(self, *, deferred: bool) -> str:
        """The specification of its model, whose work waits if it is ``deferred``."""
        release = self.program.release
        return recorded(self.allocator, release, PAGE_BYTES, 1, compactions=deferred)

    def played(self, history: History, engine: str = "native") -> Tally:
        """Play a history in the kernel, and compare with its model in ``engine``."""
        spec = self.model(deferred=history.deferred)
        calls = as_calls(
            self.allocator, history, lambda: native.create(spec), damaging=self.damaging
        )
        answers = play(self.program, self.allocator, as_plan(calls), 0, reached=self.reached)
        program = self.program
        where = Where(PROGRAM, program.kernel, program.release, "")
        name = Path("differential")
        about = metadata(Metadata(), name, self.allocator, calls, answers, where)
        with tempfile.TemporaryDirectory(prefix="ztrace-") as folder:
            path = Path(folder) / "played.parquet"
            with TraceWriter(path, about, level=1) as writer:
                for batch in rows(calls, answers, self.allocator):
                    writer.write(batch)
            del answers
            tally = self._compared(path, engine)
        tally.histories = 1
        tally.calls = writer.rows
        tally.mallocs = int((calls.op == MALLOC).sum())
        return tally

    def _compared(self, path: Path, engine: str) -> Tally:
        found = compare(path, self.allocator, engine=engine)
        tally = Tally(
            answers=found.compared,
            answers_equal=found.equal,
            sizes=found.sizes_compared,
            sizes_equal=found.sizes_equal,
            first=found.first,
        )
        if not tally.sizes:
            self._replayed(path, engine, tally)
        return tally

    def _replayed(self, path: Path, engine: str, tally: Tally) -> None:
        """Where an order is searched, sizes and shrinks are not compared: a replay does it."""
        spec = self.model(deferred=True)
        with TraceReader(path) as reader:
            [result] = (
                [replay(reader, spec)] if engine == "python" else replay_native(reader, [spec])
            )
        for pool in result.pools:
            tally.sizes += pool.totals.compared
            tally.sizes_equal += pool.totals.equal
            for one in (pool.handles, pool.shrinks):
                tally.answers += one.compared
                tally.answers_equal += one.equal
            first = pool.handles.first or pool.totals.first or pool.shrinks.first
            if pool.stopped or pool.shrinks_diverged:
                tally.answers += 1
                first = first or pool.stopped or "a shrink asks for other objects"
            tally.first = tally.first or first


def differs(differ: Differ, engine: str, history: History) -> bool:
    """Whether any answer is not the model's; also if the kernel dies of it."""
    if not (history.op == MALLOC).any():
        return False
    try:
        return differ.played(history, engine).different > 0
    except TracerError:
        return True


def smallest(history: History, holds: Callable[[History], bool], most: int = 400) -> History:
    """The fewest calls of a history for which something ``holds``, as far as ``most`` tries find.

    First its beginning is looked for, then objects are left out with all their calls, then single
    calls, in ever smaller parts (delta debugging, Zeller and Hildebrandt 2002).
    """
    low, high = 0, len(history)
    while high - low > 1:
        middle = (low + high) // 2
        most -= 1
        if holds(history.part(slice(0, middle))):
            high = middle
        else:
            low = middle
    history = history.part(slice(0, high))
    for by_object in (True, False):
        step = max(1, len(history) // 2)
        while most > 0:
            names = history.object if by_object else np.arange(len(history))
            distinct = np.unique(names)
            at = smaller = 0
            while at < len(distinct) and most > 0:
                most -= 1
                tried = history.part(~np.isin(names, distinct[at : at + step]))
                if len(tried) and holds(tried):
                    history, smaller = tried, smaller + 1
                    names = history.object if by_object else np.arange(len(history))
                    distinct = np.unique(names)
                else:
                    at += step
            if step == 1 and not smaller:
                break
            step = max(1, min(step, len(distinct)) // 2)
    return history


def as_test(allocator: str, kernel: str, history: History) -> str:
    """The line for tests/test_differential.py."""
    return f'    ("{allocator}", "{kernel}", {history.deferred}, "{history.text()}"),'


def never_reached(differ: Differ, source: str) -> Iterator[str]:
    """Lines that say which of an allocator's source no history has run."""
    found = lines(differ.program, source, differ.reached or ())
    missed = [one for one in found if not one.run]
    yield f"{source}: {len(found) - len(missed)} of {len(found)} lines where blocks begin were run"
    for function, group in groupby(missed, lambda one: one.function):
        yield f"  never in {function}: {', '.join(str(one.line) for one in group)}"


def run(differ: Differ, arguments: argparse.Namespace, given: str) -> int:
    """Play histories until there were enough calls; the exit status."""
    total, seed, began = Tally(), arguments.seed, time.monotonic()
    in_python = Tally()
    while total.calls < arguments.calls:
        history = make(
            *(differ.allocator, seed, min(arguments.each, arguments.calls)),
            no_page=NO_PAGE if differ.reached is not None else 0.0,
        )
        small = history.part(slice(0, PYTHON_CALLS))
        done = differ.played(history)
        total.add(done)
        print(f"seed {seed:>4}: {done.text()}; {history.about}", flush=True)
        engine, wrong = "native", history if done.different else None
        if wrong is None and (seed - arguments.seed) % arguments.python == 0:
            again = differ.played(small, "python")
            in_python.add(again)
            if again.different:
                engine, wrong, done = "python", small, again
        if wrong is not None:
            print(f"differs: {done.first}", flush=True)
            found = smallest(wrong, partial(differs, differ, engine))
            print(f"the {len(found)} calls that are left, for tests/test_differential.py:")
            print(as_test(differ.allocator, differ.program.kernel, found))
            return 1
        seed += 1
    took = time.monotonic() - began
    print(f"{given}, kernel {differ.program.release}, 1 CPU, seeds {arguments.seed} to {seed - 1}")
    print(f"core:   {total.text()}, {took:.0f} s")
    if in_python.histories:
        print(f"Python: {in_python.text()}")
    if differ.reached is not None:
        print("\n".join(never_reached(differ, f"/{differ.allocator}.c")))
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Real allocators against their models.")
    parser.add_argument("allocator", metavar="ALLOCATOR[=FILE]", help="as of ztrace measure")
    parser.add_argument("--kernel", default="6.1")
    parser.add_argument("--calls", type=float, default=1e6, help="about how many in all")
    parser.add_argument("--each", type=float, default=2e6, help="about how many a history")
    parser.add_argument("--seed", type=int, default=1, help="of the first history")
    parser.add_argument("--python", type=int, default=5, help="every so manieth in Python, too")
    parser.add_argument(
        "--reached", action="store_true", help="say which lines of the allocator were never run"
    )
    parser.add_argument("--history", help="only this one, as its text (bench/histories.py)")
    parser.add_argument(
        "--damaging", action="store_true", help="also shrinks that damage the kernel's memory"
    )
    parser.add_argument("--later", action="store_true", help="its queued work runs where it says")
    arguments = parser.parse_args()
    arguments.calls, arguments.each = int(arguments.calls), int(arguments.each)
    try:
        allocator = parse(arguments.allocator)
        program = build_program(arguments.kernel, [allocator], watched=arguments.reached)
        differ = Differ(program, allocator.name, damaging=arguments.damaging)
        if arguments.reached:
            differ.reached = set()
        if arguments.history is None:
            sys.exit(run(differ, arguments, arguments.allocator))
        done = differ.played(from_text(arguments.history, deferred=arguments.later))
        print(done.text(), done.first or "")
        sys.exit(done.different > 0)
    except (ZtraceError, ValueError) as error:
        sys.exit(f"bench: {error}")


if __name__ == "__main__":
    main()
