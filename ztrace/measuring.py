# SPDX-License-Identifier: GPL-2.0-only
"""One trace through real allocators: what to play (replay), playing it (tracer), what it means."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ztrace.allocator.registry import is_known, recorded_traits
from ztrace.allocator.specification import family
from ztrace.allocator.traits import Compacts, release_number
from ztrace.errors import ZtraceError
from ztrace.replay.advise import settings
from ztrace.replay.measured.calls import Calls, read_calls
from ztrace.replay.measured.compared import Compared, compare
from ztrace.replay.measured.difference import (
    Difference,
    Sample,
    differences,
    equal_sizes,
    sample,
)
from ztrace.replay.measured.figures import Answers, Figures, figures
from ztrace.replay.measured.recording import PROGRAM, TEST_BOX, Where, metadata, rows
from ztrace.replay.report.measured import summarise
from ztrace.tracer.lab.debian import KERNELS
from ztrace.tracer.machine import machine
from ztrace.tracer.program.allocators import Allocator
from ztrace.tracer.program.build import Program, build_program, steps
from ztrace.tracer.program.files import Plan
from ztrace.tracer.program.guest import BrokenError, play
from ztrace.tracer.program.here import play_here, refuse_locked
from ztrace.traces.reader import TraceReader
from ztrace.traces.writer import COMPRESSION_LEVEL, TraceWriter

ROUNDS = 3
"""In fresh pools, where nothing else is asked for."""

_FAST_LEVEL = 1  # zstd's, for a file that is read once


@dataclass(frozen=True)
class Measured:
    """One allocator in one kernel: its figures, or the ``error`` that ended it."""

    allocator: str
    kernel: str
    release: str
    where: str
    calls: Calls | None = None
    figures: Figures | None = None
    compared: Compared | None = None
    output: Path | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        plain: dict[str, Any] = {
            "allocator": self.allocator,
            "kernel": self.kernel,
            "release": self.release,
            "where": self.where,
        }
        if self.error is not None:
            return {**plain, "error": self.error}
        assert self.figures is not None and self.compared is not None and self.calls is not None
        found = self.figures
        times = {
            f"{op}_ns": {
                **one.ns,
                "calls": one.count,
                "single_max": one.single_max_ns,
                "waited_share": one.waited_share,
                "waited_p50": one.waited_p50_ns,
                "waited_mean": one.waited_ns,
            }
            for op, one in found.times.items()
        }
        return {
            **plain,
            "calls": found.calls,
            "refused": found.refused,
            "no_shrink": found.no_shrink,
            "left_out": self.calls.left_out,
            "adds_maps": self.calls.adds_maps,
            "model": self.compared.model,
            "compared": self.compared.compared,
            "equal": self.compared.equal,
            "sizes_compared": self.compared.sizes_compared,
            "sizes_equal": self.compared.sizes_equal,
            "determined": self.compared.determined,
            "first_difference": self.compared.first,
            "malloc_ns": None,
            "free_ns": None,
            **times,
            "pages_peak": found.pages_peak,
            "pages_mean": found.pages_mean,
            "density": found.density,
            "rounds": found.rounds,
            "threads": found.threads,
            "clock_ns": found.clock_ns,
            "clock_step_ns": found.step_ns,
            "ns_per_cycle": found.ns_per_cycle,
            "disagree": found.disagree,
            "by_size": found.to_dict()["by_size"],
        }


Progress = Callable[[str, int | None], contextlib.AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Wish:
    """What is asked for. ``outputs``: where to keep each allocator's measured trace, by name.

    ``sizes``: how many ranges of size to tell times by; ``compare``: whether with the models;
    ``here``: in the running kernel, ``kernel`` is none then.
    """

    trace: Path
    allocators: Sequence[Allocator]
    kernel: str
    rounds: int
    threads: int
    sizes: int = 0
    outputs: Mapping[str, Path] = field(default_factory=dict)
    force: bool = False
    compare: bool = True
    here: bool = False


def measure(wish: Wish, progress: Progress) -> Iterator[Measured]:
    """Measure each allocator, one after another. ``progress(what, total)`` shows a piece of work.

    An allocator that cannot be built, or whose guest dies, ends as a Measured with an error; the
    others go on. ZtraceError for what concerns all of them.
    """
    if wish.here:
        refuse_locked()
    programs = {} if wish.here else _programs(wish, progress)
    with TraceReader(wish.trace) as reader:
        for allocator in wish.allocators:
            program = programs.get(allocator.name)
            if isinstance(program, ZtraceError):
                yield _failed(wish, allocator, program)
                continue
            try:
                calls = read_calls(reader, allocator.name, threads=wish.threads)
                with progress(
                    f"play {allocator.name}", (1 + wish.rounds) * len(calls.op)
                ) as advance:
                    plan = as_plan(calls)
                    if program is None:
                        answers = play_here(allocator, plan, wish.rounds, advance=advance)
                    else:
                        answers = play(program, allocator.name, plan, wish.rounds, advance=advance)
                where = _where(program)
                yield _understood(_Played(wish, reader, allocator, where, calls, answers), progress)
            except BrokenError as broken:
                where = _where(program)
                played = _Played(wish, reader, allocator, where, calls, broken.answers)
                yield _until_broken(played, broken, progress)
            except ZtraceError as error:
                yield _failed(wish, allocator, error)


def summaries(traces: Sequence[Path], progress: Progress) -> list[dict[str, Any]]:
    """Each trace through the allocators of its own kernel, one guest each of ROUNDS rounds: what
    they say, as :func:`replay.report.measured.summarise`.

    ZtraceError where a trace's kernel cannot be had or one of its allocators cannot be measured.
    """
    names = [path.name for path in traces]
    for name in names:
        if names.count(name) > 1:
            raise ZtraceError(f"two traces are called {name}, by which times are told apart")
    found = []
    for path in traces:
        kernel, allocators = _of_its_kernel(path)
        with tempfile.TemporaryDirectory(prefix="ztrace-") as scratch:
            kept = {one: Path(scratch) / f"{one}.parquet" for one in allocators}
            chosen = [Allocator(one) for one in allocators]
            wish = Wish(path, chosen, kernel, ROUNDS, 1, outputs=kept, compare=False)
            for one in measure(wish, progress):
                if one.error is not None:
                    raise ZtraceError(f"{path}: {one.allocator} cannot be measured: {one.error}")
                assert one.output is not None
                found.append(summarise(one.output))
    return found


def _of_its_kernel(path: Path) -> tuple[str, list[str]]:
    """The kernel to build for a trace, and the allocators of it that could have been used."""
    with TraceReader(path) as reader:
        metadata = reader.metadata
    number = release_number(metadata.kernel.release)
    kernel = next((name for name in KERNELS if release_number(name) == number), None)
    if kernel is None:
        raise ZtraceError(
            f"{path}: recorded in kernel {metadata.kernel.release or 'unknown'}, of which there is "
            f"no source here (there is {', '.join(KERNELS)}); ztrace measure --kernel takes a tree"
        )
    names = dict.fromkeys(map(family, settings(metadata)))
    allocators = [
        name for name in names if is_known(name) and not recorded_traits(name).out_of_tree
    ]
    if not allocators:
        raise ZtraceError(f"{path}: no allocator of its kernel is known that could be measured")
    return kernel, allocators


@dataclass(frozen=True)
class _Played:
    """The calls of a wish's trace, made on one allocator, and what it answered."""

    wish: Wish
    reader: TraceReader
    allocator: Allocator
    where: Where
    calls: Calls
    answers: Answers

    @property
    def kept(self) -> Path | None:
        """The file that was asked for."""
        return self.wish.outputs.get(self.allocator.name)

    def write(self, path: Path, progress: Progress) -> int:
        """Write what was answered as a trace, and return how many rows it has."""
        wish, name = self.wish, self.allocator.name
        calls, answers = self.calls, self.answers
        about = metadata(self.reader.metadata, wish.trace, name, calls, answers, self.where)
        level = COMPRESSION_LEVEL if path == self.kept else _FAST_LEVEL
        with (
            progress(f"write what {name} answered", len(calls.op)) as advance,
            TraceWriter(path, about, force=wish.force, level=level) as writer,
        ):
            for batch in rows(calls, answers, name):
                before = writer.rows
                writer.write(batch)
                advance(writer.rows - before)
        return writer.rows


