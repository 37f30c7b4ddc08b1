# SPDX-License-Identifier: GPL-2.0-only
"""Starts a kernel that is a program, has it play one plan into one allocator, waits for its end."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import queue
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from ztrace.tracer.children import uninterrupted
from ztrace.tracer.errors import TracerError
from ztrace.tracer.program.build import Program
from ztrace.tracer.program.files import Answers, Break, Plan, read_answers, write_plan
from ztrace.tracer.program.reached import read_reached
from ztrace.traces.schema import OP_CODE, OPS

SILENT_S = 60.0
"""A guest that says nothing for so long hangs: it tells five times a second how far it is."""


class BrokenError(TracerError):
    """An allocator broke; ``answers`` has ``broken`` and what it had answered until then."""

    def __init__(self, message: str, answers: Answers) -> None:
        super().__init__(message)
        self.answers = answers


_MIB = 1 << 20
_SHM = Path("/dev/shm")
_PDEATHSIG = 1
_ADDR_NO_RANDOMIZE = 0x0040000

# Of what a kernel says as it dies: the line that says why, and where it was.
_DYING = re.compile(
    r"Kernel panic|Kernel mode (fault|signal)|^BUG\b|\bBUG:|Oops|kernel BUG at|Unable to handle|"
    r"general protection|Out of memory|out of memory"
)
_AT = re.compile(r"^RIP: [0-9a-f]+:(\S+)")


def play(
    program: Program,
    allocator: str,
    plan: Plan,
    rounds: int,
    *,
    advance: Callable[[int], object] = lambda calls: None,
    silent_s: float = SILENT_S,
    same_layout: bool = True,
    reached: set[int] | None = None,
) -> Answers:
    """Play a plan into an allocator of ``program``: once to place objects, then ``rounds`` times.

    ``same_layout``: the guest's memory is at the same addresses each time, so that a run can be
    repeated; else the host chooses. ``advance`` gets numbers of calls done, in all
    (1 + rounds) * plan.calls. ``reached`` gets the addresses of blocks that were run, if
    the program notes them. TracerError with the kernel's own message if it dies, hangs or cannot do
    what is asked; BrokenError if the allocator broke and its answers until then are known.
    Nothing outlives the call.
    """
    memory_mib = _memory_mib(plan, 0 if plan.noted else rounds)
    with _scratch(plan, rounds, memory_mib) as scratch:
        plan_path, answers = scratch / "plan", scratch / "answers"
        write_plan(plan, rounds, plan_path)
        command = [
            str(program.binary),
            f"mem={memory_mib}M",
            # Its own runtime files, and no console but this process.
            *(f"uml_dir={scratch}/", "umid=guest", "stderr=1", "con=none", "con0=fd:0,fd:1"),
            *(f"ncpus={plan.threads}", "seccomp=on") * (plan.threads > 1),
            *("loglevel=7", f"ztrace.allocator={allocator}"),
            *(f"ztrace.plan={plan_path}", f"ztrace.answers={answers}"),
            *([] if reached is None else [f"ztrace.reached={scratch / 'reached'}"]),
        ]
        listener = Listener(f"{allocator} in kernel {program.kernel}", advance)
        _run(command, scratch, listener, silent_s, same_layout)
        if not listener.finished:
            raise _broken(listener.failure(), answers, plan)
        advance((1 + rounds) * plan.calls - listener.done)
        if reached is not None:
            reached.update(read_reached(scratch / "reached"))
        return read_answers(answers, plan)


def _broken(error: TracerError, path: Path, plan: Plan) -> TracerError:
    """The same error with where it was and the answers until then, if the guest left them."""
    try:
        answers = read_answers(path, plan)
    except (OSError, TracerError):
        return error
    if answers.broken is None:
        return error
    return BrokenError(f"{error}, {where_broken(answers.broken, plan)}", answers)


def where_broken(broken: Break, plan: Plan) -> str:
    """In words: the call, its number among those of its CPU, the round."""
    place = f"CPU {broken.thread}"
    if broken.call is not None:
        op = OPS[plan.op[broken.call]]
        number = broken.call - int(plan.first[broken.thread]) + 1
        place = f"call {number:,} of {place} ({op} of object {plan.object[broken.call]:,})"
    return f"in {place}" + (f" in round {broken.round}" if broken.round else "")


def _memory_mib(plan: Plan, rounds: int) -> int:
    """Room for the answers, and for each live object in a page of its own.

    Never less than 1 GiB: below that a kernel takes and gives back pages in smaller batches
    (zone_batchsize() of mm/page_alloc.c), and times would depend on how long a trace is.
    """
    arrays = plan.calls * (8 + 4 * 8 + 2 * 4 + 40 + 4 * (1 + rounds)) + plan.objects * 8
    change = np.zeros(plan.calls, np.int64)
    change[plan.op == OP_CODE["malloc"]] = 1
    change[plan.op == OP_CODE["free"]] = -1
    peak = int(max(0, change.cumsum().max(initial=0)))
    # A kernel's own, pages in blocks of eight that are not full, and tables of its pages.
    return 1100 + int((arrays + peak * 4096 * 1.25) * 1.05) // _MIB


@contextlib.contextmanager
def _scratch(plan: Plan, rounds: int, memory_mib: int) -> Iterator[Path]:
    """A folder for one guest, in memory where there is room: its memory is a file."""
    room = _SHM.is_dir() and os.access(_SHM, os.W_OK)
    if room:
        room = shutil.disk_usage(_SHM).free > 2 * memory_mib * _MIB
    with tempfile.TemporaryDirectory(prefix="ztrace-", dir=_SHM if room else None) as name:
        yield Path(name)


class Listener:
    """What a guest says: how far it is, that it has finished, why it died."""

    def __init__(self, what: str, advance: Callable[[int], object]) -> None:
        self.what, self.advance = what, advance
        self.done = 0
        self.finished = False
        self.error: str | None = None
        self.dying: list[str] = []
        self.last = "nothing"
        self.at: str | None = None

    def hear(self, line: str) -> None:
        """One line of its console."""
        _, mine, said = line.partition("ztrace: ")
        if mine and said.startswith("done "):
            done = int(said.split()[1])
            self.advance(done - self.done)
            self.done = done
        elif mine and said.startswith("error "):
            self.error = self.error or said.removeprefix("error ")
        elif mine and said.startswith("broken "):
            self.error = self.error or said.removeprefix("broken ")
        elif mine and said == "finished":
            self.finished = True
        elif line.strip():
            self.last = line.strip()
            if _DYING.search(line):
                self.dying.append(self.last)
            elif at := _AT.match(self.last):
                self.at = self.at or at[1]

    def failure(self, why: str = "") -> TracerError:
        """The one line of a guest that did not finish."""
        said = self.dying[0] if self.dying else self.error or self.last
        where = f" (in {self.at})" if self.at and self.dying else ""
        return TracerError(f"{self.what}: {why or 'the kernel said'}: {said}{where}")


def _become_guest(same_layout: bool) -> None:
    """In the child: be killed when the thread that started it is gone, however it went; and lie at
    the same addresses each time."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PDEATHSIG, signal.SIGKILL)
    if same_layout:
        libc.personality(_ADDR_NO_RANDOMIZE)


def _run(
    command: list[str], scratch: Path, listener: Listener, silent_s: float, same_layout: bool
) -> None:
    """Run a guest until it ends; TracerError if it falls silent."""
    guest: subprocess.Popen[str] | None = None
    reader: threading.Thread | None = None
    lines: queue.Queue[str | None] = queue.Queue()
    try:
        with uninterrupted():
            guest = subprocess.Popen(
                command,
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(scratch), "HOME": str(scratch)},
                text=True,
                errors="replace",
                start_new_session=True,
                preexec_fn=functools.partial(_become_guest, same_layout),
            )
            assert guest.stdout is not None
            reader = threading.Thread(target=_read, args=(guest.stdout, lines))
            reader.start()
        while (line := lines.get(timeout=silent_s)) is not None:
            listener.hear(line.rstrip("\n"))
        guest.wait(timeout=silent_s)
    except (queue.Empty, subprocess.TimeoutExpired):
        raise listener.failure(f"said nothing for {silent_s:g} s; last") from None
    finally:
        # Its helpers are in its session; none may stay.
        if guest is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(guest.pid, signal.SIGKILL)
            guest.wait()
            if reader is not None:
                reader.join()
            if guest.stdout is not None:
                guest.stdout.close()


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)
