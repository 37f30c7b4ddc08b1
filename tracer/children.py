# SPDX-License-Identifier: GPL-2.0-only
"""Programs that end with whoever started them, and with them all that they have started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

END_S = 10.0
"""So long a program that is told to end may take to leave its files whole."""

Word = str | Path


@contextlib.contextmanager
def session_of(
    command: Sequence[Word],
    *,
    stdout: int | IO[str],
    stderr: int | IO[str],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A program in a session of its own, which is waited for at the end of the block.

    If the block is left early, by Ctrl-C say, the whole session is told to end, as make must be
    lest it take a file for whole that the compiler was writing, and killed after END_S.
    """
    child: subprocess.Popen[str] | None = None
    try:
        with uninterrupted():
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=cwd,
                env=env,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        yield child
        child.wait()
    finally:
        if child is not None:
            _end(child)


def _end(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(END_S)
        _wait_for_group(child.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()


def _wait_for_group(group: int) -> None:
    """Let the rest of a session end by itself, too, for at most a second."""
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C within the block is raised at its end.

    As a program is started: interrupted then, nobody would know that there is one to be ended.
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    met: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: met.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if met:
        raise KeyboardInterrupt


def run(
    command: Sequence[Word], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and keep what it says; see :func:`session_of`."""
    pipe = subprocess.PIPE
    with session_of(command, stdout=pipe, stderr=pipe, cwd=cwd, env=env) as child:
        said = child.communicate()
    return subprocess.CompletedProcess(list(command), child.returncode, *said)