def _until_broken(played: _Played, broken: BrokenError, progress: Progress) -> Measured:
    """An allocator that broke; what it answered until then is kept where that was asked for."""
    path = played.kept
    error: ZtraceError = broken
    if path:
        written = played.write(path, progress)
        error = ZtraceError(f"{broken}; {path} has the {written:,} calls until then")
    return replace(_failed(played.wish, played.allocator, error), output=path)


def _failed(wish: Wish, allocator: Allocator, error: ZtraceError) -> Measured:
    kind, kernel = (TEST_BOX, "running") if wish.here else (PROGRAM, wish.kernel)
    return Measured(allocator.name, kernel, "", kind, error=str(error))


def _where(program: Program | None) -> Where:
    """None stands for the running kernel."""
    cpu_model = machine()["cpu_model"]
    if program is None:
        return Where(TEST_BOX, "running", os.uname().release, cpu_model)
    return Where(PROGRAM, program.kernel, program.release, cpu_model)


def _programs(wish: Wish, progress: Progress) -> dict[str, Program | ZtraceError]:
    """The kernel for each allocator. Its own share one; each of the user's has one to itself,
    where it can neither clash with another one's names nor keep it from being built."""
    own = tuple(one for one in wish.allocators if one.is_own)
    groups = [own] if own else []
    groups += [(one,) for one in wish.allocators if not one.is_own]
    made: dict[str, Program | ZtraceError] = {}
    for group in groups:
        built: Program | ZtraceError
        try:
            built = _build(wish.kernel, group, wish.threads > 1, progress)
        except ZtraceError as error:
            if len(groups) == 1:
                raise
            built = error
        made |= {one.name: built for one in group}
    return made


