# SPDX-License-Identifier: GPL-2.0-only
"""Programs that end with whoever started them, and with them all that they have started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
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
    try:
        yield child
        child.wait()
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(END_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                stream.close()


def run(
    command: Sequence[Word], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and keep what it says; see :func:`session_of`."""
    pipe = subprocess.PIPE
    with session_of(command, stdout=pipe, stderr=pipe, cwd=cwd, env=env) as child:
        said = child.communicate()
    return subprocess.CompletedProcess(list(command), child.returncode, *said)