def _build(kernel: str, group: Sequence[Allocator], smp: bool, progress: Progress) -> Program:
    with progress(f"build kernel {kernel}", steps(kernel, smp=smp)) as advance:
        return build_program(kernel, group, smp=smp, say=lambda line: advance(1))


def as_plan(calls: Calls) -> Plan:
    """The calls as the player takes them."""
    return Plan(
        op=calls.op,
        object=calls.object,
        size_bytes=calls.size_bytes,
        is_write=calls.is_write,
        objects=calls.objects,
        first=calls.first,
        deferred=calls.deferred,
    )


def _understood(played: _Played, progress: Progress) -> Measured:
    """Figures of what was answered, and the model's answers beside them."""
    wish, name, where, kept = played.wish, played.allocator.name, played.where, played.kept
    compared = Compared()
    with tempfile.TemporaryDirectory(prefix="ztrace-") as scratch:
        path = kept or Path(scratch) / "measured.parquet"
        if kept or wish.compare:
            written = played.write(path, progress)
        if wish.compare:
            with progress(f"compare {name} with its model", written) as advance:
                # Which pages z3fold's own worker compacts, and when, only a program tells.
                by_page = recorded_traits(name).compacts is Compacts.PAGES
                at_once = where.kind == TEST_BOX and by_page
                items = f"cpus={wish.threads},work=immediate"
                backend = f"{name}:{items}" if at_once else None
                compared = compare(path, name, backend=backend, advance=advance)
    return Measured(
        allocator=name,
        kernel=where.kernel,
        release=where.release,
        where=where.kind,
        calls=played.calls,
        figures=figures(played.calls, played.answers, sizes=wish.sizes),
        compared=compared,
        output=kept,
    )


@dataclass(frozen=True)
class Contrast:
    """One allocator in two kernels, on ``threads`` CPUs. Of ``calls`` calls ``equal`` left pools of
    one size; of several threads that is not asked, since no two runs are alike."""

    allocator: str
    kernels: tuple[str, str]
    releases: tuple[str, str]
    pairs: int
    rounds: int
    threads: int
    calls: int
    equal: int | None
    differences: list[Difference]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            **{f.name: getattr(self, f.name) for f in fields(self) if f.name != "differences"},
            "differences": [one.to_dict() for one in self.differences],
        }


def contrast(wish: Wish, kernels: tuple[str, str], pairs: int, progress: Progress) -> Contrast:
    """Play the trace into one allocator in guests of two kernels in turn. ZtraceError if one of
    them cannot be built or does not finish."""
    [allocator] = wish.allocators
    programs = []
    for kernel in kernels:
        programs.append(_build(kernel, [allocator], wish.threads > 1, progress))
    with TraceReader(wish.trace) as reader:
        calls = read_calls(reader, allocator.name, threads=wish.threads)
    plan = as_plan(calls)
    samples: list[list[Sample]] = [[], []]
    last: list[Answers] = []
    with progress("play", 2 * pairs * (1 + wish.rounds) * plan.calls) as advance:

        def guest(program: Program) -> Answers:
            # Each at addresses of its own: a difference that hangs on them is none.
            return play(
                *(program, allocator.name, plan, wish.rounds),
                advance=advance,
                same_layout=False,
            )

        for pair in range(pairs):
            # Neither kernel is always the first of a pair.
            order = (0, 1) if pair % 2 == 0 else (1, 0)
            last = [guest(programs[i]) for i in order]
            for i, answers in zip(order, last, strict=True):
                samples[i].append(sample(calls, answers))
    equal, compared = equal_sizes(*last)
    return Contrast(
        allocator=allocator.name,
        kernels=kernels,
        releases=(programs[0].release, programs[1].release),
        pairs=pairs,
        rounds=wish.rounds,
        threads=wish.threads,
        calls=compared,
        equal=equal if wish.threads == 1 else None,
        differences=differences(samples[0], samples[1], last[0].ns_per_cycle),
    )
